//! Columns of endpoint slices and leases.

use serde_json::Value;

use super::Column;
use super::core::shortened;
use crate::json;

/// Returns the columns of endpoint slices.
pub(crate) fn endpoint_slice() -> Vec<Column> {
    vec![
        Column::name(),
        Column::text("AddressType", |slice| json::text(slice, "addressType").into()),
        Column::text("Ports", |slice| {
            let ports = json::array(slice, "ports").iter();
            shown(ports.map(|port| port.get("port").map_or("*".into(), Value::to_string)).collect())
        }),
        Column::text("Endpoints", |slice| {
            let endpoints = json::array(slice, "endpoints").iter();
            let addresses = endpoints.flat_map(|one| json::array(one, "addresses"));
            shown(addresses.filter_map(Value::as_str).map(str::to_owned).collect())
        }),
        Column::age(),
    ]
}

fn shown(list: Vec<String>) -> Value {
    if list.is_empty() { "<unset>".into() } else { shortened(list) }
}

/// Returns the columns of leases.
pub(crate) fn lease() -> Vec<Column> {
    vec![
        Column::name(),
        Column::text("Holder", |lease| json::text(lease, "spec.holderIdentity").into()),
        Column::age(),
    ]
}
