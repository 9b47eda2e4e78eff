//! What client and hub say to each other before there is shared memory (`docs/spec/shm.md#handshake`).
//!
//! Two datagrams on the socket, of fixed length, in the byte order of the host: the client's HELLO says which versions
//! it speaks, the hub's REPLY says which one it is to be, or why not, and brings the region's descriptor.

use std::net::Ipv4Addr;

use crate::geometry::Geometry;

/// "MSHM".
const MAGIC: u32 = u32::from_be_bytes(*b"MSHM");

/// The versions of layout and handshake that this side speaks, oldest and newest.
pub(crate) const VERSIONS: (u16, u16) = (1, 1);

/// Features that this side offers: none are defined.
const FEATURES: u64 = 0;

/// Why a hub refuses a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Refusal {
    Version = 1,
    Full = 2,
    User = 3,
    NoMemory = 4,
}

impl Refusal {
    const ALL: [Self; 4] = [Self::Version, Self::Full, Self::User, Self::NoMemory];
}

/// The client's first words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    /// Oldest and newest version.
    pub(crate) versions: (u16, u16),
    pub(crate) features: u64,
}

/// What a hub grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Welcome {
    pub(crate) version: u16,
    pub(crate) features: u64,
    pub(crate) hub: Ipv4Addr,
    pub(crate) client: Ipv4Addr,
    pub(crate) geometry: Geometry,
}

/// The hub's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Welcome(Welcome),
    Refused {
        why: Refusal,
        /// The hub's oldest and newest version.
        versions: (u16, u16),
        /// How many clients it takes.
        clients: u32,
    },
}

/// Takes fixed-size fields off the front of a datagram.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }
    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_ne_bytes)
    }
    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_ne_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_ne_bytes)
    }
}

impl Hello {
    pub(crate) const LEN: usize = 16;

    pub(crate) const fn ours() -> Self {
        Self { versions: VERSIONS, features: FEATURES }
    }

    pub(crate) fn emit(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend(self.versions.0.to_ne_bytes());
        bytes.extend(self.versions.1.to_ne_bytes());
        bytes.extend(self.features.to_ne_bytes());
        bytes
    }

    /// `None` if it is no HELLO. Later versions may be longer, and begin alike.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        if fields.u32()? != MAGIC {
            return None;
        }
        let versions = (fields.u16()?, fields.u16()?);
        Some(Self { versions, features: fields.u64()? })
    }

    /// The newest version that both sides speak.
    pub(crate) fn common_version(&self) -> Option<u16> {
        let (oldest, newest) = (self.versions.0.max(VERSIONS.0), self.versions.1.min(VERSIONS.1));
        (oldest <= newest).then_some(newest)
    }
}

impl Reply {
    pub(crate) const LEN: usize = 48;

    pub(crate) fn emit(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        match self {
            Self::Welcome(Welcome { version, features, hub, client, geometry }) => {
                for field in [0, *version, 0, 0] {
                    bytes.extend(field.to_ne_bytes());
                }
                bytes.extend(features.to_ne_bytes());
                let Geometry { descriptors, data, max_payload } = *geometry;
                for field in [hub.to_bits(), client.to_bits(), descriptors, data, max_payload] {
                    bytes.extend(field.to_ne_bytes());
                }
            }
            Self::Refused { why, versions, clients } => {
                for field in [*why as u16, 0, versions.0, versions.1] {
                    bytes.extend(field.to_ne_bytes());
                }
                bytes.extend(clients.to_ne_bytes());
            }
        }
        bytes.resize(Self::LEN, 0);
        bytes
    }

