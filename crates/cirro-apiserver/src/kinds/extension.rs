//! What extends the API: apiregistration.k8s.io/v1 APIService, and the kinds of
//! admissionregistration.k8s.io/v1.
//!
//! They are stored and checked here; `admission::outside` acts on the latter. Nothing is proxied to yet.
//!
//! Source: `kube-aggregator/pkg/apis/apiregistration/validation`, `pkg/apis/admissionregistration`.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::admission::outside::{annotation_faults, compile_fault, compile_faults};
use crate::error::Causes;
use crate::json::{self, set_default};
use crate::registry::{Kind, Strategy, Subresource};
use crate::table::cluster as columns;
use crate::validate::fields::{between, one_of, required, required_one_of};
use crate::validate::{NameRule, selector};

const ADMISSION: &str = "admissionregistration.k8s.io";

/// Returns the kinds.
pub(crate) fn kinds() -> Vec<Kind> {
    let admission = |kind: &str, plural: &str| {
        Kind::cluster(ADMISSION, "v1", kind, plural)
            .schema(&format!("io.k8s.api.admissionregistration.v1.{kind}"))
            .category("api-extensions")
    };
    vec![
        Kind::cluster("apiregistration.k8s.io", "v1", "APIService", "apiservices")
            .category("api-extensions")
            .schema("io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIService")
            .subresources(&[Subresource::Status])
            .columns(columns::api_service())
            .strategy(&ApiService),
        admission("MutatingWebhookConfiguration", "mutatingwebhookconfigurations")
            .columns(columns::webhooks())
            .strategy(&Webhooks { mutating: true }),
        admission("ValidatingWebhookConfiguration", "validatingwebhookconfigurations")
            .columns(columns::webhooks())
            .strategy(&Webhooks { mutating: false }),
        admission("ValidatingAdmissionPolicy", "validatingadmissionpolicies")
            .subresources(&[Subresource::Status])
            .columns(columns::admission_policy())
            .strategy(&Policy),
        admission("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings")
            .columns(columns::policy_binding())
            .strategy(&PolicyBinding),
    ]
}

struct ApiService;

impl Strategy for ApiService {
    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn defaults(&self, object: &mut Value) {
        if let Some(service) = object.pointer_mut("/spec/service").filter(|one| one.is_object()) {
            set_default(service, "port", 443);
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        if json::at(object, "spec.service").is_none() {
            let now = crate::identity::now();
            object["status"] = json!({"conditions": [{"type": "Available", "status": "True", "reason": "Local",
                "message": "Local APIServices are always available", "lastTransitionTime": now}]});
        }
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        let (group, version) = (json::text(object, "spec.group"), json::text(object, "spec.version"));
        let wanted = format!("{version}.{group}");
        if json::name(object) != wanted {
            let detail = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
            causes.invalid("metadata.name", &json::name(object).into(), &detail);
        }
        required("spec.version", object, "", causes);
        if group.is_empty() && version != "v1" {
            causes.required("spec.group", "only v1 may have an empty group and it better be legacy kube");
        }
        if json::number(object, "spec.groupPriorityMinimum").is_none() {
            causes.invalid("spec.groupPriorityMinimum", &0.into(), "must be positive and less than 20000");
        }
        between("spec.groupPriorityMinimum", object, 1, 20_000, causes);
        if json::number(object, "spec.versionPriority").is_none() {
            causes.invalid("spec.versionPriority", &0.into(), "must be positive and less than 1000");
        }
        between("spec.versionPriority", object, 1, 1_000, causes);
        let bundle = !json::text(object, "spec.caBundle").is_empty();
        let skips = json::at(object, "spec.insecureSkipTLSVerify") == Some(&true.into());
        if json::at(object, "spec.service").is_none() {
            if bundle {
                let value = &object["spec"]["caBundle"];
                causes.invalid("spec.caBundle", value, "local APIServices may not have a caBundle");
            }
            if skips {
                let detail = "local APIServices may not have insecureSkipTLSVerify";
                causes.invalid("spec.insecureSkipTLSVerify", &true.into(), detail);
            }
            return;
        }
        for member in ["namespace", "name"] {
            required(&format!("spec.service.{member}"), object, "", causes);
        }
        if skips && bundle {
            let detail = "may not be true if caBundle is present";
            causes.invalid("spec.insecureSkipTLSVerify", &true.into(), detail);
        }
    }
}

struct Webhooks {
    mutating: bool,
}

impl Strategy for Webhooks {
    fn has_generation(&self) -> bool {
        true
    }

