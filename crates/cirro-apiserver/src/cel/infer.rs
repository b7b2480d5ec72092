//! The types of an expression's parts, as far as they are known before it runs, and what does not fit together.
//!
//! What is not known is `dyn` and fits everything. Faults are told as upstream's compiler tells them, with the place:
//! operators and members are met here in the order of the text, so that the one in fault is found by counting.
//!
//! Source: cel-spec `doc/langdef.md`, "Gradual type checking"; cel-go `checker`.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use super::functions;
use super::lexer::{Word, words};
use super::parser::{Expr, Fold, FoldKind};
use super::value::{Cel, escaped};
use crate::schema::Shape;

/// What a value is.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// Anything.
    Dyn,
    Bool,
    Int,
    Uint,
    Double,
    Text,
    Bytes,
    Timestamp,
    Duration,
    List(Box<Kind>),
    /// Keys are strings.
    Map(Box<Kind>),
    /// An object with the members of a type of the API.
    Object(Shape),
    /// An object with these members.
    Record(Arc<BTreeMap<String, Kind>>),
}

impl Kind {
    /// Returns the kind of what has a shape.
    pub(crate) fn of(shape: &Shape) -> Self {
        match shape {
            Shape::Text => Self::Text,
            Shape::Int32 | Shape::Int64 => Self::Int,
            Shape::Number => Self::Double,
            Shape::Boolean => Self::Bool,
            Shape::Bytes => Self::Bytes,
            Shape::Time | Shape::MicroTime => Self::Timestamp,
            Shape::List(items) => Self::List(Box::new(Self::of(items))),
            Shape::Map(values) => Self::Map(Box::new(Self::of(values))),
            Shape::Type(_) | Shape::Own(_) => Self::Object(shape.clone()),
            Shape::Quantity
            | Shape::IntOrString
            | Shape::Raw
            | Shape::Fields
            | Shape::Object
            | Shape::Any => Self::Dyn,
        }
    }

    fn is_dyn(&self) -> bool {
        matches!(self, Self::Dyn)
    }

    /// Whether the two may be the same type.
    fn fits(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Dyn, _) | (_, Self::Dyn) => true,
            (Self::List(one), Self::List(other)) | (Self::Map(one), Self::Map(other)) => one.fits(other),
            (
                Self::Object(_) | Self::Record(_) | Self::Map(_),
                Self::Object(_) | Self::Record(_) | Self::Map(_),
            ) => true,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }

    fn is_number(&self) -> bool {
        matches!(self, Self::Int | Self::Uint | Self::Double)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self {
            Self::Dyn => "dyn",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Uint => "uint",
            Self::Double => "double",
            Self::Text => "string",
            Self::Bytes => "bytes",
            Self::Timestamp => "timestamp",
            Self::Duration => "duration",
            Self::List(items) => return write!(formatter, "list({items})"),
            Self::Map(values) => return write!(formatter, "map(string, {values})"),
            Self::Object(_) | Self::Record(_) => "object",
        };
        formatter.write_str(word)
    }
}

/// Returns what an expression yields.
///
/// # Errors
/// The first fault, in upstream's form.
pub(crate) fn infer(text: &str, expr: &Expr, variables: &[(String, Kind)]) -> Result<Kind, String> {
    let mut check = Check { text, names: variables.to_vec(), met: HashMap::new() };
    check.expr(expr)
}

struct Check<'a> {
    text: &'a str,
    names: Vec<(String, Kind)>,
    /// How often each sign was met.
    met: HashMap<String, usize>,
}

type Found = Result<Kind, String>;

