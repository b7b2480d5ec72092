//! A container of a pod in the engine's words.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use cirro_client::{name, namespace, text, uid};
use cirro_seams::container::{ContainerSpec, NetworkMode, Owner, PidMode, Resources};
use cirro_seams::network::Protocol;
use cirro_seams::node::Sandbox;
use cirro_types::Quantity;
use serde_json::Value;

use crate::due::ContainerPlan;
use crate::environment::{self, EnvironmentError};
use crate::volumes::{self, VolumeError};
use crate::{CLUSTER_DOMAIN, Kubelet};

/// Why a container cannot be made as the pod asks.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpecError {
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error("{0} is not supported yet")]
    NotSupported(&'static str),
    #[error("unable to find target container {0}")]
    NoTarget(String),
}

impl Kubelet {
    /// Puts together what the engine is asked for.
    pub(crate) fn container_spec(
        &self,
        pod: &Arc<Value>,
        sandbox: &Sandbox,
        plan: &ContainerPlan,
    ) -> Result<ContainerSpec, SpecError> {
        refuse_unsupported(pod, &plan.spec)?;
        let environment = environment::of(self, pod, sandbox, &plan.spec)?;
        let expand = |member: &str| {
            let words = plan.spec[member].as_array()?;
            Some(
                words
                    .iter()
                    .filter_map(Value::as_str)
                    .map(|word| environment::expand(word, &environment))
                    .collect(),
            )
        };
        let command: Option<Vec<String>> = expand("command");
        let args: Option<Vec<String>> = expand("args");
        let (pod_security, security) = (&pod["spec"]["securityContext"], &plan.spec["securityContext"]);
        let setting = |member: &str| {
            let own = &security[member];
            if own.is_null() { &pod_security[member] } else { own }
        };
        let words = |value: &Value| -> Vec<String> {
            value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let (dns, dns_search, dns_options) = self.dns(pod);
        Ok(ContainerSpec {
            name: Some(format!(
                "k8s_{}_{}_{}_{}_{}",
                plan.name(),
                name(pod),
                namespace(pod),
                uid(pod),
                plan.attempt
            )),
            image: text(&plan.spec, "/image").to_owned(),
            // A pod's command replaces entrypoint and arguments of the image, its args only the arguments.
            command: args.or_else(|| command.is_some().then(Vec::new)),
            entrypoint: command,
            env: environment.iter().map(|(name, value)| format!("{name}={value}")).collect(),
            labels: labels(pod, plan),
            user: user(setting("runAsUser"), setting("runAsGroup")),
            additional_gids: groups(pod_security),
            working_dir: Some(text(&plan.spec, "/workingDir"))
                .filter(|dir| !dir.is_empty())
                .map(str::to_owned),
            tty: plan.spec["tty"] == true,
            open_stdin: plan.spec["stdin"] == true,
            stdin_once: plan.spec["stdinOnce"] == true,
            network: NetworkMode::Sandbox(sandbox.uid.clone()),
            exposed_ports: exposed_ports(&plan.spec),
            dns,
            dns_search,
            dns_options,
            extra_hosts: host_aliases(pod),
            mounts: volumes::mounts(self, pod, &plan.spec)?,
            resources: resources(&plan.spec["resources"]),
            privileged: security["privileged"] == true,
            read_only_root: security["readOnlyRootFilesystem"] == true,
            cap_add: words(&security["capabilities"]["add"]),
            cap_drop: words(&security["capabilities"]["drop"]),
            security_opt: if security["allowPrivilegeEscalation"] == false {
                vec!["no-new-privileges".into()]
            } else {
                Vec::new()
            },
            pid_mode: pid_mode(pod, plan)?,
            owner: Owner::Pod {
                uid: uid(pod).to_owned(),
                namespace: namespace(pod).to_owned(),
                name: name(pod).to_owned(),
                container: plan.name().to_owned(),
            },
            ..ContainerSpec::default()
        })
    }

    fn dns(&self, pod: &Value) -> (Vec<IpAddr>, Vec<String>, Vec<String>) {
        let config = &pod["spec"]["dnsConfig"];
        let words = |member: &str| -> Vec<String> {
            config[member]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect()
        };
        let mut servers: Vec<IpAddr> = Vec::new();
        let (mut search, mut options) = (Vec::new(), Vec::new());
        let policy = text(pod, "/spec/dnsPolicy");
        let host_network = pod["spec"]["hostNetwork"] == true;
        if policy == "ClusterFirstWithHostNet" || (matches!(policy, "" | "ClusterFirst") && !host_network) {
            servers.push(self.options.dns_address.into());
            let of = namespace(pod);
            search.extend([
                format!("{of}.svc.{CLUSTER_DOMAIN}"),
                format!("svc.{CLUSTER_DOMAIN}"),
                CLUSTER_DOMAIN.into(),
            ]);
            options.push("ndots:5".to_owned());
        }
        servers.extend(words("nameservers").iter().filter_map(|server| server.parse::<IpAddr>().ok()));
        search.extend(words("searches"));
        for option in config["options"].as_array().into_iter().flatten() {
            let (name, value) = (text(option, "/name"), text(option, "/value"));
            options.retain(|earlier| earlier.split(':').next() != Some(name));
            options.push(if value.is_empty() { name.to_owned() } else { format!("{name}:{value}") });
        }
        (servers, search, options)
    }
}

/// Whose processes a container sees.
fn pid_mode(pod: &Value, plan: &ContainerPlan) -> Result<PidMode, SpecError> {
    let target = text(&plan.spec, "/targetContainerName");
    match &plan.beside {
        Some(id) => Ok(PidMode::Container(id.clone())),
        None if !target.is_empty() => Err(SpecError::NoTarget(target.to_owned())),
        None if pod["spec"]["hostPID"] == true => Ok(PidMode::Host),
        None => Ok(PidMode::Private),
    }
}

fn refuse_unsupported(pod: &Value, container: &Value) -> Result<(), SpecError> {
    let asked = [
        (pod["spec"]["hostIPC"] == true, "hostIPC"),
        (pod["spec"]["shareProcessNamespace"] == true, "shareProcessNamespace"),
        (pod["spec"]["hostUsers"] == false, "hostUsers: false"),
        (!pod["spec"]["runtimeClassName"].is_null(), "runtimeClassName"),
        (!container["volumeDevices"].is_null(), "volumeDevices"),
        (!container["lifecycle"]["postStart"].is_null(), "lifecycle.postStart"),
        (container["restartPolicy"] == "Always", "restartPolicy of an init container"),
    ];
    match asked.into_iter().find(|(asked, _)| *asked) {
        Some((_, what)) => Err(SpecError::NotSupported(what)),
        None => Ok(()),
    }
}

fn labels(pod: &Value, plan: &ContainerPlan) -> BTreeMap<String, String> {
    let own = [
        ("io.kubernetes.pod.name", name(pod)),
        ("io.kubernetes.pod.namespace", namespace(pod)),
        ("io.kubernetes.pod.uid", uid(pod)),
        ("io.kubernetes.container.name", plan.name()),
    ];
    own.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn user(user: &Value, group: &Value) -> Option<String> {
    match (user.as_i64(), group.as_i64()) {
        (Some(user), Some(group)) => Some(format!("{user}:{group}")),
        (Some(user), None) => Some(user.to_string()),
        (None, Some(group)) => Some(format!("0:{group}")),
        (None, None) => None,
    }
}

fn groups(security: &Value) -> Vec<u32> {
    let supplemental = security["supplementalGroups"].as_array().into_iter().flatten();
    let all = supplemental.chain([&security["fsGroup"]]).filter_map(Value::as_u64);
    all.filter_map(|group| u32::try_from(group).ok()).collect()
}

fn exposed_ports(container: &Value) -> Vec<(u16, Protocol)> {
    let ports = container["ports"].as_array().into_iter().flatten();
    ports
        .filter_map(|port| {
            let protocol = if port["protocol"] == "UDP" { Protocol::Udp } else { Protocol::Tcp };
            Some((u16::try_from(port["containerPort"].as_u64()?).ok()?, protocol))
        })
        .collect()
}

fn host_aliases(pod: &Value) -> Vec<(String, IpAddr)> {
    let mut hosts = Vec::new();
    for alias in pod["spec"]["hostAliases"].as_array().into_iter().flatten() {
        let Ok(address) = text(alias, "/ip").parse::<IpAddr>() else { continue };
        for host in alias["hostnames"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            hosts.push((host.to_owned(), address));
        }
    }
    hosts
}

/// Requests become weights, limits become limits, as upstream computes them.
pub(crate) fn resources(wanted: &Value) -> Resources {
    let amount =
        |kind: &str, resource: &str| text(wanted, &format!("/{kind}/{resource}")).parse::<Quantity>().ok();
    let cpu_limit = amount("limits", "cpu").map(Quantity::milli).filter(|milli| *milli > 0);
    let cpu_request = amount("requests", "cpu").map(Quantity::milli).or(cpu_limit);
    let memory = amount("limits", "memory").map(Quantity::units).filter(|bytes| *bytes > 0);
    Resources {
        memory,
        // No swap beside the memory.
        memory_swap: memory,
        cpu_shares: Some(cpu_request.map_or(2, |milli| (milli.unsigned_abs() * 1024 / 1000).max(2))),
        cpu_period: cpu_limit.map(|_| 100_000),
        // The kernel refuses less than a millisecond.
        cpu_quota: cpu_limit.map(|milli| (milli * 100).max(1000)),
        ..Resources::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_become_shares_and_limits_become_quotas() {
        let wanted = json!({"requests": {"cpu": "10m", "memory": "10Mi"},
            "limits": {"cpu": "50m", "memory": "50Mi"}});
        let resources = resources(&wanted);
        assert_eq!(resources.cpu_shares, Some(10));
        assert_eq!((resources.cpu_quota, resources.cpu_period), (Some(5000), Some(100_000)));
        assert_eq!(resources.memory, Some(50 << 20));
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        let pod = json!({"spec": {"hostIPC": true}});
        assert_eq!(
            refuse_unsupported(&pod, &json!({})).unwrap_err().to_string(),
            "hostIPC is not supported yet"
        );
        assert!(refuse_unsupported(&json!({"spec": {}}), &json!({"name": "c"})).is_ok());
    }
}
