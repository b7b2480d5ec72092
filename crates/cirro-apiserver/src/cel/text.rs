//! Functions of texts.

use super::eval::{Budget, Failure, Found, fail};
use super::value::{Cel, Key};
use crate::structural::pattern;

pub(super) const NAMES: [&str; 24] = [
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "find",
    "findAll",
    "charAt",
    "indexOf",
    "lastIndexOf",
    "lowerAscii",
    "upperAscii",
    "replace",
    "split",
    "substring",
    "trim",
    "join",
    "reverse",
    "format",
    "strings.quote",
    "base64.encode",
    "base64.decode",
    "regex.extract",
    "regex.replace",
    "matchesAny",
];

/// Writes a value as `string()` does.
pub(super) fn shown(value: &Cel) -> String {
    match value {
        Cel::Null => "null".into(),
        Cel::Bool(value) => value.to_string(),
        Cel::Int(number) => number.to_string(),
        Cel::Uint(number) => number.to_string(),
        Cel::Double(number) => number.to_string(),
        Cel::Text(text) => text.to_string(),
        Cel::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Cel::List(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(", ")),
        Cel::Map(entries) => {
            let entry = |(key, value): (&Key, &Cel)| format!("{}: {}", shown(&key.value()), shown(value));
            format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
        Cel::Duration(nanos) => super::time::written(*nanos),
        Cel::Timestamp(time) => time.to_string(),
        Cel::Type(name) | Cel::Format(name) => (*name).into(),
        Cel::Optional(Some(value)) => format!("optional({})", shown(value)),
        Cel::Optional(None) => "optional.none()".into(),
        Cel::Quantity(quantity) => quantity.written(false),
        Cel::Ip(ip) => ip.to_string(),
        Cel::Cidr(net) => net.to_string(),
        Cel::Url(url) => url.text.clone(),
        Cel::Semver([major, minor, patch], rest) if rest.is_empty() => format!("{major}.{minor}.{patch}"),
        Cel::Authz(authz) => authz.type_name().to_owned(),
        Cel::Semver([major, minor, patch], rest) => format!("{major}.{minor}.{patch}-{rest}"),
    }
}

/// Calls a function of texts; `None` when it is none.
pub(super) fn call(target: Option<&Cel>, name: &str, args: &[Cel], budget: &mut Budget) -> Option<Found> {
    match (target, name, args) {
        (None, "strings.quote", [Cel::Text(text)]) => return Some(Ok(format!("{text:?}").into())),
        (None, "base64.encode", [Cel::Bytes(bytes)]) => {
            use base64::Engine as _;
            return Some(Ok(base64::engine::general_purpose::STANDARD.encode(bytes).into()));
        }
        (None, "base64.decode", [Cel::Text(text)]) => {
            use base64::Engine as _;
            let decoded = base64::engine::general_purpose::STANDARD.decode(&**text);
            return Some(
                decoded.map(|bytes| Cel::Bytes(bytes.into())).or_else(|_| fail("illegal base64 data")),
            );
        }
        (None, "matches", [Cel::Text(text), Cel::Text(regex)]) => return Some(matches(text, regex)),
        (Some(Cel::List(items)), "join", []) => return Some(join(items, "")),
        (Some(Cel::List(items)), "join", [Cel::Text(between)]) => return Some(join(items, between)),
        _ => {}
    }
    let Some(Cel::Text(text)) = target else { return None };
    Some(match (name, args) {
        ("contains", [Cel::Text(part)]) => Ok(Cel::Bool(text.contains(&**part))),
        ("startsWith", [Cel::Text(part)]) => Ok(Cel::Bool(text.starts_with(&**part))),
        ("endsWith", [Cel::Text(part)]) => Ok(Cel::Bool(text.ends_with(&**part))),
        ("matches", [Cel::Text(regex)]) => matches(text, regex),
        ("find", [Cel::Text(regex)]) => {
            with_regex(regex, |regex| regex.find(text).map_or("", |found| found.as_str()).into())
        }
        ("findAll", [Cel::Text(regex)]) => find_all(text, regex, usize::MAX),
        ("findAll", [Cel::Text(regex), Cel::Int(limit)]) => {
            find_all(text, regex, usize::try_from(*limit).unwrap_or(usize::MAX))
        }
        ("lowerAscii", []) => Ok(text.to_ascii_lowercase().into()),
        ("upperAscii", []) => Ok(text.to_ascii_uppercase().into()),
        ("trim", []) => Ok(text.trim().into()),
        ("reverse", []) => Ok(text.chars().rev().collect::<String>().into()),
        ("charAt", [Cel::Int(at)]) => {
            let count = text.chars().count() as i64;
            match usize::try_from(*at).ok().filter(|_| *at <= count) {
                Some(at) => Ok(text.chars().nth(at).map(String::from).unwrap_or_default().into()),
                None => fail(format!("index out of range: {at}")),
            }
        }
        ("indexOf" | "lastIndexOf", [Cel::Text(part)]) => Ok(index_of(text, part, 0, name == "lastIndexOf")),
        ("indexOf", [Cel::Text(part), Cel::Int(from)]) => {
            Ok(index_of(text, part, usize::try_from(*from).unwrap_or(0), false))
        }
        ("substring", [Cel::Int(from)]) => substring(text, *from, text.chars().count() as i64),
        ("substring", [Cel::Int(from), Cel::Int(to)]) => substring(text, *from, *to),
        ("replace", [Cel::Text(old), Cel::Text(new)]) => replaced(text, old, new, usize::MAX, budget),
        ("replace", [Cel::Text(old), Cel::Text(new), Cel::Int(limit)]) => {
            replaced(text, old, new, usize::try_from(*limit).unwrap_or(usize::MAX), budget)
        }
        ("split", [Cel::Text(at)]) => Ok(split(text, at, -1)),
        ("split", [Cel::Text(at), Cel::Int(limit)]) => Ok(split(text, at, *limit)),
        ("format", [Cel::List(items)]) => format(text, items),
        _ => return None,
    })
}

fn with_regex(regex: &str, call: impl FnOnce(&regex::Regex) -> Cel) -> Found {
    match pattern::compiled(regex) {
        Some(regex) => Ok(call(&regex)),
        None => fail(format!("illegal regex: {regex}")),
    }
}

fn matches(text: &str, regex: &str) -> Found {
    with_regex(regex, |regex| Cel::Bool(regex.is_match(text)))
}

fn find_all(text: &str, regex: &str, limit: usize) -> Found {
    with_regex(regex, |regex| {
        regex.find_iter(text).take(limit).map(|found| found.as_str().into()).collect::<Vec<Cel>>().into()
    })
}

fn join(items: &[Cel], between: &str) -> Found {
    let mut parts = Vec::with_capacity(items.len());
    for item in items {
        match item {
            Cel::Text(text) => parts.push(&**text),
            other => return Err(Failure::NoSuchOverload(format!("join of {}", other.type_name()))),
        }
    }
    Ok(parts.join(between).into())
}

fn index_of(text: &str, part: &str, from: usize, last: bool) -> Cel {
    let start = text.char_indices().nth(from).map_or(text.len(), |(at, _)| at);
    let found = if last { text.rfind(part) } else { text[start..].find(part).map(|at| at + start) };
    Cel::Int(found.map_or(-1, |at| text[..at].chars().count() as i64))
}

fn substring(text: &str, from: i64, to: i64) -> Found {
    let count = text.chars().count() as i64;
    if from < 0 || to < from || to > count {
        return fail(format!("index out of range: {}", if from < 0 || from > count { from } else { to }));
    }
    Ok(text.chars().skip(from as usize).take((to - from) as usize).collect::<String>().into())
}

fn replaced(text: &str, old: &str, new: &str, limit: usize, budget: &mut Budget) -> Found {
    let count = text.matches(old).take(limit).count();
    budget.pay((count as u64).saturating_mul(new.len() as u64) / 10)?;
    Ok(text.replacen(old, new, limit).into())
}

fn split(text: &str, at: &str, limit: i64) -> Cel {
    let parts: Vec<Cel> = match (limit, at.is_empty()) {
        (0, _) => Vec::new(),
        (limit, true) => {
            let letters: Vec<String> = text.chars().map(String::from).collect();
            let keep = usize::try_from(limit).unwrap_or(usize::MAX).min(letters.len());
            let mut parts: Vec<Cel> = letters[..keep].iter().map(|letter| letter.as_str().into()).collect();
            if let Some(last) = parts.last_mut().filter(|_| keep < letters.len()) {
                *last = letters[keep - 1..].concat().into();
            }
            parts
        }
        (limit, false) if limit > 0 => text.splitn(limit as usize, at).map(Cel::from).collect(),
        _ => text.split(at).map(Cel::from).collect(),
    };
    parts.into()
}

/// `%s`, `%d`, `%f`, `%.2f`, `%x`, `%X`, `%o`, `%b`, `%e`, `%%`.
fn format(text: &str, items: &[Cel]) -> Found {
    let (mut out, mut items, mut letters) = (String::new(), items.iter(), text.chars().peekable());
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let mut precision = None;
        if letters.next_if_eq(&'.').is_some() {
            let mut digits = String::new();
            while let Some(digit) = letters.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            precision = digits.parse::<usize>().ok().map(|digits| digits.min(100));
        }
        let verb = letters.next();
        if verb == Some('%') {
            out.push('%');
            continue;
        }
        let Some(item) = items.next() else { return fail("index out of range") };
        match (verb, item) {
            (Some('s'), item) => out.push_str(&shown(item)),
            (Some('d'), Cel::Int(_) | Cel::Uint(_)) => out.push_str(&shown(item)),
            (Some('f'), Cel::Double(number)) => out.push_str(&format!("{number:.*}", precision.unwrap_or(6))),
            (Some('f'), Cel::Int(number)) => {
                out.push_str(&format!("{:.*}", precision.unwrap_or(6), *number as f64))
            }
            (Some('e'), Cel::Double(number)) => {
                out.push_str(&format!("{number:.*e}", precision.unwrap_or(6)))
            }
            (Some('x'), Cel::Int(number)) => out.push_str(&format!("{number:x}")),
            (Some('X'), Cel::Int(number)) => out.push_str(&format!("{number:X}")),
            (Some('x'), Cel::Text(text)) => out.push_str(&hex::encode(&**text)),
            (Some('o'), Cel::Int(number)) => out.push_str(&format!("{number:o}")),
            (Some('b'), Cel::Int(number)) => out.push_str(&format!("{number:b}")),
            (Some('b'), Cel::Bool(value)) => out.push_str(if *value { "1" } else { "0" }),
            _ => return fail("could not parse formatting clause"),
        }
    }
    Ok(out.into())
}
