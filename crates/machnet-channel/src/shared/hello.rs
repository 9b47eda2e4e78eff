//! What application and daemon say to each other before there is shared memory (`docs/spec/sidecar.md#attaching`).
//!
//! Messages of the socket, in the byte order of the host. Writing and reading them is all that happens here; reading is
//! total: any bytes are a message or an error that says why not.

use std::fmt;
use std::net::SocketAddr;

use super::geometry::Geometry;
use super::status::STATUS_BYTES;
use super::values::{address_from_words, address_to_words};

/// "MSDC".
const MAGIC: u32 = u32::from_be_bytes(*b"MSDC");

/// The versions of layout and messages that this side speaks, oldest and newest.
pub const VERSIONS: (u16, u16) = (1, 1);

/// Several channels at once, each to an engine of the daemon's.
pub const SEVERAL: u64 = 1;

/// A page behind each region that tells whether the daemon answers, and its engine's counters.
pub const STATUS: u64 = 2;

/// Features that this side offers.
pub const FEATURES: u64 = SEVERAL | STATUS;

/// The most channels of an application.
pub const MAX_CHANNELS: u32 = 64;

/// Bytes of an application's name, and of a refusal's text.
const MAX_NAME: usize = 64;
const MAX_TEXT: usize = 512;

const ATTACH: u16 = 1;
const STAT: u16 = 2;

/// What a caller says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// It wants a channel.
    Attach(Attach),
    /// It wants to know how the daemon does, as JSON.
    Stat,
}

/// An application's wishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attach {
    /// The oldest and newest version it speaks.
    pub versions: (u16, u16),
    /// Features it offers.
    pub features: u64,
    /// Flows it would like to open; 0: as many as the daemon gives by default.
    pub flows: u32,
    /// With [`SEVERAL`]: channels that it takes at most; 0: as many as the daemon has engines.
    pub channels: u32,
    /// For operators: at most 64 bytes.
    pub name: String,
}

/// The daemon's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// With the descriptors of the regions, and of the connections beside all but the first.
    Welcome(Welcome),
    /// And the connection is closed.
    Refused(Refused),
}

/// What a daemon grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The newest version that both speak.
    pub version: u16,
    /// Those offered that the daemon takes.
    pub features: u64,
    /// The sizes of each region.
    pub geometry: Geometry,
    /// The address that flows leave from.
    pub home: SocketAddr,
    /// The longest message, bytes.
    pub max_message: u32,
    /// Channels: 1 without [`SEVERAL`].
    pub channels: u32,
}

/// What a daemon does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub why: Refusal,
    /// The daemon's oldest and newest version.
    pub versions: (u16, u16),
    /// For people: at most 512 bytes.
    pub text: String,
}

/// Why a daemon refuses an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u16)]
pub enum Refusal {
    /// No common version.
    Version = 1,
    /// The configuration does not admit it.
    NotPermitted = 2,
    /// A quota, of applications or of memory, is used up.
    Quota = 3,
    /// The system has no memory or descriptors left.
    NoMemory = 4,
    /// The daemon is ending.
    ShuttingDown = 5,
    /// It did not understand.
    Malformed = 6,
}

impl Refusal {
    const ALL: [Self; 6] =
        [Self::Version, Self::NotPermitted, Self::Quota, Self::NoMemory, Self::ShuttingDown, Self::Malformed];
}

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HelloError {
    /// It ends too early.
    Short {
        /// Bytes there are.
        len: usize,
    },
    /// Another protocol.
    Magic {
        /// How it begins.
        found: u32,
    },
    /// A number that means nothing.
    Value {
        /// Of what.
        what: &'static str,
        /// The number.
        found: u64,
    },
    /// A text that is none.
    NotUtf8,
    /// Sizes that cannot be.
    Geometry(String),
}

