use std::fmt;

/// What a number counts, so that a unit after it can be converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Nothing: a unit makes the text invalid.
    None,
    /// Bytes, with B, kB, MB, GB, TB in steps of 1024.
    Bytes,
    /// Seconds, with us, ms, s, min, h, d.
    Seconds,
}

impl Unit {
    /// What a number followed by `suffix` must be multiplied with.
    fn scale(self, suffix: &str) -> Option<f64> {
        match (self, suffix) {
            (_, "") => Some(1.0),
            (Self::Bytes, "B") => Some(1.0),
            (Self::Bytes, "kB") => Some(1024.0),
            (Self::Bytes, "MB") => Some(1024.0 * 1024.0),
            (Self::Bytes, "GB") => Some(1024.0 * 1024.0 * 1024.0),
            (Self::Bytes, "TB") => Some(1024.0 * 1024.0 * 1024.0 * 1024.0),
            (Self::Seconds, "us") => Some(1e-6),
            (Self::Seconds, "ms") => Some(1e-3),
            (Self::Seconds, "s") => Some(1.0),
            (Self::Seconds, "min") => Some(60.0),
            (Self::Seconds, "h") => Some(3600.0),
            (Self::Seconds, "d") => Some(86_400.0),
            _ => None,
        }
    }
}

/// `on`, `true`, `yes`, `1` and their opposites in any case; anything else is no boolean.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Some(true),
        "off" | "false" | "no" | "0" => Some(false),
        _ => None,
    }
}

/// A hexadecimal, octal or decimal number with an optional unit, in whole bytes or seconds; a fraction is rounded half
/// to even, as the interface has it.
pub fn parse_integer(text: &str, unit: Unit) -> Option<i64> {
    let text = text.trim();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    let (number, rest) = leading_number(digits)?;
    let value = sign * number * unit.scale(rest.trim())?;
    // Up to here a double holds every whole number; sizes and times beyond it are mistakes.
    if value.abs() > 9_007_199_254_740_992.0 {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "bounded above, and rounded")]
    let whole = value.round_ties_even() as i64;
    Some(whole)
}

/// The number at the beginning of a text, and the text after it.
fn leading_number(text: &str) -> Option<(f64, &str)> {
    let digits = |text: &str, radix: u32| text.find(|c: char| !c.is_digit(radix)).unwrap_or(text.len());
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        let end = digits(hex, 16);
        let value = u64::from_str_radix(&hex[..end], 16).ok()?;
        return Some((value as f64, &hex[end..]));
    }
    let whole = digits(text, 10);
    let mut end = whole;
    if let Some(fraction) = text[end..].strip_prefix('.') {
        end += 1 + digits(fraction, 10);
    }
    if let Some(exponent) = text[end..].strip_prefix(['e', 'E']) {
        let sign = usize::from(exponent.starts_with(['+', '-']));
        let length = digits(&exponent[sign..], 10);
        if length > 0 {
            end += 1 + sign + length;
        }
    }
    let number = &text[..end];
    if end == whole && whole > 1 && number.starts_with('0') {
        return Some((u64::from_str_radix(number, 8).ok()? as f64, &text[end..]));
    }
    Some((number.parse().ok()?, &text[end..]))
}

/// Why a text is no version of PostgreSQL. The text is part of the interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VersionError {
    /// Neither `X.Y` with X 10 or more, nor `X.Y.Z`.
    Format(String),
    /// A part is no number.
    Number(String),
}

impl fmt::Display for VersionError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format(text) => {
                write!(formatter, "Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted: {text}")
            }
            Self::Number(text) => write!(formatter, "Invalid PostgreSQL version: {text}"),
        }
    }
}

/// A full version as the number that `server_version_num` has: `15.2` is 150002, `9.6.3` is 90603.
///
/// # Errors
/// [`VersionError`], with the text of the interface.
pub fn parse_version(text: &str) -> Result<u32, VersionError> {
    let parts: Vec<&str> = text.split('.').collect();
    if !(2..=3).contains(&parts.len()) {
        return Err(VersionError::Format(text.to_owned()));
    }
    let number = |part: &str| part.parse::<u32>().ok().filter(|number| *number < 1000);
    let numbers: Option<Vec<u32>> = parts.into_iter().map(number).collect();
    match numbers.as_deref() {
        Some([major, minor]) if *major >= 10 => Ok(major * 10_000 + minor),
        Some([major, middle, minor]) => Ok(major * 10_000 + middle * 100 + minor),
        Some(_) => Err(VersionError::Format(text.to_owned())),
        None => Err(VersionError::Number(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_units() {
        let cases = [
            ("16MB", Unit::Bytes, Some(16_777_216)),
            ("1.5kB", Unit::Bytes, Some(1536)),
            ("1 GB", Unit::Bytes, Some(1_073_741_824)),
            ("1mb", Unit::Bytes, None),
            ("10", Unit::Bytes, Some(10)),
            ("010", Unit::None, Some(8)),
            ("0x10", Unit::None, Some(16)),
            ("10s", Unit::None, None),
            ("2.5", Unit::Seconds, Some(2)),
            ("3.5", Unit::Seconds, Some(4)),
            ("1500ms", Unit::Seconds, Some(2)),
            ("2min", Unit::Seconds, Some(120)),
            ("1e3", Unit::None, Some(1000)),
            ("-1", Unit::Bytes, Some(-1)),
            ("", Unit::None, None),
            ("x", Unit::None, None),
            ("99999999TB", Unit::Bytes, None),
        ];
        for (text, unit, expected) in cases {
            assert_eq!(parse_integer(text, unit), expected, "{text:?}");
        }
    }

    #[test]
    fn booleans_are_few() {
        for (text, expected) in [("ON", Some(true)), ("no", Some(false)), ("t", None), ("y", None), ("2", None)] {
            assert_eq!(parse_bool(text), expected, "{text}");
        }
    }

    #[test]
    fn versions() {
        assert_eq!(parse_version("15.2"), Ok(150_002));
        assert_eq!(parse_version("9.6.3"), Ok(90_603));
        for (text, message) in [
            ("15", "Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted: 15"),
            ("9.6", "Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted: 9.6"),
            ("1.2.3.4", "Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted: 1.2.3.4"),
            ("15.x", "Invalid PostgreSQL version: 15.x"),
        ] {
            assert_eq!(parse_version(text).unwrap_err().to_string(), message);
        }
    }
}
