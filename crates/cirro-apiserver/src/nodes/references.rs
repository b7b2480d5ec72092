//! What a pod refers to by name.
//!
//! Source: `pkg/api/v1/pod/util.go` (VisitPodSecretNames, VisitPodConfigmapNames).

use serde_json::Value;

use crate::json;

/// Kinds of objects that pods refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Referent {
    Secret,
    ConfigMap,
    Claim,
    Account,
}

/// Whether a pod refers to an object of its namespace.
pub(super) fn refers(pod: &Value, to: Referent, name: &str) -> bool {
    let spec = &pod["spec"];
    match to {
        Referent::Account => json::text(spec, "serviceAccountName") == name,
        Referent::Claim => claims(pod).any(|claim| claim == name),
        Referent::Secret => secrets(spec).contains(&name),
        Referent::ConfigMap => config_maps(spec).contains(&name),
    }
}

/// Whether a pod refers to any object of a kind.
pub(super) fn refers_to_any(pod: &Value, to: Referent) -> bool {
    let spec = &pod["spec"];
    match to {
        Referent::Account => !json::text(spec, "serviceAccountName").is_empty(),
        Referent::Claim => claims(pod).next().is_some(),
        Referent::Secret => !secrets(spec).is_empty(),
        Referent::ConfigMap => !config_maps(spec).is_empty(),
    }
}

/// Returns the names of the claims that a pod uses, those that are made for it too.
pub(super) fn claims(pod: &Value) -> impl Iterator<Item = String> {
    let name = json::name(pod);
    json::array(pod, "spec.volumes").iter().filter_map(move |volume| {
        if volume.get("ephemeral").is_some_and(Value::is_object) {
            return Some(format!("{name}-{}", json::text(volume, "name")));
        }
        let claim = json::text(volume, "persistentVolumeClaim.claimName");
        (!claim.is_empty()).then(|| claim.to_owned())
    })
}

fn secrets(spec: &Value) -> Vec<&str> {
    const IN_VOLUMES: [&str; 10] = [
        "secret.secretName",
        "azureFile.secretName",
        "cephfs.secretRef.name",
        "cinder.secretRef.name",
        "flexVolume.secretRef.name",
        "rbd.secretRef.name",
        "scaleIO.secretRef.name",
        "iscsi.secretRef.name",
        "storageos.secretRef.name",
        "csi.nodePublishSecretRef.name",
    ];
    let mut names = in_containers(spec, "secretKeyRef", "secretRef");
    names.extend(json::array(spec, "imagePullSecrets").iter().map(|one| json::text(one, "name")));
    for volume in json::array(spec, "volumes") {
        names.extend(IN_VOLUMES.iter().map(|path| json::text(volume, path)));
        names.extend(projected(volume, "secret.name"));
    }
    names.retain(|name| !name.is_empty());
    names
}

fn config_maps(spec: &Value) -> Vec<&str> {
    let mut names = in_containers(spec, "configMapKeyRef", "configMapRef");
    for volume in json::array(spec, "volumes") {
        names.push(json::text(volume, "configMap.name"));
        names.extend(projected(volume, "configMap.name"));
    }
    names.retain(|name| !name.is_empty());
    names
}

fn in_containers<'a>(spec: &'a Value, key: &str, whole: &str) -> Vec<&'a str> {
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    let containers = lists.into_iter().flat_map(|list| json::array(spec, list));
    let mut names = Vec::new();
    for container in containers {
        names.extend(
            json::array(container, "env").iter().map(|one| json::text(&one["valueFrom"][key], "name")),
        );
        names.extend(json::array(container, "envFrom").iter().map(|one| json::text(&one[whole], "name")));
    }
    names
}

fn projected<'a>(volume: &'a Value, path: &'static str) -> impl Iterator<Item = &'a str> {
    json::array(volume, "projected.sources").iter().map(move |source| json::text(source, path))
}

/// Returns the secrets that a volume's driver needs: namespace, which is the claim's when it is empty, and name.
pub(super) fn volume_secrets(volume: &Value) -> Vec<(&str, &str)> {
    const PLACES: [&str; 10] = [
        "cephfs.secretRef",
        "cinder.secretRef",
        "flexVolume.secretRef",
        "rbd.secretRef",
        "scaleIO.secretRef",
        "iscsi.secretRef",
        "storageos.secretRef",
        "csi.nodePublishSecretRef",
        "csi.nodeStageSecretRef",
        "csi.nodeExpandSecretRef",
    ];
    let spec = &volume["spec"];
    let mut found: Vec<_> = PLACES
        .iter()
        .filter_map(|place| json::at(spec, place))
        .map(|one| (json::text(one, "namespace"), json::text(one, "name")))
        .collect();
    found.push((json::text(spec, "azureFile.secretNamespace"), json::text(spec, "azureFile.secretName")));
    found.retain(|(_, name)| !name.is_empty());
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_found_wherever_they_may_stand() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"serviceAccountName": "robot",
            "imagePullSecrets": [{"name": "pull"}],
            "initContainers": [{"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "env", "key": "k"}}}]}],
            "containers": [{"envFrom": [{"configMapRef": {"name": "from"}}, {"secretRef": {"name": "all"}}]}],
            "volumes": [{"name": "d", "secret": {"secretName": "vol"}},
                {"name": "e", "projected": {"sources": [{"configMap": {"name": "pro"}}, {"secret": {"name": "sec"}}]}},
                {"name": "c", "persistentVolumeClaim": {"claimName": "data"}}, {"name": "scratch", "ephemeral": {}}]}});
        for name in ["pull", "env", "all", "vol", "sec"] {
            assert!(refers(&pod, Referent::Secret, name), "{name}");
            assert!(!refers(&pod, Referent::ConfigMap, name));
        }
        assert!(refers(&pod, Referent::ConfigMap, "from") && refers(&pod, Referent::ConfigMap, "pro"));
        assert!(refers(&pod, Referent::Claim, "data") && refers(&pod, Referent::Claim, "p-scratch"));
        assert!(refers(&pod, Referent::Account, "robot") && !refers(&pod, Referent::Account, ""));
        assert!(!refers(&json!({"spec": {}}), Referent::Secret, ""));
    }
}
