//! Functions and operators.

use super::eval::{Budget, Failure, Found, fail};
use super::value::{Cel, Key};
use super::{authorizer, kubernetes, lists, text, time};

/// Words before the dot of functions that are no methods.
pub(super) const SPACES: [&str; 9] =
    ["math", "optional", "sets", "lists", "base64", "strings", "ip", "format", "regex"];

/// Every function that there is, for the check of expressions before they run.
pub(super) fn exists(name: &str) -> bool {
    const OPERATORS: [&str; 14] =
        ["!_", "-_", "_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_", "_in_", "_+_", "_-_", "_*_", "_/_", "_%_"];
    const PLAIN: [&str; 11] =
        ["size", "type", "dyn", "bool", "int", "uint", "double", "string", "bytes", "duration", "timestamp"];
    const OPTIONAL: [&str; 8] = [
        "optional.of",
        "optional.none",
        "optional.ofNonZeroValue",
        "hasValue",
        "value",
        "orValue",
        "or",
        "get",
    ];
    let lists: [&[&str]; 8] = [
        &OPERATORS,
        &PLAIN,
        &OPTIONAL,
        &text::NAMES,
        &lists::NAMES,
        &time::NAMES,
        &kubernetes::NAMES,
        &authorizer::NAMES,
    ];
    lists.iter().any(|names| names.contains(&name)) || name.starts_with("math.")
}

/// Calls a function.
pub(super) fn call(target: Option<&Cel>, name: &str, args: &[Cel], budget: &mut Budget) -> Found {
    if let (None, [one, other]) = (target, args)
        && let Some(result) = binary(name, one, other)
    {
        return result;
    }
    let found = match (target, name, args) {
        (None, "!_", [Cel::Bool(value)]) => Some(Ok(Cel::Bool(!value))),
        (None, "-_", [Cel::Int(number)]) => Some(number.checked_neg().map(Cel::Int).ok_or_else(overflow)),
        (None, "-_", [Cel::Double(number)]) => Some(Ok(Cel::Double(-number))),
        (None, "-_", [Cel::Duration(nanos)]) => Some(Ok(Cel::Duration(-nanos))),
        (None, "size", [of]) | (Some(of), "size", []) => size(of),
        (None, "type", [of]) => Some(Ok(Cel::Type(of.type_name()))),
        (None, "dyn", [of]) => Some(Ok(of.clone())),
        (None, "bool" | "int" | "uint" | "double" | "string" | "bytes", [of]) => convert(name, of),
        _ if name.starts_with("math.") => math(&name[5..], args),
        _ => None,
    };
    let found = found
        .or_else(|| optional(target, name, args))
        .or_else(|| text::call(target, name, args, budget))
        .or_else(|| lists::call(target, name, args, budget))
        .or_else(|| time::call(target, name, args))
        .or_else(|| kubernetes::call(target, name, args))
        .or_else(|| authorizer::call(target, name, args));
    found.unwrap_or_else(|| {
        let types: Vec<_> = target.into_iter().chain(args).map(Cel::type_name).collect();
        Err(Failure::NoSuchOverload(format!("{name}({})", types.join(", "))))
    })
}

fn overflow() -> Failure {
    Failure::Other("return error for overflow".into())
}

fn binary(name: &str, one: &Cel, other: &Cel) -> Option<Found> {
    let operator = name.strip_prefix('_')?.strip_suffix('_')?;
    let ordered = |holds: fn(std::cmp::Ordering) -> bool| {
        let same = std::mem::discriminant(one) == std::mem::discriminant(other);
        match one.compare(other) {
            Some(order) => Some(Ok(Cel::Bool(holds(order)))),
            None if same && matches!(one, Cel::Double(_)) => Some(Ok(Cel::Bool(false))),
            None => None,
        }
    };
    match operator {
        "==" => Some(Ok(Cel::Bool(one.equals(other)))),
        "!=" => Some(Ok(Cel::Bool(!one.equals(other)))),
        "<" => ordered(std::cmp::Ordering::is_lt),
        "<=" => ordered(std::cmp::Ordering::is_le),
        ">" => ordered(std::cmp::Ordering::is_gt),
        ">=" => ordered(std::cmp::Ordering::is_ge),
        "in" => match other {
            Cel::List(items) => Some(Ok(Cel::Bool(items.iter().any(|item| item.equals(one))))),
            Cel::Map(entries) => {
                Some(Ok(Cel::Bool(Key::of(one).is_some_and(|key| entries.contains_key(&key)))))
            }
            _ => None,
        },
        _ => arithmetic(operator, one, other),
    }
}