    fn defaults(&self, object: &mut Value) {
        for hook in json::elements_mut(object, "webhooks") {
            set_default(hook, "failurePolicy", "Fail");
            set_default(hook, "matchPolicy", "Equivalent");
            set_default(hook, "namespaceSelector", json!({}));
            set_default(hook, "objectSelector", json!({}));
            set_default(hook, "timeoutSeconds", 10);
            if self.mutating {
                set_default(hook, "reinvocationPolicy", "Never");
            }
            for rule in json::elements_mut(hook, "rules") {
                set_default(rule, "scope", "*");
            }
            if let Some(service) = hook.pointer_mut("/clientConfig/service").filter(|one| one.is_object()) {
                set_default(service, "port", 443);
            }
        }
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        let mut names = HashSet::new();
        for (index, hook) in json::array(object, "webhooks").iter().enumerate() {
            let prefix = format!("webhooks[{index}].");
            let mut faults = Causes::default();
            let name = json::text(hook, "name");
            if !names.insert(name) {
                faults.duplicate("name", &name.into());
            }
            webhook(hook, &mut faults);
            causes.extend_at(&prefix, faults);
        }
    }
}

fn webhook(hook: &Value, causes: &mut Causes) {
    let name = json::text(hook, "name");
    if name.is_empty() {
        causes.required("name", "");
    } else if let Err(why) = NameRule::Subdomain.check(name) {
        causes.invalid("name", &name.into(), &why);
    } else if name.split('.').count() < 3 {
        let detail = "should be a domain with at least three segments separated by dots";
        causes.invalid("name", &name.into(), detail);
    }
    rules("rules", json::array(hook, "rules"), causes);
    one_of("failurePolicy", hook, &["Fail", "Ignore"], causes);
    one_of("matchPolicy", hook, &["Equivalent", "Exact"], causes);
    one_of("reinvocationPolicy", hook, &["IfNeeded", "Never"], causes);
    required_one_of("sideEffects", hook, &["None", "NoneOnDryRun"], causes);
    between("timeoutSeconds", hook, 1, 30, causes);
    for member in ["namespaceSelector", "objectSelector"] {
        selector::check(member, &hook[member], causes);
    }
    let versions = json::array(hook, "admissionReviewVersions");
    if versions.is_empty() {
        causes.required("admissionReviewVersions", "must specify one of v1, v1beta1");
    } else if !versions.iter().any(|one| one == "v1" || one == "v1beta1") {
        let value = &hook["admissionReviewVersions"];
        causes.invalid("admissionReviewVersions", value, "must include at least one of v1, v1beta1");
    }
    for (index, condition) in json::array(hook, "matchConditions").iter().enumerate() {
        let field = format!("matchConditions[{index}].expression");
        compile_fault(&field, json::text(condition, "expression"), causes);
    }
    let config = &hook["clientConfig"];
    match (config.get("url"), config.get("service")) {
        (None, None) | (Some(_), Some(_)) => {
            causes.required("clientConfig", "exactly one of url or service is required");
        }
        (Some(url), None) => {
            let text = url.as_str().unwrap_or_default();
            if !text.starts_with("https://") {
                let detail = "'https' is the only allowed URL scheme; desired format: https://host[/path]";
                causes.invalid("clientConfig.url", url, detail);
            }
        }
        (None, Some(_)) => {
            for member in ["name", "namespace"] {
                required(&format!("clientConfig.service.{member}"), hook, "", causes);
            }
            between("clientConfig.service.port", hook, 1, 65535, causes);
        }
    }
}

/// Checks rules that say which requests are meant.
fn rules(field: &str, rules: &[Value], causes: &mut Causes) {
    let operations = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
    for (index, rule) in rules.iter().enumerate() {
        let field = format!("{field}[{index}]");
        for member in ["operations", "apiGroups", "apiVersions", "resources"] {
            let list = json::array(rule, member);
            if list.is_empty() {
                causes.required(&format!("{field}.{member}"), "");
            }
            if list.len() > 1 && list.iter().any(|one| one == "*") && member != "resources" {
                let detail = "if '*' is present, must not specify other values";
                causes.invalid(&format!("{field}.{member}"), &rule[member], detail);
            }
        }
        for (at, one) in json::array(rule, "operations").iter().enumerate() {
            if !operations.contains(&one.as_str().unwrap_or_default()) {
                causes.unsupported(&format!("{field}.operations[{at}]"), one, &operations);
            }
        }
        let scope = json::text(rule, "scope");
        let scopes = ["*", "Cluster", "Namespaced"];
        if !scope.is_empty() && !scopes.contains(&scope) {
            causes.unsupported(&format!("{field}.scope"), &scope.into(), &scopes);
        }
    }
}

fn match_defaults(object: &mut Value, member: &str) {
    let Some(resources) = object["spec"].get_mut(member).filter(|one| one.is_object()) else { return };
    set_default(resources, "matchPolicy", "Equivalent");
    set_default(resources, "namespaceSelector", json!({}));
    set_default(resources, "objectSelector", json!({}));
    for list in ["resourceRules", "excludeResourceRules"] {
        for rule in json::elements_mut(resources, list) {
            set_default(rule, "scope", "*");
        }
    }
}

struct Policy;

impl Strategy for Policy {
    fn has_generation(&self) -> bool {
        true
    }

