//! network.cirro.dev/v1: tenants' networks.

use cirro_types::kinds::{SecurityGroupSpec, SubnetSpec, VpcSpec};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::Causes;
use crate::json;
use crate::registry::{Kind, Strategy};
use crate::table::own as columns;
use crate::validate::{self, NameRule};

const GROUP: &str = "network.cirro.dev";

/// Returns the kinds.
pub(crate) fn kinds() -> Vec<Kind> {
    vec![
        Kind::namespaced(GROUP, "v1", "Vpc", "vpcs")
            .short(&["vpc"])
            .category("cirro")
            .schema("dev.cirro.network.v1.Vpc")
            .columns(columns::vpc())
            .strategy(&Vpc),
        Kind::namespaced(GROUP, "v1", "Subnet", "subnets")
            .short(&["sn"])
            .category("cirro")
            .schema("dev.cirro.network.v1.Subnet")
            .selectable(&["spec.vpc"])
            .columns(columns::subnet())
            .strategy(&Subnet),
        Kind::namespaced(GROUP, "v1", "SecurityGroup", "securitygroups")
            .short(&["sg"])
            .category("cirro")
            .schema("dev.cirro.network.v1.SecurityGroup")
            .selectable(&["spec.vpc"])
            .columns(columns::security_group())
            .strategy(&SecurityGroup),
    ]
}

/// Reads a spec by its type; what the type does not take is a fault of `spec`.
pub(super) fn read_spec<T: DeserializeOwned>(object: &Value, causes: &mut Causes) -> Option<T> {
    let Some(spec) = object.get("spec") else {
        causes.required("spec", "");
        return None;
    };
    match serde_json::from_value(spec.clone()) {
        Ok(spec) => Some(spec),
        Err(why) => {
            causes.invalid("spec", spec, &why.to_string());
            None
        }
    }
}

/// Checks a name that becomes a label of a DNS name.
pub(super) fn reference(field: &str, name: &str, causes: &mut Causes) {
    if name.is_empty() {
        causes.required(field, "");
    } else if let Err(why) = NameRule::Label.check(name) {
        causes.invalid(field, &name.into(), &why);
    }
}

fn range(field: &str, net: ipnet::Ipv4Net, smallest: u8, causes: &mut Causes) {
    if net.trunc() != net {
        let detail = format!("has host bits set; did you mean {}?", net.trunc());
        causes.invalid(field, &net.to_string().into(), &detail);
    }
    if net.prefix_len() > smallest || net.prefix_len() < 8 {
        let detail = format!("prefix length must be between 8 and {smallest}");
        causes.invalid(field, &net.to_string().into(), &detail);
    }
}

struct Vpc;

impl Strategy for Vpc {
    fn name_rule(&self) -> NameRule {
        NameRule::Label
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        if let Some(spec) = read_spec::<VpcSpec>(object, causes) {
            range("spec.cidr", spec.cidr, 28, causes);
        }
    }

    fn validate_update(&self, object: &Value, old: &Value, causes: &mut Causes) {
        validate::immutable("spec.cidr", object, old, causes);
    }
}

struct Subnet;

impl Strategy for Subnet {
    fn name_rule(&self) -> NameRule {
        NameRule::Label
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        if let Some(spec) = read_spec::<SubnetSpec>(object, causes) {
            range("spec.cidr", spec.cidr, 29, causes);
            reference("spec.vpc", &spec.vpc, causes);
        }
    }

    fn validate_update(&self, object: &Value, old: &Value, causes: &mut Causes) {
        validate::immutable("spec.cidr", object, old, causes);
        validate::immutable("spec.vpc", object, old, causes);
    }
}

struct SecurityGroup;

impl Strategy for SecurityGroup {
    fn name_rule(&self) -> NameRule {
        NameRule::Label
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        let Some(spec) = read_spec::<SecurityGroupSpec>(object, causes) else { return };
        reference("spec.vpc", &spec.vpc, causes);
        for list in ["ingress", "egress"] {
            for (index, rule) in json::array(object, &format!("spec.{list}")).iter().enumerate() {
                let portless = ["icmp", "all"].contains(&json::text(rule, "protocol"));
                if portless && rule.get("ports").is_some() {
                    let field = format!("spec.{list}[{index}].ports");
                    causes.forbidden(&field, "may only be set for tcp and udp");
                }
            }
        }
    }

    fn validate_update(&self, object: &Value, old: &Value, causes: &mut Causes) {
        validate::immutable("spec.vpc", object, old, causes);
    }
}
