//! `x-kubernetes-validations`: rules in CEL that a schema has at any of its places.
//!
//! Source: apiextensions-apiserver `pkg/apiserver/schema/cel/validation.go`.

use serde_json::{Value, json};

use super::counterpart;
use crate::cel::{self, Budget, Cel, Expr, Failure, Known, Program, Scope};
use crate::error::Causes;
use crate::json;

const EXTENSION: &str = "x-kubernetes-validations";
/// What all rules of an object may cost.
const OBJECT_BUDGET: u64 = 2_000_000;
/// Longest message that an expression may make.
const MAX_MESSAGE: usize = 4096;
const REASONS: [&str; 4] =
    ["FieldValueRequired", "FieldValueForbidden", "FieldValueInvalid", "FieldValueDuplicate"];

/// The rules of a place in a schema, and of the places below it.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    schema: Value,
    own: Vec<Rule>,
    members: Vec<(String, Rules)>,
    items: Option<Box<Rules>>,
    others: Option<Box<Rules>>,
}

#[derive(Debug)]
struct Rule {
    program: Program,
    message: String,
    message_expression: Option<Program>,
    reason: String,
    /// Where the fault is told, below the rule's own place.
    field: String,
    /// Whether it compares with what was there before.
    is_transition: bool,
    optional_old: bool,
}

impl Rules {
    /// Compiles the rules of a schema; `None` when it has none. Rules that do not compile were refused with their
    /// definition.
    pub(crate) fn compile(schema: &Value) -> Option<Self> {
        let own: Vec<Rule> =
            json::array(schema, EXTENSION).iter().filter_map(|rule| Rule::compile(rule).ok()).collect();
        let properties = json::object(schema, "properties").into_iter().flatten();
        let members: Vec<_> =
            properties.filter_map(|(name, inner)| Some((name.clone(), Self::compile(inner)?))).collect();
        let below = |member| {
            schema.get(member).filter(|inner| inner.is_object()).and_then(Self::compile).map(Box::new)
        };
        let (items, others) = (below("items"), below("additionalProperties"));
        if own.is_empty() && members.is_empty() && items.is_none() && others.is_none() {
            return None;
        }
        Some(Self { schema: schema.clone(), own, members, items, others })
    }

    /// Runs the rules over an object.
    pub(crate) fn run(&self, object: &Value, old: Option<&Value>, causes: &mut Causes) {
        let mut budget = Budget::new(OBJECT_BUDGET);
        let (object, old) = (visible(object), old.map(visible));
        if self.run_at(&object, old.as_ref(), "", &mut budget, causes).is_err() {
            causes.invalid_text("", "object", &Failure::TooExpensive.to_string());
        }
    }

    fn run_at(
        &self,
        value: &Value,
        old: Option<&Value>,
        path: &str,
        budget: &mut Budget,
        causes: &mut Causes,
    ) -> Result<(), Failure> {
        if value.is_null() {
            return Ok(());
        }
        if !self.own.is_empty() {
            self.run_own(value, old, path, budget, causes)?;
        }
        let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        for (name, rules) in &self.members {
            if let Some(inner) = value.get(name) {
                rules.run_at(inner, old.and_then(|old| old.get(name)), &below(name), budget, causes)?;
            }
        }
        if let (Some(rules), Value::Array(items)) = (&self.items, value) {
            for (index, item) in items.iter().enumerate() {
                let before = old.and_then(|old| counterpart(&self.schema, item, old));
                rules.run_at(item, before, &format!("{path}[{index}]"), budget, causes)?;
            }
        }
        if let (Some(rules), Value::Object(members)) = (&self.others, value) {
            for (name, inner) in members {
                rules.run_at(inner, old.and_then(|old| old.get(name)), &below(name), budget, causes)?;
            }
        }
        Ok(())
    }

