//! Messages that verify themselves.

/// The bytes of message `index` of the flow `key`: SplitMix64.
pub fn content(key: u64, index: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    let mut words = Words::new(key, index);
    while bytes.len() < len {
        bytes.extend_from_slice(&words.next());
    }
    bytes.truncate(len);
    bytes
}

/// The length of message `index`: 0 to `max`, each power of two about as likely as any other.
pub fn size(key: u64, index: u64, max: usize) -> usize {
    let mut words = Words::new(!key, index);
    let scale = u64::from_le_bytes(words.next()) % u64::from(max.max(1).ilog2() + 2);
    let limit = (1_u64 << scale).min(max as u64 + 1);
    (u64::from_le_bytes(words.next()) % limit) as usize
}

/// Says what is wrong with `bytes` as message `index` of the flow `key` with messages of up to `max` bytes.
pub fn verify(key: u64, index: u64, max: usize, bytes: &[u8]) -> Result<(), String> {
    let len = size(key, index, max);
    if bytes.len() != len {
        return Err(format!("flow {key}: message {index} has {} bytes instead of {len}", bytes.len()));
    }
    let mut words = Words::new(key, index);
    for (i, chunk) in bytes.chunks(8).enumerate() {
        if *chunk != words.next()[..chunk.len()] {
            return Err(format!("flow {key}: message {index} of {len} bytes differs at byte {}", 8 * i));
        }
    }
    Ok(())
}

struct Words(u64);

impl Words {
    const fn new(key: u64, index: u64) -> Self {
        Self(key.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(index << 32))
    }

    const fn next(&mut self) -> [u8; 8] {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()
    }
}
