use serde_json::{Map, Value};

/// Lays `patch` over `document` as `PATCH /config` does: a null deletes a key, maps merge, a map replaces what is no
/// map, any other value replaces one whose text differs (so that `2` over `"2"` changes nothing). Says whether
/// anything changed.
///
/// What results never holds a null (RFC 7386), also where a new map came with one.
pub fn merge_patch(document: &mut Map<String, Value>, patch: &Map<String, Value>) -> bool {
    let mut changed = false;
    for (key, value) in patch {
        changed |= match (document.get_mut(key), value) {
            (_, Value::Null) => document.remove(key).is_some(),
            (Some(Value::Object(ours)), Value::Object(theirs)) => merge_patch(ours, theirs),
            (Some(ours), value) if text_of(ours) == text_of(value) => false,
            (_, value) => {
                document.insert(key.clone(), without_nulls(value));
                true
            }
        };
    }
    changed
}

/// The value without the keys that are null, at any depth below maps.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key.clone(), without_nulls(value)))
                .collect(),
        ),
        other => other.clone(),
    }
}

/// The text that decides whether a value differs. Booleans are capitalised, as Patroni's are.
fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(map) => map,
            other => panic!("not a map: {other}"),
        }
    }

    #[test]
    fn patches_apply_as_the_interface_says() {
        let cases = [
            (json!({"a": 1}), json!({"a": null}), json!({}), true),
            (json!({"a": 1}), json!({"b": null}), json!({"a": 1}), false),
            (json!({"a": 2}), json!({"a": "2"}), json!({"a": 2}), false),
            (json!({"a": true}), json!({"a": "true"}), json!({"a": "true"}), true),
            (json!({"a": {"b": 1, "c": 2}}), json!({"a": {"b": null, "d": 3}}), json!({"a": {"c": 2, "d": 3}}), true),
            (json!({"a": 1}), json!({"a": {"b": 1, "c": null}}), json!({"a": {"b": 1}}), true),
            (json!({"a": {"b": 1}}), json!({"a": 5}), json!({"a": 5}), true),
            (json!({"a": {"b": 1}}), json!({"a": {}}), json!({"a": {"b": 1}}), false),
        ];
        for (before, patch, after, changed) in cases {
            let mut document = map(before.clone());
            assert_eq!(merge_patch(&mut document, &map(patch.clone())), changed, "{before} with {patch}");
            assert_eq!(Value::Object(document), after, "{before} with {patch}");
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (0..4_i64).prop_map(Value::from),
            "[0-3]".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-d]", inner, 0..3).prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    fn object() -> impl Strategy<Value = Map<String, Value>> {
        prop::collection::btree_map("[a-d]", value(), 0..4).prop_map(|m| m.into_iter().collect())
    }

    proptest! {
        #[test]
        fn a_patch_applied_twice_changes_nothing_the_second_time(start in object(), patch in object()) {
            let mut once = map(without_nulls(&Value::Object(start)));
            merge_patch(&mut once, &patch);
            let mut twice = once.clone();
            prop_assert!(!merge_patch(&mut twice, &patch));
            prop_assert_eq!(once, twice);
        }

        #[test]
        fn it_says_changed_exactly_when_the_document_differs(start in object(), patch in object()) {
            let before = map(without_nulls(&Value::Object(start)));
            let mut after = before.clone();
            let changed = merge_patch(&mut after, &patch);
            prop_assert_eq!(changed, before != after);
        }

        #[test]
        fn keys_that_the_patch_does_not_name_stay(start in object(), patch in object()) {
            let before = map(without_nulls(&Value::Object(start)));
            let mut after = before.clone();
            merge_patch(&mut after, &patch);
            for (key, value) in before.iter().filter(|(key, _)| !patch.contains_key(*key)) {
                prop_assert_eq!(after.get(key), Some(value));
            }
        }
    }
}
