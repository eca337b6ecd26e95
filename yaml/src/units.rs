//! Amounts with their units, as people write them: `1GiB`, `0.5`, `256`, `1h30m`.
//!
//! Used for policy files and for command line flags alike, so that both read the same.

use std::fmt;
use std::time::Duration;

/// A kind of amount: how it is written, and what it is counted in.
pub trait Unit {
    /// The counted value.
    type Value: Copy + Ord + fmt::Debug;
    /// What a reader is asked for, with an article and an example.
    const EXPECTED: &'static str;
    /// Regular expression of the written form (ECMA 262, as JSON Schema wants it).
    const PATTERN: &'static str;
    /// JSON type of the form that needs no quotes in YAML, if there is one.
    const NUMBER: Option<&'static str>;

    /// Reads an amount.
    ///
    /// # Errors
    /// [`AmountError`] if `text` is not of this form, is zero, or does not fit.
    fn parse(text: &str) -> Result<Self::Value, AmountError>;

    /// Writes an amount in the shortest form that reads back as the same value.
    fn show(value: Self::Value) -> String;
}

/// Why a text is not an amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {expected}{advice}")]
pub struct AmountError {
    /// What was written.
    pub text: String,
    /// What is read here, with an article and an example.
    pub expected: &'static str,
    /// What is wrong or what to write instead, with its leading punctuation; may be empty.
    pub advice: String,
}

/// Bytes of memory or disk, as `u64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {}

/// Thousandths of a processor, as `u64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cpus {}

/// A count of processes and threads, as `u64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pids {}

/// Wall-clock time in whole seconds, as [`Duration`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Time {}

/// The kernel counts memory and pids in signed 64-bit numbers; no limit can be above.
const COUNT_MAX: u64 = i64::MAX.unsigned_abs();

/// Largest first, binary before decimal, so that the shortest exact form is found first.
const SIZES: [(&str, u64); 8] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
];

/// Largest first.
const TIMES: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];

impl Unit for Memory {
    type Value = u64;
    const EXPECTED: &'static str = "a size such as `512MiB` or `1GiB`";
    const PATTERN: &'static str = "^[0-9]+([KMGT]i?B)?$";
    const NUMBER: Option<&'static str> = Some("integer");

    fn parse(text: &str) -> Result<u64, AmountError> {
        let (digits, suffix) = split_number(text);
        let scale = match SIZES.iter().find(|(name, _)| *name == suffix) {
            Some((_, scale)) => *scale,
            None if suffix.is_empty() => 1,
            None => return Err(error::<Self>(text, size_advice(digits, suffix))),
        };
        counted::<Self>(text, digits, scale)
    }

    fn show(value: u64) -> String {
        match SIZES.iter().find(|(_, scale)| value != 0 && value.is_multiple_of(*scale)) {
            Some((name, scale)) => format!("{}{name}", value / scale),
            None => value.to_string(),
        }
    }
}

impl Unit for Cpus {
    type Value = u64;
    const EXPECTED: &'static str = "a number of processors such as `2` or `0.5`";
    const PATTERN: &'static str = "^[0-9]+([.][0-9]{1,3})?$";
    const NUMBER: Option<&'static str> = Some("number");

    fn parse(text: &str) -> Result<u64, AmountError> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        if fraction.len() > 3 {
            return Err(error::<Self>(text, ": it has more than three decimals"));
        }
        let padded = format!("{fraction:0<3}");
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(fraction) {
            return Err(error::<Self>(text, ""));
        }
        counted::<Self>(text, &format!("{whole}{padded}"), 1)
    }

    fn show(value: u64) -> String {
        let text = format!("{}.{:03}", value / 1000, value % 1000);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

impl Unit for Pids {
    type Value = u64;
    const EXPECTED: &'static str = "a whole number such as `256`";
    const PATTERN: &'static str = "^[0-9]+$";
    const NUMBER: Option<&'static str> = Some("integer");

    fn parse(text: &str) -> Result<u64, AmountError> {
        counted::<Self>(text, text, 1)
    }

    fn show(value: u64) -> String {
        value.to_string()
    }
}

impl Unit for Time {
    type Value = Duration;
    const EXPECTED: &'static str = "a time such as `90s`, `10m`, `1h30m` or `2d`";
    const PATTERN: &'static str = "^([0-9]+[dhms])+$";
    const NUMBER: Option<&'static str> = None;

    fn parse(text: &str) -> Result<Duration, AmountError> {
        let mut rest = text;
        let mut seconds = 0_u64;
        let mut units = TIMES.iter();
        while !rest.is_empty() {
            let (digits, tail) = split_number(rest);
            let unit = tail.get(..1).unwrap_or_default();
            if unit.is_empty() {
                return Err(error::<Self>(text, format!(": write `{text}s` for seconds")));
            }
            // Searched in what is left of the list: each unit once, larger ones first.
            let Some((_, scale)) = units.find(|(name, _)| *name == unit) else {
                return Err(error::<Self>(text, ""));
            };
            let part = counted::<Self>(text, digits, *scale)?;
            seconds = part.checked_add(seconds).ok_or_else(|| too_large::<Self>(text))?;
            rest = &tail[1..];
        }
        match seconds {
            0 => Err(error::<Self>(text, "")),
            1..=COUNT_MAX => Ok(Duration::from_secs(seconds)),
            _ => Err(too_large::<Self>(text)),
        }
    }

    fn show(value: Duration) -> String {
        let mut rest = value.as_secs();
        let mut text = String::new();
        for (name, scale) in TIMES {
            if rest >= scale {
                text.push_str(&format!("{}{name}", rest / scale));
                rest %= scale;
            }
        }
        text
    }
}

/// Splits leading ASCII digits from what follows.
fn split_number(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

/// `digits` times `scale`, above zero and within what the kernel can count.
fn counted<U: Unit>(text: &str, digits: &str, scale: u64) -> Result<u64, AmountError> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(error::<U>(text, ""));
    }
    // All digits, so only their number can be wrong.
    let value = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(scale));
    match value {
        Some(0) => Err(error::<U>(text, ": it is zero, so that no task could run")),
        Some(value) if value <= COUNT_MAX => Ok(value),
        _ => Err(too_large::<U>(text)),
    }
}

