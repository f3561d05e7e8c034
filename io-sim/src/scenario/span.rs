//! Lengths of simulated time, as people write them: `1.5s`, `300ms`, `20us`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A microsecond of simulated time.
pub const US: u64 = 1_000;
/// A millisecond of simulated time.
pub const MS: u64 = 1_000 * US;
/// A second of simulated time.
pub const S: u64 = 1_000 * MS;

const UNITS: [(&str, u64); 5] = [("ns", 1), ("us", US), ("ms", MS), ("s", S), ("m", 60 * S)];

/// A length of simulated time, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub u64);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no time: write a number and a unit, such as 300ms, 1.5s or 20us");
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, unit) = text.split_at(digits);
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let mut nanos = whole.parse::<u64>().ok().and_then(|whole| whole.checked_mul(*unit)).ok_or_else(wrong)?;
        let mut place = *unit;
        for digit in fraction.bytes() {
            place /= 10;
            nanos = u64::from(digit.checked_sub(b'0').filter(|digit| *digit < 10).ok_or_else(wrong)?)
                .checked_mul(place)
                .and_then(|part| nanos.checked_add(part))
                .ok_or_else(wrong)?;
        }
        Ok(Self(nanos))
    }
}

impl fmt::Display for Span {
    /// Exactly, in the largest unit that needs at most nine decimals.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, unit) = match self.0 {
            0 => ("s", S),
            nanos if nanos >= S => ("s", S),
            nanos if nanos >= MS => ("ms", MS),
            nanos if nanos >= US => ("us", US),
            _ => ("ns", 1),
        };
        let (whole, rest) = (self.0 / unit, self.0 % unit);
        if rest == 0 {
            return write!(f, "{whole}{name}");
        }
        let width = usize::try_from(unit.ilog10()).unwrap_or(0);
        let fraction = format!("{rest:0width$}");
        write!(f, "{whole}.{}{name}", fraction.trim_end_matches('0'))
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_their_text() {
        for nanos in [0, 1, 999, 1_000, 1_001, 20 * US, 1_500 * US, 300 * MS, 1_500 * MS, 60 * S, 3 * S + 1] {
            assert_eq!(Span(nanos).to_string().parse(), Ok(Span(nanos)), "{}", Span(nanos));
        }
        assert_eq!("1.5s".parse(), Ok(Span(1_500 * MS)));
        assert_eq!("2m".parse(), Ok(Span(120 * S)));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for wrong in ["", "5", "s", "1.5", "1..5s", "-1s", "1 s", "1h", "99999999999999999999s"] {
            assert!(wrong.parse::<Span>().is_err(), "{wrong}");
        }
    }
}