impl fmt::Display for HelloError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { len } => write!(f, "a message of {len} bytes, which is too short"),
            Self::Magic { found } => write!(f, "a message that begins with {found:#010x}, not {MAGIC:#010x}"),
            Self::Value { what, found } => write!(f, "{what} {found:#x}"),
            Self::NotUtf8 => write!(f, "a text that is not UTF-8"),
            Self::Geometry(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for HelloError {}

/// Takes fixed-size fields off the front of a message.
struct Fields<'a> {
    rest: &'a [u8],
    len: usize,
}

impl<'a> Fields<'a> {
    /// After the magic number.
    fn new(bytes: &'a [u8]) -> Result<Self, HelloError> {
        let mut fields = Self { rest: bytes, len: bytes.len() };
        match fields.u32()? {
            MAGIC => Ok(fields),
            found => Err(HelloError::Magic { found }),
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], HelloError> {
        let (field, rest) = self.rest.split_first_chunk().ok_or(HelloError::Short { len: self.len })?;
        self.rest = rest;
        Ok(*field)
    }

    fn u16(&mut self) -> Result<u16, HelloError> {
        self.take().map(u16::from_ne_bytes)
    }

    fn u32(&mut self) -> Result<u32, HelloError> {
        self.take().map(u32::from_ne_bytes)
    }

    fn u64(&mut self) -> Result<u64, HelloError> {
        self.take().map(u64::from_ne_bytes)
    }

    /// What is left, as a text of up to `max` bytes. More than that is cut: it may be a later version's.
    fn text(&self, max: usize) -> Result<String, HelloError> {
        let text = std::str::from_utf8(self.rest).map_err(|_| HelloError::NotUtf8)?;
        Ok(text[..text.floor_char_boundary(max)].to_owned())
    }
}

impl Call {
    /// Bytes of the longest call that this version knows. Later versions may send more, and begin alike.
    pub const MAX_LEN: usize = 28 + MAX_NAME;

    /// The message.
    #[must_use]
    pub fn emit(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        let (kind, versions, features, flows, channels, name) = match self {
            Self::Attach(Attach { versions, features, flows, channels, name }) => {
                (ATTACH, *versions, *features, *flows, *channels, &name[..name.floor_char_boundary(MAX_NAME)])
            }
            Self::Stat => (STAT, VERSIONS, 0, 0, 0, ""),
        };
        for field in [kind, versions.0, versions.1, 0] {
            bytes.extend(field.to_ne_bytes());
        }
        bytes.extend(features.to_ne_bytes());
        bytes.extend(flows.to_ne_bytes());
        bytes.extend(channels.to_ne_bytes());
        bytes.extend(name.as_bytes());
        bytes
    }

    /// Reads a message.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(bytes: &[u8]) -> Result<Self, HelloError> {
        let mut fields = Fields::new(bytes)?;
        let (kind, versions, _) = (fields.u16()?, (fields.u16()?, fields.u16()?), fields.u16()?);
        let (features, flows, channels) = (fields.u64()?, fields.u32()?, fields.u32()?);
        match kind {
            ATTACH => Ok(Self::Attach(Attach { versions, features, flows, channels, name: fields.text(MAX_NAME)? })),
            STAT => Ok(Self::Stat),
            other => Err(HelloError::Value { what: "a call of kind", found: other.into() }),
        }
    }
}

impl Attach {
    /// What an application of this version says.
    #[must_use]
    pub const fn new(name: String, flows: u32) -> Self {
        Self { versions: VERSIONS, features: FEATURES, flows, channels: 0, name }
    }

    /// The newest version that both sides speak.
    #[must_use]
    pub fn common_version(&self) -> Option<u16> {
        let (oldest, newest) = (self.versions.0.max(VERSIONS.0), self.versions.1.min(VERSIONS.1));
        (oldest <= newest).then_some(newest)
    }
}

impl Welcome {
    /// Bytes of each region.
    #[must_use]
    pub fn region_bytes(&self) -> usize {
        self.geometry.bytes() + if self.has_status() { STATUS_BYTES } else { 0 }
    }

