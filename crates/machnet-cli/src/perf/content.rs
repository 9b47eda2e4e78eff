//! Messages whose every byte follows from their flow and their place in it.

/// Fills a message: the `sequence`th of flow `flow`.
pub(crate) fn fill(message: &mut [u8], flow: usize, sequence: u64) {
    let mut words = Words::new(flow, sequence);
    let (chunks, rest) = message.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = words.next().to_le_bytes();
    }
    let last = words.next().to_le_bytes();
    rest.copy_from_slice(&last[..rest.len()]);
}

/// True if a message is what [`fill`] makes.
pub(crate) fn is_right(message: &[u8], flow: usize, sequence: u64) -> bool {
    let mut words = Words::new(flow, sequence);
    let (chunks, rest) = message.as_chunks::<8>();
    chunks.iter().all(|chunk| *chunk == words.next().to_le_bytes()) && {
        let last = words.next().to_le_bytes();
        *rest == last[..rest.len()]
    }
}

/// splitmix64.
struct Words(u64);

impl Words {
    const fn new(flow: usize, sequence: u64) -> Self {
        Self((flow as u64).wrapping_mul(0xd134_2543_de82_ef95) ^ sequence)
    }

    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_changed_byte_is_noticed() {
        for len in [0, 1, 7, 8, 9, 64] {
            let mut message = vec![0; len];
            fill(&mut message, 3, 9);
            assert!(is_right(&message, 3, 9));
            for at in 0..len {
                message[at] ^= 1;
                assert!(!is_right(&message, 3, 9), "{len} bytes, changed at {at}");
                message[at] ^= 1;
            }
            assert!(len == 0 || !is_right(&message, 3, 10) || !is_right(&message, 4, 9));
        }
    }
}
