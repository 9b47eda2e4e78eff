//! Numbers that the wire carries cut short.

/// The 64-bit number whose low half is `low` and that is nearest to `expected`.
#[must_use]
pub(crate) const fn expand(low: u32, expected: u64) -> u64 {
    const HALF: u64 = 1 << 31;
    const WHOLE: u64 = 1 << 32;
    let near = (expected & !(WHOLE - 1)) | low as u64;
    if near + HALF <= expected && near <= u64::MAX - WHOLE {
        near + WHOLE
    } else if near > expected + HALF && near >= WHOLE {
        near - WHOLE
    } else {
        near
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_is_near_is_found(expected in 0..1u64 << 40, distance in -(1i64 << 31) + 1..1 << 31) {
            let number = expected.saturating_add_signed(distance);
            prop_assert_eq!(expand(number as u32, expected), number);
        }
    }
}
