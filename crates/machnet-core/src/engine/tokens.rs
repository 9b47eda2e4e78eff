//! Tokens of RETRY: they prove that who sends an INIT receives at the address it names (`docs/spec/wire.md#retry`).
//!
//! A token is the time it was made and a tag over that time, the initiator's address, port and source id, and the
//! service port. Nothing is kept for it: whoever has the key can check it, so engines of one endpoint may share theirs.
//! The key changes with every [`LIFE`], derived from one secret; the tag is SipHash-2-4 of 128 bits (`docs/adr/0009-tokens-by-siphash.md`).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use siphasher::sip128::{Hash128, SipHasher24};

use crate::Instant;

/// How long a token is good for. Longer than `connect` tries by default, so that its repetitions find it valid; short, as
/// RFC 9000 §8.1.3 asks.
pub(crate) const LIFE: Duration = Duration::from_secs(5);

/// Bytes of a token: 4 of time, 16 of tag.
pub(crate) const TOKEN_LEN: usize = 20;

/// What a token is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Who sent the INIT.
    pub(crate) initiator: SocketAddr,
    /// The flow id it chose.
    pub(crate) source: u64,
    /// The port it called.
    pub(crate) service: u16,
}

/// Makes and checks tokens.
pub(crate) struct Tokens {
    secret: SipHasher24,
}

impl Tokens {
    /// Whoever has the same `secret` and clock accepts the tokens of this one.
    pub(crate) fn new(secret: &[u8; 16]) -> Self {
        Self { secret: SipHasher24::new_with_key(secret) }
    }

    pub(crate) fn make(&self, now: Instant, claim: &Claim) -> [u8; TOKEN_LEN] {
        let made = millis(now);
        let mut token = [0; TOKEN_LEN];
        token[..4].copy_from_slice(&(made as u32).to_be_bytes());
        token[4..].copy_from_slice(&self.tag(made, claim).as_bytes());
        token
    }

    /// True if `token` was made for this claim at most [`LIFE`] ago.
    pub(crate) fn check(&self, now: Instant, claim: &Claim, token: &[u8]) -> bool {
        let Some((&time, tag)) = token.split_first_chunk::<4>() else { return false };
        let Ok(tag) = <[u8; 16]>::try_from(tag) else { return false };
        // Modulo 2³² ms, so that the future is a very old past.
        let age = u64::from((millis(now) as u32).wrapping_sub(u32::from_be_bytes(time)));
        let Some(made) = millis(now).checked_sub(age) else { return false };
        // The comparison of hashes takes the same time whatever they are.
        age <= LIFE.as_millis() as u64 && self.tag(made, claim) == Hash128::from(u128::from_le_bytes(tag))
    }

    fn tag(&self, made: u64, claim: &Claim) -> Hash128 {
        let period = made / LIFE.as_millis() as u64;
        let key = SipHasher24::new_with_key(&self.secret.hash(&period.to_be_bytes()).as_bytes());
        let mut text = [0; 37];
        text[..8].copy_from_slice(&made.to_be_bytes());
        match claim.initiator.ip() {
            IpAddr::V4(ip) => text[9..13].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => {
                text[8] = 1;
                text[9..25].copy_from_slice(&ip.octets());
            }
        }
        text[25..27].copy_from_slice(&claim.initiator.port().to_be_bytes());
        text[27..35].copy_from_slice(&claim.source.to_be_bytes());
        text[35..].copy_from_slice(&claim.service.to_be_bytes());
        key.hash(&text)
    }
}

// The secret is nobody's to print.
impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

const fn millis(at: Instant) -> u64 {
    at.0 / 1_000_000
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claim() -> Claim {
        Claim { initiator: "10.0.0.2:6000".parse().unwrap(), source: 7, service: 80 }
    }

    #[test]
    fn a_token_is_good_for_its_life_and_not_a_moment_longer() {
        let tokens = Tokens::new(&[1; 16]);
        // Within one period of the key and across its change, and around the wrap of the time that the token names.
        for made in [0, 1, 4_999, 5_000, 12_345, u64::from(u32::MAX) - 2_000, 1 << 40] {
            let made = Instant(made * 1_000_000);
            let token = tokens.make(made, &claim());
            assert!(tokens.check(made, &claim(), &token));
            assert!(tokens.check(made + LIFE, &claim(), &token));
            assert!(!tokens.check(made + LIFE + Duration::from_millis(1), &claim(), &token));
            // The future, and the same time of another age.
            assert!(!tokens.check(made - Duration::from_millis(1), &claim(), &token) || made == Instant::ZERO);
            assert!(!tokens.check(made + Duration::from_millis(1 << 32), &claim(), &token));
        }
    }

    #[test]
    fn a_token_is_good_for_nothing_else() {
        let tokens = Tokens::new(&[1; 16]);
        let now = Instant(1_000_000_000);
        let token = tokens.make(now, &claim());
        for other in [
            Claim { initiator: "10.0.0.3:6000".parse().unwrap(), ..claim() },
            Claim { initiator: "10.0.0.2:6001".parse().unwrap(), ..claim() },
            Claim { initiator: "[::ffff:10.0.0.2]:6000".parse().unwrap(), ..claim() },
            Claim { source: 8, ..claim() },
            Claim { service: 81, ..claim() },
        ] {
            assert!(!tokens.check(now, &other, &token), "{other:?}");
        }
        assert!(!Tokens::new(&[2; 16]).check(now, &claim(), &token), "another key");
        assert!(Tokens::new(&[1; 16]).check(now, &claim(), &token), "the same key in another engine");
    }

    proptest! {
        #[test]
        fn no_other_bytes_are_a_token(bytes in prop::collection::vec(any::<u8>(), 0..64), at in 0..20usize, by in 1..=255u8) {
            let tokens = Tokens::new(&[1; 16]);
            let now = Instant(1_000_000_000);
            prop_assert!(!tokens.check(now, &claim(), &bytes));
            let mut token = tokens.make(now, &claim());
            token[at] ^= by;
            prop_assert!(!tokens.check(now, &claim(), &token));
        }
    }
}
