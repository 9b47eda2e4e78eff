//! RESET (`docs/spec/wire.md#reset`).

use super::{HEADER_LEN, Header, Reason, VERSIONS, WireError, split};

/// Bytes of UDP payload of a RESET.
pub const RESET_LEN: usize = HEADER_LEN + FIXED_LEN;

const FIXED_LEN: usize = 4 + HEADER_LEN;

/// RESET after its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    /// Why.
    pub reason: Reason,
    /// Versions the sender speaks, as bits.
    pub versions: u16,
    /// Flow id in the packet that is answered.
    pub flow: u64,
    /// Low half of the number of the packet that is answered.
    pub number: u32,
}

impl Reset {
    /// Reads what follows the header.
    ///
    /// # Errors
    /// Truncated, or an echoed header that is none of ours.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let (body, _) = split(bytes, FIXED_LEN, "RESET")?;
        let (echo, _) = Header::parse(&body[4..])?;
        Ok(Self {
            reason: u16::from_be_bytes([body[0], body[1]]).into(),
            versions: u16::from_be_bytes([body[2], body[3]]),
            flow: echo.flow,
            number: echo.number,
        })
    }

    /// Writes a RESET that answers `packet` to what follows the header in `out`.
    ///
    /// # Panics
    /// If `out` is shorter than 20 bytes or `packet` than a header.
    pub fn emit(reason: Reason, packet: &[u8], out: &mut [u8]) {
        out[..2].copy_from_slice(&(reason as u16).to_be_bytes());
        out[2..4].copy_from_slice(&VERSIONS.to_be_bytes());
        out[4..FIXED_LEN].copy_from_slice(&packet[..HEADER_LEN]);
    }
}
