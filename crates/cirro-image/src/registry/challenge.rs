//! `WWW-Authenticate`: how a registry wants to be asked.
//!
//! Source: RFC 9110 section 11.6.1; distribution `spec/auth/token.md`.

use std::collections::BTreeMap;

/// A header is at most this long.
const MAX_LENGTH: usize = 8 << 10;

/// One way in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// Name and password.
    Basic,
    /// A token that another server gives.
    Bearer {
        /// The other server's address.
        realm: String,
        /// What it is told of this one.
        service: Option<String>,
        /// What is asked for, when the registry says so.
        scope: Option<String>,
    },
}

/// Reads every challenge of one header that is understood.
pub fn parse_challenges(header: &str) -> Vec<Challenge> {
    if header.len() > MAX_LENGTH {
        return Vec::new();
    }
    let mut rest = header.trim_start();
    let mut challenges = Vec::new();
    while !rest.is_empty() {
        let (scheme, after) = take_token(rest);
        if scheme.is_empty() {
            break;
        }
        let (parameters, after) = take_parameters(after);
        if let Some(challenge) = understood(scheme, parameters) {
            challenges.push(challenge);
        }
        // A step is always made, so the loop ends.
        rest = after.trim_start_matches([' ', '\t', ',']);
    }
    challenges
}

fn understood(scheme: &str, mut parameters: BTreeMap<String, String>) -> Option<Challenge> {
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let realm = parameters.remove("realm")?;
    let (service, scope) = (parameters.remove("service"), parameters.remove("scope"));
    Some(Challenge::Bearer { realm, service, scope })
}

/// Reads `name=value` pairs until something else begins: another scheme.
fn take_parameters(text: &str) -> (BTreeMap<String, String>, &str) {
    let mut parameters = BTreeMap::new();
    let mut rest = text;
    loop {
        let begin = rest.trim_start_matches([' ', '\t', ',']);
        let (name, after) = take_token(begin);
        let Some(value) = after.trim_start().strip_prefix('=') else { return (parameters, rest) };
        if name.is_empty() {
            return (parameters, "");
        }
        let (value, after) = take_value(value.trim_start());
        parameters.insert(name.to_ascii_lowercase(), value);
        rest = after;
    }
}

fn take_token(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| c.is_whitespace() || matches!(c, '=' | ',' | '"')).unwrap_or(text.len());
    text.split_at(end)
}

fn take_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let (token, rest) = take_token(text);
        return (token.to_owned(), rest);
    };
    let mut value = String::new();
    let mut letters = quoted.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(letters.next().map(|(_, letter)| letter)),
            letter => value.push(letter),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn challenges_are_read() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/busybox:pull""#;
        assert_eq!(
            parse_challenges(hub),
            [Challenge::Bearer {
                realm: "https://auth.docker.io/token".into(),
                service: Some("registry.docker.io".into()),
                scope: Some("repository:library/busybox:pull".into()),
            }]
        );
        assert_eq!(parse_challenges("Basic realm=\"x, y\""), [Challenge::Basic]);
        assert_eq!(parse_challenges("basic"), [Challenge::Basic]);
        let both = parse_challenges(r#"Negotiate, Basic realm="a", Bearer realm = "b" , service=c"#);
        assert_eq!(both.len(), 2);
        assert!(
            matches!(&both[1], Challenge::Bearer { realm, service: Some(service), .. } if realm == "b" && service == "c")
        );
    }

    #[test]
    fn what_is_no_challenge_gives_none() {
        for text in ["", "Bearer", "Bearer service=x", "=", "\"", ",,,", "Bearer realm", "Digest realm=x"] {
            assert_eq!(parse_challenges(text), [], "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_the_parser_panic_or_hang(text in ".{0,200}") {
            drop(parse_challenges(&text));
        }

        #[test]
        fn no_header_of_the_right_letters_does_either(text in "[Bb a=,\"\\\\é]{0,60}") {
            drop(parse_challenges(&text));
        }
    }
}