fn too_large<U: Unit>(text: &str) -> AmountError {
    error::<U>(text, ": it is larger than the kernel can count")
}

fn error<U: Unit>(text: &str, advice: impl Into<String>) -> AmountError {
    AmountError { text: text.to_owned(), expected: U::EXPECTED, advice: advice.into() }
}

/// What someone may have meant who wrote `suffix` as a unit of size.
fn size_advice(digits: &str, suffix: &str) -> String {
    if digits.is_empty() {
        return String::new();
    }
    let letter = suffix.trim().chars().next().unwrap_or_default().to_ascii_uppercase();
    if "KMGT".contains(letter) {
        format!(": write `{digits}{letter}iB` (1024-based) or `{digits}{letter}B` (1000-based)")
    } else {
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(text: &str) -> Result<u64, String> {
        Memory::parse(text).map_err(|error| error.to_string())
    }

    #[test]
    fn sizes_are_read_in_both_bases() {
        assert_eq!(memory("65536"), Ok(65_536));
        assert_eq!(memory("1GiB"), Ok(1 << 30));
        assert_eq!(memory("512MiB"), Ok(512 << 20));
        assert_eq!(memory("1GB"), Ok(1_000_000_000));
        assert_eq!(memory("9223372036854775807"), Ok(COUNT_MAX));
    }

    #[test]
    fn wrong_sizes_are_refused_with_advice() {
        assert_eq!(
            memory("4G").unwrap_err(),
            "`4G` is not a size such as `512MiB` or `1GiB`: \
             write `4GiB` (1024-based) or `4GB` (1000-based)"
        );
        for text in ["", "GiB", "-1", "+1", "1.5GiB", "0x10", "1_000", "1e3", "1GiBs", "١GiB"] {
            assert!(memory(text).is_err(), "{text}");
        }
        assert!(memory("0").unwrap_err().contains("zero"));
        assert!(memory("0MiB").unwrap_err().contains("zero"));
        assert!(memory("9223372036854775808").unwrap_err().contains("larger"));
        assert!(memory("18446744073709551616GiB").unwrap_err().contains("larger"));
        assert!(memory("8388608TiB").unwrap_err().contains("larger"));
    }

    #[test]
    fn processors_are_read_in_thousandths() {
        assert_eq!(Cpus::parse("2").unwrap(), 2_000);
        assert_eq!(Cpus::parse("0.5").unwrap(), 500);
        assert_eq!(Cpus::parse("1.25").unwrap(), 1_250);
        assert_eq!(Cpus::parse("0.001").unwrap(), 1);
        for text in ["", ".", "1.", ".5", "0", "0.000", "0.0001", "1,5", "-1", "1e3", "1.+5", "x"] {
            assert!(Cpus::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_read_with_units_in_falling_order() {
        assert_eq!(Time::parse("90s").unwrap(), Duration::from_secs(90));
        assert_eq!(Time::parse("1h30m").unwrap(), Duration::from_secs(5_400));
        assert_eq!(Time::parse("2d").unwrap(), Duration::from_secs(172_800));
        for text in ["", "0s", "10", "1m1h", "1h1h", "h", "1y", "1.5h", "1hm", "1ö", "1h 30m"] {
            assert!(Time::parse(text).is_err(), "{text}");
        }
        assert!(Time::parse("60").unwrap_err().to_string().contains("write `60s`"));
        assert!(Time::parse("9223372036854775807d").is_err());
    }

    #[test]
    fn what_is_shown_reads_back() {
        for value in [1, 1000, 1024, 1 << 30, (1 << 30) + 1, 5_000_000, COUNT_MAX] {
            assert_eq!(Memory::parse(&Memory::show(value)).unwrap(), value);
            assert_eq!(Cpus::parse(&Cpus::show(value)).unwrap(), value, "{}", Cpus::show(value));
            let time = Duration::from_secs(value);
            assert_eq!(Time::parse(&Time::show(time)).unwrap(), time);
        }
        assert_eq!(Memory::show(1 << 30), "1GiB");
        assert_eq!(Cpus::show(500), "0.5");
        assert_eq!(Cpus::show(20_000), "20");
        assert_eq!(Time::show(Duration::from_secs(5_400)), "1h30m");
    }
}
