//! What a policy's expressions do with the kinds that it is about: faults are told in its status.
//!
//! Source: apiserver `pkg/admission/plugin/policy/validating/typechecking.go`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::texts;
use crate::cel::{Kind as Type, Program, infer};
use crate::json;
use crate::managed::shape_of;
use crate::registry::{Registry, Served};
use crate::schema::{Shape, types};
use crate::storage::Storage;

/// At most so many kinds are looked at.
const MAX_KINDS: usize = 10;

impl Storage {
    /// Writes into a policy's status what its new expressions are worth.
    pub(crate) fn check_types(&self, policy: &mut Value, old: Option<&Value>) {
        if old.is_some_and(|old| old["spec"] == policy["spec"]) {
            return;
        }
        let generation = |object: &Value| json::number(object, "metadata.generation").unwrap_or(0);
        let generation = old.map_or(1, |old| generation(old) + 1);
        let warnings = warnings(&self.definitions.registry(), &policy["spec"]);
        let checked = if warnings.is_empty() { json!({}) } else { json!({"expressionWarnings": warnings}) };
        json::object_mut(policy, "status");
        policy["status"]["observedGeneration"] = generation.into();
        policy["status"]["typeChecking"] = checked;
    }
}

fn warnings(registry: &Registry, spec: &Value) -> Vec<Value> {
    let kinds = kinds(registry, spec);
    let params = params(registry, spec);
    let mut warnings = Vec::new();
    for (index, validation) in json::array(spec, "validations").iter().enumerate() {
        for member in ["expression", "messageExpression"] {
            let text = json::text(validation, member);
            let Ok(program) = Program::parse(text) else { continue };
            let faults: Vec<String> = kinds
                .iter()
                .filter_map(|served| {
                    let why = infer(text, program.expr(), &variables(served, spec, &params)).err()?;
                    Some(format!("{}, Kind={}: {why}", version_of(served), served.kind.kind))
                })
                .collect();
            if !faults.is_empty() {
                warnings.push(json!({"fieldRef": format!("spec.validations[{index}].{member}"),
                    "warning": faults.join("\n")}));
            }
        }
    }
    warnings
}

/// Writes a group and a version as Go's `GroupVersion` does.
fn version_of(served: &Served) -> String {
    format!("{}/{}", served.group(), served.version())
}

/// Returns the kinds that a policy names; patterns name none.
fn kinds(registry: &Registry, spec: &Value) -> Vec<Served> {
    let mut found: BTreeMap<String, Served> = BTreeMap::new();
    for rule in json::array(spec, "matchConstraints.resourceRules") {
        let [groups, versions, resources] =
            ["apiGroups", "apiVersions", "resources"].map(|member| texts(rule, member));
        for group in &groups {
            for version in &versions {
                for resource in &resources {
                    if let Some(served) = registry.served(group, version, resource) {
                        found.insert(format!("{group}/{version}, {}", served.kind.kind), served.clone());
                    }
                }
            }
        }
    }
    found.into_values().take(MAX_KINDS).collect()
}

fn type_of(served: &Served) -> Type {
    match served.view() {
        Some(view) => types().find(&view.schema).map_or(Type::Dyn, |index| Type::of(&Shape::Type(index))),
        None => Type::of(&shape_of(&served.kind)),
    }
}

fn params(registry: &Registry, spec: &Value) -> Type {
    let Some(kind) = json::at(spec, "paramKind") else { return Type::Dyn };
    let api_version = json::text(kind, "apiVersion");
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let word = json::text(kind, "kind");
    let meant = registry.kinds().iter().find(|known| known.group == group && known.kind == word);
    let served = meant.and_then(|known| registry.served(group, version, &known.plural));
    served.map_or(Type::Dyn, type_of)
}

/// Returns the names that an expression about a kind knows.
fn variables(served: &Served, spec: &Value, params: &Type) -> Vec<(String, Type)> {
    let object = type_of(served);
    let namespace = types().find("io.k8s.api.core.v1.Namespace");
    let namespace = namespace.map_or(Type::Dyn, |index| Type::of(&Shape::Type(index)));
    let mut names: Vec<(String, Type)> = [
        ("object", object.clone()),
        ("oldObject", object),
        ("params", params.clone()),
        ("namespaceObject", namespace),
        ("request", Type::Dyn),
        ("authorizer", Type::Dyn),
    ]
    .map(|(name, kind)| (name.to_owned(), kind))
    .into();
    let mut own = BTreeMap::new();
    for variable in json::array(spec, "variables") {
        let text = json::text(variable, "expression");
        names.push(("variables".into(), Type::Record(Arc::new(own.clone()))));
        let kind = Program::parse(text).and_then(|program| infer(text, program.expr(), &names));
        names.pop();
        own.insert(json::text(variable, "name").to_owned(), kind.unwrap_or(Type::Dyn));
    }
    names.push(("variables".into(), Type::Record(Arc::new(own))));
    names
}
