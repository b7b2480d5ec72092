//! Evaluation, step by step and paid for.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::functions;
use super::parser::{Expr, Fold, FoldKind};
use super::value::{Cel, Key};

/// What evaluations may still cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget(u64);

impl Budget {
    /// A budget of so many steps.
    pub(crate) fn new(steps: u64) -> Self {
        Self(steps)
    }

    pub(super) fn pay(&mut self, steps: u64) -> Result<(), Failure> {
        self.0 = self.0.checked_sub(steps).ok_or(Failure::TooExpensive)?;
        Ok(())
    }
}

/// Why an expression has no value.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum Failure {
    #[error("validation failed due to running out of cost budget, no further validation rules will be run")]
    TooExpensive,
    #[error("no such key: {0}")]
    NoSuchKey(String),
    #[error("no such overload: {0}")]
    NoSuchOverload(String),
    #[error("undeclared reference to '{0}'")]
    Undeclared(String),
    #[error("{0}")]
    Other(String),
}

pub(super) type Found = Result<Cel, Failure>;

/// Returns an error in plain words.
pub(super) fn fail<T>(why: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Other(why.into()))
}

/// The variables of an expression, innermost last.
#[derive(Debug, Default)]
pub(crate) struct Scope<'a> {
    outer: Option<&'a Scope<'a>>,
    names: Vec<(&'a str, Cel)>,
}

impl<'a> Scope<'a> {
    /// Adds a variable.
    pub(crate) fn with(mut self, name: &'a str, value: Cel) -> Self {
        self.names.push((name, value));
        self
    }

    /// Returns the value of a variable.
    fn get(&self, name: &str) -> Option<&Cel> {
        let own = self.names.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| value);
        own.or_else(|| self.outer?.get(name))
    }

    fn inner(&'a self) -> Self {
        Self { outer: Some(self), names: Vec::new() }
    }
}

/// Evaluates an expression.
pub(super) fn run(expr: &Expr, scope: &Scope<'_>, budget: &mut Budget) -> Found {
    budget.pay(1)?;
    match expr {
        Expr::Literal(value) => Ok(value.clone()),
        Expr::Ident(name) => match scope.get(name) {
            Some(value) => Ok(value.clone()),
            None => type_named(name).map(Cel::Type).ok_or_else(|| Failure::Undeclared(name.clone())),
        },
        Expr::Select { of, member, optional } => {
            let of = run(of, scope, budget)?;
            select(&of, &Cel::from(member.as_str()), *optional)
        }
        Expr::Has { of, member } => has(&run(of, scope, budget)?, member),
        Expr::Index { of, at, optional } => {
            let of = run(of, scope, budget)?;
            let at = run(at, scope, budget)?;
            select(&of, &at, *optional)
        }
        Expr::Call { target, name, args } => call(target.as_deref(), name, args, scope, budget),
        Expr::List(items) => list(items, scope, budget),
        Expr::Map(entries) => map(entries, scope, budget),
        Expr::And(one, other) => junction(one, other, false, scope, budget),
        Expr::Or(one, other) => junction(one, other, true, scope, budget),
        Expr::Choice(condition, then, otherwise) => {
            let branch = if truth(run(condition, scope, budget)?)? { then } else { otherwise };
            run(branch, scope, budget)
        }
        Expr::Fold(fold) => run_fold(fold, scope, budget),
    }
}

/// Returns the type that a name stands for.
pub(super) fn type_named(name: &str) -> Option<&'static str> {
    let names = ["null_type", "bool", "int", "uint", "double", "string", "bytes", "list", "map", "type"];
    names.into_iter().find(|known| *known == name)
}

fn truth(value: Cel) -> Result<bool, Failure> {
    match value {
        Cel::Bool(value) => Ok(value),
        other => Err(Failure::NoSuchOverload(format!("{} is not a bool", other.type_name()))),
    }
}