    fn run_own(
        &self,
        value: &Value,
        old: Option<&Value>,
        path: &str,
        budget: &mut Budget,
        causes: &mut Causes,
    ) -> Result<(), Failure> {
        let own = Cel::with_schema(value, &self.schema);
        let before = old.map(|old| Cel::with_schema(old, &self.schema));
        for rule in &self.own {
            let skip = match (rule.is_transition, old) {
                (true, None) => !rule.optional_old,
                (true, Some(_)) => false,
                // What did not change may stay wrong.
                (false, old) => old == Some(value),
            };
            if skip {
                continue;
            }
            let mut scope = Scope::default().with("self", own.clone());
            if rule.optional_old {
                scope = scope.with("oldSelf", Cel::Optional(before.clone().map(Box::new)));
            } else if let Some(before) = &before {
                scope = scope.with("oldSelf", before.clone());
            }
            let detail = match rule.program.run(&scope, budget) {
                Ok(Cel::Bool(true)) => continue,
                Ok(_) => rule.told(&scope, budget)?,
                Err(Failure::TooExpensive) => return Err(Failure::TooExpensive),
                Err(why) => format!("{why} evaluating rule: {}", rule.program.text()),
            };
            let field = format!("{path}{}", rule.field);
            let field = if path.is_empty() { field.trim_start_matches('.') } else { &field };
            let kind = json::text(&self.schema, "type");
            match rule.reason.as_str() {
                "FieldValueRequired" => causes.required(field, &detail),
                "FieldValueForbidden" => causes.forbidden(field, &detail),
                "FieldValueDuplicate" => causes.duplicate(field, &kind.into()),
                _ => causes.invalid_text(field, kind, &detail),
            }
        }
        Ok(())
    }
}

impl Rule {
    fn compile(rule: &Value) -> Result<Self, String> {
        let program = Program::parse(json::text(rule, "rule").trim())?;
        let message_expression = match json::text(rule, "messageExpression") {
            "" => None,
            text => Some(Program::parse(text)?),
        };
        let optional_old = rule["optionalOldSelf"] == true;
        let is_transition = names_old(program.expr());
        Ok(Self {
            message: json::text(rule, "message").to_owned(),
            reason: json::text(rule, "reason").to_owned(),
            field: json::text(rule, "fieldPath").to_owned(),
            is_transition,
            optional_old,
            program,
            message_expression,
        })
    }

    /// Returns what is said when the rule does not hold.
    fn told(&self, scope: &Scope<'_>, budget: &mut Budget) -> Result<String, Failure> {
        match self.message_expression.as_ref().map(|program| program.run(scope, budget)) {
            Some(Err(Failure::TooExpensive)) => return Err(Failure::TooExpensive),
            Some(Ok(Cel::Text(text)))
                if !text.trim().is_empty() && !text.contains('\n') && text.len() <= MAX_MESSAGE =>
            {
                return Ok(text.to_string());
            }
            _ => {}
        }
        Ok(match self.message.trim() {
            "" => format!("failed rule: {}", self.program.text()),
            message => message.to_owned(),
        })
    }
}

fn names_old(expr: &Expr) -> bool {
    let mut found = false;
    expr.visit(&mut |expr| found |= matches!(expr, Expr::Ident(name) if name == "oldSelf"));
    found
}

/// Returns an object as its rules see it: of its metadata only the name.
fn visible(object: &Value) -> Value {
    let mut seen = object.clone();
    if let Some(Value::Object(metadata)) = seen.get_mut("metadata") {
        metadata.retain(|name, _| name == "name" || name == "generateName");
    }
    seen
}

/// Checks the rules of a place in the schema of a definition.
pub(super) fn check(field: &str, schema: &Value, is_root: bool, causes: &mut Causes) {
    let rules = json::array(schema, EXTENSION);
    if rules.is_empty() {
        return;
    }
    let known = if is_root { with_identity(schema) } else { schema.clone() };
    for (index, rule) in rules.iter().enumerate() {
        let field = format!("{field}.{EXTENSION}[{index}]");
        let text = json::text(rule, "rule");
        if text.trim().is_empty() {
            causes.required(&format!("{field}.rule"), "rule is not specified");
            continue;
        }
        let reason = json::text(rule, "reason");
        if !reason.is_empty() && !REASONS.contains(&reason) {
            causes.unsupported(&format!("{field}.reason"), &reason.into(), &REASONS);
        }
        if json::text(rule, "message").contains('\n') {
            causes.invalid(
                &format!("{field}.message"),
                &rule["message"],
                "message must not contain line breaks",
            );
        }
        for member in ["rule", "messageExpression"] {
            let text = json::text(rule, member);
            let old = if rule["optionalOldSelf"] == true { &Value::Null } else { &known };
            let variables = [Known { name: "self", schema: &known }, Known { name: "oldSelf", schema: old }];
            let checked = match text {
                "" => Ok(()),
                text => {
                    Program::parse(text.trim()).and_then(|program| cel::check(program.expr(), &variables))
                }
            };
            if let Err(why) = checked {
                let what = if member == "rule" {
                    "compilation failed"
                } else {
                    "messageExpression compilation failed"
                };
                causes.invalid(&format!("{field}.{member}"), &text.into(), &format!("{what}: {why}"));
            }
        }
    }
}

