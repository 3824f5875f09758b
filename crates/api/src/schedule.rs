use jiff::civil;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use crate::reply::Reply;

/// Reads the time of a scheduled action: ISO 8601 and near relatives, with an offset, in the future.
///
/// # Errors
/// The reply that the interface has for it.
pub fn parse_schedule(action: &'static str, text: &str, now: Timestamp) -> Result<Timestamp, Reply> {
    let text = text.trim();
    let with_offset = text
        .strip_suffix("UTC")
        .or_else(|| text.strip_suffix("GMT"))
        .map_or_else(|| text.to_owned(), |bare| format!("{}Z", bare.trim_end()));
    let at = with_offset
        .parse::<Timestamp>()
        .or_else(|_| with_offset.parse::<Zoned>().map(|zoned| zoned.timestamp()))
        .map_err(|_| match text.parse::<civil::DateTime>() {
            Ok(_) => Reply::TimezoneMissing { action },
            Err(_) => Reply::ScheduleUnreadable,
        })?;
    if at < now { Err(Reply::ScheduleInPast { action }) } else { Ok(at) }
}

/// A time as records and documents have it: `2026-11-20T09:16:05.491248+00:00`, microseconds only if there are any.
pub fn iso(at: Timestamp) -> String {
    text(at, 'T')
}

/// A time as the status document has it: the same with a space.
pub fn iso_loose(at: Timestamp) -> String {
    text(at, ' ')
}

fn text(at: Timestamp, separator: char) -> String {
    let at = at.to_zoned(TimeZone::UTC);
    let date = at.strftime("%Y-%m-%d");
    let micros = at.subsec_nanosecond() / 1000;
    let fraction = if micros == 0 { String::new() } else { format!(".{micros:06}") };
    format!("{date}{separator}{}{fraction}+00:00", at.strftime("%H:%M:%S"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_need_a_zone_and_the_future() {
        let now: Timestamp = "2026-11-20T09:00:00Z".parse().unwrap();
        for text in [
            "2026-11-20T10:00:00+00:00",
            "2026-11-20T10:00:00Z",
            "2026-11-20 11:00:00+01",
            "2026-11-20 11:00+01:00",
            "2026-11-20T10:00:00.000000+00:00",
            "2026-11-20 10:00:00 UTC",
            "2026-11-20T11:00:00+01:00[Europe/Paris]",
        ] {
            assert_eq!(
                parse_schedule("switchover", text, now).map(iso),
                Ok("2026-11-20T10:00:00+00:00".to_owned()),
                "{text}"
            );
        }
        let message = |text: &str| {
            let reply = parse_schedule("restart", text, now).unwrap_err();
            (reply.code(), reply.text())
        };
        assert_eq!(
            message("2026-11-20T10:00:00"),
            (400, "Timezone information is mandatory for the scheduled restart".to_owned())
        );
        assert_eq!(message("2026-11-20T08:59:59Z"), (422, "Cannot schedule restart in the past".to_owned()));
        let unreadable = "Unable to parse scheduled timestamp. It should be in an unambiguous format, e.g. ISO 8601";
        assert_eq!(message("tomorrow"), (422, unreadable.to_owned()));
    }

    #[test]
    fn times_are_written_in_two_styles() {
        let at: Timestamp = "2026-11-20T09:16:05.491248Z".parse().unwrap();
        assert_eq!(iso(at), "2026-11-20T09:16:05.491248+00:00");
        assert_eq!(iso_loose(at), "2026-11-20 09:16:05.491248+00:00");
        assert_eq!(iso(Timestamp::UNIX_EPOCH), "1970-01-01T00:00:00+00:00");
    }
}
