//! Sizes and durations as people write them: `20GiB`, `512k`, `30s`, `5m`. Pure.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that is no size or duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadUnit {
    /// Not a size.
    #[error("'{0}' is not a size: write a number with K, M, G or T (powers of 1024), such as 20G or 512MiB")]
    Size(String),
    /// Not a duration.
    #[error("'{0}' is not a duration: write a number with ms, s, m, h or d, such as 30s")]
    Duration(String),
}

fn split(text: &str) -> Option<(u64, String)> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number = text[..digits].parse().ok()?;
    Some((number, text[digits..].trim().to_ascii_lowercase()))
}

/// Bytes from text such as `20GiB`, `20G`, `512k` or `1048576`. All units are powers of 1024.
pub fn parse_size(text: &str) -> Result<u64, BadUnit> {
    let bad = || BadUnit::Size(text.to_owned());
    let (number, unit) = split(text).ok_or_else(bad)?;
    let shift = match unit.as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(bad()),
    };
    number.checked_mul(1 << shift).ok_or_else(bad)
}

/// A duration from text such as `30s`, `500ms`, `5m`, `2h`, `1d`; a bare number is seconds.
pub fn parse_duration(text: &str) -> Result<Duration, BadUnit> {
    let bad = || BadUnit::Duration(text.to_owned());
    let (number, unit) = split(text).ok_or_else(bad)?;
    let millis = match unit.as_str() {
        "ms" => 1,
        "" | "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(bad()),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(bad)
}

/// Bytes for people: `1.5 GiB`.
pub fn show_size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// A size in the settings file: a number of bytes or a text with a unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size(pub u64);

/// A duration in the settings file: a text with a unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span(pub Duration);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a size: a number of bytes, or text with a unit, such as \"20G\"")]
        enum Raw {
            Number(u64),
            Text(String),
        }
        match Raw::deserialize(from)? {
            Raw::Number(bytes) => Ok(Self(bytes)),
            Raw::Text(text) => parse_size(&text).map(Self).map_err(serde::de::Error::custom),
        }
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a duration: seconds, or text with a unit, such as \"30s\"")]
        enum Raw {
            Seconds(u64),
            Text(String),
        }
        match Raw::deserialize(from)? {
            Raw::Seconds(secs) => Ok(Self(Duration::from_secs(secs))),
            Raw::Text(text) => parse_duration(&text).map(Self).map_err(serde::de::Error::custom),
        }
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format!("{}ms", self.0.as_millis()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_people_write() {
        assert_eq!(parse_size("20GiB"), Ok(20 << 30));
        assert_eq!(parse_size("512 k"), Ok(512 << 10));
        assert_eq!(parse_duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        for bad in ["", "x", "12q", "-1", "99999999999T"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert!(parse_duration("1y").is_err());
        assert_eq!(show_size(1536), "1.5 KiB");
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = (parse_size(&text), parse_duration(&text));
        }
    }
}