impl Check<'_> {
    fn meet(&mut self, sign: &str) {
        *self.met.entry(sign.to_owned()).or_insert(0) += 1;
    }

    /// Returns a fault at the sign that was met last.
    fn fault(&self, sign: &str, what: &str) -> String {
        let wanted = self.met.get(sign).copied().unwrap_or(1).saturating_sub(1);
        let is_it = |word: &Word| match word {
            Word::Sign(one) => *one == sign,
            Word::Ident(name) => name == sign,
            _ => false,
        };
        let tokens = words(self.text).unwrap_or_default();
        let at = tokens.iter().filter(|token| is_it(&token.word)).nth(wanted).map_or(0, |token| token.at);
        let before = &self.text[..at];
        let line = before.matches('\n').count();
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count();
        let shown = self.text.lines().nth(line).unwrap_or_default();
        let dots = ".".repeat(column);
        format!("ERROR: <input>:{}:{}: {what}\n | {shown}\n | {dots}^", line + 1, column + 1)
    }

    fn expr(&mut self, expr: &Expr) -> Found {
        match expr {
            Expr::Literal(value) => Ok(literal(value)),
            Expr::Ident(name) => self.ident(name),
            Expr::Select { of, member, .. } => {
                let of = self.expr(of)?;
                self.meet(".");
                self.select(&of, member)
            }
            Expr::Has { of, member } => {
                let of = self.expr(of)?;
                self.meet(".");
                self.select(&of, member).map(|_| Kind::Bool)
            }
            Expr::Index { of, at, .. } => {
                let of = self.expr(of)?;
                self.expr(at)?;
                Ok(match of {
                    Kind::List(inner) | Kind::Map(inner) => *inner,
                    _ => Kind::Dyn,
                })
            }
            Expr::Call { target, name, args } => self.call(target.as_deref(), name, args),
            Expr::List(items) => {
                let mut kinds = Vec::new();
                for (item, _) in items {
                    kinds.push(self.expr(item)?);
                }
                Ok(Kind::List(Box::new(common(kinds))))
            }
            Expr::Map(entries) => {
                let mut kinds = Vec::new();
                for (key, value, _) in entries {
                    self.expr(key)?;
                    kinds.push(self.expr(value)?);
                }
                Ok(Kind::Map(Box::new(common(kinds))))
            }
            Expr::And(one, other) => self.junction("&&", one, other),
            Expr::Or(one, other) => self.junction("||", one, other),
            Expr::Choice(condition, then, otherwise) => {
                self.expr(condition)?;
                let kinds = vec![self.expr(then)?, self.expr(otherwise)?];
                Ok(common(kinds))
            }
            Expr::Fold(fold) => self.fold(fold),
        }
    }

    fn ident(&mut self, name: &str) -> Found {
        self.meet(name);
        match self.names.iter().rev().find(|(known, _)| known == name) {
            Some((_, kind)) => Ok(kind.clone()),
            None if super::eval::type_named(name).is_some() => Ok(Kind::Dyn),
            None => Err(self.fault(name, &format!("undeclared reference to '{name}' (in container '')"))),
        }
    }

    fn select(&self, of: &Kind, member: &str) -> Found {
        let unknown = || Err(self.fault(".", &format!("undefined field '{member}'")));
        match of {
            Kind::Record(members) => members.get(member).cloned().map_or_else(unknown, Ok),
            Kind::Map(values) => Ok((**values).clone()),
            Kind::Object(shape) => {
                let Some(own) = shape.object_type() else { return Ok(Kind::Dyn) };
                match own.members().find(|(name, _)| *escaped(name) == *member) {
                    Some((_, field)) => Ok(Kind::of(&field.shape)),
                    None => own.others().map_or_else(unknown, |others| Ok(Kind::of(&others.shape))),
                }
            }
            Kind::Dyn => Ok(Kind::Dyn),
            other => Err(self.fault(".", &format!("type '{other}' does not support field selection"))),
        }
    }

    fn junction(&mut self, sign: &str, one: &Expr, other: &Expr) -> Found {
        let left = self.expr(one)?;
        self.meet(sign);
        let at = self.fault(sign, "");
        let right = self.expr(other)?;
        if left.fits(&Kind::Bool) && right.fits(&Kind::Bool) {
            return Ok(Kind::Bool);
        }
        Err(at.replacen(": \n", &format!(": {}\n", no_overload(sign, &left, &right)), 1))
    }

    fn operator(&mut self, sign: &str, one: &Expr, other: &Expr) -> Found {
        let left = self.expr(one)?;
        self.meet(sign);
        // The place is known now; what is to the right may have the sign too.
        let at = self.fault(sign, "");
        let right = self.expr(other)?;
        binary(sign, &left, &right)
            .ok_or_else(|| at.replacen(": \n", &format!(": {}\n", no_overload(sign, &left, &right)), 1))
    }

    fn call(&mut self, target: Option<&Expr>, name: &str, args: &[Expr]) -> Found {
        let sign = name.strip_prefix('_').and_then(|name| name.strip_suffix('_'));
        if let (None, Some(sign), [one, other]) = (target, sign, args) {
            return self.operator(sign, one, other);
        }
        let space = match target {
            Some(Expr::Ident(space)) if functions::SPACES.contains(&space.as_str()) => {
                Some(space).filter(|space| !self.names.iter().any(|(known, _)| known == *space))
            }
            _ => None,
        };
        let full = space.map_or_else(|| name.to_owned(), |space| format!("{space}.{name}"));
        match (target, space) {
            (Some(_), Some(space)) => {
                self.meet(space);
                self.meet(".");
            }
            (Some(target), None) => {
                self.expr(target)?;
                self.meet(".");
            }
            (None, _) => {}
        }
        self.meet(name);
        if !functions::exists(&full) {
            return Err(self.fault(name, &format!("undeclared reference to '{full}' (in container '')")));
        }
        for arg in args {
            self.expr(arg)?;
        }
        Ok(result_of(&full))
    }

    fn fold(&mut self, fold: &Fold) -> Found {
        if fold.kind == FoldKind::Bind {
            // `cel.bind(name, value, body)`
            self.meet(".");
        }
        let over = self.expr(&fold.over)?;
        if fold.kind != FoldKind::Bind {
            self.meet(".");
        }
        self.meet(&fold.variable);
        let depth = self.names.len();
        let inner = match (&over, fold.kind) {
            (_, FoldKind::Bind) => over.clone(),
            (Kind::List(items), _) if fold.second.is_none() => (**items).clone(),
            (Kind::Map(_), _) if fold.second.is_none() => Kind::Text,
            _ => Kind::Dyn,
        };
        self.names.push((fold.variable.clone(), inner));
        if let Some(second) = &fold.second {
            self.meet(second);
            self.names.push((second.clone(), Kind::Dyn));
        }
        let first = self.expr(&fold.first);
        let then = fold.then.as_ref().map(|then| self.expr(then)).transpose();
        self.names.truncate(depth);
        let (first, then) = (first?, then?);
        Ok(match fold.kind {
            FoldKind::All | FoldKind::Exists | FoldKind::ExistsOne => Kind::Bool,
            FoldKind::Filter => over,
            FoldKind::Map => Kind::List(Box::new(then.unwrap_or(first))),
            FoldKind::Bind => first,
            _ => Kind::Dyn,
        })
    }
}