    fn defaults(&self, object: &mut Value) {
        if object["spec"].is_object() {
            set_default(&mut object["spec"], "failurePolicy", "Fail");
            match_defaults(object, "matchConstraints");
        }
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        one_of("spec.failurePolicy", object, &["Fail", "Ignore"], causes);
        compile_faults(&object["spec"], causes);
        annotation_faults(object, causes);
        if json::at(object, "spec.matchConstraints").is_none() {
            causes.required("spec.matchConstraints", "");
        } else {
            let list = json::array(object, "spec.matchConstraints.resourceRules");
            if list.is_empty() {
                causes.required("spec.matchConstraints.resourceRules", "");
            }
            rules("spec.matchConstraints.resourceRules", list, causes);
        }
        let validations = json::array(object, "spec.validations");
        if validations.is_empty() && json::array(object, "spec.auditAnnotations").is_empty() {
            let detail = "validations or auditAnnotations must be specified";
            causes.required("spec.validations", detail);
            causes.required("spec.auditAnnotations", detail);
        }
        for (index, one) in validations.iter().enumerate() {
            if json::text(one, "expression").trim().is_empty() {
                let detail = "expression is not specified";
                causes.required(&format!("spec.validations[{index}].expression"), detail);
            }
        }
    }
}

struct PolicyBinding;

impl Strategy for PolicyBinding {
    fn has_generation(&self) -> bool {
        true
    }

    fn defaults(&self, object: &mut Value) {
        if object["spec"].is_object() {
            match_defaults(object, "matchResources");
        }
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        required("spec.policyName", object, "", causes);
        let actions = json::array(object, "spec.validationActions");
        if actions.is_empty() {
            causes.required("spec.validationActions", "at least one validation action is required");
        }
        let known = ["Audit", "Deny", "Warn"];
        for (index, action) in actions.iter().enumerate() {
            let field = format!("spec.validationActions[{index}]");
            if !known.contains(&action.as_str().unwrap_or_default()) {
                causes.unsupported(&field, action, &known);
            } else if actions[..index].contains(action) {
                causes.duplicate(&field, action);
            }
        }
        if actions.iter().any(|one| one == "Deny") && actions.iter().any(|one| one == "Warn") {
            let value = &object["spec"]["validationActions"];
            let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
            causes.invalid("spec.validationActions", value, detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn webhooks_are_whole() {
        let strategy = Webhooks { mutating: true };
        let mut object = json!({"webhooks": [{"name": "a.b.example", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"service": {"name": "s", "namespace": "n"}},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]}]});
        strategy.defaults(&mut object);
        assert_eq!(object["webhooks"][0]["reinvocationPolicy"], "Never");
        assert_eq!(object["webhooks"][0]["clientConfig"]["service"]["port"], 443);
        let mut causes = Causes::default();
        strategy.validate(&object, &mut causes);
        assert!(causes.is_empty(), "{causes:?}");
        object["webhooks"][0]["name"] = "a.b".into();
        object["webhooks"][0]["timeoutSeconds"] = 31.into();
        strategy.validate(&object, &mut causes);
        let text = format!("{causes:?}");
        assert!(text.contains("three segments") && text.contains("webhooks[0].timeoutSeconds"), "{text}");
    }

    #[test]
    fn a_service_is_named_by_version_and_group() {
        let mut causes = Causes::default();
        ApiService.validate(
            &json!({"metadata": {"name": "x"}, "spec": {"group": "g.example", "version": "v1",
            "groupPriorityMinimum": 1, "versionPriority": 1}}),
            &mut causes,
        );
        assert!(format!("{causes:?}").contains("v1.g.example"));
    }
}
