use std::io::{IsTerminal, Read};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::cli::{EditConfig, Failure, Format, Members, Out, body_text, confirm};
use crate::commands::show_config::as_yaml;

/// How long a change may take.
const CHANGE_WITHIN: Duration = Duration::from_secs(10);

/// A configuration from a file or a pipe that is longer than this is a mistake, in bytes.
const INPUT_BYTES_MAX: u64 = 1 << 20;

/// `edit-config`.
pub(crate) async fn run(members: &Members, options: &EditConfig, format: Format, out: &mut Out) -> Result<(), Failure> {
    let view = members.cluster(options.cluster.as_deref()).await?;
    let before = members.get_any(&view, "/config").await?;
    let Value::Object(before) = before else {
        return Err(Failure::text(format!("The config key does not exist in the cluster {}", view.scope)));
    };
    let wanted = wanted(&before, options)?;
    let (old, new) = (as_yaml(&Value::Object(before.clone()))?, as_yaml(&Value::Object(wanted.clone()))?);
    if old == new {
        return match format {
            Format::Json => out.json(&Value::Object(before)),
            Format::Pretty => out.line("Not changed"),
        };
    }
    if !options.quiet && format == Format::Pretty {
        let diff = similar::TextDiff::from_lines(&old, &new);
        out.raw(&diff.unified_diff().context_radius(3).header("", "").to_string())?;
    }
    if !options.force {
        let piped = [&options.apply, &options.replace].into_iter().flatten().any(|path| path == Path::new("-"));
        if piped {
            return Err(Failure::text("Use --force option to apply changes: standard input holds the configuration"));
        }
        confirm(out, "Apply these changes?", "The configuration was not changed")?;
    }
    // A patch and not the whole: what somebody else changed meanwhile elsewhere in the document stays.
    let patch = Value::Object(difference(&before, &wanted));
    let response = members.send_any(&view, "PATCH", "/config", Some(&patch), CHANGE_WITHIN).await?;
    match response.status.as_u16() {
        200 if format == Format::Json => out.line(&body_text(&response)),
        200 => out.line("Configuration changed"),
        409 => Err(Failure::text("Config modification aborted due to concurrent changes")),
        code => Err(Failure::text(format!("the configuration was not changed ({code}): {}", body_text(&response)))),
    }
}

/// The document as the operator wants it: replaced, then patched, then set; without any of these, edited by hand.
fn wanted(before: &Map<String, Value>, options: &EditConfig) -> Result<Map<String, Value>, Failure> {
    let mut document = before.clone();
    if let Some(path) = &options.replace {
        document = read_map(path)?;
    }
    if let Some(path) = &options.apply {
        pgbaton_config::merge_patch(&mut document, &read_map(path)?);
    }
    for pair in &options.set {
        set(&mut document, pair)?;
    }
    for pair in &options.pg {
        set(&mut document, &format!("postgresql.parameters.{pair}"))?;
    }
    let by_hand =
        options.replace.is_none() && options.apply.is_none() && options.set.is_empty() && options.pg.is_empty();
    if by_hand { edit(before) } else { Ok(document) }
}

/// Sets one value. Dots separate the levels, but belong to a parameter's name below `postgresql.parameters`.
fn set(document: &mut Map<String, Value>, pair: &str) -> Result<(), Failure> {
    let invalid = || Failure::text(format!("Invalid parameter setting {pair}: give KEY=VALUE"));
    let (key, text) = pair.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(invalid)?;
    let value: Value = if text.is_empty() {
        Value::Null
    } else {
        serde_saphyr::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
    };
    let levels: Vec<&str> = match key.strip_prefix("postgresql.parameters.") {
        Some(parameter) => vec!["postgresql", "parameters", parameter],
        None => key.split('.').collect(),
    };
    let patch =
        levels.iter().rev().fold(value, |value, level| Value::Object(Map::from_iter([((*level).to_owned(), value)])));
    let Value::Object(patch) = patch else { return Err(invalid()) };
    pgbaton_config::merge_patch(document, &patch);
    prune(document, &levels);
    Ok(())
}

/// Removes maps on the way that the change left empty.
fn prune(document: &mut Map<String, Value>, levels: &[&str]) {
    let Some((first, rest)) = levels.split_first() else { return };
    let Some(Value::Object(inner)) = document.get_mut(*first) else { return };
    prune(inner, rest);
    if inner.is_empty() {
        document.remove(*first);
    }
}

