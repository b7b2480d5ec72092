//! Columns of volumes, claims and the kinds of storage.k8s.io.

use serde_json::Value;

use super::{Column, or_none};
use crate::json;

/// Returns the columns of persistent volumes.
pub(crate) fn volume() -> Vec<Column> {
    vec![
        Column::name(),
        Column::text("Capacity", |volume| storage(volume, "spec.capacity")),
        Column::text("Access Modes", |volume| access_modes(volume, "spec.accessModes")),
        Column::text("Reclaim Policy", |volume| {
            json::text(volume, "spec.persistentVolumeReclaimPolicy").into()
        }),
        Column::text("Status", phase),
        Column::text("Claim", |volume| match json::at(volume, "spec.claimRef") {
            None => "".into(),
            Some(claim) => format!("{}/{}", json::text(claim, "namespace"), json::text(claim, "name")).into(),
        }),
        Column::text("StorageClass", |volume| json::text(volume, "spec.storageClassName").into()),
        Column::text("VolumeAttributesClass", attributes_class),
        Column::text("Reason", |volume| json::text(volume, "status.reason").into()),
        Column::age(),
        Column::text("VolumeMode", volume_mode).wide(),
    ]
}

/// Returns the columns of claims.
pub(crate) fn claim() -> Vec<Column> {
    vec![
        Column::name(),
        Column::text("Status", phase),
        Column::text("Volume", |claim| json::text(claim, "spec.volumeName").into()),
        Column::text("Capacity", |claim| match json::text(claim, "spec.volumeName") {
            "" => "".into(),
            _ => storage(claim, "status.capacity"),
        }),
        Column::text("Access Modes", |claim| match json::text(claim, "spec.volumeName") {
            "" => "".into(),
            _ => access_modes(claim, "status.accessModes"),
        }),
        Column::text("StorageClass", |claim| json::text(claim, "spec.storageClassName").into()),
        Column::text("VolumeAttributesClass", attributes_class),
        Column::age(),
        Column::text("VolumeMode", volume_mode).wide(),
    ]
}

fn attributes_class(object: &Value) -> Value {
    match json::text(object, "spec.volumeAttributesClassName") {
        "" => "<unset>".into(),
        class => class.into(),
    }
}

fn volume_mode(object: &Value) -> Value {
    match json::text(object, "spec.volumeMode") {
        "" => "<unset>".into(),
        mode => mode.into(),
    }
}

fn phase(object: &Value) -> Value {
    if json::at(object, "metadata.deletionTimestamp").is_some() {
        return "Terminating".into();
    }
    json::text(object, "status.phase").into()
}

fn storage(object: &Value, path: &str) -> Value {
    json::text(object, &format!("{path}.storage")).into()
}

fn access_modes(object: &Value, path: &str) -> Value {
    let short = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let modes = json::array(object, path);
    let shown = short.iter().filter(|(mode, _)| modes.iter().any(|one| one == mode)).map(|(_, short)| *short);
    shown.collect::<Vec<_>>().join(",").into()
}

/// Returns the columns of storage classes.
pub(crate) fn class() -> Vec<Column> {
    vec![
        Column { format: "name", ..Column::text("Name", class_name) },
        Column::text("Provisioner", |class| json::text(class, "provisioner").into()),
        Column::text("ReclaimPolicy", |class| json::text(class, "reclaimPolicy").into()),
        Column::text("VolumeBindingMode", |class| json::text(class, "volumeBindingMode").into()),
        Column {
            kind: "boolean",
            ..Column::text("AllowVolumeExpansion", |class| flag(class, "allowVolumeExpansion"))
        },
        Column::age(),
    ]
}

fn class_name(class: &Value) -> Value {
    let default = json::object(class, "metadata.annotations").is_some_and(|annotations| {
        annotations.get("storageclass.kubernetes.io/is-default-class").is_some_and(|value| value == "true")
    });
    format!("{}{}", json::name(class), if default { " (default)" } else { "" }).into()
}

fn flag(object: &Value, path: &str) -> Value {
    json::at(object, path).and_then(Value::as_bool).unwrap_or(false).into()
}

fn boolean(name: &str, cell: fn(&Value) -> Value) -> Column {
    Column { kind: "boolean", ..Column::text(name, cell) }
}

/// Returns the columns of CSI drivers.
pub(crate) fn csi_driver() -> Vec<Column> {
    let audiences = |driver: &Value| {
        let requests = json::array(driver, "spec.tokenRequests").iter();
        let audiences: Vec<_> = requests.map(|one| json::text(one, "audience").to_owned()).collect();
        if audiences.is_empty() { "<unset>".into() } else { audiences.join(",").into() }
    };
    vec![
        Column::name(),
        boolean("AttachRequired", |driver| flag(driver, "spec.attachRequired")),
        boolean("PodInfoOnMount", |driver| flag(driver, "spec.podInfoOnMount")),
        boolean("StorageCapacity", |driver| flag(driver, "spec.storageCapacity")),
        Column::text("TokenRequests", audiences),
        boolean("RequiresRepublish", |driver| flag(driver, "spec.requiresRepublish")),
        Column::text("Modes", |driver| {
            let modes = json::array(driver, "spec.volumeLifecycleModes").iter().filter_map(Value::as_str);
            or_none(modes.collect::<Vec<_>>().join(","))
        }),
        Column::age(),
    ]
}

/// Returns the columns of CSI nodes.
pub(crate) fn csi_node() -> Vec<Column> {
    vec![
        Column::name(),
        Column::integer("Drivers", |node| json::array(node, "spec.drivers").len().into()),
        Column::age(),
    ]
}

/// Returns the columns of storage capacities.
pub(crate) fn csi_capacity() -> Vec<Column> {
    vec![
        Column::name(),
        Column::text("StorageClassName", |one| json::text(one, "storageClassName").into()),
        Column::text("Capacity", |one| match json::text(one, "capacity") {
            "" => "<unset>".into(),
            size => size.into(),
        }),
    ]
}

/// Returns the columns of volume attachments.
pub(crate) fn attachment() -> Vec<Column> {
    vec![
        Column::name(),
        Column { format: "name", ..Column::text("Attacher", |one| json::text(one, "spec.attacher").into()) },
        Column::text("PV", |one| json::text(one, "spec.source.persistentVolumeName").into()),
        Column::text("Node", |one| json::text(one, "spec.nodeName").into()),
        boolean("Attached", |one| flag(one, "status.attached")),
        Column::age(),
    ]
}
