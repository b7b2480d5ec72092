//! Numbers and truth values that protobuf always carries and Go leaves out of JSON when they are zero or false.
//!
//! In Go's types these members are values, not pointers, with `omitempty`; nothing else tells them from those whose
//! zero was said, such as a grace of 0 seconds.
//!
//! Source: upstream's `types.go` of each group.

use serde_json::Value;

/// Message and its members.
const OMITTED: [(&str, &[&str]); 60] = [
    ("APIServiceSpec", &["insecureSkipTLSVerify"]),
    ("AWSElasticBlockStoreVolumeSource", &["partition", "readOnly"]),
    ("AzureFilePersistentVolumeSource", &["readOnly"]),
    ("AzureFileVolumeSource", &["readOnly"]),
    ("CSIPersistentVolumeSource", &["readOnly"]),
    ("CephFSPersistentVolumeSource", &["readOnly"]),
    ("CephFSVolumeSource", &["readOnly"]),
    ("CinderPersistentVolumeSource", &["readOnly"]),
    ("CinderVolumeSource", &["readOnly"]),
    ("Condition", &["observedGeneration"]),
    ("Container", &["stdin", "stdinOnce", "tty"]),
    ("ContainerPort", &["hostPort"]),
    ("CustomResourceColumnDefinition", &["priority"]),
    ("CustomResourceDefinitionSpec", &["preserveUnknownFields"]),
    ("CustomResourceDefinitionVersion", &["deprecated"]),
    ("DaemonSetSpec", &["minReadySeconds"]),
    (
        "DaemonSetStatus",
        &["observedGeneration", "updatedNumberScheduled", "numberAvailable", "numberUnavailable"],
    ),
    ("DeploymentSpec", &["minReadySeconds", "paused"]),
    (
        "DeploymentStatus",
        &[
            "observedGeneration",
            "replicas",
            "updatedReplicas",
            "readyReplicas",
            "availableReplicas",
            "unavailableReplicas",
        ],
    ),
    ("EphemeralContainer", &["stdin", "stdinOnce", "tty"]),
    ("Event", &["count", "deprecatedCount"]),
    ("EventSeries", &["count"]),
    ("FCVolumeSource", &["readOnly"]),
    ("FlexPersistentVolumeSource", &["readOnly"]),
    ("FlexVolumeSource", &["readOnly"]),
    ("GCEPersistentDiskVolumeSource", &["partition", "readOnly"]),
    ("GlusterfsPersistentVolumeSource", &["readOnly"]),
    ("GlusterfsVolumeSource", &["readOnly"]),
    ("ISCSIPersistentVolumeSource", &["readOnly", "chapAuthDiscovery", "chapAuthSession"]),
    ("ISCSIVolumeSource", &["readOnly", "chapAuthDiscovery", "chapAuthSession"]),
    (
        "JSONSchemaProps",
        &[
            "exclusiveMaximum",
            "exclusiveMinimum",
            "uniqueItems",
            "nullable",
            "x-kubernetes-embedded-resource",
            "x-kubernetes-int-or-string",
        ],
    ),
    ("JobStatus", &["active", "succeeded", "failed"]),
    ("NFSVolumeSource", &["readOnly"]),
    ("NodeSpec", &["unschedulable"]),
    ("ObjectMeta", &["generation"]),
    ("PersistentVolumeClaimVolumeSource", &["readOnly"]),
    ("PodCondition", &["observedGeneration"]),
    ("PodDisruptionBudgetStatus", &["observedGeneration"]),
    ("PodSpec", &["hostNetwork", "hostPID", "hostIPC"]),
    ("PodStatus", &["observedGeneration"]),
    ("PortworxVolumeSource", &["readOnly"]),
    ("PriorityClass", &["globalDefault"]),
    (
        "Probe",
        &["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"],
    ),
    ("QuobyteVolumeSource", &["readOnly"]),
    ("RBDPersistentVolumeSource", &["readOnly"]),
    ("RBDVolumeSource", &["readOnly"]),
    ("ReplicaSetSpec", &["minReadySeconds"]),
    (
        "ReplicaSetStatus",
        &["fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"],
    ),
    ("ReplicationControllerSpec", &["minReadySeconds"]),
    (
        "ReplicationControllerStatus",
        &["fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"],
    ),
    ("ResourcePolicyRule", &["clusterScope"]),
    ("ScaleIOVolumeSource", &["sslEnabled", "readOnly"]),
    ("ServiceBackendPort", &["number"]),
    ("ServicePort", &["nodePort"]),
    ("ServiceSpec", &["publishNotReadyAddresses", "healthCheckNodePort"]),
    ("StatefulSetSpec", &["minReadySeconds"]),
    ("StatefulSetStatus", &["observedGeneration", "readyReplicas", "currentReplicas", "updatedReplicas"]),
    ("SubjectAccessReviewStatus", &["denied"]),
    ("TokenReviewStatus", &["authenticated"]),
    ("VolumeMount", &["readOnly"]),
];

/// Whether Go leaves this value of a member out of JSON.
pub(super) fn is_omitted(message: &str, member: &str, value: &Value) -> bool {
    let zero = match value {
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_i64() == Some(0),
        // Go's encoder writes empty strings that JSON leaves out.
        Value::String(text) => return text.is_empty(),
        _ => false,
    };
    let found = || OMITTED.binary_search_by(|(name, _)| (*name).cmp(message)).ok();
    zero && found().is_some_and(|at| OMITTED[at].1.contains(&member))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::types;

    #[test]
    fn the_table_is_sorted_and_names_members_that_there_are() {
        assert!(OMITTED.is_sorted_by_key(|(name, _)| *name));
        for (message, members) in OMITTED {
            let known: Vec<_> = types().named(message).collect();
            assert!(!known.is_empty(), "{message}");
            for member in members {
                assert!(known.iter().any(|kind| kind.field(member).is_some()), "{message}.{member}");
            }
        }
    }

    #[test]
    fn what_was_said_is_kept() {
        assert!(is_omitted("ContainerPort", "hostPort", &0.into()));
        assert!(!is_omitted("ContainerPort", "hostPort", &80.into()));
        assert!(!is_omitted("PodSpec", "terminationGracePeriodSeconds", &0.into()));
        assert!(!is_omitted("DeploymentSpec", "replicas", &0.into()));
        assert!(!is_omitted("PodSpec", "automountServiceAccountToken", &false.into()));
        assert!(is_omitted("Anything", "text", &"".into()));
    }
}
