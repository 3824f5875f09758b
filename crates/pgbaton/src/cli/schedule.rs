use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use crate::cli::Failure;

/// When something shall happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum When {
    /// At once.
    Now,
    /// Then, in ISO 8601 with an offset from UTC.
    At(String),
}

/// Reads a time. Without an offset it is local time.
pub(crate) fn parse_when(text: &str) -> Result<When, Failure> {
    let text = text.trim();
    if text.is_empty() || text.eq_ignore_ascii_case("now") {
        return Ok(When::Now);
    }
    let zoned = text
        .parse::<Timestamp>()
        .map(|at| at.to_zoned(TimeZone::system()))
        .or_else(|_| text.parse::<DateTime>().and_then(|at| at.to_zoned(TimeZone::system())));
    match zoned {
        Ok(at) => Ok(When::At(at.strftime("%Y-%m-%dT%H:%M:%S%.f%:z").to_string())),
        Err(_) => Err(Failure::text(format!(
            "Unable to parse scheduled timestamp ({text}). It should be in an unambiguous format (e.g. ISO 8601)"
        ))),
    }
}

/// Local time with five digits of the second's fraction, as Patroni shows it beside results.
pub(crate) fn now_text() -> String {
    let now = Zoned::now();
    format!("{}.{:05}", now.strftime("%Y-%m-%d %H:%M:%S"), now.subsec_nanosecond() / 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_the_usual_forms() {
        assert_eq!(parse_when("now").unwrap(), When::Now);
        for text in ["2027-01-31T03:00:00+01:00", "2027-01-31 03:00Z", "2027-01-31 03:00"] {
            assert!(matches!(parse_when(text).unwrap(), When::At(_)), "{text}");
        }
        let refused = parse_when("tomorrow").unwrap_err();
        assert!(refused.to_string().contains("Unable to parse scheduled timestamp (tomorrow)"));
    }
}