/// `&&` and `||`: an operand that decides wins over the other's error.
fn junction(one: &Expr, other: &Expr, decides: bool, scope: &Scope<'_>, budget: &mut Budget) -> Found {
    let first = run(one, scope, budget).and_then(truth);
    if first == Ok(decides) || first == Err(Failure::TooExpensive) {
        return first.map(Cel::Bool);
    }
    let second = run(other, scope, budget).and_then(truth);
    match (first, second) {
        (_, Ok(value)) if value == decides => Ok(Cel::Bool(decides)),
        (Err(why), _) | (_, Err(why)) => Err(why),
        _ => Ok(Cel::Bool(!decides)),
    }
}

fn select(of: &Cel, at: &Cel, optional: bool) -> Found {
    let found = match of {
        Cel::Optional(None) => return Ok(Cel::Optional(None)),
        Cel::Optional(Some(inner)) => return select(inner, at, true),
        Cel::Map(entries) => Key::of(at).and_then(|key| entries.get(&key)).cloned(),
        Cel::List(items) => match Key::of(at) {
            Some(Key::Int(index)) => usize::try_from(index).ok().and_then(|index| items.get(index)).cloned(),
            _ => return Err(Failure::NoSuchOverload("list index".into())),
        },
        Cel::Authz(authz) => match at {
            Cel::Text(member) => authz.member(member),
            _ => None,
        },
        other => return Err(Failure::NoSuchOverload(format!("{} has no members", other.type_name()))),
    };
    match (found, optional) {
        (found, true) => Ok(Cel::Optional(found.map(Box::new))),
        (Some(found), false) => Ok(found),
        (None, false) => match (of, at) {
            (Cel::List(_), at) => fail(format!("index out of bounds: {}", super::text::shown(at))),
            (_, at) => Err(Failure::NoSuchKey(super::text::shown(at))),
        },
    }
}

fn has(of: &Cel, member: &str) -> Found {
    match of {
        Cel::Map(entries) => Ok(Cel::Bool(entries.contains_key(&Key::Text(member.into())))),
        Cel::Optional(None) => Ok(Cel::Bool(false)),
        Cel::Optional(Some(inner)) => has(inner, member),
        other => Err(Failure::NoSuchOverload(format!("{} has no members", other.type_name()))),
    }
}

fn list(items: &[(Expr, bool)], scope: &Scope<'_>, budget: &mut Budget) -> Found {
    let mut list = Vec::with_capacity(items.len());
    for (item, optional) in items {
        match (run(item, scope, budget)?, optional) {
            (Cel::Optional(found), true) => list.extend(found.map(|found| *found)),
            (value, _) => list.push(value),
        }
    }
    Ok(list.into())
}

fn map(entries: &[(Expr, Expr, bool)], scope: &Scope<'_>, budget: &mut Budget) -> Found {
    let mut map = BTreeMap::new();
    for (key, value, optional) in entries {
        let key = key_of(&run(key, scope, budget)?)?;
        match (run(value, scope, budget)?, optional) {
            (Cel::Optional(None), true) => {}
            (Cel::Optional(Some(value)), true) => drop(map.insert(key, *value)),
            (value, _) => drop(map.insert(key, value)),
        }
    }
    Ok(Cel::Map(Arc::new(map)))
}

fn key_of(value: &Cel) -> Result<Key, Failure> {
    Key::of(value).ok_or_else(|| Failure::NoSuchOverload(format!("{} is no key", value.type_name())))
}

fn call(target: Option<&Expr>, name: &str, args: &[Expr], scope: &Scope<'_>, budget: &mut Budget) -> Found {
    // `math.abs(x)`, `ip.isCanonical(x)`: names with dots, unless a variable hides them.
    if let Some(Expr::Ident(space)) = target
        && functions::SPACES.contains(&space.as_str())
        && scope.get(space).is_none()
    {
        return call(None, &format!("{space}.{name}"), args, scope, budget);
    }
    let target = target.map(|target| run(target, scope, budget)).transpose()?;
    let mut values = Vec::with_capacity(args.len());
    for arg in args {
        values.push(run(arg, scope, budget)?);
    }
    for value in values.iter().chain(&target) {
        budget.pay(value.size())?;
    }
    functions::call(target.as_ref(), name, &values, budget)
}

