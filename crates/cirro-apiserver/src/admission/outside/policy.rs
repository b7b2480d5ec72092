//! ValidatingAdmissionPolicy: expressions over a write, bound to where they hold.
//!
//! Source: apiserver `pkg/admission/plugin/policy/validating`.

use std::collections::BTreeMap;
use std::sync::Arc;

use cirro_seams::api::ApiError;
use serde_json::{Value, json};

use super::annotation::Annotation;
use super::condition::{self, BUDGET, Condition};
use super::{Attributes, matching, texts};
use crate::asker;
use crate::cel::{Budget, Cel, Program, Scope};
use crate::error;
use crate::json;
use crate::registry::Kind;
use crate::storage::{ListOptions, Place, Storage};

/// A policy.
pub(super) struct Policy {
    name: String,
    constraints: Value,
    conditions: Vec<Condition>,
    variables: Vec<(String, Result<Program, String>)>,
    validations: Vec<Validation>,
    annotations: Vec<Annotation>,
    ignores_failures: bool,
    /// apiVersion and kind of its parameters.
    param_kind: Option<(String, String)>,
}

struct Validation {
    program: Result<Program, String>,
    text: String,
    message: String,
    message_expression: Option<Program>,
    reason: String,
}

/// Where a policy holds.
pub(super) struct Binding {
    name: String,
    policy: String,
    resources: Value,
    actions: Vec<String>,
    param: Value,
}

/// What a policy says of a write that it does not let through.
struct Denial {
    message: String,
    reason: String,
    /// Which of the validations it was.
    index: usize,
}

impl Policy {
    pub(super) fn read(object: &Value) -> Self {
        let spec = &object["spec"];
        let variable = |one: &Value| {
            (json::text(one, "name").to_owned(), Program::parse(json::text(one, "expression").trim()))
        };
        let param_kind = json::at(spec, "paramKind");
        let text = |value: &Value, member| json::text(value, member).to_owned();
        Self {
            name: json::name(object).into(),
            constraints: spec["matchConstraints"].clone(),
            conditions: condition::read(json::array(spec, "matchConditions")),
            variables: json::array(spec, "variables").iter().map(variable).collect(),
            validations: json::array(spec, "validations").iter().map(Validation::read).collect(),
            annotations: Annotation::read(spec),
            ignores_failures: spec["failurePolicy"] == "Ignore",
            param_kind: param_kind.map(|kind| (text(kind, "apiVersion"), text(kind, "kind"))),
        }
    }

    /// Evaluates the policy for one object of its parameters.
    fn denials(&self, mut scope: Scope<'_>, budget: &mut Budget) -> Vec<Denial> {
        match condition::hold(&self.conditions, &scope, budget) {
            Ok(true) => {}
            Ok(false) => return Vec::new(),
            Err(why) => return self.failed(why).into_iter().collect(),
        }
        let mut variables = BTreeMap::new();
        for (name, program) in &self.variables {
            // One that has no value is missing where it is used.
            scope = scope.with("variables", Cel::members(&variables));
            if let Some(Ok(value)) = program.as_ref().ok().map(|program| program.run(&scope, budget)) {
                variables.insert(name.clone(), value);
            }
        }
        let scope = scope.with("variables", Cel::members(&variables));
        let found = self.validations.iter().enumerate().filter_map(|(index, validation)| {
            self.denial(validation, &scope, budget).map(|denial| Denial { index, ..denial })
        });
        let mut denials: Vec<Denial> = found.collect();
        for annotation in &self.annotations {
            if let Err(why) = annotation.tell(&self.name, &scope, budget) {
                denials.extend(self.failed(why));
            }
        }
        denials
    }

    fn denial(&self, validation: &Validation, scope: &Scope<'_>, budget: &mut Budget) -> Option<Denial> {
        let program = match &validation.program {
            Ok(program) => program,
            Err(why) => return self.failed(format!("compilation failed: {why}")),
        };
        match program.run(scope, budget) {
            Ok(Cel::Bool(true)) => None,
            Ok(Cel::Bool(false)) => Some(Denial {
                message: validation.told(scope, budget),
                reason: validation.reason.clone(),
                index: 0,
            }),
            Ok(other) => self.failed(format!(
                "expression {:?} is a {}, not a bool",
                validation.text,
                other.type_name()
            )),
            Err(why) => self.failed(format!("expression '{}' resulted in error: {why}", validation.text)),
        }
    }

