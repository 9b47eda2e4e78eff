//! What applications and daemon say to each other on the daemon's socket, before they share memory (`docs/spec/sidecar.md#attaching`).
//! The messages are machnet-channel's; its own tests know what is in them.
//!
//! The first byte says what the rest is: a message as it came, or a good one, drawn from what follows, and then what happened to it on the
//! way.

use arbitrary::{Result, Unstructured};
use machnet_channel::shared::{
    Attach, Call, FEATURES, Geometry, HelloError, MAX_CHANNELS, Refusal, Refused, Reply, SEVERAL, VERSIONS, Welcome,
};

/// Bytes of a call before the name, of a refusal before the text, and of a welcome.
const CALL: usize = 28;
const REFUSED: usize = 24;
const WELCOME: usize = 80;
/// What every message begins with.
const MAGIC: [u8; 4] = u32::from_be_bytes(*b"MSDC").to_ne_bytes();

pub(crate) fn hello(bytes: &[u8]) {
    let _ = hear(&mut Unstructured::new(bytes));
}

fn hear(u: &mut Unstructured<'_>) -> Result<()> {
    let mut message = match u.arbitrary::<u8>()? % 4 {
        0 => u.bytes(u.len())?.to_vec(),
        1 => {
            let call = draw_call(u)?;
            assert_eq!(Call::parse(&call.emit()), Ok(call.clone()));
            call.emit()
        }
        2 => {
            let refused = Reply::Refused(draw_refused(u)?);
            assert_eq!(Reply::parse(&refused.emit()), Ok(refused.clone()));
            refused.emit()
        }
        _ => {
            let welcome = Reply::Welcome(draw_welcome(u)?);
            let heard = Reply::parse(&welcome.emit());
            match &welcome {
                Reply::Welcome(Welcome { geometry, .. }) if geometry.check().is_err() => {
                    assert_eq!(heard, Err(HelloError::Geometry(geometry.check().unwrap_err())));
                }
                _ => assert_eq!(heard, Ok(welcome.clone())),
            }
            welcome.emit()
        }
    };
    total(&message);
    while !u.is_empty() {
        match u.int_in_range(0..=3)? {
            0 => message.truncate(u.choose_index(message.len() + 1)?),
            1 => message.extend(u.arbitrary::<[u8; 3]>()?),
            _ if message.is_empty() => {}
            _ => {
                let at = u.choose_index(message.len())?;
                message[at] = u.arbitrary()?;
            }
        }
        total(&message);
    }
    Ok(())
}

/// Either side may be told anything.
fn total(bytes: &[u8]) {
    call(bytes);
    reply(bytes);
}

fn call(bytes: &[u8]) {
    let said = match Call::parse(bytes) {
        Ok(said) => said,
        Err(why) => {
            let kind = field(bytes, 4);
            let is_right = match &why {
                HelloError::NotUtf8 => kind == 1 && std::str::from_utf8(&bytes[CALL..]).is_err(),
                HelloError::Value { what: "a call of kind", found } => !matches!(kind, 1 | 2) && *found == kind.into(),
                _ => begins_wrong(&why, bytes, CALL),
            };
            return assert!(is_right && !why.to_string().is_empty(), "{bytes:02x?} are refused as {why:?}");
        }
    };
    let again = said.emit();
    assert!(again.len() <= Call::MAX_LEN);
    assert_eq!(Call::parse(&again), Ok(said.clone()));
    // What is not looked at may be anything: the rest of a longer name, and a reserved field; of STAT all but its kind.
    if let Call::Attach(_) = said {
        assert_eq!(again[10..12], [0; 2]);
        assert_eq!((&again[..10], &again[12..]), (&bytes[..10], &bytes[12..again.len()]), "a call has one form");
        assert!(again.len() == bytes.len() || again.len() > Call::MAX_LEN - 4, "only a long name is cut");
    }
}

