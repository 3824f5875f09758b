use serde_json::Value;

use crate::cli::{Failure, Format, Members, Out};

/// `show-config`.
pub(crate) async fn run(
    members: &Members,
    cluster: Option<&str>,
    format: Format,
    out: &mut Out,
) -> Result<(), Failure> {
    let view = members.cluster(cluster).await?;
    let document = members.get_any(&view, "/config").await?;
    match format {
        Format::Json => out.json(&document),
        Format::Pretty => out.raw(&as_yaml(&document)?),
    }
}

/// The document in YAML, keys in order.
pub(crate) fn as_yaml(document: &Value) -> Result<String, Failure> {
    serde_saphyr::to_string(document)
        .map_err(|error| Failure::because("the configuration cannot be written as YAML", error))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_is_read_back_the_same() {
        let document = json!({
            "loop_wait": 1, "retry_timeout": 1.5, "pause": true, "empty": {}, "none": [],
            "postgresql": {"parameters": {"a": "on", "b": "10", "c": "it's \"quoted\" # not a comment", "d": "x: y", "e": ""},
                           "pg_hba": ["local all all trust", "host all all 0.0.0.0/0 md5"]}
        });
        let text = as_yaml(&document).unwrap();
        let read: Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(read, document, "{text}");
        assert!(text.contains("loop_wait: 1\n"), "{text}");
    }
}
