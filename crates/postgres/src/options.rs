use std::fmt;

/// An option of `initdb`, `pg_basebackup` or `pg_rewind` from the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolOption {
    /// `--name`
    Flag(String),
    /// `--name=value`
    Value(String, String),
}

impl ToolOption {
    fn name(&self) -> &str {
        match self {
            Self::Flag(name) | Self::Value(name, _) => name,
        }
    }
}

impl fmt::Display for ToolOption {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(formatter, "--{name}"),
            Self::Value(name, value) => write!(formatter, "--{name}={value}"),
        }
    }
}

/// An option that pgbaton sets by itself, or that would make the result unusable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("option {option:?} is not allowed for {tool}: remove it from the configuration")]
pub struct ForbiddenOption {
    /// The tool.
    pub tool: &'static str,
    /// The option's name.
    pub option: String,
}

/// The options as arguments; refuses those that are forbidden for this tool.
pub(crate) fn arguments(
    tool: &'static str,
    options: &[ToolOption],
    forbidden: &[&str],
) -> Result<Vec<String>, ForbiddenOption> {
    match options.iter().map(ToolOption::name).find(|name| forbidden.contains(name)) {
        Some(option) => Err(ForbiddenOption { tool, option: option.to_owned() }),
        None => Ok(options.iter().map(ToString::to_string).collect()),
    }
}

/// The options as arguments without those that are forbidden for this tool, which are named in the log.
pub(crate) fn allowed_arguments(tool: &'static str, options: &[ToolOption], forbidden: &[&str]) -> Vec<String> {
    let (refused, allowed): (Vec<_>, Vec<_>) = options.iter().partition(|option| forbidden.contains(&option.name()));
    if !refused.is_empty() {
        let names: Vec<_> = refused.into_iter().map(ToolOption::name).collect();
        tracing::warn!(tool, options = ?names, "options that are not allowed were left out");
    }
    allowed.into_iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_arguments_unless_forbidden() {
        let options = [ToolOption::Flag("data-checksums".into()), ToolOption::Value("encoding".into(), "UTF8".into())];
        assert_eq!(arguments("initdb", &options, &["pgdata"]).unwrap(), ["--data-checksums", "--encoding=UTF8"]);
        assert!(arguments("initdb", &options, &["encoding"]).is_err());
        assert_eq!(allowed_arguments("pg_rewind", &options, &["encoding"]), ["--data-checksums"]);
    }
}
