//! Commands that are run on events, in the form that repmgr has for them.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use pgbaton_sys::command::{CommandError, Run};

use crate::event::Event;

/// How repmgr writes a time, by the clock on the wall of this host.
const TIME: &str = "%Y-%m-%d %H:%M:%S%z";
/// What a shell takes as it is, also without quotes, besides letters and digits. Blanks only divide words.
const HARMLESS: &str = " _-.,:=+/@";

/// A command with repmgr's placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventCommand {
    /// A line for `/bin/sh`, as repmgr's `event_notification_command`.
    Shell(String),
    /// A program with its arguments, without a shell: placeholders stand within arguments, and their values are passed as they are.
    Words(Vec<String>),
}

impl EventCommand {
    /// Runs it for an event. Takes its time: not for a thread that others need.
    ///
    /// # Errors
    /// When it cannot be started, fails, or takes too long.
    pub(crate) fn run(&self, event: &Event, within: Duration) -> Result<(), CommandError> {
        let command = match self {
            Self::Shell(line) => {
                let line = filled(line, |letter| value(event, letter).map(|value| harmless(&value)));
                vec!["/bin/sh".to_owned(), "-c".to_owned(), line]
            }
            Self::Words(words) => words.iter().map(|word| filled(word, |letter| value(event, letter))).collect(),
        };
        let environment = [
            ("PGBATON_EVENT", event.event.as_str().to_owned()),
            ("PGBATON_SEQUENCE", event.sequence.to_string()),
            ("PGBATON_SOURCE", event.source.clone()),
            ("PGBATON_EPOCH", event.record.epoch.map(|epoch| epoch.0.to_string()).unwrap_or_default()),
            // Names, numbers and texts: nothing in it can fail.
            ("PGBATON_JSON", serde_json::to_string(event).unwrap_or_default()),
        ];
        Run { command, within }.run(&environment)
    }
}

/// A text with its placeholders filled: a percent sign and a letter; two percent signs stand for one, and what is no placeholder stays.
fn filled(text: &str, value: impl Fn(char) -> Option<String>) -> String {
    let mut filled = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            filled.push(letter);
            continue;
        }
        match letters.next() {
            Some('%') => filled.push('%'),
            Some(other) => match value(other) {
                Some(value) => filled.push_str(&value),
                None => filled.extend(['%', other]),
            },
            None => filled.push('%'),
        }
    }
    filled
}

/// What a letter stands for (repmgr's documentation, "Event Notifications").
fn value(event: &Event, letter: char) -> Option<String> {
    let primary = event.record.primary.as_ref();
    Some(match letter {
        'n' => event.node.clone(),
        'e' => event.event.as_str().to_owned(),
        // Only what has happened is told.
        's' => "1".to_owned(),
        't' => local(&event.at, &TimeZone::system()),
        'd' => event.details.clone(),
        'p' => event.primary_node.clone().unwrap_or_default(),
        'c' => primary.map(|primary| primary.conninfo.clone()).unwrap_or_default(),
        'a' => primary.map(|primary| primary.name.as_str().to_owned()).unwrap_or_default(),
        _ => return None,
    })
}

fn local(at: &str, zone: &TimeZone) -> String {
    match at.parse::<Timestamp>() {
        Ok(at) => at.to_zoned(zone.clone()).strftime(TIME).to_string(),
        Err(_) => at.to_owned(),
    }
}