fn reply(bytes: &[u8]) {
    let said = match Reply::parse(bytes) {
        Ok(said) => said,
        Err(why) => {
            let status = field(bytes, 4);
            let is_right = match &why {
                HelloError::NotUtf8 => status != 0 && std::str::from_utf8(&bytes[REFUSED..]).is_err(),
                HelloError::Value { what: "a refusal for reason", found } => status > 6 && *found == status.into(),
                HelloError::Value { .. } | HelloError::Geometry(_) => status == 0,
                _ => begins_wrong(&why, bytes, if status == 0 { WELCOME } else { REFUSED }),
            };
            return assert!(is_right && !why.to_string().is_empty(), "{bytes:02x?} are refused as {why:?}");
        }
    };
    let again = said.emit();
    assert!(again.len() <= Reply::MAX_LEN);
    assert_eq!(Reply::parse(&again), Ok(said.clone()));
    match said {
        Reply::Welcome(welcome) => {
            let Welcome { version, features, geometry, max_message, channels, .. } = welcome;
            assert!((VERSIONS.0..=VERSIONS.1).contains(&version) && features & !FEATURES == 0 && max_message > 0);
            assert!((1..=MAX_CHANNELS).contains(&channels) && (features & SEVERAL != 0 || channels == 1));
            geometry.check().unwrap();
            // Whoever is told so maps so much.
            assert!((1 << 12..1 << 27).contains(&welcome.region_bytes()));
            assert_eq!((&again[..8], &again[16..44]), (&bytes[..8], &bytes[16..44]));
            assert_eq!(again[48..76], bytes[48..76]);
        }
        Reply::Refused(_) => {
            assert_eq!((&again[..6], &again[8..12]), (&bytes[..6], &bytes[8..12]));
            assert_eq!(again[REFUSED..], bytes[REFUSED..again.len()]);
            assert!(again.len() == bytes.len() || again.len() > Reply::MAX_LEN - 4, "only a long text is cut");
        }
    }
}

/// True if `why` is what is wrong with the first `least` bytes.
fn begins_wrong(why: &HelloError, bytes: &[u8], least: usize) -> bool {
    match why {
        HelloError::Short { len } => *len == bytes.len() && bytes.len() < least,
        HelloError::Magic { found } => bytes[..4] == found.to_ne_bytes() && bytes[..4] != MAGIC,
        _ => false,
    }
}

/// A number of 16 bits in the byte order of the host; 0 if it is not there.
fn field(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |field| u16::from_ne_bytes([field[0], field[1]]))
}

fn draw_call(u: &mut Unstructured<'_>) -> Result<Call> {
    if u.ratio(1, 8)? {
        return Ok(Call::Stat);
    }
    let (versions, features, flows, channels) = u.arbitrary()?;
    Ok(Call::Attach(Attach { versions, features, flows, channels, name: draw_text(u, 64)? }))
}

fn draw_refused(u: &mut Unstructured<'_>) -> Result<Refused> {
    let all = [
        Refusal::Version,
        Refusal::NotPermitted,
        Refusal::Quota,
        Refusal::NoMemory,
        Refusal::ShuttingDown,
        Refusal::Malformed,
    ];
    Ok(Refused { why: *u.choose(&all)?, versions: u.arbitrary()?, text: draw_text(u, 512)? })
}

fn draw_welcome(u: &mut Unstructured<'_>) -> Result<Welcome> {
    let features = u.arbitrary::<u64>()? & FEATURES;
    let most = if features & SEVERAL == 0 { 1 } else { MAX_CHANNELS };
    let geometry = Geometry {
        flows: 64 * u.int_in_range(0..=257)?,
        listeners: u.int_in_range(0..=65)?,
        descriptors: 1 << u.int_in_range(5..=16_u32)?,
        data: 4096 * u.int_in_range(0..=1025)?,
        max_piece: u.int_in_range(1251..=65_508)?,
    };
    let home = if u.arbitrary()? { u.arbitrary::<std::net::SocketAddrV4>()?.into() } else { draw_v6(u)? };
    let (max_message, channels) = (u.int_in_range(1..=u32::MAX)?, u.int_in_range(1..=most)?);
    Ok(Welcome { version: VERSIONS.1, features, geometry, home, max_message, channels })
}

/// A flow label is nobody's address.
fn draw_v6(u: &mut Unstructured<'_>) -> Result<std::net::SocketAddr> {
    let (ip, port, scope) = u.arbitrary::<([u8; 16], u16, u32)>()?;
    Ok(std::net::SocketAddrV6::new(ip.into(), port, 0, scope).into())
}

/// Up to `most` bytes.
fn draw_text(u: &mut Unstructured<'_>, most: usize) -> Result<String> {
    let text: &str = u.arbitrary()?;
    Ok(text[..text.floor_char_boundary(most)].to_owned())
}