    /// True if there is a page of status behind each region.
    #[must_use]
    pub const fn has_status(&self) -> bool {
        self.features & STATUS != 0
    }
}

impl Reply {
    /// Bytes of the longest reply.
    pub const MAX_LEN: usize = 24 + MAX_TEXT;

    /// The message.
    #[must_use]
    pub fn emit(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        let (status, version, versions, features) = match self {
            Self::Welcome(welcome) => (0, welcome.version, VERSIONS, welcome.features),
            Self::Refused(refused) => (refused.why as u16, 0, refused.versions, 0),
        };
        for field in [status, version, versions.0, versions.1, 0, 0] {
            bytes.extend(field.to_ne_bytes());
        }
        bytes.extend(features.to_ne_bytes());
        match self {
            Self::Welcome(Welcome { geometry, home, max_message, channels, .. }) => {
                let Geometry { flows, listeners, descriptors, data, max_piece } = *geometry;
                for field in [flows, listeners, descriptors, data, max_piece, 0] {
                    bytes.extend(field.to_ne_bytes());
                }
                for word in address_to_words(Some(*home)) {
                    bytes.extend(word.to_ne_bytes());
                }
                bytes.extend(max_message.to_ne_bytes());
                bytes.extend(channels.to_ne_bytes());
            }
            Self::Refused(Refused { text, .. }) => {
                bytes.extend(&text.as_bytes()[..text.floor_char_boundary(MAX_TEXT)]);
            }
        }
        bytes
    }

    /// Reads a message.
    ///
    /// # Errors
    /// It is none, or grants what was not offered or cannot be.
    pub fn parse(bytes: &[u8]) -> Result<Self, HelloError> {
        let mut fields = Fields::new(bytes)?;
        let (status, version, versions) = (fields.u16()?, fields.u16()?, (fields.u16()?, fields.u16()?));
        let (_, features) = (fields.u32()?, fields.u64()?);
        if status != 0 {
            let why = Refusal::ALL.into_iter().find(|why| *why as u16 == status);
            let why = why.ok_or(HelloError::Value { what: "a refusal for reason", found: status.into() })?;
            return Ok(Self::Refused(Refused { why, versions, text: fields.text(MAX_TEXT)? }));
        }
        if !(VERSIONS.0..=VERSIONS.1).contains(&version) {
            return Err(HelloError::Value { what: "version", found: version.into() });
        }
        if features & !FEATURES != 0 {
            return Err(HelloError::Value { what: "features", found: features });
        }
        let geometry = Geometry {
            flows: fields.u32()?,
            listeners: fields.u32()?,
            descriptors: fields.u32()?,
            data: fields.u32()?,
            max_piece: fields.u32()?,
        };
        geometry.check().map_err(HelloError::Geometry)?;
        fields.u32()?;
        let words = [fields.u64()?, fields.u64()?, fields.u64()?];
        let home = address_from_words(words).ok().flatten();
        let home = home.ok_or(HelloError::Value { what: "home address", found: words[2] })?;
        let max_message = fields.u32()?;
        if max_message == 0 {
            return Err(HelloError::Value { what: "largest message", found: 0 });
        }
        let channels = match fields.u32()? {
            channels @ 1..=MAX_CHANNELS if features & SEVERAL != 0 => channels,
            // Without the feature it is no field.
            _ if features & SEVERAL == 0 => 1,
            found => return Err(HelloError::Value { what: "number of channels", found: found.into() }),
        };
        Ok(Self::Welcome(Welcome { version, features, geometry, home, max_message, channels }))
    }
}

