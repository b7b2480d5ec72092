//! Functions of lists and sets.

use std::cmp::Ordering;

use super::eval::{Budget, Failure, Found, fail};
use super::value::Cel;

pub(super) const NAMES: [&str; 16] = [
    "isSorted",
    "sum",
    "min",
    "max",
    "slice",
    "flatten",
    "distinct",
    "sort",
    "lists.range",
    "first",
    "last",
    "sets.contains",
    "sets.equivalent",
    "sets.intersects",
    "indexOf",
    "lastIndexOf",
];
/// Most elements that `lists.range` makes.
const MAX_RANGE: i64 = 100_000;

/// Calls a function of lists; `None` when it is none.
pub(super) fn call(target: Option<&Cel>, name: &str, args: &[Cel], budget: &mut Budget) -> Option<Found> {
    match (target, name, args) {
        (None, "lists.range", [Cel::Int(count)]) => return Some(range(*count, budget)),
        (None, _, [Cel::List(one), Cel::List(other)]) if name.starts_with("sets.") => {
            let steps = (one.len() as u64).saturating_mul(other.len() as u64);
            return Some(budget.pay(steps).and_then(|()| sets(name, one, other)));
        }
        _ => {}
    }
    let Some(Cel::List(items)) = target else { return None };
    Some(match (name, args) {
        ("isSorted", []) => {
            Ok(Cel::Bool(items.windows(2).all(|two| two[0].compare(&two[1]).is_some_and(Ordering::is_le))))
        }
        ("sum", []) => sum(items, budget),
        ("min" | "max", []) => extreme(items, if name == "min" { Ordering::Less } else { Ordering::Greater }),
        ("indexOf", [wanted]) => Ok(position(items.iter().position(|item| item.equals(wanted)))),
        ("lastIndexOf", [wanted]) => Ok(position(items.iter().rposition(|item| item.equals(wanted)))),
        ("slice", [Cel::Int(from), Cel::Int(to)]) => {
            let part = usize::try_from(*from).ok().zip(usize::try_from(*to).ok());
            match part.and_then(|(from, to)| items.get(from..to)) {
                Some(part) => Ok(part.to_vec().into()),
                None => fail(format!("cannot slice({from}, {to}), list is length {}", items.len())),
            }
        }
        ("flatten", []) => Ok(flat(items, 1).into()),
        ("flatten", [Cel::Int(depth)]) => Ok(flat(items, (*depth).clamp(0, 100)).into()),
        ("reverse", []) => Ok(items.iter().rev().cloned().collect::<Vec<_>>().into()),
        ("distinct", []) => {
            let steps = (items.len() as u64).saturating_mul(items.len() as u64);
            budget.pay(steps).map(|()| {
                let mut kept: Vec<Cel> = Vec::new();
                for item in items.iter() {
                    if !kept.iter().any(|one| one.equals(item)) {
                        kept.push(item.clone());
                    }
                }
                kept.into()
            })
        }
        ("sort", []) => sorted(items.iter().map(|item| (item.clone(), item.clone())).collect()),
        ("first", []) => Ok(Cel::Optional(items.first().cloned().map(Box::new))),
        ("last", []) => Ok(Cel::Optional(items.last().cloned().map(Box::new))),
        _ => return None,
    })
}

fn position(at: Option<usize>) -> Cel {
    Cel::Int(at.map_or(-1, |at| at as i64))
}

fn range(count: i64, budget: &mut Budget) -> Found {
    if count > MAX_RANGE {
        return Err(Failure::TooExpensive);
    }
    budget.pay(count.max(0).unsigned_abs())?;
    Ok((0..count).map(Cel::Int).collect::<Vec<_>>().into())
}

/// Returns the values in the order of their keys.
pub(super) fn sorted(mut keyed: Vec<(Cel, Cel)>) -> Found {
    if keyed.iter().any(|(key, _)| key.compare(&keyed[0].0).is_none()) {
        return Err(Failure::NoSuchOverload("sort of values that cannot be compared".into()));
    }
    keyed.sort_by(|(one, _), (other, _)| one.compare(other).unwrap_or(Ordering::Equal));
    Ok(keyed.into_iter().map(|(_, value)| value).collect::<Vec<_>>().into())
}

fn sum(items: &[Cel], budget: &mut Budget) -> Found {
    let Some(first) = items.first() else { return Ok(Cel::Int(0)) };
    items[1..].iter().try_fold(first.clone(), |sum, item| {
        super::functions::call(None, "_+_", &[sum, item.clone()], budget)
    })
}

fn extreme(items: &[Cel], wanted: Ordering) -> Found {
    let Some(mut best) = items.first() else { return fail("min/max called on empty list") };
    for item in items {
        match item.compare(best) {
            Some(order) if order == wanted => best = item,
            Some(_) => {}
            None => return Err(Failure::NoSuchOverload("values cannot be compared".into())),
        }
    }
    Ok(best.clone())
}

fn flat(items: &[Cel], depth: i64) -> Vec<Cel> {
    let mut out = Vec::new();
    for item in items {
        match item {
            Cel::List(inner) if depth > 0 => out.extend(flat(inner, depth - 1)),
            other => out.push(other.clone()),
        }
    }
    out
}

fn sets(name: &str, one: &[Cel], other: &[Cel]) -> Found {
    let within =
        |one: &[Cel], other: &[Cel]| one.iter().all(|item| other.iter().any(|found| found.equals(item)));
    Ok(Cel::Bool(match name {
        "sets.contains" => within(other, one),
        "sets.equivalent" => within(one, other) && within(other, one),
        "sets.intersects" => one.iter().any(|item| other.iter().any(|found| found.equals(item))),
        _ => return Err(Failure::NoSuchOverload(name.into())),
    }))
}