/// A value that no shell does anything with but divide it at its blanks, in quotes or without: names come from members' files and from the store.
fn harmless(value: &str) -> String {
    let is_harmless = |letter: char| letter.is_alphanumeric() || HARMLESS.contains(letter);
    let mut text: String = value.chars().map(|letter| if is_harmless(letter) { letter } else { '_' }).collect();
    if text.starts_with('-') {
        // Not an option of whatever it is given to.
        text.replace_range(..1, "_");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventName;
    use crate::record::Record;
    use crate::record::tests::{server, view};

    fn event(node: &str, details: &str) -> Event {
        let record = Record::of(&view(7, 9, Some(server("a", 3, false)), Vec::new()), None, "me");
        Event {
            version: 1,
            source: "me/1".to_owned(),
            sequence: 12,
            event: EventName::StandbySwitchover,
            at: "2026-11-20T10:00:00.123456Z".to_owned(),
            member: "a".parse().unwrap(),
            former: "b".parse().ok(),
            node: node.to_owned(),
            primary_node: Some("b".to_owned()),
            details: details.to_owned(),
            record,
        }
    }

    /// What a program gets as its arguments.
    fn arguments(command: &str, event: &Event) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("out");
        let script = directory.path().join("script");
        std::fs::write(&script, format!("for word; do echo \"<$word>\" >> {}; done\n", out.display())).unwrap();
        let line = format!("sh {} {command}", script.display());
        EventCommand::Shell(line).run(event, Duration::from_secs(10)).unwrap();
        std::fs::read_to_string(&out).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    #[test]
    fn placeholders_are_those_of_repmgr() {
        let event = event("1", "all is well");
        let found = arguments(r#"%n %e %s "%t" "%d" %p "%c" "%a" 100%% %x %"#, &event);
        let wanted = [
            "<1>",
            "<standby_switchover>",
            "<1>",
            "<time>",
            "<all is well>",
            "<b>",
            "<host=10.0.0.1 port=5432>",
            "<a>",
            "<100%>",
            "<%x>",
            "<%>",
        ];
        let time = format!("<{}>", local(&event.at, &TimeZone::system()));
        let wanted: Vec<&str> = wanted.into_iter().map(|word| if word == "<time>" { &time } else { word }).collect();
        assert_eq!(found, wanted);
        assert_eq!(local(&event.at, &TimeZone::fixed(jiff::tz::offset(9))), "2026-11-20 19:00:00+0900");
        assert_eq!(local("soon", &TimeZone::UTC), "soon");
    }

    #[test]
    fn no_value_means_anything_to_a_shell() {
        let directory = tempfile::tempdir().unwrap();
        let trace = directory.path().join("trace");
        let touch = format!("touch {}", trace.display());
        for evil in [
            format!("$({touch})"),
            format!("`{touch}`"),
            format!("\"; {touch}; \""),
            format!("'; {touch}; '"),
            format!("x\n{touch}\n"),
            format!("x & {touch} | {touch} > {0} < {0}", trace.display()),
            r"\".to_owned(),
            "*".to_owned(),
            "~root".to_owned(),
            "{a,b}".to_owned(),
            "!!".to_owned(),
            "#".to_owned(),
            "-rf".to_owned(),
        ] {
            let event = event(&evil, &evil);
            for command in [r#""%d" "%n""#, "'%d' '%n'", "%d %n"] {
                let found = arguments(command, &event);
                let odd = |letter: char| !(letter.is_alphanumeric() || " <>_-.,:=+/@".contains(letter));
                assert!(
                    !found.is_empty() && !found.iter().any(|word| word.contains(odd)),
                    "{command} {evil}: {found:?}"
                );
                assert!(!found[0].starts_with("<-") && !trace.exists(), "{command} {evil}: {found:?}");
                if command.starts_with(['"', '\'']) {
                    assert_eq!(found.len(), 2, "{command} {evil}: {found:?}");
                }
            }
        }
    }

    #[test]
    fn words_are_passed_as_they_are() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("out").display().to_string();
        let script = r#"printf '%s|' "$@" "$PGBATON_SEQUENCE" "$PGBATON_EPOCH" "$PGBATON_EVENT" > "$0""#.to_owned();
        let words = ["sh", "-c", &script.replace('%', "%%"), &out, "--node=%n", "%d"].map(str::to_owned).to_vec();
        let event = event("1", r#"it's "$HOME" (odd)"#);
        EventCommand::Words(words).run(&event, Duration::from_secs(10)).unwrap();
        let wanted = r#"--node=1|it's "$HOME" (odd)|12|7|standby_switchover|"#;
        assert_eq!(std::fs::read_to_string(&out).unwrap(), wanted);
    }

    #[test]
    fn a_command_that_fails_says_so() {
        let failed =
            EventCommand::Shell("echo no >&2; exit 3".to_owned()).run(&event("1", ""), Duration::from_secs(10));
        assert_eq!(failed.unwrap_err().to_string(), "/bin/sh ended with 3: no");
    }
}
