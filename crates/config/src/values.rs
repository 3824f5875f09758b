//! How Patroni reads single values: lenient booleans, integers as in C, durations with units, addresses.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;

/// A text that no log and no message shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(..)")
    }
}

/// A host name or address with a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct HostPort {
    /// Host name, IPv4 address or IPv6 address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl HostPort {
    /// Whether the address cannot be reached from another host.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// Whether the address means "all interfaces", which nobody can connect to from elsewhere.
    pub fn is_wildcard(&self) -> bool {
        is_wildcard(&self.host)
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(formatter, "[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "{}:{}", self.host, self.port)
        }
    }
}

/// The addresses that a server listens on, all with one port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listen {
    /// Hosts in the order written, brackets stripped; never empty. `*` means all.
    pub hosts: Vec<String>,
    /// The port.
    pub port: u16,
}

impl Listen {
    /// The first address that others could connect to; none when the first one means "all interfaces".
    pub fn reachable(&self) -> Option<HostPort> {
        let host = self.hosts.first()?;
        (!is_wildcard(host)).then(|| HostPort { host: host.clone(), port: self.port })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.hosts.join(","), self.port)
    }
}

fn is_wildcard(host: &str) -> bool {
    matches!(host, "" | "*" | "0.0.0.0" | "::")
}

/// `host[,host]:port` split at the last colon, brackets of IPv6 addresses stripped.
pub(crate) fn parse_listen(text: &str, default_port: Option<u16>) -> Option<Listen> {
    let (hosts, port) = match text.rsplit_once(':') {
        // The last colon is inside an IPv6 address without a port.
        Some((_, after)) if after.ends_with(']') => (text, default_port?),
        Some((hosts, port)) => (hosts, port.trim().parse().ok().filter(|port| *port > 0)?),
        None => (text, default_port?),
    };
    let hosts = hosts
        .split(',')
        .map(|host| host.trim().trim_start_matches('[').trim_end_matches(']').to_owned())
        .map(|host| if host.is_empty() { "*".to_owned() } else { host })
        .collect();
    Some(Listen { hosts, port })
}

/// `host:port` with exactly one host.
pub(crate) fn parse_host_port(text: &str, default_port: Option<u16>) -> Option<HostPort> {
    let mut listen = parse_listen(text, default_port)?;
    let host = listen.hosts.pop()?;
    (listen.hosts.is_empty() && !host.contains(char::is_whitespace)).then_some(HostPort { host, port: listen.port })
}

/// `on`, `true`, `yes`, `1` and their opposites in any case; nothing else is a boolean.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Some(true),
        "off" | "false" | "no" | "0" => Some(false),
        _ => None,
    }
}

/// A decimal, octal (`0` before it) or hexadecimal (`0x`) integer; a fraction is rounded half to even.
pub(crate) fn parse_integer(text: &str) -> Option<i64> {
    let text = text.trim();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let magnitude = if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        i64::from_str_radix(hex, 16).ok()?
    } else if digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit()) {
        i64::from_str_radix(digits, 8).ok()?
    } else if digits.bytes().all(|b| b.is_ascii_digit()) {
        digits.parse().ok()?
    } else {
        let value = parse_decimal(digits)?.round_ties_even();
        // Beyond 2^53 a fraction has no meaning, and the cast below would not be exact.
        if value > 9_007_199_254_740_992.0 {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "bounded above, and not negative")]
        let whole = value as i64;
        whole
    };
    Some(if negative { -magnitude } else { magnitude })
}

/// Seconds with fractions, or a number with one of the units `us`, `ms`, `s`, `min`, `h`, `d`.
pub(crate) fn parse_seconds(text: &str) -> Option<Duration> {
    let text = text.trim();
    let unit = text.find(|c: char| c.is_ascii_alphabetic() && !matches!(c, 'e' | 'E')).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit);
    let scale = match unit.trim() {
        "us" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(parse_decimal(number.trim())? * scale).ok()
}

/// A finite decimal number that is not negative; neither `inf` nor `nan`, which Rust would read.
fn parse_decimal(text: &str) -> Option<f64> {
    text.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        .then(|| text.parse::<f64>().ok())
        .flatten()
        .filter(|value| value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_split_at_the_last_colon() {
        let cases = [
            ("127.0.0.1:5432", Some((vec!["127.0.0.1"], 5432))),
            ("0.0.0.0", Some((vec!["0.0.0.0"], 5432))),
            ("a,b:6000", Some((vec!["a", "b"], 6000))),
            ("[::1]:8008", Some((vec!["::1"], 8008))),
            ("[::1]", Some((vec!["::1"], 5432))),
            (":5433", Some((vec!["*"], 5433))),
            ("host:port", None),
            ("host:70000", None),
            ("host:0", None),
        ];
        for (text, expected) in cases {
            let read = parse_listen(text, Some(5432));
            let read = read.as_ref().map(|l| (l.hosts.iter().map(String::as_str).collect::<Vec<_>>(), l.port));
            assert_eq!(read, expected, "{text}");
        }
        assert_eq!(parse_host_port("a,b:1", None), None);
        assert_eq!(parse_host_port("[fe80::1]:1", None).unwrap().to_string(), "[fe80::1]:1");
    }

    #[test]
    fn loopback_is_recognised() {
        for (host, expected) in
            [("127.0.0.9", true), ("::1", true), ("localhost", true), ("10.0.0.1", false), ("pg", false)]
        {
            assert_eq!(HostPort { host: host.to_owned(), port: 1 }.is_loopback(), expected, "{host}");
        }
    }

    #[test]
    fn numbers_are_read_as_in_c() {
        let cases = [("10", Some(10)), ("010", Some(8)), ("0x1F", Some(31)), ("-1", Some(-1)), ("1e3", Some(1000))];
        for (text, expected) in cases.into_iter().chain([("2.5", Some(2)), ("3.5", Some(4)), ("", None), ("1MB", None)])
        {
            assert_eq!(parse_integer(text), expected, "{text}");
        }
    }

    #[test]
    fn durations_have_units_and_fractions() {
        let cases = [("10", Some(10_000)), ("0.5", Some(500)), ("250ms", Some(250)), ("2min", Some(120_000))];
        for (text, expected) in
            cases.into_iter().chain([("1 h", Some(3_600_000)), ("-1", None), ("inf", None), ("5x", None)])
        {
            assert_eq!(parse_seconds(text).map(|d| d.as_millis()), expected, "{text}");
        }
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(..)");
    }
}