fn arithmetic(operator: &str, one: &Cel, other: &Cel) -> Option<Found> {
    let whole = |number: Option<i64>| Some(number.map(Cel::Int).ok_or_else(overflow));
    let natural = |number: Option<u64>| Some(number.map(Cel::Uint).ok_or_else(overflow));
    match (one, other) {
        (_, Cel::Int(0)) | (_, Cel::Uint(0)) if operator == "/" => Some(fail("division by zero")),
        (_, Cel::Int(0)) | (_, Cel::Uint(0)) if operator == "%" => Some(fail("modulus by zero")),
        (Cel::Int(one), Cel::Int(other)) => match operator {
            "+" => whole(one.checked_add(*other)),
            "-" => whole(one.checked_sub(*other)),
            "*" => whole(one.checked_mul(*other)),
            "/" => whole(one.checked_div(*other)),
            "%" => whole(one.checked_rem(*other)),
            _ => None,
        },
        (Cel::Uint(one), Cel::Uint(other)) => match operator {
            "+" => natural(one.checked_add(*other)),
            "-" => natural(one.checked_sub(*other)),
            "*" => natural(one.checked_mul(*other)),
            "/" => natural(one.checked_div(*other)),
            "%" => natural(one.checked_rem(*other)),
            _ => None,
        },
        (Cel::Double(one), Cel::Double(other)) => match operator {
            "+" => Some(Ok(Cel::Double(one + other))),
            "-" => Some(Ok(Cel::Double(one - other))),
            "*" => Some(Ok(Cel::Double(one * other))),
            "/" => Some(Ok(Cel::Double(one / other))),
            _ => None,
        },
        (Cel::Text(one), Cel::Text(other)) if operator == "+" => Some(Ok(format!("{one}{other}").into())),
        (Cel::Bytes(one), Cel::Bytes(other)) if operator == "+" => {
            Some(Ok(Cel::Bytes([&**one, &**other].concat().into())))
        }
        (Cel::List(one), Cel::List(other)) if operator == "+" => {
            Some(Ok(one.iter().chain(other.iter()).cloned().collect::<Vec<_>>().into()))
        }
        _ => time::arithmetic(operator, one, other),
    }
}

fn size(of: &Cel) -> Option<Found> {
    let size = match of {
        Cel::Text(text) => text.chars().count(),
        Cel::Bytes(bytes) => bytes.len(),
        Cel::List(items) => items.len(),
        Cel::Map(entries) => entries.len(),
        _ => return None,
    };
    Some(Ok(Cel::Int(size as i64)))
}

fn convert(name: &str, of: &Cel) -> Option<Found> {
    let bad = || fail(format!("type conversion error from '{}' to '{name}'", of.type_name()));
    let fits = |real: f64, least: f64, most: f64| real >= least && real < most;
    Some(match (name, of) {
        ("bool", Cel::Bool(_))
        | ("int", Cel::Int(_))
        | ("uint", Cel::Uint(_))
        | ("double", Cel::Double(_)) => Ok(of.clone()),
        ("bool", Cel::Text(text)) => match &**text {
            "true" | "True" | "TRUE" | "t" | "1" => Ok(Cel::Bool(true)),
            "false" | "False" | "FALSE" | "f" | "0" => Ok(Cel::Bool(false)),
            _ => bad(),
        },
        ("int", Cel::Uint(number)) => i64::try_from(*number).map(Cel::Int).or_else(|_| bad()),
        ("int", Cel::Double(number)) if fits(*number, i64::MIN as f64, i64::MAX as f64) => {
            Ok(Cel::Int(*number as i64))
        }
        ("int", Cel::Text(text)) => text.parse().map(Cel::Int).or_else(|_| bad()),
        ("int", Cel::Timestamp(time)) => Ok(Cel::Int(time.as_second())),
        ("int", Cel::Duration(nanos)) => Ok(Cel::Int((nanos / 1_000_000_000) as i64)),
        ("uint", Cel::Int(number)) => u64::try_from(*number).map(Cel::Uint).or_else(|_| bad()),
        ("uint", Cel::Double(number)) if fits(*number, 0.0, u64::MAX as f64) => Ok(Cel::Uint(*number as u64)),
        ("uint", Cel::Text(text)) => text.parse().map(Cel::Uint).or_else(|_| bad()),
        ("double", Cel::Int(number)) => Ok(Cel::Double(*number as f64)),
        ("double", Cel::Uint(number)) => Ok(Cel::Double(*number as f64)),
        ("double", Cel::Text(text)) => text.parse().map(Cel::Double).or_else(|_| bad()),
        ("string", Cel::Bytes(bytes)) => match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.into()),
            Err(_) => fail("invalid UTF-8 in bytes, cannot convert to string"),
        },
        ("string", Cel::List(_) | Cel::Map(_) | Cel::Null) => return None,
        ("string", of) => Ok(text::shown(of).into()),
        ("bytes", Cel::Text(text)) => Ok(Cel::Bytes(text.as_bytes().into())),
        ("bytes", Cel::Bytes(_)) => Ok(of.clone()),
        ("int" | "uint", Cel::Double(_)) => fail("range error"),
        _ => return None,
    })
}