/// The elements that a macro goes over, each as what its variables are.
fn elements(over: &Cel, two: bool) -> Result<Vec<(Cel, Option<Cel>)>, Failure> {
    match over {
        Cel::List(items) if two => {
            Ok(items.iter().enumerate().map(|(at, item)| (Cel::Int(at as i64), Some(item.clone()))).collect())
        }
        Cel::List(items) => Ok(items.iter().map(|item| (item.clone(), None)).collect()),
        Cel::Map(entries) => {
            Ok(entries.iter().map(|(key, value)| (key.value(), two.then(|| value.clone()))).collect())
        }
        other => Err(Failure::NoSuchOverload(format!("{} has no elements", other.type_name()))),
    }
}

fn run_fold(fold: &Fold, scope: &Scope<'_>, budget: &mut Budget) -> Found {
    let over = run(&fold.over, scope, budget)?;
    match (fold.kind, over) {
        (FoldKind::Bind, value) => run(&fold.first, &scope.inner().with(&fold.variable, value), budget),
        (FoldKind::OptMap | FoldKind::OptFlatMap, Cel::Optional(None)) => Ok(Cel::Optional(None)),
        (FoldKind::OptMap | FoldKind::OptFlatMap, Cel::Optional(Some(value))) => {
            let result = run(&fold.first, &scope.inner().with(&fold.variable, *value), budget)?;
            Ok(if fold.kind == FoldKind::OptMap { Cel::Optional(Some(Box::new(result))) } else { result })
        }
        (kind, over) => {
            let elements = elements(&over, fold.second.is_some())?;
            budget.pay(elements.len() as u64)?;
            gather(kind, fold, elements, scope, budget)
        }
    }
}

fn gather(
    kind: FoldKind,
    fold: &Fold,
    elements: Vec<(Cel, Option<Cel>)>,
    scope: &Scope<'_>,
    budget: &mut Budget,
) -> Found {
    let mut error = None;
    let mut count = 0;
    let mut list = Vec::new();
    let mut keyed: Vec<(Cel, Cel)> = Vec::new();
    let mut map = BTreeMap::new();
    for (one, two) in elements {
        let mut inner = scope.inner().with(&fold.variable, one.clone());
        if let (Some(name), Some(value)) = (&fold.second, &two) {
            inner = inner.with(name, value.clone());
        }
        let first = run(&fold.first, &inner, budget);
        match kind {
            FoldKind::All | FoldKind::Exists => match first.and_then(truth) {
                // One element that decides wins over the errors of others.
                Ok(value) if value == (kind == FoldKind::Exists) => return Ok(Cel::Bool(value)),
                Ok(_) => {}
                Err(Failure::TooExpensive) => return Err(Failure::TooExpensive),
                Err(why) => error = Some(why),
            },
            FoldKind::ExistsOne => count += u32::from(truth(first?)?),
            FoldKind::Filter => {
                if truth(first?)? {
                    list.push(one);
                }
            }
            FoldKind::SortBy => keyed.push((first?, one)),
            _ => {
                let value = match &fold.then {
                    Some(then) if truth(first.clone()?)? => run(then, &inner, budget)?,
                    Some(_) => continue,
                    None => first?,
                };
                match (kind, value) {
                    (FoldKind::TransformMap, value) => drop(map.insert(key_of(&one)?, value)),
                    (FoldKind::TransformMapEntry, Cel::Map(entries)) => {
                        map.extend(entries.iter().map(|(key, value)| (key.clone(), value.clone())));
                    }
                    (_, value) => list.push(value),
                }
            }
        }
    }
    match (kind, error) {
        (_, Some(why)) => Err(why),
        (FoldKind::All | FoldKind::Exists, None) => Ok(Cel::Bool(kind == FoldKind::All)),
        (FoldKind::ExistsOne, None) => Ok(Cel::Bool(count == 1)),
        (FoldKind::TransformMap | FoldKind::TransformMapEntry, None) => Ok(Cel::Map(Arc::new(map))),
        (FoldKind::SortBy, None) => super::lists::sorted(keyed),
        (_, None) => Ok(list.into()),
    }
}