    /// An error denies, unless the policy ignores its failures.
    fn failed(&self, why: String) -> Option<Denial> {
        (!self.ignores_failures).then(|| Denial { message: why, reason: "Invalid".into(), index: 0 })
    }
}

impl Validation {
    fn read(one: &Value) -> Self {
        let text = json::text(one, "expression").trim().to_owned();
        let reason = json::text(one, "reason");
        Self {
            program: Program::parse(&text),
            text,
            message: json::text(one, "message").into(),
            message_expression: Program::parse(json::text(one, "messageExpression")).ok(),
            reason: if reason.is_empty() { "Invalid" } else { reason }.into(),
        }
    }

    fn told(&self, scope: &Scope<'_>, budget: &mut Budget) -> String {
        let made = self.message_expression.as_ref().and_then(|program| program.run(scope, budget).ok());
        match (made, self.message.trim()) {
            (Some(Cel::Text(text)), _) if !text.trim().is_empty() => text.to_string(),
            (_, "") => format!("failed expression: {}", self.text),
            (_, message) => message.to_owned(),
        }
    }
}

impl Binding {
    pub(super) fn read(object: &Value) -> Self {
        let spec = &object["spec"];
        Self {
            name: json::name(object).into(),
            policy: json::text(spec, "policyName").into(),
            resources: spec["matchResources"].clone(),
            actions: texts(spec, "validationActions"),
            param: spec["paramRef"].clone(),
        }
    }

    /// Returns the parameters that a policy is evaluated with: nothing but null for one that has none.
    async fn params(
        &self,
        storage: &Storage,
        policy: &Policy,
        namespace: &str,
    ) -> Result<Vec<Value>, String> {
        let Some((api_version, word)) = &policy.param_kind else { return Ok(vec![Value::Null]) };
        if self.param.is_null() {
            return Ok(vec![Value::Null]);
        }
        let registry = storage.definitions.registry();
        let is_meant = |kind: &&Arc<Kind>| {
            kind.kind == *word && api_version.rsplit_once('/').map_or("", |(group, _)| group) == kind.group
        };
        let kind = registry.kinds().iter().find(is_meant);
        let kind = kind.ok_or_else(|| {
            format!("failed to find resource referenced by paramKind: '{api_version}, Kind={word}'")
        })?;
        let own = json::text(&self.param, "namespace");
        let place = match (kind.namespaced, own) {
            (false, _) => "",
            (true, "") => namespace,
            (true, own) => own,
        };
        let found = match json::text(&self.param, "name") {
            "" => select(storage, kind, place, &self.param["selector"]).await,
            name => match storage.get(Place { kind, namespace: place, name }).await {
                Ok(found) => Ok(vec![(*found).clone()]),
                Err(refusal) if refusal.is_not_found() => Ok(Vec::new()),
                Err(refusal) => Err(refusal),
            },
        };
        let found = found.map_err(|refusal| refusal.message)?;
        if found.is_empty() && self.param["parameterNotFoundAction"] != "Allow" {
            return Err("no params found for policy binding with `Deny` parameterNotFoundAction".into());
        }
        Ok(found)
    }
}

async fn select(
    storage: &Storage,
    kind: &Arc<Kind>,
    namespace: &str,
    selector: &Value,
) -> Result<Vec<Value>, ApiError> {
    let namespace = kind.namespaced.then_some(namespace);
    let page = storage.list(kind, namespace, &ListOptions::default()).await?;
    let mut found = Vec::new();
    for record in &page.records {
        let object = storage.decoded.decode(record)?;
        if matching::is_selected(selector, &object) {
            found.push((*object).clone());
        }
    }
    Ok(found)
}