fn optional(target: Option<&Cel>, name: &str, args: &[Cel]) -> Option<Found> {
    Some(match (target, name, args) {
        (None, "optional.none", []) => Ok(Cel::Optional(None)),
        (None, "optional.of", [value]) => Ok(Cel::Optional(Some(Box::new(value.clone())))),
        (None, "optional.ofNonZeroValue", [value]) => {
            let zero = match value {
                Cel::Null | Cel::Bool(false) | Cel::Int(0) | Cel::Uint(0) => true,
                Cel::Double(number) => *number == 0.0,
                Cel::Text(text) => text.is_empty(),
                Cel::List(items) => items.is_empty(),
                Cel::Map(entries) => entries.is_empty(),
                _ => false,
            };
            Ok(Cel::Optional((!zero).then(|| Box::new(value.clone()))))
        }
        (Some(Cel::Optional(found)), "hasValue", []) => Ok(Cel::Bool(found.is_some())),
        (Some(Cel::Optional(found)), "value", []) => match found {
            Some(found) => Ok((**found).clone()),
            None => fail("optional.none() dereference"),
        },
        (Some(Cel::Optional(found)), "orValue", [other]) => {
            Ok(found.as_ref().map_or_else(|| other.clone(), |found| (**found).clone()))
        }
        (Some(Cel::Optional(found)), "or", [other]) => {
            Ok(if found.is_some() { Cel::Optional(found.clone()) } else { other.clone() })
        }
        _ => return None,
    })
}

fn math(name: &str, args: &[Cel]) -> Option<Found> {
    let flat: Vec<&Cel> = match args {
        [Cel::List(items)] => items.iter().collect(),
        args => args.iter().collect(),
    };
    let pick = |wanted: std::cmp::Ordering| {
        let mut best = *flat.first()?;
        for one in &flat {
            if one.compare(best)? == wanted {
                best = one;
            }
        }
        Some(Ok(best.clone()))
    };
    match (name, args) {
        ("greatest", _) => pick(std::cmp::Ordering::Greater),
        ("least", _) => pick(std::cmp::Ordering::Less),
        ("abs", [Cel::Int(number)]) => Some(number.checked_abs().map(Cel::Int).ok_or_else(overflow)),
        ("sign", [Cel::Int(number)]) => Some(Ok(Cel::Int(number.signum()))),
        ("isNaN", [Cel::Double(number)]) => Some(Ok(Cel::Bool(number.is_nan()))),
        ("isInf", [Cel::Double(number)]) => Some(Ok(Cel::Bool(number.is_infinite()))),
        ("isFinite", [Cel::Double(number)]) => Some(Ok(Cel::Bool(number.is_finite()))),
        (_, [Cel::Double(number)]) => {
            let result = match name {
                "abs" => number.abs(),
                "ceil" => number.ceil(),
                "floor" => number.floor(),
                "round" => number.round(),
                "trunc" => number.trunc(),
                "sqrt" => number.sqrt(),
                "sign" if *number == 0.0 => 0.0,
                "sign" => number.signum(),
                _ => return None,
            };
            Some(Ok(Cel::Double(result)))
        }
        _ => None,
    }
}