/// Adds what every object has to the schema of a root.
fn with_identity(schema: &Value) -> Value {
    let mut schema = schema.clone();
    let text = json!({"type": "string"});
    let properties = json::object_mut(&mut schema, "properties");
    properties.insert("apiVersion".into(), text.clone());
    properties.insert("kind".into(), text.clone());
    properties.insert(
        "metadata".into(),
        json!({"type": "object", "properties": {"name": text, "generateName": text}}),
    );
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(rules: Value, object: Value, old: Option<Value>) -> String {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "x-kubernetes-validations": rules,
            "properties": {"min": {"type": "integer"}, "max": {"type": "integer"}, "list": {"type": "array",
                "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"], "items": {"type": "object",
                "required": ["name"], "properties": {"name": {"type": "string"}, "fixed": {"type": "string",
                    "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "is fixed"}]}}}}}}}});
        let mut causes = Causes::default();
        super::super::check("s", &schema, &mut causes);
        if causes.is_empty() {
            Rules::compile(&schema).unwrap().run(&object, old.as_ref(), &mut causes);
        }
        format!("{causes:?}")
    }

    #[test]
    fn rules_refuse_in_upstreams_words() {
        let spec = |min: i64, max: i64| json!({"spec": {"min": min, "max": max}});
        let rule = json!([{"rule": "self.min <= self.max"}]);
        assert_eq!(told(rule.clone(), spec(1, 2), None), "Causes([])");
        let text = told(rule.clone(), spec(3, 2), None);
        assert!(
            text.contains(r#"field: "spec""#)
                && text.contains(r#"Invalid value: \"object\": failed rule: self.min <= self.max"#),
            "{text}"
        );
        let rule = json!([{"rule": "self.min <= self.max", "messageExpression": "'min %d'.format([self.min])",
            "reason": "FieldValueForbidden", "fieldPath": ".min"}]);
        let text = told(rule, spec(3, 2), None);
        assert!(text.contains("spec.min") && text.contains("Forbidden: min 3"), "{text}");
        // A member that is not there is an error, which refuses.
        let text = told(json!([{"rule": "self.min <= self.max"}]), json!({"spec": {"min": 1}}), None);
        assert!(text.contains("no such key: max evaluating rule"), "{text}");
    }

    #[test]
    fn transitions_are_checked_where_there_is_something_before() {
        let list = |fixed: &str| json!({"spec": {"list": [{"name": "b", "fixed": "x"}, {"name": "a", "fixed": fixed}]}});
        let old = json!({"spec": {"list": [{"name": "a", "fixed": "1"}]}});
        assert_eq!(told(json!([]), list("1"), Some(old.clone())), "Causes([])");
        let text = told(json!([]), list("2"), Some(old));
        assert!(text.contains("spec.list[1].fixed") && text.contains("is fixed"), "{text}");
        assert_eq!(told(json!([]), list("2"), None), "Causes([])");
        let once = json!([{"rule": "oldSelf.hasValue() || self.min == 0", "optionalOldSelf": true}]);
        assert!(told(once.clone(), json!({"spec": {"min": 1}}), None).contains("failed rule"));
        assert_eq!(told(once, json!({"spec": {"min": 1}}), Some(json!({"spec": {"min": 0}}))), "Causes([])");
    }

    #[test]
    fn rules_that_cannot_be_compiled_refuse_the_definition() {
        for (rule, wanted) in [
            ("self.min <", "Syntax error"),
            ("self.least > 0", "undefined field 'least'"),
            ("other > 0", "undeclared reference to 'other'"),
        ] {
            let text = told(json!([{"rule": rule}]), json!({}), None);
            assert!(text.contains("compilation failed") && text.contains(wanted), "{text}");
        }
    }
}