    /// Says what is wrong with an answer that is none.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let short = || format!("an answer of {} bytes, not {}", bytes.len(), Self::LEN);
        if bytes.len() != Self::LEN {
            return Err(short());
        }
        let mut fields = Fields(bytes);
        let magic = fields.u32().ok_or_else(short)?;
        if magic != MAGIC {
            return Err(format!("an answer that begins with {magic:#010x}"));
        }
        Self::parse_rest(&mut fields).ok_or_else(short)?
    }

    fn parse_rest(fields: &mut Fields<'_>) -> Option<Result<Self, String>> {
        let (status, version, oldest, newest) = (fields.u16()?, fields.u16()?, fields.u16()?, fields.u16()?);
        if status != 0 {
            let Some(why) = Refusal::ALL.into_iter().find(|why| *why as u16 == status) else {
                return Some(Err(format!("a refusal for reason {status}")));
            };
            return Some(Ok(Self::Refused { why, versions: (oldest, newest), clients: fields.u32()? }));
        }
        let features = fields.u64()?;
        let (hub, client) = (Ipv4Addr::from_bits(fields.u32()?), Ipv4Addr::from_bits(fields.u32()?));
        let geometry = Geometry { descriptors: fields.u32()?, data: fields.u32()?, max_payload: fields.u32()? };
        Some(Welcome { version, features, hub, client, geometry }.check().map(Self::Welcome))
    }
}

impl Welcome {
    fn check(self) -> Result<Self, String> {
        let Self { version, features, hub, client, geometry } = self;
        if !(VERSIONS.0..=VERSIONS.1).contains(&version) {
            return Err(format!("version {version}, which this side did not offer"));
        }
        if features & !FEATURES != 0 {
            return Err(format!("features {features:#x}, which this side did not offer"));
        }
        if !hub.is_loopback() || !client.is_loopback() || hub == client {
            return Err(format!("the addresses {hub} and {client}"));
        }
        geometry.check()?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::slots::HUB;

    fn welcome() -> Welcome {
        Welcome {
            version: 1,
            features: 0,
            hub: HUB,
            client: Ipv4Addr::new(127, 0, 0, 2),
            geometry: Geometry { descriptors: 1024, data: 1 << 20, max_payload: 16_640 },
        }
    }

    #[test]
    fn what_is_said_is_heard() {
        let hello = Hello::ours();
        assert_eq!(hello.emit().len(), Hello::LEN);
        assert_eq!(Hello::parse(&hello.emit()), Some(hello));
        let refused = Reply::Refused { why: Refusal::Full, versions: (1, 3), clients: 64 };
        for reply in [Reply::Welcome(welcome()), refused] {
            assert_eq!(reply.emit().len(), Reply::LEN);
            assert_eq!(Reply::parse(&reply.emit()), Ok(reply));
        }
    }

    #[test]
    fn the_newest_common_version() {
        for (theirs, common) in [((1, 1), Some(1)), ((0, 9), Some(1)), ((2, 3), None), ((0, 0), None), ((3, 1), None)] {
            assert_eq!(Hello { versions: theirs, features: 0 }.common_version(), common, "{theirs:?}");
        }
    }

    #[test]
    fn what_a_hub_may_not_say_is_named() {
        for (reply, part) in [
            (Welcome { version: 2, ..welcome() }, "version 2"),
            (Welcome { features: 4, ..welcome() }, "features 0x4"),
            (Welcome { client: HUB, ..welcome() }, "127.0.0.1 and 127.0.0.1"),
            (Welcome { hub: Ipv4Addr::new(10, 0, 0, 1), ..welcome() }, "10.0.0.1"),
            (Welcome { geometry: Geometry { data: 1, ..welcome().geometry }, ..welcome() }, "data areas of 1"),
        ] {
            let text = Reply::parse(&Reply::Welcome(reply).emit()).unwrap_err();
            assert!(text.contains(part), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed(bytes in prop::collection::vec(any::<u8>(), 0..64), welcome_first in any::<bool>()) {
            let mut bytes = bytes;
            if welcome_first {
                bytes.resize(Reply::LEN, 0);
                bytes[..6].copy_from_slice(&Reply::Welcome(welcome()).emit()[..6]);
            }
            let _ = Hello::parse(&bytes);
            if let Ok(Reply::Welcome(welcome)) = Reply::parse(&bytes) {
                prop_assert!(welcome.geometry.check().is_ok());
            }
        }
    }
}