fn literal(value: &Cel) -> Kind {
    match value {
        Cel::Bool(_) => Kind::Bool,
        Cel::Int(_) => Kind::Int,
        Cel::Uint(_) => Kind::Uint,
        Cel::Double(_) => Kind::Double,
        Cel::Text(_) => Kind::Text,
        Cel::Bytes(_) => Kind::Bytes,
        // null is compared with everything.
        _ => Kind::Dyn,
    }
}

/// Returns what several values are: the same, or anything.
fn common(kinds: Vec<Kind>) -> Kind {
    let mut kinds = kinds.into_iter();
    let Some(first) = kinds.next() else { return Kind::Dyn };
    if kinds.all(|kind| std::mem::discriminant(&kind) == std::mem::discriminant(&first)) {
        first
    } else {
        Kind::Dyn
    }
}

fn no_overload(sign: &str, left: &Kind, right: &Kind) -> String {
    let name = if sign == "in" { "@in".to_owned() } else { format!("_{sign}_") };
    format!("found no matching overload for '{name}' applied to '({left}, {right})'")
}

/// Returns what an operator yields; nothing when it is not for these operands.
fn binary(sign: &str, left: &Kind, right: &Kind) -> Option<Kind> {
    use Kind::{Bool, Bytes, Duration, Dyn, Int, List, Map, Text, Timestamp, Uint};
    let unknown = left.is_dyn() || right.is_dyn();
    match sign {
        "==" | "!=" => left.fits(right).then_some(Bool),
        "<" | "<=" | ">" | ">=" => {
            let ordered = |kind: &Kind| {
                kind.is_number() || matches!(kind, Dyn | Bool | Text | Bytes | Timestamp | Duration)
            };
            let same = left.fits(right) || (left.is_number() && right.is_number());
            (ordered(left) && ordered(right) && same).then_some(Bool)
        }
        "in" => match right {
            Dyn | Kind::Object(_) | Kind::Record(_) => Some(Bool),
            List(items) => left.fits(items).then_some(Bool),
            Map(_) => left.fits(&Text).then_some(Bool),
            _ => None,
        },
        _ if unknown => Some(Dyn),
        "+" => match (left, right) {
            (Timestamp, Duration) | (Duration, Timestamp) => Some(Timestamp),
            (Text, Text) | (Bytes, Bytes) | (Duration, Duration) => Some(left.clone()),
            (List(one), List(other)) => one.fits(other).then(|| left.clone()),
            _ => (left.is_number() && left.fits(right)).then(|| left.clone()),
        },
        "-" => match (left, right) {
            (Timestamp, Timestamp) | (Duration, Duration) => Some(Duration),
            (Timestamp, Duration) => Some(Timestamp),
            _ => (left.is_number() && left.fits(right)).then(|| left.clone()),
        },
        "%" => (matches!(left, Int | Uint) && left.fits(right)).then(|| left.clone()),
        _ => (left.is_number() && left.fits(right)).then(|| left.clone()),
    }
}

