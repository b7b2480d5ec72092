//! rbac.authorization.k8s.io/v1: roles and bindings.
//!
//! Source: `pkg/apis/rbac/v1/defaults.go`, `pkg/apis/rbac/validation/validation.go`.

use serde_json::Value;

use crate::error::Causes;
use crate::json::{self, set_default};
use crate::rbac::GROUP;
use crate::registry::{Kind, Strategy};
use crate::table::rbac as columns;
use crate::validate::NameRule;

/// Returns the kinds.
pub(crate) fn kinds() -> Vec<Kind> {
    vec![
        Kind::cluster(GROUP, "v1", "ClusterRole", "clusterroles")
            .schema("io.k8s.api.rbac.v1.ClusterRole")
            .columns(columns::role())
            .strategy(&Role { namespaced: false }),
        Kind::cluster(GROUP, "v1", "ClusterRoleBinding", "clusterrolebindings")
            .schema("io.k8s.api.rbac.v1.ClusterRoleBinding")
            .columns(columns::binding())
            .strategy(&Binding { namespaced: false }),
        Kind::namespaced(GROUP, "v1", "Role", "roles")
            .schema("io.k8s.api.rbac.v1.Role")
            .columns(columns::role())
            .strategy(&Role { namespaced: true }),
        Kind::namespaced(GROUP, "v1", "RoleBinding", "rolebindings")
            .schema("io.k8s.api.rbac.v1.RoleBinding")
            .columns(columns::binding())
            .strategy(&Binding { namespaced: true }),
    ]
}

struct Role {
    namespaced: bool,
}

impl Strategy for Role {
    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        for (index, rule) in json::array(object, "rules").iter().enumerate() {
            validate_rule(&format!("rules[{index}]"), rule, self.namespaced, causes);
        }
        if let Some(aggregation) = json::at(object, "aggregationRule")
            && json::array(aggregation, "clusterRoleSelectors").is_empty()
        {
            let what = "at least one clusterRoleSelector required if aggregationRule is non-nil";
            causes.required("aggregationRule.clusterRoleSelectors", what);
        }
        for (index, selector) in
            json::array(object, "aggregationRule.clusterRoleSelectors").iter().enumerate()
        {
            let field = format!("aggregationRule.clusterRoleSelectors[{index}]");
            crate::validate::selector::check(&field, selector, causes);
        }
    }
}

fn validate_rule(field: &str, rule: &Value, namespaced: bool, causes: &mut Causes) {
    if json::array(rule, "verbs").is_empty() {
        causes.required(&format!("{field}.verbs"), "verbs must contain at least one value");
    }
    let urls = json::array(rule, "nonResourceURLs");
    let of_resources = ["apiGroups", "resources", "resourceNames"];
    if !urls.is_empty() {
        let field = format!("{field}.nonResourceURLs");
        if namespaced {
            causes.invalid(
                &field,
                &rule["nonResourceURLs"],
                "namespaced rules cannot apply to non-resource URLs",
            );
        }
        if of_resources.iter().any(|member| !json::array(rule, member).is_empty()) {
            let what = "rules cannot apply to both regular resources and non-resource URLs";
            causes.invalid(&field, &rule["nonResourceURLs"], what);
        }
        return;
    }
    if json::array(rule, "apiGroups").is_empty() {
        causes.required(&format!("{field}.apiGroups"), "resource rules must supply at least one api group");
    }
    if json::array(rule, "resources").is_empty() {
        causes.required(&format!("{field}.resources"), "resource rules must supply at least one resource");
    }
}

struct Binding {
    namespaced: bool,
}

impl Strategy for Binding {
    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn defaults(&self, object: &mut Value) {
        if let Some(role) = object.get_mut("roleRef").filter(|role| role.is_object()) {
            set_text(role, "apiGroup", GROUP);
        }
        for subject in json::elements_mut(object, "subjects") {
            match json::text(subject, "kind") {
                "User" | "Group" => set_text(subject, "apiGroup", GROUP),
                // Go leaves the empty group of service accounts out.
                "ServiceAccount" if subject["apiGroup"] == "" => {
                    subject.as_object_mut().expect("it has a member").remove("apiGroup");
                }
                _ => {}
            }
        }
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        let role = &object["roleRef"];
        if json::text(role, "apiGroup") != GROUP {
            causes.unsupported("roleRef.apiGroup", &text(role, "apiGroup"), &[GROUP]);
        }
        let kinds: &[&str] = if self.namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
        if !kinds.contains(&json::text(role, "kind")) {
            causes.unsupported("roleRef.kind", &text(role, "kind"), kinds);
        }
        match json::text(role, "name") {
            "" => causes.required("roleRef.name", ""),
            name => {
                if let Err(why) = NameRule::PathSegment.check(name) {
                    causes.invalid("roleRef.name", &name.into(), &why);
                }
            }
        }
        for (index, subject) in json::array(object, "subjects").iter().enumerate() {
            self.validate_subject(&format!("subjects[{index}]"), subject, causes);
        }
    }

    fn validate_update(&self, object: &Value, old: &Value, causes: &mut Causes) {
        if object["roleRef"] != old["roleRef"] {
            causes.invalid("roleRef", &object["roleRef"], "cannot change roleRef");
        }
    }
}

impl Binding {
    fn validate_subject(&self, field: &str, subject: &Value, causes: &mut Causes) {
        let name = json::text(subject, "name");
        if name.is_empty() {
            causes.required(&format!("{field}.name"), "");
        }
        let group = json::text(subject, "apiGroup");
        match json::text(subject, "kind") {
            "ServiceAccount" => {
                if let Some(why) = NameRule::Subdomain.check(name).err().filter(|_| !name.is_empty()) {
                    causes.invalid(&format!("{field}.name"), &name.into(), &why);
                }
                if !group.is_empty() {
                    causes.unsupported(&format!("{field}.apiGroup"), &group.into(), &[""]);
                }
                if !self.namespaced && json::text(subject, "namespace").is_empty() {
                    causes.required(&format!("{field}.namespace"), "");
                }
            }
            "User" | "Group" => {
                if group != GROUP {
                    causes.unsupported(&format!("{field}.apiGroup"), &group.into(), &[GROUP]);
                }
            }
            other => {
                let kinds = ["ServiceAccount", "User", "Group"];
                causes.unsupported(&format!("{field}.kind"), &other.into(), &kinds);
            }
        }
    }
}

fn text(object: &Value, member: &str) -> Value {
    json::text(object, member).into()
}

fn set_text(object: &mut Value, member: &str, default: &str) {
    if json::text(object, member).is_empty() {
        object[member] = Value::Null;
        set_default(object, member, default);
    }
}
