//! Values as operators write them, and what is wrong with those that cannot be.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use machnet_async::IdlePolicy;
use machnet_core::{Congestion, Ports};
use nix::unistd::{Group, User};
use toml::de::DeValue;

type Read<T> = Result<T, String>;

pub(super) fn text(value: &DeValue<'_>) -> Read<String> {
    value.as_str().map(str::to_owned).ok_or_else(|| "wanted is a text in quotes".to_owned())
}

/// A whole number within `range`.
pub(super) fn number(range: RangeInclusive<u64>) -> impl FnOnce(&DeValue<'_>) -> Read<u64> {
    move |value| {
        let wanted = || format!("wanted is a whole number from {} to {}", range.start(), range.end());
        let number = value.as_integer().and_then(|n| u64::from_str_radix(n.as_str(), n.radix()).ok());
        number.filter(|number| range.contains(number)).ok_or_else(wanted)
    }
}

/// A priority, as `nice` takes it.
pub(super) fn nice(value: &DeValue<'_>) -> Read<i32> {
    let number = value.as_integer().and_then(|n| i32::from_str_radix(n.as_str(), n.radix()).ok());
    let wanted = "wanted is a whole number from -20, which is served first, to 19";
    number.filter(|nice| (-20..=19).contains(nice)).ok_or_else(|| wanted.to_owned())
}

/// Cores up to `most`, as many as there are engines, none twice.
pub(super) fn cores(engines: usize, most: usize) -> impl FnOnce(&DeValue<'_>) -> Read<Vec<usize>> {
    move |value| {
        let wanted = || format!("wanted is a list of {engines} different cores from 0 to {most}, one for each engine");
        let list = value.as_array().ok_or_else(wanted)?;
        let cores: Read<Vec<_>> = list.iter().map(|core| number(0..=most as u64)(core.get_ref())).collect();
        let cores: Vec<usize> = cores.map_err(|_| wanted())?.into_iter().map(|core| core as usize).collect();
        let different: std::collections::BTreeSet<_> = cores.iter().collect();
        if cores.len() == engines && different.len() == engines { Ok(cores) } else { Err(wanted()) }
    }
}

/// A number of bytes within `range`: `65536`, `"64KiB"`.
pub(super) fn size(range: RangeInclusive<u64>) -> impl FnOnce(&DeValue<'_>) -> Read<u64> {
    move |value| {
        let parsed = match value {
            DeValue::Integer(n) => u64::from_str_radix(n.as_str(), n.radix()).ok(),
            DeValue::String(text) => parse_size(text),
            _ => None,
        };
        parsed.filter(|bytes| range.contains(bytes)).ok_or_else(|| {
            let (least, most) = (show_size(*range.start()), show_size(*range.end()));
            format!("wanted is a number of bytes such as \"64KiB\", from {least} to {most}")
        })
    }
}