/// Returns what a function yields, where that is always the same.
fn result_of(name: &str) -> Kind {
    match name {
        "!_" | "bool" | "startsWith" | "endsWith" | "contains" | "matches" | "hasValue" | "isSorted"
        | "isIP" | "isCIDR" | "isURL" | "isQuantity" | "isSemver" | "sets.contains" | "sets.intersects"
        | "sets.equivalent" => Kind::Bool,
        "size" | "int" => Kind::Int,
        "uint" => Kind::Uint,
        "double" => Kind::Double,
        "string" | "lowerAscii" | "upperAscii" | "trim" | "replace" | "substring" | "join" | "charAt" => {
            Kind::Text
        }
        "bytes" => Kind::Bytes,
        "timestamp" => Kind::Timestamp,
        "duration" => Kind::Duration,
        "split" | "findAll" => Kind::List(Box::new(Kind::Text)),
        _ => Kind::Dyn,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cel::Program;
    use crate::schema::types;

    fn said(text: &str) -> String {
        let deployment = types().find("io.k8s.api.apps.v1.Deployment").unwrap();
        let variables = Arc::new(BTreeMap::from([("most".to_owned(), Kind::Int)]));
        let names = [
            ("object".to_owned(), Kind::of(&Shape::Type(deployment))),
            ("variables".to_owned(), Kind::Record(variables)),
            ("params".to_owned(), Kind::Dyn),
        ];
        let program = Program::parse(text).unwrap();
        infer(text, program.expr(), &names).err().unwrap_or_default()
    }

    #[test]
    fn what_does_not_fit_is_told_with_its_place() {
        assert_eq!(
            said("object.spec.replicas > '1'"),
            "ERROR: <input>:1:22: found no matching overload for '_>_' applied to '(int, string)'\n | object.spec.replicas > '1'\n | .....................^"
        );
        assert_eq!(
            said("object.foo.replicas > 1"),
            "ERROR: <input>:1:7: undefined field 'foo'\n | object.foo.replicas > 1\n | ......^"
        );
        assert!(said("'got ' + object.spec.replicas").contains("'_+_' applied to '(string, int)'"));
        assert!(said("true && object.spec.replicas").contains("'_&&_' applied to '(bool, int)'"));
        assert!(
            said("params.x > 1 && params.y > 2 && object.spec.replicas > 'x'").contains("1:54: found no")
        );
        assert!(said("variables.least > 1").contains("1:10: undefined field 'least'"));
        assert!(said("nobody.x").contains("1:1: undeclared reference to 'nobody'"));
        assert!(
            said("object.spec.template.spec.containers.all(c, c.image.startsWith('a') && c.nome == '')")
                .contains("undefined field 'nome'")
        );
        assert!(said("object.metadata.name.frobnicate()").contains("undeclared reference to 'frobnicate'"));
    }

    #[test]
    fn what_fits_or_is_not_known_is_let_be() {
        for text in [
            "object.spec.replicas <= variables.most",
            "object.spec.replicas > 1.5",
            "object.metadata.?labels['a'].orValue('') == 'b'",
            "'a' in object.metadata.labels && object.metadata.labels['a'] == 'b'",
            "object.metadata.labels.all(key, key.startsWith('a'))",
            "object.spec.template.spec.containers.map(c, c.name).exists(n, n == 'x')",
            "has(object.spec.paused) && object.spec.paused == true",
            "object.metadata.creationTimestamp + duration('1h') > timestamp('2026-01-01T00:00:00Z')",
            "params.anything > 'x' || size(object.metadata.name) < 3",
            "object.spec.strategy.rollingUpdate.maxSurge == '25%'",
            "object.spec.selector != null ? object.spec.replicas : 0",
            "cel.bind(r, object.spec.replicas, r > 1)",
        ] {
            assert_eq!(said(text), "", "{text}");
        }
    }
}
