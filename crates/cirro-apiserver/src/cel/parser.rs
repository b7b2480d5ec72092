//! Expressions from words; macros become folds.

use super::lexer::{Token, Word, words};
use super::value::Cel;

/// Deepest nesting.
const MAX_DEPTH: usize = 100;

/// An expression.
#[derive(Debug, Clone)]
pub(crate) enum Expr {
    Literal(Cel),
    Ident(String),
    Select {
        of: Box<Expr>,
        member: String,
        optional: bool,
    },
    /// `has(a.b)`.
    Has {
        of: Box<Expr>,
        member: String,
    },
    Index {
        of: Box<Expr>,
        at: Box<Expr>,
        optional: bool,
    },
    Call {
        target: Option<Box<Expr>>,
        name: String,
        args: Vec<Expr>,
    },
    /// Elements; those marked optional are left out when they are empty.
    List(Vec<(Expr, bool)>),
    Map(Vec<(Expr, Expr, bool)>),
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    Choice(Box<Expr>, Box<Expr>, Box<Expr>),
    Fold(Box<Fold>),
}

/// A macro over the elements of a list or a map.
#[derive(Debug, Clone)]
pub(crate) struct Fold {
    pub(crate) kind: FoldKind,
    pub(crate) over: Expr,
    pub(crate) variable: String,
    /// The second variable of the forms that have one.
    pub(crate) second: Option<String>,
    pub(crate) first: Expr,
    /// The transformation of forms that have a condition too.
    pub(crate) then: Option<Expr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FoldKind {
    All,
    Exists,
    ExistsOne,
    Filter,
    Map,
    SortBy,
    TransformMap,
    TransformMapEntry,
    /// `cel.bind`: `over` is the value.
    Bind,
    OptMap,
    OptFlatMap,
}

impl Expr {
    /// Calls a function with the expression and all that are in it.
    pub(crate) fn visit(&self, call: &mut dyn FnMut(&Self)) {
        call(self);
        match self {
            Self::Literal(_) | Self::Ident(_) => {}
            Self::Select { of, .. } | Self::Has { of, .. } => of.visit(call),
            Self::Index { of: one, at: other, .. } | Self::And(one, other) | Self::Or(one, other) => {
                one.visit(call);
                other.visit(call);
            }
            Self::Call { target, args, .. } => {
                target.iter().map(|one| &**one).chain(args).for_each(|one| one.visit(call))
            }
            Self::List(items) => items.iter().for_each(|(item, _)| item.visit(call)),
            Self::Map(entries) => entries.iter().for_each(|(key, value, _)| {
                key.visit(call);
                value.visit(call);
            }),
            Self::Choice(condition, then, otherwise) => {
                [condition, then, otherwise].into_iter().for_each(|one| one.visit(call));
            }
            Self::Fold(fold) => {
                [&fold.over, &fold.first].into_iter().chain(&fold.then).for_each(|one| one.visit(call));
            }
        }
    }
}

/// Reads an expression.
pub(super) fn parse(text: &str) -> Result<Expr, String> {
    let mut parser = Parser { tokens: words(text)?, at: 0, depth: 0 };
    let expr = parser.expr()?;
    match parser.peek() {
        Word::End => Ok(expr),
        _ => Err(parser.unexpected()),
    }
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> &Word {
        &self.tokens[self.at].word
    }

    fn next(&mut self) -> Word {
        let word = self.peek().clone();
        if word != Word::End {
            self.at += 1;
        }
        word
    }

    fn takes(&mut self, sign: &str) -> bool {
        let found = matches!(self.peek(), Word::Sign(one) if *one == sign);
        self.at += usize::from(found);
        found
    }

    fn sign(&mut self, of: &[&'static str]) -> Option<&'static str> {
        let found = match self.peek() {
            Word::Sign(one) if of.contains(one) => Some(*one),
            _ => None,
        };
        self.at += usize::from(found.is_some());
        found
    }

    fn needs(&mut self, sign: &str) -> Result<(), String> {
        if self.takes(sign) { Ok(()) } else { Err(self.unexpected()) }
    }

    fn ident(&mut self) -> Result<String, String> {
        match self.peek() {
            Word::Ident(name) => {
                let name = name.clone();
                self.at += 1;
                Ok(name)
            }
            _ => Err(self.unexpected()),
        }
    }

    fn unexpected(&self) -> String {
        let token = &self.tokens[self.at];
        let what = match &token.word {
            Word::End => "mismatched input '<EOF>'".to_owned(),
            Word::Sign(sign) => format!("unexpected '{sign}'"),
            other => format!("unexpected {other:?}"),
        };
        format!("ERROR: <input>:1:{}: Syntax error: {what}", token.at + 1)
    }

    fn expr(&mut self) -> Result<Expr, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("expression is nested too deeply".into());
        }
        let condition = self.or()?;
        let expr = if self.takes("?") {
            let then = self.or()?;
            self.needs(":")?;
            Expr::Choice(Box::new(condition), Box::new(then), Box::new(self.expr()?))
        } else {
            condition
        };
        self.depth -= 1;
        Ok(expr)
    }

    fn or(&mut self) -> Result<Expr, String> {
        let mut left = self.and()?;
        while self.takes("||") {
            left = Expr::Or(Box::new(left), Box::new(self.and()?));
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Expr, String> {
        let mut left = self.relation()?;
        while self.takes("&&") {
            left = Expr::And(Box::new(left), Box::new(self.relation()?));
        }
        Ok(left)
    }

    fn relation(&mut self) -> Result<Expr, String> {
        let mut left = self.sum()?;
        loop {
            let name = match self.sign(&["==", "!=", "<=", ">=", "<", ">"]) {
                Some(sign) => sign,
                None if matches!(self.peek(), Word::Ident(name) if name == "in") => {
                    self.at += 1;
                    "in"
                }
                None => return Ok(left),
            };
            left = operator(name, left, self.sum()?);
        }
    }

    fn sum(&mut self) -> Result<Expr, String> {
        let mut left = self.product()?;
        while let Some(sign) = self.sign(&["+", "-"]) {
            left = operator(sign, left, self.product()?);
        }
        Ok(left)
    }

    fn product(&mut self) -> Result<Expr, String> {
        let mut left = self.unary()?;
        while let Some(sign) = self.sign(&["*", "/", "%"]) {
            left = operator(sign, left, self.unary()?);
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Expr, String> {
        let Some(sign) = self.sign(&["!", "-"]) else { return self.member() };
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("expression is nested too deeply".into());
        }
        let inner = self.unary()?;
        self.depth -= 1;
        Ok(match (sign, inner) {
            ("-", Expr::Literal(Cel::Int(number))) => Expr::Literal(Cel::Int(number.wrapping_neg())),
            ("-", Expr::Literal(Cel::Double(number))) => Expr::Literal(Cel::Double(-number)),
            (sign, inner) => {
                let name = if sign == "!" { "!_" } else { "-_" };
                Expr::Call { target: None, name: name.into(), args: vec![inner] }
            }
        })
    }

    fn member(&mut self) -> Result<Expr, String> {
        let mut expr = self.primary()?;
        loop {
            if self.takes(".") {
                let optional = self.takes("?");
                let name = self.ident()?;
                expr = if !optional && self.takes("(") {
                    self.method(expr, name)?
                } else {
                    Expr::Select { of: Box::new(expr), member: name, optional }
                };
            } else if self.takes("[") {
                let optional = self.takes("?");
                let at = self.expr()?;
                self.needs("]")?;
                expr = Expr::Index { of: Box::new(expr), at: Box::new(at), optional };
            } else {
                return Ok(expr);
            }
        }
    }

    fn primary(&mut self) -> Result<Expr, String> {
        let start = self.at;
        Ok(match self.next() {
            Word::Int(number) => Expr::Literal(Cel::Int(number)),
            Word::Uint(number) => Expr::Literal(Cel::Uint(number)),
            Word::Double(number) => Expr::Literal(Cel::Double(number)),
            Word::Text(text) => Expr::Literal(Cel::from(text)),
            Word::Bytes(bytes) => Expr::Literal(Cel::Bytes(bytes.into())),
            Word::Ident(name) => match name.as_str() {
                "true" => Expr::Literal(Cel::Bool(true)),
                "false" => Expr::Literal(Cel::Bool(false)),
                "null" => Expr::Literal(Cel::Null),
                _ if self.takes("(") => self.function(name)?,
                _ => Expr::Ident(name),
            },
            Word::Sign(".") => Expr::Ident(self.ident()?),
            Word::Sign("(") => {
                let inner = self.expr()?;
                self.needs(")")?;
                inner
            }
            Word::Sign("[") => {
                let mut items = Vec::new();
                while !self.takes("]") {
                    let optional = self.takes("?");
                    items.push((self.expr()?, optional));
                    if !self.takes(",") {
                        self.needs("]")?;
                        break;
                    }
                }
                Expr::List(items)
            }
            Word::Sign("{") => {
                let mut entries = Vec::new();
                while !self.takes("}") {
                    let optional = self.takes("?");
                    let key = self.expr()?;
                    self.needs(":")?;
                    entries.push((key, self.expr()?, optional));
                    if !self.takes(",") {
                        self.needs("}")?;
                        break;
                    }
                }
                Expr::Map(entries)
            }
            _ => {
                self.at = start;
                return Err(self.unexpected());
            }
        })
    }

    fn arguments(&mut self) -> Result<Vec<Expr>, String> {
        let mut args = Vec::new();
        while !self.takes(")") {
            args.push(self.expr()?);
            if !self.takes(",") {
                self.needs(")")?;
                break;
            }
        }
        Ok(args)
    }

    fn function(&mut self, name: String) -> Result<Expr, String> {
        let mut args = self.arguments()?;
        if name != "has" {
            return Ok(Expr::Call { target: None, name, args });
        }
        match (args.len(), args.pop()) {
            (1, Some(Expr::Select { of, member, optional: false })) => Ok(Expr::Has { of, member }),
            _ => Err("ERROR: <input>: invalid argument to has() macro".into()),
        }
    }

    fn method(&mut self, target: Expr, name: String) -> Result<Expr, String> {
        let args = self.arguments()?;
        if matches!(&target, Expr::Ident(cel) if cel == "cel") && name == "bind" && args.len() == 3 {
            let [variable, value, body] = <[Expr; 3]>::try_from(args).expect("there are three");
            return fold(FoldKind::Bind, value, &variable, None, body, None);
        }
        let kind = match (name.as_str(), args.len()) {
            ("all", 2 | 3) => FoldKind::All,
            ("exists", 2 | 3) => FoldKind::Exists,
            ("exists_one" | "existsOne", 2 | 3) => FoldKind::ExistsOne,
            ("filter", 2) => FoldKind::Filter,
            ("map", 2 | 3) | ("transformList", 3 | 4) => FoldKind::Map,
            ("sortBy", 2) => FoldKind::SortBy,
            ("transformMap", 3 | 4) => FoldKind::TransformMap,
            ("transformMapEntry", 3 | 4) => FoldKind::TransformMapEntry,
            ("optMap", 2) => FoldKind::OptMap,
            ("optFlatMap", 2) => FoldKind::OptFlatMap,
            _ => return Ok(Expr::Call { target: Some(Box::new(target)), name, args }),
        };
        let has_second = name.starts_with("transform") || (args.len() == 3 && name != "map");
        let mut args = args.into_iter();
        let variable = args.next().expect("it has two arguments at least");
        let second = if has_second { args.next() } else { None };
        let first = args.next().ok_or("ERROR: <input>: a macro lacks its expression")?;
        fold(kind, target, &variable, second.as_ref(), first, args.next())
    }
}

fn fold(
    kind: FoldKind,
    over: Expr,
    variable: &Expr,
    second: Option<&Expr>,
    first: Expr,
    then: Option<Expr>,
) -> Result<Expr, String> {
    let name = |expr: &Expr| match expr {
        Expr::Ident(name) => Ok(name.clone()),
        _ => Err("ERROR: <input>: argument must be a simple name".to_owned()),
    };
    let (variable, second) = (name(variable)?, second.map(name).transpose()?);
    Ok(Expr::Fold(Box::new(Fold { kind, over, variable, second, first, then })))
}

fn operator(name: &str, left: Expr, right: Expr) -> Expr {
    Expr::Call { target: None, name: format!("_{name}_"), args: vec![left, right] }
}
