//! discovery.k8s.io/v1.

use serde_json::Value;

use crate::error::Causes;
use crate::json::{self, set_default};
use crate::registry::{Kind, Strategy};
use crate::validate;

/// Returns the kinds.
pub(crate) fn kinds() -> Vec<Kind> {
    vec![
        Kind::namespaced("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
            .schema("io.k8s.api.discovery.v1.EndpointSlice")
            .columns(crate::table::discovery::endpoint_slice())
            .strategy(&EndpointSlice),
    ]
}

struct EndpointSlice;

impl Strategy for EndpointSlice {
    fn has_generation(&self) -> bool {
        true
    }

    fn defaults(&self, object: &mut Value) {
        for port in json::elements_mut(object, "ports") {
            set_default(port, "name", "");
            set_default(port, "protocol", "TCP");
        }
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        let supported = ["FQDN", "IPv4", "IPv6"];
        let kind = json::text(object, "addressType");
        if kind.is_empty() {
            causes.required("addressType", "");
        } else if !supported.contains(&kind) {
            causes.unsupported("addressType", &kind.into(), &supported);
        }
        for (index, endpoint) in json::array(object, "endpoints").iter().enumerate() {
            let addresses = json::array(endpoint, "addresses");
            if addresses.is_empty() {
                causes.required(&format!("endpoints[{index}].addresses"), "must contain at least 1 address");
            }
            for (at, address) in addresses.iter().enumerate() {
                let text = address.as_str().unwrap_or_default();
                if kind == "IPv4" && text.parse::<std::net::Ipv4Addr>().is_err() {
                    let field = format!("endpoints[{index}].addresses[{at}]");
                    causes.invalid(&field, address, "must be a valid IPv4 address");
                }
            }
        }
    }

    fn validate_update(&self, object: &Value, old: &Value, causes: &mut Causes) {
        validate::immutable("addressType", object, old, causes);
    }
}