fn parse_size(text: &str) -> Option<u64> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let shift = match unit.trim_start() {
        "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// As [`size`] reads it.
pub(crate) fn show_size(bytes: u64) -> String {
    match bytes {
        0 => "0B".to_owned(),
        _ if bytes.is_multiple_of(1 << 30) => format!("{}GiB", bytes >> 30),
        _ if bytes.is_multiple_of(1 << 20) => format!("{}MiB", bytes >> 20),
        _ if bytes.is_multiple_of(1 << 10) => format!("{}KiB", bytes >> 10),
        _ => format!("{bytes}B"),
    }
}

/// The longest time: what ends in a year's time has no end.
pub(super) const DAY: Duration = Duration::from_secs(86_400);

/// A time within `range`: `"3s"`, `"250ms"`, `"100us"`.
pub(super) fn time(range: RangeInclusive<Duration>) -> impl FnOnce(&DeValue<'_>) -> Read<Duration> {
    move |value| {
        value.as_str().and_then(parse_time).filter(|time| range.contains(time)).ok_or_else(|| {
            let (least, most) = (range.start(), range.end());
            format!("wanted is a time such as \"3s\", \"250ms\" or \"100us\", from {least:?} to {most:?}")
        })
    }
}

fn parse_time(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let number = digits.parse().ok()?;
    match unit.trim_start() {
        "us" | "µs" => Some(Duration::from_micros(number)),
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        _ => None,
    }
}

/// What an engine does when nothing is to be done: `"spin"`, `"yield"`, `"park"`, or a time to yield for.
pub(super) fn idle(value: &DeValue<'_>) -> Read<IdlePolicy> {
    match value.as_str() {
        Some("spin") => Ok(IdlePolicy::Spin),
        Some("yield") => Ok(IdlePolicy::default()),
        Some("park") => Ok(IdlePolicy::Park),
        _ => match time(Duration::ZERO..=DAY)(value) {
            Ok(yield_for) => Ok(IdlePolicy::YieldThenPark { yield_for }),
            Err(_) => {
                Err("wanted is \"yield\", \"spin\", \"park\", or how long to yield, such as \"100us\"".to_owned())
            }
        },
    }
}

/// `"cubic"` or `"swift"`.
pub(super) fn congestion(value: &DeValue<'_>) -> Read<Congestion> {
    match value.as_str() {
        Some("cubic") => Ok(Congestion::Cubic),
        Some("swift") => Ok(Congestion::Swift),
        _ => Err("wanted is \"cubic\" or \"swift\"".to_owned()),
    }
}

/// The permissions of a file, octal in quotes: `"0660"`.
pub(super) fn mode(value: &DeValue<'_>) -> Read<u32> {
    let parsed = value.as_str().and_then(|text| u32::from_str_radix(text, 8).ok());
    parsed.filter(|mode| *mode <= 0o777).ok_or_else(|| "wanted are permissions such as \"0660\", in quotes".to_owned())
}

/// A file whose name a UNIX socket can have.
pub(super) fn socket_path(value: &DeValue<'_>) -> Read<PathBuf> {
    /// `sun_path` of `sockaddr_un`, with its NUL.
    const MOST: usize = 107;
    let path = text(value)?;
    if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') || path.len() > MOST {
        return Err(format!("wanted is an absolute path of a file, of up to {MOST} bytes"));
    }
    Ok(path.into())
}

/// A user by name or number.
pub(super) fn user(value: &DeValue<'_>) -> Read<u32> {
    let wanted = "wanted is a user's name in quotes, or number";
    id(value, wanted, |name| {
        let found = User::from_name(name).map_err(|error| format!("cannot look up users: {error}"))?;
        found.map(|user| user.uid.as_raw()).ok_or_else(|| format!("there is no user of that name; {wanted}"))
    })
}

/// A group by name or number.
pub(super) fn group(value: &DeValue<'_>) -> Read<u32> {
    let wanted = "wanted is a group's name in quotes, or number";
    id(value, wanted, |name| {
        let found = Group::from_name(name).map_err(|error| format!("cannot look up groups: {error}"))?;
        found.map(|group| group.gid.as_raw()).ok_or_else(|| format!("there is no group of that name; {wanted}"))
    })
}

fn id(value: &DeValue<'_>, wanted: &str, by_name: impl FnOnce(&str) -> Read<u32>) -> Read<u32> {
    match value {
        DeValue::String(name) => by_name(name),
        DeValue::Integer(_) => Ok(number(0..=u64::from(u32::MAX - 1))(value).map_err(|_| wanted.to_owned())? as u32),
        _ => Err(wanted.to_owned()),
    }
}

/// Ports: a list of `9000`, `"9000-9099"`, and `"any"`.
pub(super) fn ports(value: &DeValue<'_>) -> Read<Ports> {
    let wanted = "wanted is a list such as [7000, \"9000-9099\"], or [\"any\"]; 0 stands for any free port";
    let mut ports = Vec::new();
    for entry in value.as_array().ok_or(wanted)?.iter() {
        let range = match entry.get_ref() {
            DeValue::String(text) => parse_range(text),
            other => number(0..=65_535)(other).ok().map(|port| port as u16..=port as u16),
        };
        ports.push(range.ok_or_else(|| format!("{}: {wanted}", shown(entry.get_ref())))?);
    }
    Ok(Ports::new(ports))
}

fn shown(value: &DeValue<'_>) -> String {
    value.as_str().map_or_else(|| format!("a {}", value.type_str()), |text| format!("{text:?}"))
}

fn parse_range(text: &str) -> Option<RangeInclusive<u16>> {
    if text == "any" {
        return Some(0..=u16::MAX);
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first <= last).then_some(first..=last)
}