/// The patch that makes `new` of `old`.
fn difference(old: &Map<String, Value>, new: &Map<String, Value>) -> Map<String, Value> {
    let mut patch = Map::new();
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in new {
        match (old.get(key), value) {
            (Some(before), after) if before == after => {}
            (Some(Value::Object(before)), Value::Object(after)) => {
                patch.insert(key.clone(), Value::Object(difference(before, after)));
            }
            _ => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    patch
}

fn read_map(path: &Path) -> Result<Map<String, Value>, Failure> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(INPUT_BYTES_MAX).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(INPUT_BYTES_MAX).read_to_string(&mut text))
    };
    read.map_err(|error| Failure::because(format!("cannot read {}", path.display()), error))?;
    parse(&text, &path.display().to_string())
}

fn parse(text: &str, name: &str) -> Result<Map<String, Value>, Failure> {
    match serde_saphyr::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Failure::text(format!("{name} must be a map of keys and values"))),
        Err(error) => Err(Failure::because(format!("{name} is no YAML"), error)),
    }
}

/// Lets the operator change the document in an editor.
fn edit(before: &Map<String, Value>) -> Result<Map<String, Value>, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::text(
            "nothing to change: give -s KEY=VALUE, -p NAME=VALUE, --apply FILE or --replace FILE",
        ));
    }
    let failed = |error| Failure::because("cannot make a temporary file", error);
    let file = tempfile::Builder::new().prefix("pgbaton-config-").suffix(".yaml").tempfile().map_err(failed)?;
    std::fs::write(file.path(), as_yaml(&Value::Object(before.clone()))?).map_err(failed)?;
    let own = std::env::var("EDITOR").ok().filter(|editor| !editor.trim().is_empty());
    let editors = own.map_or_else(|| vec!["editor".to_owned(), "vi".to_owned()], |own| vec![own]);
    for editor in &editors {
        let mut words = editor.split_whitespace();
        let Some(program) = words.next() else { continue };
        match Command::new(program).args(words).arg(file.path()).status() {
            Ok(status) if status.success() => {
                let text = std::fs::read_to_string(file.path()).map_err(failed)?;
                return parse(&text, "the edited configuration");
            }
            Ok(status) => {
                let code = status.code().unwrap_or(-1);
                return Err(Failure::text(format!("Editor exited with return code {code}")));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Failure::because(format!("cannot start the editor {program}"), error)),
        }
    }
    Err(Failure::text("EDITOR environment variable is not set. editor or vi are not available"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn values_are_set_by_their_path() {
        let start = json!({"loop_wait": 1, "postgresql": {"parameters": {"work_mem": "4MB"}}});
        let cases = [
            ("loop_wait=2", json!({"loop_wait": 2, "postgresql": {"parameters": {"work_mem": "4MB"}}})),
            ("loop_wait=null", json!({"postgresql": {"parameters": {"work_mem": "4MB"}}})),
            ("postgresql.parameters.work_mem=null", json!({"loop_wait": 1})),
            (
                "postgresql.parameters.pg_stat_statements.max=5",
                json!({"loop_wait": 1, "postgresql": {"parameters": {"work_mem": "4MB", "pg_stat_statements.max": 5}}}),
            ),
            ("a.b=on", json!({"loop_wait": 1, "postgresql": {"parameters": {"work_mem": "4MB"}}, "a": {"b": true}})),
        ];
        for (pair, expected) in cases {
            let mut document = map(start.clone());
            set(&mut document, pair).unwrap();
            assert_eq!(Value::Object(document), expected, "{pair}");
        }
        assert!(set(&mut Map::new(), "no-value").is_err());
    }

    #[test]
    fn the_difference_as_a_patch_gives_the_wanted_document() {
        let (old, new) = (map(json!({"a": {"b": 1, "c": 2}, "d": 1})), map(json!({"a": {"b": 1, "e": {}}, "f": [1]})));
        let patch = difference(&old, &new);
        assert_eq!(Value::Object(patch.clone()), json!({"a": {"c": null, "e": {}}, "d": null, "f": [1]}));
        let mut patched = old;
        pgbaton_config::merge_patch(&mut patched, &patch);
        assert_eq!(patched, new);
    }
}
