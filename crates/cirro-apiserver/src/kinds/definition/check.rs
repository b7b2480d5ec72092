//! What a definition as a whole must look like.

use std::collections::HashSet;

use serde_json::Value;

use super::version;
use crate::error::Causes;
use crate::json;
use crate::validate::NameRule;
use crate::validate::fields::{required, required_one_of};

const APPROVED: &str = "api-approved.kubernetes.io";

/// Finds the faults of a definition.
pub(super) fn check(definition: &Value, causes: &mut Causes) {
    let (group, plural) = (json::text(definition, "spec.group"), json::text(definition, "spec.names.plural"));
    if json::name(definition) != format!("{plural}.{group}") {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        causes.invalid("metadata.name", &json::name(definition).into(), detail);
    }
    check_group(definition, group, causes);
    required_one_of("spec.scope", definition, &["Cluster", "Namespaced"], causes);
    names(definition, causes);
    conversion(definition, causes);
    if definition["spec"]["preserveUnknownFields"] == true {
        let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        causes.invalid("spec.preserveUnknownFields", &true.into(), detail);
    }
    versions(definition, causes);
}

fn check_group(definition: &Value, group: &str, causes: &mut Causes) {
    if !required("spec.group", definition, "", causes) {
        return;
    }
    if let Err(why) = NameRule::Subdomain.check(group) {
        causes.invalid("spec.group", &group.into(), &why);
    } else if !group.contains('.') {
        causes.invalid("spec.group", &group.into(), "should be a domain with at least one dot");
    }
    let protected = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|domain| group.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')));
    if !protected {
        return;
    }
    let field = format!("metadata.annotations[{APPROVED}]");
    let approval =
        definition["metadata"]["annotations"].get(APPROVED).and_then(Value::as_str).unwrap_or_default();
    if approval.is_empty() {
        let detail = format!(
            "protected groups must have approval annotation {APPROVED:?}, see https://github.com/kubernetes/enhancements/pull/1111"
        );
        causes.required(&field, &detail);
    } else if !approval.starts_with("unapproved") && !approval.contains("://") {
        let detail = "protected groups must have approval annotation with either a URL or a reason starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111";
        causes.invalid(&field, &approval.into(), detail);
    }
}

fn names(definition: &Value, causes: &mut Causes) {
    for member in ["plural", "singular", "kind", "listKind"] {
        let field = format!("spec.names.{member}");
        let name = json::text(definition, &field);
        let may_be_mixed = member.ends_with("ind");
        if name.is_empty() {
            causes.required(&field, "");
        } else if let Err(why) = NameRule::Label1035.check(&name.to_lowercase()).and_then(|()| {
            let lower = name == name.to_lowercase();
            NameRule::Label1035.check(if may_be_mixed || lower { "a" } else { name })
        }) {
            let detail = match may_be_mixed {
                true => format!("may have mixed case, but should otherwise match: {why}"),
                false => why,
            };
            causes.invalid(&field, &name.into(), &detail);
        }
    }
    for member in ["shortNames", "categories"] {
        for (index, name) in json::array(&definition["spec"]["names"], member).iter().enumerate() {
            if let Err(why) = NameRule::Label1035.check(name.as_str().unwrap_or_default()) {
                causes.invalid(&format!("spec.names.{member}[{index}]"), name, &why);
            }
        }
    }
    let list_kind = &definition["spec"]["names"]["listKind"];
    if definition["spec"]["names"]["kind"] == *list_kind {
        causes.invalid("spec.names.listKind", list_kind, "kind and listKind may not be the same");
    }
}

fn conversion(definition: &Value, causes: &mut Causes) {
    let conversion = &definition["spec"]["conversion"];
    required_one_of("spec.conversion.strategy", definition, &["None", "Webhook"], causes);
    match json::text(conversion, "strategy") {
        "Webhook" if json::at(conversion, "webhook.clientConfig").is_none() => {
            let field = "spec.conversion.webhookClientConfig";
            causes.required(field, "required when strategy is set to Webhook");
        }
        "Webhook" => {
            if json::array(conversion, "webhook.conversionReviewVersions").is_empty() {
                causes.required("spec.conversion.webhook.conversionReviewVersions", "");
            }
            let config = &conversion["webhook"]["clientConfig"];
            if config.get("url").is_some() == config.get("service").is_some() {
                let field = "spec.conversion.webhook.clientConfig";
                causes.required(field, "exactly one of url or service is required");
            }
        }
        _ if conversion.get("webhook").is_some() => {
            let detail = "should not be set when strategy is not set to Webhook";
            causes.forbidden("spec.conversion.webhook", detail);
        }
        _ => {}
    }
}

fn versions(definition: &Value, causes: &mut Causes) {
    let versions = json::array(definition, "spec.versions");
    let mut seen = HashSet::new();
    for (index, version) in versions.iter().enumerate() {
        let field = format!("spec.versions[{index}]");
        let name = json::text(version, "name");
        if let Err(why) = NameRule::Label1035.check(name) {
            causes.invalid(&format!("{field}.name"), &name.into(), &why);
        }
        if !seen.insert(name) {
            causes.invalid("spec.versions", &name.into(), "must contain unique version names");
        }
        version::check(&field, version, causes);
    }
    let storage = versions.iter().filter(|version| version["storage"] == true).count();
    if storage != 1 {
        let names: Vec<&str> = versions.iter().map(|version| json::text(version, "name")).collect();
        let detail = "must have exactly one version marked as storage version";
        causes.invalid("spec.versions", &names.join(",").into(), detail);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(change: impl FnOnce(&mut Value)) -> String {
        let mut definition = json!({"metadata": {"name": "tabs.x.io"}, "spec": {"group": "x.io", "scope": "Namespaced",
            "names": {"plural": "tabs", "singular": "tab", "kind": "Tab", "listKind": "TabList"},
            "conversion": {"strategy": "None"}, "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
        change(&mut definition);
        let mut causes = Causes::default();
        check(&definition, &mut causes);
        format!("{causes:?}")
    }

    #[test]
    fn definitions_are_checked_in_upstreams_words() {
        assert_eq!(told(|_| {}), "Causes([])");
        let group = |name: &'static str| {
            move |one: &mut Value| {
                one["spec"]["group"] = name.into();
                one["metadata"]["name"] = format!("tabs.{name}").into();
            }
        };
        assert!(told(group("dotless")).contains("should be a domain with at least one dot"));
        assert!(told(group("x.k8s.io")).contains("protected groups must have approval annotation"));
        assert!(!told(group("notk8s.io.com")).contains("protected"));
        assert!(told(|one| one["metadata"]["name"] = "x".into()).contains("spec.names.plural+"));
        assert!(
            told(|one| one["spec"]["versions"][0]["storage"] = false.into()).contains("exactly one version")
        );
        assert!(told(|one| one["spec"]["names"]["plural"] = "Tabs".into()).contains("DNS-1035"));
        assert!(told(|one| one["spec"]["names"]["kind"] = "T_b".into()).contains("mixed case"));
        assert!(
            told(|one| one["spec"]["conversion"]["strategy"] = "Webhook".into())
                .contains("required when strategy")
        );
        assert!(
            told(|one| one["spec"]["preserveUnknownFields"] = true.into()).contains("cannot set to true")
        );
    }
}
