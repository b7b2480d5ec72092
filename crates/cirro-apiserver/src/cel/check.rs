//! Faults of an expression that can be seen before it runs: names that nothing has.
//!
//! What an expression's parts are is followed as far as a schema says it; where it does not, everything is let be.

use serde_json::Value;

use super::functions;
use super::parser::{Expr, Fold, FoldKind};
use super::value::escaped;
use crate::json;
use crate::structural::{is_embedded, keeps_unknown};

/// A variable and its schema; null when nothing is known of it.
pub(crate) struct Known<'a> {
    pub(crate) name: &'a str,
    pub(crate) schema: &'a Value,
}

/// Finds the first fault.
pub(crate) fn check(expr: &Expr, variables: &[Known<'_>]) -> Result<(), String> {
    let names = variables
        .iter()
        .map(|one| (one.name.to_owned(), Some(one.schema).filter(|schema| !schema.is_null())));
    Check { names: names.collect() }.expr(expr).map(drop)
}

struct Check<'a> {
    names: Vec<(String, Option<&'a Value>)>,
}

/// The schema of a part, as far as it is known.
type Shape<'a> = Option<&'a Value>;

impl<'a> Check<'a> {
    fn expr(&mut self, expr: &Expr) -> Result<Shape<'a>, String> {
        match expr {
            Expr::Literal(_) => Ok(None),
            Expr::Ident(name) => match self.names.iter().rev().find(|(known, _)| known == name) {
                Some((_, schema)) => Ok(*schema),
                None if super::eval::type_named(name).is_some() => Ok(None),
                None => Err(format!("undeclared reference to '{name}' (in container '')")),
            },
            Expr::Select { of, member, .. } | Expr::Has { of, member } => {
                let shape = self.expr(of)?;
                shape.map_or(Ok(None), |schema| select(schema, member))
            }
            Expr::Index { of, at, .. } => {
                let shape = self.expr(of)?;
                self.expr(at)?;
                Ok(shape.and_then(elements))
            }
            Expr::Call { target, name, args } => self.call(target.as_deref(), name, args),
            Expr::List(items) => {
                items.iter().try_for_each(|(item, _)| self.expr(item).map(drop)).map(|()| None)
            }
            Expr::Map(entries) => {
                for (key, value, _) in entries {
                    self.expr(key)?;
                    self.expr(value)?;
                }
                Ok(None)
            }
            Expr::And(one, other) | Expr::Or(one, other) => {
                self.expr(one)?;
                self.expr(other)?;
                Ok(None)
            }
            Expr::Choice(condition, then, otherwise) => {
                self.expr(condition)?;
                self.expr(then)?;
                self.expr(otherwise)?;
                Ok(None)
            }
            Expr::Fold(fold) => self.fold(fold),
        }
    }

    fn call(&mut self, target: Option<&Expr>, name: &str, args: &[Expr]) -> Result<Shape<'a>, String> {
        let is_space = |expr: &Expr| match expr {
            Expr::Ident(space) => {
                let hidden = self.names.iter().any(|(known, _)| known == space);
                (functions::SPACES.contains(&space.as_str()) && !hidden).then(|| space.clone())
            }
            _ => None,
        };
        let full = match target.and_then(is_space) {
            Some(space) => format!("{space}.{name}"),
            None => {
                if let Some(target) = target {
                    self.expr(target)?;
                }
                name.to_owned()
            }
        };
        for arg in args {
            self.expr(arg)?;
        }
        if functions::exists(&full) {
            return Ok(None);
        }
        Err(format!("undeclared reference to '{full}' (in container '')"))
    }

    fn fold(&mut self, fold: &Fold) -> Result<Shape<'a>, String> {
        let over = self.expr(&fold.over)?;
        let is_map = over.is_some_and(|schema| json::text(schema, "type") == "object");
        let inner = over.and_then(elements);
        let depth = self.names.len();
        let (one, two) = match (fold.kind, &fold.second) {
            (FoldKind::Bind, _) => (over, None),
            (FoldKind::OptMap | FoldKind::OptFlatMap, _) => (None, None),
            (_, Some(_)) => (None, inner),
            (_, None) => (inner.filter(|_| !is_map), None),
        };
        self.names.push((fold.variable.clone(), one));
        if let Some(second) = &fold.second {
            self.names.push((second.clone(), two));
        }
        let first = self.expr(&fold.first);
        let then = fold.then.as_ref().map_or(Ok(None), |then| self.expr(then));
        self.names.truncate(depth);
        first?;
        then?;
        Ok(if fold.kind == FoldKind::Filter { over } else { None })
    }
}

/// Returns what elements of a list or a map are.
fn elements(schema: &Value) -> Shape<'_> {
    let inner = schema.get("items").or_else(|| schema.get("additionalProperties"));
    inner.filter(|inner| inner.is_object())
}

fn select<'a>(schema: &'a Value, member: &str) -> Result<Shape<'a>, String> {
    let is_object = json::text(schema, "type") == "object";
    let open = keeps_unknown(schema)
        || schema.get("x-kubernetes-int-or-string").is_some()
        || schema.as_object().is_none();
    let properties = json::object(schema, "properties");
    let found = properties.into_iter().flatten().find(|(name, _)| *escaped(name) == *member);
    match found {
        Some((_, inner)) => return Ok(Some(inner)),
        None if is_embedded(schema) && matches!(member, "apiVersion" | "kind" | "metadata") => {
            return Ok(None);
        }
        None => {}
    }
    match schema.get("additionalProperties") {
        Some(inner) if inner.is_object() => Ok(Some(inner)),
        Some(Value::Bool(true)) => Ok(None),
        _ if open || json::text(schema, "type").is_empty() => Ok(None),
        _ if is_object => Err(format!("undefined field '{member}'")),
        _ => Err(format!("type '{}' does not support field selection", json::text(schema, "type"))),
    }
}
