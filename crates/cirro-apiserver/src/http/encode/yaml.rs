//! Objects as YAML in block style. Strings are plain where nothing else could be read from them, else quoted as in JSON,
//! which YAML reads the same.

use serde_json::Value;

/// Writes a value.
pub(super) fn text(value: &Value) -> String {
    let mut out = String::new();
    write(value, 0, &mut out);
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out
}

/// Writes what stands at the beginning of a line or behind `- `.
fn write(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (index, (name, member)) in members.iter().enumerate() {
                if index > 0 {
                    indent(depth, out);
                }
                out.push_str(&scalar(name));
                out.push(':');
                below(member, depth, out);
            }
        }
        Value::Array(entries) if !entries.is_empty() => {
            for (index, entry) in entries.iter().enumerate() {
                if index > 0 {
                    indent(depth, out);
                }
                out.push_str("- ");
                write(entry, depth + 1, out);
                if !out.ends_with('\n') {
                    out.push('\n');
                }
            }
        }
        Value::String(text) => out.push_str(&scalar(text)),
        // The empty ones are written as in JSON, like the rest.
        other => out.push_str(&other.to_string()),
    }
}

/// Writes the value of a member; lists stand as far left as their name.
fn below(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            out.push('\n');
            indent(depth + 1, out);
            write(value, depth + 1, out);
        }
        Value::Array(entries) if !entries.is_empty() => {
            out.push('\n');
            indent(depth, out);
            write(value, depth, out);
        }
        plain => {
            out.push(' ');
            write(plain, depth, out);
            out.push('\n');
        }
    }
}

fn indent(depth: usize, out: &mut String) {
    out.extend(std::iter::repeat_n("  ", depth));
}

/// Writes a string so that it is read as that string and nothing else.
fn scalar(text: &str) -> String {
    let plain = text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/'));
    const WORDS: [&str; 10] = ["null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan"];
    if plain && !WORDS.iter().any(|word| text.eq_ignore_ascii_case(word)) {
        text.to_owned()
    } else {
        Value::from(text).to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_are_in_block_style() {
        let value = json!({"apiVersion": "v1", "data": {"a": "1", "b": "no"}, "items": [{"x": [], "y": 1}, "z"], "n": null});
        let wanted =
            "apiVersion: v1\ndata:\n  a: \"1\"\n  b: \"no\"\nitems:\n- x: []\n  \"y\": 1\n- z\n\"n\": null\n";
        assert_eq!(text(&value), wanted);
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[-a-zA-Z0-9:#&*!|>'\"%@`{}\\[\\], \n\tä]{0,10}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[-a-z0-9: ./]{0,6}", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_means_the_same(value in any_value()) {
            let written = text(&value);
            let back: Value = serde_saphyr::from_str(&written).unwrap_or_else(|why| panic!("{why}\n{written}"));
            prop_assert_eq!(back, value, "{}", written);
        }
    }
}
