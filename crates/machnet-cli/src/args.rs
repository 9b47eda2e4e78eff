//! Sizes, times, counts and cores as people write them, and what is wrong with those that cannot be.

use std::time::Duration;

use machnet::Congestion;

/// The largest window that never changes.
const MOST_IN_FLIGHT: u32 = 16 << 20;

/// A number of bytes: `1024`, `64B`, `1KiB`, `64K`, `1MiB`. Suffixes are powers of 1024.
pub(crate) fn size(text: &str) -> Result<usize, String> {
    let wanted = "a number of bytes such as 64, 1KiB, 64K or 1MiB";
    let (digits, suffix) = split(text);
    let shift = match suffix.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        _ => return Err(format!("no unit {suffix:?}; wanted is {wanted}")),
    };
    let number: usize = digits.parse().map_err(|_| format!("wanted is {wanted}"))?;
    number.checked_mul(1 << shift).ok_or_else(|| "more bytes than this machine can count".to_owned())
}

/// A time: `3s`, `250ms`, `10us`, `2m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wanted = "a time with its unit, such as 3s, 250ms, 10us or 2m";
    let (digits, suffix) = split(text);
    let unit = match suffix {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        _ => return Err(format!("wanted is {wanted}")),
    };
    let number: f64 = digits.parse().map_err(|_| format!("wanted is {wanted}"))?;
    Duration::try_from_secs_f64(number * unit).map_err(|_| format!("out of range; wanted is {wanted}"))
}

/// A time that passes.
pub(crate) fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("nothing can be measured in no time; give for example 3s".to_owned()),
        some => Ok(some),
    }
}

/// How long something goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// For so long.
    Time(Duration),
    /// For so many operations, of all flows together.
    Count(u64),
}

/// A time, or a plain number of operations.
pub(crate) fn limit(text: &str) -> Result<Limit, String> {
    text.parse().map(Limit::Count).or_else(|_| {
        duration(text)
            .map(Limit::Time)
            .map_err(|_| "wanted is a time such as 200ms, or a number of operations such as 1000".to_owned())
    })
}

/// A rate, operations per second.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let (digits, suffix) = split(text);
    let unit = match suffix {
        "" => 1.0,
        "k" | "K" => 1e3,
        "M" => 1e6,
        _ => f64::NAN,
    };
    let rate = digits.parse().unwrap_or(f64::NAN) * unit;
    if rate.is_finite() && rate > 0.0 {
        Ok(rate)
    } else {
        Err("wanted is a number above 0 of operations per second, such as 1000, 50k or 1M".to_owned())
    }
}

/// Cores as Linux numbers them: `0`, `0,1`, `2-3`.
pub(crate) fn cores(text: &str) -> Result<Cores, String> {
    let wanted = || "wanted are cores such as 0, 0,1 or 2-3".to_owned();
    let number = |text: &str| text.parse::<usize>().map_err(|_| wanted());
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        let most = rustix::thread::CpuSet::MAX_CPU;
        if first > last || last >= most {
            return Err(format!("{}; the highest number is {}", wanted(), most - 1));
        }
        cores.extend(first..=last);
    }
    Ok(Cores(cores))
}

/// How flows find out how much the path takes: `cubic`, `swift`, `fixed:64KiB`.
pub(crate) fn congestion(text: &str) -> Result<Congestion, String> {
    let wanted = "wanted is cubic, swift, or fixed: with bytes in flight, such as fixed:64KiB";
    match text.split_once(':') {
        None if text == "cubic" => Ok(Congestion::Cubic),
        None if text == "swift" => Ok(Congestion::Swift),
        Some(("fixed", bytes)) => {
            let bytes = size(bytes).map_err(|error| format!("fixed: {error}"))?;
            match u32::try_from(bytes) {
                Ok(bytes) if (1..=MOST_IN_FLIGHT).contains(&bytes) => Ok(Congestion::Fixed { bytes }),
                _ => Err(format!("fixed: from 1 byte (one packet) to {} MiB in flight", MOST_IN_FLIGHT >> 20)),
            }
        }
        _ => Err(wanted.to_owned()),
    }
}

/// Numbers of cores, in the order given; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cores(pub(crate) Vec<usize>);

fn split(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write() {
        assert_eq!(size("1024"), Ok(1024));
        assert_eq!(size("64B"), Ok(64));
        assert_eq!((size("1KiB"), size("64k"), size("2MiB")), (Ok(1024), Ok(65536), Ok(2 << 20)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!((limit("7"), limit("7us")), (Ok(Limit::Count(7)), Ok(Limit::Time(Duration::from_micros(7)))));
        assert_eq!((rate("50k"), rate("0.5")), (Ok(50e3), Ok(0.5)));
        let swift = (congestion("cubic"), congestion("swift"));
        assert_eq!(swift, (Ok(Congestion::Cubic), Ok(Congestion::Swift)));
        for (text, bytes) in [("fixed:1", 1), ("fixed:64KiB", 64 << 10), ("fixed:16MiB", 16 << 20)] {
            assert_eq!(congestion(text), Ok(Congestion::Fixed { bytes }));
        }
        assert_eq!(cores("0,2-3"), Ok(Cores(vec![0, 2, 3])));
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_would_be_right() {
        for bad in ["", "KiB", "1kB2", "-1", "1.5K", "99999999999G"] {
            size(bad).unwrap_err();
        }
        for bad in ["", "3", "s", "-1s", "1e400s", "3 parsecs"] {
            assert!(duration(bad).unwrap_err().contains("3s"), "{bad}");
        }
        assert!(positive_duration("0s").unwrap_err().contains("no time"));
        for bad in ["", "0", "-5", "nan", "inf", "1x"] {
            assert!(rate(bad).unwrap_err().contains("above 0"), "{bad}");
        }
        for bad in ["", "reno", "cubic:1", "fixed", "Swift"] {
            assert!(congestion(bad).unwrap_err().contains("fixed:64KiB"), "{bad}");
        }
        for bad in ["fixed:", "fixed:x", "fixed:0", "fixed:16777217", "fixed:8GiB"] {
            assert!(congestion(bad).unwrap_err().contains("fixed: "), "{bad}");
        }
        for bad in ["", "a", "1-", "3-2", "0,,1", "99999999"] {
            assert!(cores(bad).unwrap_err().contains("wanted are cores"), "{bad}");
        }
    }
}
