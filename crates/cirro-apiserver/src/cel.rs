//! The Common Expression Language, as rules of custom kinds and admission use it.
//!
//! ```text
//! text ─▶ lexer ─▶ parser ─▶ Expr ─▶ check (names, members) ─▶ eval over a Scope, paid from a Budget
//! ```
//! It is our own because its cost must be bounded: every step of an evaluation is paid for, texts and lists by their
//! length, so that no rule over no object runs long. The crates for CEL have neither costs nor a way to stop them.
//!
//! Source: cel-spec `doc/langdef.md`; apiserver `pkg/cel/library`.

mod authorizer;
mod check;
mod eval;
mod functions;
mod infer;
mod kubernetes;
mod lexer;
mod lists;
mod parser;
mod text;
mod time;
mod value;

pub(crate) use authorizer::{Asked, Authority};
pub(crate) use check::{Known, check};
pub(crate) use eval::{Budget, Failure, Scope};
pub(crate) use infer::{Kind, infer};
pub(crate) use parser::Expr;
pub(crate) use value::Cel;

/// Longest expression.
const MAX_LENGTH: usize = 16 * 1024;

/// A compiled expression.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    text: String,
    expr: Expr,
}

impl Program {
    /// Reads an expression.
    ///
    /// # Errors
    /// What is wrong with it and where.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_LENGTH {
            return Err(format!("expression is longer than {MAX_LENGTH} bytes"));
        }
        let expr = parser::parse(text)?;
        Ok(Self { text: text.to_owned(), expr })
    }

    /// Returns the text it was made from.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Returns the expression.
    pub(crate) fn expr(&self) -> &Expr {
        &self.expr
    }

    /// Evaluates it.
    pub(crate) fn run(&self, scope: &Scope<'_>, budget: &mut Budget) -> Result<Cel, Failure> {
        eval::run(&self.expr, scope, budget)
    }
}

#[cfg(test)]
mod tests;
