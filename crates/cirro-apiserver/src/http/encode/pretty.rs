//! JSON with two spaces of indentation, as upstream writes it for people; members stay in their order.

/// Indents compact JSON.
pub(super) fn indented(compact: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(compact.len() * 2);
    let mut depth = 0_usize;
    let mut bytes = compact.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => string(&mut bytes, &mut out),
            b'{' | b'[' => {
                out.push(byte);
                if let Some(end) = bytes.next_if(|next| matches!(next, b'}' | b']')) {
                    out.push(end);
                } else {
                    depth += 1;
                    line(depth, &mut out);
                }
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                line(depth, &mut out);
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                line(depth, &mut out);
            }
            b':' => out.extend_from_slice(b": "),
            b' ' | b'\n' | b'\t' | b'\r' => {}
            _ => out.push(byte),
        }
    }
    out.push(b'\n');
    out
}

fn line(depth: usize, out: &mut Vec<u8>) {
    out.push(b'\n');
    out.extend(std::iter::repeat_n(b' ', depth * 2));
}

/// Copies a string whose opening quote was read.
fn string(bytes: &mut impl Iterator<Item = u8>, out: &mut Vec<u8>) {
    out.push(b'"');
    while let Some(byte) = bytes.next() {
        out.push(byte);
        match byte {
            b'\\' => out.extend(bytes.next()),
            b'"' => return,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn members_stay_in_their_order() {
        let text = indented(br#"{"b":[1,{"a":"x, \"{y"}],"a":{},"c":[]}"#);
        let wanted = "{\n  \"b\": [\n    1,\n    {\n      \"a\": \"x, \\\"{y\"\n    }\n  ],\n  \"a\": {},\n  \"c\": []\n}\n";
        assert_eq!(String::from_utf8(text).unwrap(), wanted);
    }

    proptest! {
        #[test]
        fn it_means_the_same(text in "[\\[\\]{}\":,\\\\ \n]{0,12}", number in any::<i64>()) {
            let value = serde_json::json!({"a": [text.clone(), number], text: {"b": null}});
            let back: serde_json::Value = serde_json::from_slice(&indented(value.to_string().as_bytes())).unwrap();
            prop_assert_eq!(back, value);
        }
    }
}