/// Evaluates the policies that are bound to a write.
///
/// # Errors
/// The first denial of a binding that denies.
pub(super) async fn check(
    storage: &Storage,
    policies: &[Policy],
    bindings: &[Binding],
    attributes: &Attributes<'_>,
) -> Result<(), ApiError> {
    let namespace = storage.namespace_of(attributes).await?;
    let authorizer = condition::authorizer(storage, attributes).await?;
    let mut budget = Budget::new(BUDGET);
    for binding in bindings {
        let Some(policy) = policies.iter().find(|policy| policy.name == binding.policy) else { continue };
        let registry = storage.definitions.registry();
        let about = [&policy.constraints, &binding.resources];
        if !about.iter().all(|resources| is_about(resources, &registry, namespace.as_deref(), attributes)) {
            continue;
        }
        let rules = json::array(&policy.constraints, "resourceRules");
        let Some(served) = matching::rule_version(rules, &registry, attributes) else { continue };
        let request = attributes.request(storage, &served).await?;
        let denials = match binding.params(storage, policy, attributes.namespace).await {
            Ok(params) => {
                let each = params.iter().flat_map(|params| {
                    let scope =
                        condition::scope(&request, authorizer.clone()).with("params", Cel::of(params));
                    let space = namespace.as_deref().map_or(Cel::Null, Cel::of);
                    policy.denials(scope.with("namespaceObject", space), &mut budget)
                });
                each.collect()
            }
            Err(why) => {
                policy.failed(format!("failed to configure binding: {why}")).into_iter().collect::<Vec<_>>()
            }
        };
        denials.into_iter().try_for_each(|denial| enforce(policy, binding, attributes, &denial))?;
    }
    Ok(())
}

fn is_about(
    resources: &Value,
    registry: &crate::registry::Registry,
    namespace: Option<&Value>,
    attributes: &Attributes<'_>,
) -> bool {
    let rules = json::array(resources, "resourceRules");
    let excluded = json::array(resources, "excludeResourceRules");
    (rules.is_empty() || matching::rule_version(rules, registry, attributes).is_some())
        && matching::rule_version(excluded, registry, attributes).is_none()
        && matching::selected(
            &resources["namespaceSelector"],
            &resources["objectSelector"],
            namespace,
            attributes,
        )
}

fn enforce(
    policy: &Policy,
    binding: &Binding,
    attributes: &Attributes<'_>,
    denial: &Denial,
) -> Result<(), ApiError> {
    let (of, by, message) = (&policy.name, &binding.name, &denial.message);
    for action in &binding.actions {
        match action.as_str() {
            "Warn" => asker::warn(format!(
                "Validation failed for ValidatingAdmissionPolicy '{of}' with binding '{by}': {message}"
            )),
            "Deny" => {
                let what =
                    format!("ValidatingAdmissionPolicy '{of}' with binding '{by}' denied request: {message}");
                let code = match denial.reason.as_str() {
                    "Unauthorized" => 401,
                    "Forbidden" => 403,
                    "RequestEntityTooLarge" => 413,
                    _ => 422,
                };
                let refusal = error::forbidden(attributes.kind, attributes.name, &what);
                return Err(ApiError { code, reason: denial.reason.clone(), ..refusal });
            }
            "Audit" => asker::annotate_failure(json!({"message": message, "policy": of, "binding": by,
                "expressionIndex": denial.index, "validationActions": binding.actions})),
            _ => {}
        }
    }
    Ok(())
}

/// Checks that an expression, if there is one, is one.
pub(crate) fn compile_fault(field: &str, text: &str, causes: &mut crate::error::Causes) {
    if let Err(why) = if text.is_empty() { Ok(()) } else { Program::parse(text.trim()).map(drop) } {
        causes.invalid(field, &text.into(), &format!("compilation failed: {why}"));
    }
}

/// Checks the expressions of a policy that is written.
pub(crate) fn compile_faults(spec: &Value, causes: &mut crate::error::Causes) {
    let lists = [
        ("spec.matchConditions", "matchConditions"),
        ("spec.variables", "variables"),
        ("spec.validations", "validations"),
    ];
    for (field, member) in lists {
        for (index, one) in json::array(spec, member).iter().enumerate() {
            for part in ["expression", "messageExpression"] {
                compile_fault(&format!("{field}[{index}].{part}"), json::text(one, part), causes);
            }
        }
    }
}