#[cfg(all(test, not(machnet_loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GEOMETRY: Geometry =
        Geometry { flows: 1024, listeners: 64, descriptors: 1024, data: 1 << 20, max_piece: 16_640 };

    fn welcome() -> Welcome {
        let home = "10.0.0.5:49152".parse().unwrap();
        Welcome { version: 1, features: SEVERAL, geometry: GEOMETRY, home, max_message: 64 << 20, channels: 4 }
    }

    fn refused(text: &str) -> Reply {
        Reply::Refused(Refused { why: Refusal::Quota, versions: (1, 3), text: text.to_owned() })
    }

    #[test]
    fn what_is_said_is_heard() {
        let attach = Attach { channels: 3, ..Attach::new("echo".to_owned(), 7) };
        for call in [Call::Stat, Call::Attach(attach)] {
            assert_eq!(Call::parse(&call.emit()), Ok(call));
        }
        for reply in [Reply::Welcome(welcome()), refused("32 applications are attached")] {
            assert!(reply.emit().len() <= Reply::MAX_LEN);
            assert_eq!(Reply::parse(&reply.emit()), Ok(reply));
        }
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        let call = Call::Attach(Attach::new("ä".repeat(40), 0));
        let Ok(Call::Attach(attach)) = Call::parse(&call.emit()) else { panic!() };
        assert_eq!((call.emit().len(), attach.name), (Call::MAX_LEN, "ä".repeat(32)));
        let reply = refused(&"€".repeat(200));
        assert!(reply.emit().len() <= Reply::MAX_LEN);
        assert_eq!(Reply::parse(&reply.emit()), Ok(refused(&"€".repeat(170))));
    }

    #[test]
    fn the_newest_common_version() {
        for (versions, common) in [((1, 1), Some(1)), ((0, 9), Some(1)), ((2, 3), None), ((0, 0), None), ((3, 1), None)]
        {
            let attach = Attach { versions, ..Attach::new(String::new(), 0) };
            assert_eq!(attach.common_version(), common, "{versions:?}");
        }
    }

    #[test]
    fn what_a_daemon_may_not_say_is_named() {
        for (reply, part) in [
            (Welcome { version: 2, ..welcome() }, "version 0x2"),
            (Welcome { features: 4, ..welcome() }, "features 0x4"),
            (Welcome { max_message: 0, ..welcome() }, "largest message 0x0"),
            (Welcome { channels: 0, ..welcome() }, "number of channels 0x0"),
            (Welcome { channels: 65, ..welcome() }, "number of channels 0x41"),
            (Welcome { geometry: Geometry { data: 1, ..GEOMETRY }, ..welcome() }, "data areas of 1"),
        ] {
            let text = Reply::parse(&Reply::Welcome(reply).emit()).unwrap_err().to_string();
            assert!(text.contains(part), "{text}");
        }
        let good = Reply::Welcome(welcome()).emit();
        for len in 0..good.len() {
            assert_eq!(Reply::parse(&good[..len]), Err(HelloError::Short { len }));
        }
    }

    /// What was a field of zeros before is none without the feature.
    #[test]
    fn sides_without_the_feature_have_one_channel() {
        let old = Welcome { features: 0, channels: 0, ..welcome() };
        let Ok(Reply::Welcome(read)) = Reply::parse(&Reply::Welcome(old).emit()) else { panic!() };
        assert_eq!((read.features, read.channels), (0, 1));
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed(bytes in prop::collection::vec(any::<u8>(), 0..128), magic in any::<bool>(), status in 0..8_u16) {
            let mut bytes = bytes;
            if magic && bytes.len() >= 8 {
                bytes[..4].copy_from_slice(&MAGIC.to_ne_bytes());
                bytes[4..6].copy_from_slice(&status.to_ne_bytes());
            }
            if let Ok(Call::Attach(attach)) = Call::parse(&bytes) {
                prop_assert!(attach.name.len() <= MAX_NAME);
            }
            if let Ok(Reply::Welcome(welcome)) = Reply::parse(&bytes) {
                prop_assert!(welcome.geometry.check().is_ok());
            }
        }
    }
}
