//! Names, labels and ports.

/// What the names of a kind must look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NameRule {
    /// RFC 1123 subdomain, at most 253 characters.
    Subdomain,
    /// RFC 1123 label, at most 63 characters.
    Label,
    /// RFC 1035 label, at most 63 characters: begins with a letter.
    Label1035,
    /// Anything that is one element of a path.
    PathSegment,
}

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

impl NameRule {
    /// Says what is wrong with a name.
    pub(crate) fn check(self, name: &str) -> Result<(), String> {
        match self {
            Self::Subdomain => at_most(name, 253).and_then(|()| hold(is_subdomain(name), SUBDOMAIN)),
            Self::Label => at_most(name, 63).and_then(|()| hold(is_dns_label(name), LABEL)),
            Self::Label1035 => {
                let begins = name.starts_with(|c: char| c.is_ascii_lowercase());
                at_most(name, 63).and_then(|()| hold(begins && is_dns_label(name), LABEL_1035))
            }
            Self::PathSegment => {
                hold(name != "." && name != "..", &format!("may not be '{name}'"))?;
                hold(!name.contains('/'), "may not contain '/'")?;
                hold(!name.contains('%'), "may not contain '%'")
            }
        }
    }
}

fn hold(good: bool, why: &str) -> Result<(), String> {
    if good { Ok(()) } else { Err(why.to_owned()) }
}

fn at_most(text: &str, limit: usize) -> Result<(), String> {
    hold(text.len() <= limit, &format!("must be no more than {limit} bytes"))
}

/// Whether a name is an RFC 1123 label.
pub(crate) fn is_dns_label(label: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    bounded(label.as_bytes(), word, |byte| byte == b'-') && label.len() <= 63
}

/// Whether a name is an RFC 1123 subdomain.
pub(crate) fn is_subdomain(name: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.split('.').all(|label| bounded(label.as_bytes(), word, |byte| byte == b'-'))
}

/// Whether bytes are words joined by joints, with a word at both ends.
fn bounded(bytes: &[u8], word: impl Fn(u8) -> bool, joint: impl Fn(u8) -> bool) -> bool {
    let ends = bytes.first().zip(bytes.last()).is_some_and(|(first, last)| word(*first) && word(*last));
    ends && bytes.iter().all(|byte| word(*byte) || joint(*byte))
}

fn is_name_part(name: &str) -> bool {
    bounded(name.as_bytes(), |byte| byte.is_ascii_alphanumeric(), |byte| matches!(byte, b'-' | b'_' | b'.'))
}

/// Says what is wrong with a label key: `name` or `prefix/name`.
pub(crate) fn qualified_name(key: &str) -> Result<(), String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if let Some(prefix) = prefix {
        if prefix.is_empty() {
            return Err("prefix part must be non-empty".into());
        }
        NameRule::Subdomain.check(prefix).map_err(|why| format!("prefix part {why}"))?;
    }
    if name.is_empty() {
        return Err("name part must be non-empty".into());
    }
    at_most(name, 63).map_err(|why| format!("name part {why}"))?;
    hold(is_name_part(name), QUALIFIED)
}

/// Whether a label key is good.
pub(crate) fn is_qualified_name(key: &str) -> bool {
    qualified_name(key).is_ok()
}

/// Says what is wrong with a label value.
pub(crate) fn label_value(value: &str) -> Result<(), String> {
    at_most(value, 63)?;
    hold(value.is_empty() || is_name_part(value), LABEL_VALUE)
}

/// Whether a label value is good.
pub(crate) fn is_label_value(value: &str) -> bool {
    label_value(value).is_ok()
}

/// Says what is wrong with a port number.
pub(crate) fn port(number: i64) -> Result<(), String> {
    hold((1..=65535).contains(&number), "must be between 1 and 65535, inclusive")
}

/// Says what is wrong with a port name (IANA service name).
pub(crate) fn port_name(name: &str) -> Result<(), String> {
    at_most(name, 15)?;
    let good = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    hold(good, "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")?;
    let letter = name.bytes().any(|byte| byte.is_ascii_lowercase());
    hold(letter, "must contain at least one letter (a-z)")?;
    hold(!name.contains("--"), "must not contain consecutive hyphens")?;
    hold(!name.starts_with('-') && !name.ends_with('-'), "must not begin or end with a hyphen")
}

/// Says what is wrong with the name of an environment variable.
pub(crate) fn env_name(name: &str) -> Result<(), String> {
    let good = !name.is_empty() && name.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b'=');
    hold(
        good,
        "a valid environment variable name must consist only of printable ASCII characters other than '='",
    )
}

/// Says what is wrong with a key of a ConfigMap or a Secret.
pub(crate) fn config_key(key: &str) -> Result<(), String> {
    at_most(key, 253)?;
    let good =
        !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    hold(
        good,
        "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
    )?;
    hold(key != "." && !key.starts_with(".."), "must not be '.' or start with '..'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_their_rule() {
        for (rule, good, bad) in [
            (NameRule::Subdomain, "a.b-c.0", "A"),
            (NameRule::Subdomain, "0", "a..b"),
            (NameRule::Label, "0-a", "a.b"),
            (NameRule::Label1035, "a0", "0a"),
        ] {
            assert_eq!(rule.check(good), Ok(()), "{good}");
            assert!(rule.check(bad).is_err(), "{bad}");
        }
        assert!(NameRule::Label.check(&"a".repeat(64)).is_err());
    }

    #[test]
    fn labels_and_ports_follow_their_rule() {
        assert!(is_qualified_name("app.kubernetes.io/Name_1"));
        assert!(!is_qualified_name("/x") && !is_qualified_name("a/b/c") && !is_qualified_name("A_/x"));
        assert!(is_label_value("") && !is_label_value("-x") && !is_label_value("a b"));
        assert!(port_name("http-2").is_ok() && port_name("80").is_err() && port_name("a--b").is_err());
        assert!(port(0).is_err() && port(65535).is_ok() && config_key("..x").is_err());
    }
}
