//! The OCI runtime document of a container, from everything that was looked up for it.

use std::path::PathBuf;

use cirro_seams::container::{Container, ContainerSpec, IpcMode, NetworkMode};
use oci_spec::runtime::{Process, Spec};
use serde_json::{Value, json};

use super::cdi::Injection;
use super::devices::HostDevices;
use super::host::HostFacts;
use super::merge::override_env;
use super::namespaces::{Joined, namespaces};
use super::security::SeccompChoice;
use super::users::User;
use super::{capabilities, mounts, project, resources, seccomp, security};
use crate::error::EngineError;

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a document is made from.
pub(crate) struct DocumentInput<'a> {
    pub container: &'a Container,
    pub user: &'a User,
    pub hostname: &'a str,
    /// What it joins.
    pub joined: Joined,
    /// Directory of hosts, hostname and resolv.conf.
    pub files: PathBuf,
    /// Devices of the host.
    pub devices: HostDevices,
    /// What devices by name bring with them.
    pub injection: Injection,
    /// Variables of the containers that it is linked to.
    pub links_env: Vec<String>,
    /// Our executable, which is its first process when it wants an init.
    pub init: PathBuf,
    pub host: &'a HostFacts,
}

/// Makes the document.
pub(crate) fn document(input: &DocumentInput<'_>) -> Result<Spec, EngineError> {
    let spec = &input.container.spec;
    let security = security::parse(&spec.security_opt)?;
    let granted = granted(spec, input.host)?;
    let mut linux = json!({
        "namespaces": namespaces(spec, &input.joined, input.host),
        "resources": resources::resources(spec, input.host, &input.devices.rules)?,
        "devices": input.devices.nodes,
    });
    let (masked, read_only) = mounts::system_paths(spec);
    if !masked.is_empty() {
        linux["maskedPaths"] = json!(masked);
    }
    if !read_only.is_empty() {
        linux["readonlyPaths"] = json!(read_only);
    }
    if mounts::want_slave(&input.container.mounts) {
        linux["rootfsPropagation"] = json!("rslave");
    }
    let sysctls = sysctls(spec);
    if sysctls.as_object().is_some_and(|sysctls| !sysctls.is_empty()) {
        linux["sysctl"] = sysctls;
    }
    match (&security.seccomp, spec.privileged) {
        (SeccompChoice::Profile(text), _) => linux["seccomp"] = seccomp::parse_profile(text, &granted)?,
        (SeccompChoice::Default, false) => linux["seccomp"] = seccomp::default_profile(&granted),
        _ => {}
    }
    if let Some(filter) = linux.get_mut("seccomp").filter(|_| spec.storage_size.is_some()) {
        project::keep_project(filter);
    }
    let mut process = process_document(input.container, input.user, input.hostname, input.host)?;
    process["env"] = json!(with_links(&process["env"], &input.links_env));
    inject_process(&mut process, &input.injection);
    let shm = input.joined.shm.as_deref();
    let mut all_mounts = mounts::mounts(spec, &input.container.mounts, &input.files, shm, input.host);
    all_mounts.extend(input.injection.mounts.iter().cloned());
    if spec.init {
        all_mounts.push(mounts::init(&input.init));
        process["args"] = json!(init_args(&input.container.args));
    }
    let mut document = json!({
        "ociVersion": "1.0.2",
        "root": { "path": "rootfs", "readonly": spec.read_only_root },
        "mounts": all_mounts,
        "process": process,
        "linux": linux,
    });
    for (name, hook) in &input.injection.hooks {
        let hooks = document["hooks"].as_object().and_then(|hooks| hooks.get(name)).cloned();
        let mut hooks = hooks.unwrap_or_else(|| json!([]));
        hooks.as_array_mut().expect("made as a list").push(hook.clone());
        document["hooks"][name] = hooks;
    }
    if !spec.annotations.is_empty() {
        document["annotations"] = json!(spec.annotations);
    }
    // The host's own name is not ours to change.
    if !spec.namespaces.host_uts {
        document["hostname"] = json!(input.hostname);
        if let Some(domain) = spec.domainname.as_ref().filter(|domain| !domain.is_empty()) {
            document["domainname"] = json!(domain);
        }
    }
    serde_json::from_value(document).map_err(|error| EngineError::Invalid(format!("container: {error}")))
}

/// Adds what devices by name want of the process.
fn inject_process(process: &mut Value, injection: &Injection) {
    if !injection.env.is_empty() {
        let env: Vec<String> = serde_json::from_value(process["env"].take()).unwrap_or_default();
        process["env"] = json!(override_env(env, &injection.env));
    }
    if let Some(groups) = process["user"]["additionalGids"].as_array_mut() {
        groups.extend(injection.gids.iter().map(|gid| json!(gid)));
    }
}

/// A small init of ours, then the command.
fn init_args(args: &[String]) -> Vec<&str> {
    [mounts::INIT, "--"].into_iter().chain(args.iter().map(String::as_str)).collect()
}

/// Puts the variables of links before the container's own, which win.
fn with_links(env: &Value, links: &[String]) -> Vec<String> {
    let own: Vec<String> = serde_json::from_value(env.clone()).unwrap_or_default();
    if links.is_empty() { own } else { override_env(links.to_vec(), &own) }
}

/// Returns the capabilities of a container on this host.
fn granted(spec: &ContainerSpec, host: &HostFacts) -> Result<Vec<&'static str>, EngineError> {
    capabilities::choose(&spec.cap_add, &spec.cap_drop, spec.privileged, &host.capabilities)
}

fn process_document(
    container: &Container,
    user: &User,
    hostname: &str,
    host: &HostFacts,
) -> Result<Value, EngineError> {
    let spec = &container.spec;
    let granted = granted(spec, host)?;
    let mut process = json!({
        "terminal": spec.tty,
        "user": { "uid": user.uid, "gid": user.gid, "additionalGids": user.groups },
        "args": container.args,
        "env": environment(&container.env, spec.tty, hostname, &user.home),
        "cwd": container.working_dir,
        "capabilities": capability_sets(&granted),
        "noNewPrivileges": security::parse(&spec.security_opt)?.no_new_privileges,
        "rlimits": resources::rlimits(spec, host)?,
    });
    if let Some(score) = resources::oom_score(spec, host) {
        process["oomScoreAdj"] = json!(score);
    }
    Ok(process)
}

/// Makes the document of a command in a running container.
pub(crate) fn exec_process(
    container: &Container,
    request: &cirro_seams::node::ExecRequest,
    user: &User,
    host: &HostFacts,
) -> Result<Process, EngineError> {
    let hostname = hostname(container);
    let mut process = process_document(container, user, &hostname, host)?;
    process["terminal"] = json!(request.tty);
    process["args"] = json!(request.command);
    let env = environment(&container.env, request.tty, &hostname, &user.home);
    process["env"] = json!(override_env(env, &request.env));
    if let Some(dir) = request.working_dir.as_ref().filter(|dir| !dir.is_empty()) {
        process["cwd"] = json!(dir);
    }
    if request.privileged {
        process["capabilities"] = capability_sets(&host.capabilities);
    }
    serde_json::from_value(process).map_err(|error| EngineError::Invalid(format!("exec: {error}")))
}

/// Nothing is inheritable (CVE-2022-24769).
fn capability_sets(names: &[&str]) -> Value {
    json!({ "bounding": names, "effective": names, "permitted": names, "inheritable": [], "ambient": [] })
}

/// Returns a container's host name: its own, the host's on the host's network, or the id's first twelve digits.
pub(crate) fn hostname(container: &Container) -> String {
    if let Some(own) = container.spec.hostname.clone().filter(|name| !name.is_empty()) {
        return own;
    }
    match container.spec.network {
        _ if container.spec.namespaces.host_uts => {
            rustix::system::uname().nodename().to_string_lossy().into_owned()
        }
        NetworkMode::Host => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        _ => container.id.chars().take(12).collect(),
    }
}

/// Docker's defaults, then the container's own over them.
fn environment(own: &[String], tty: bool, hostname: &str, home: &str) -> Vec<String> {
    let mut env = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if tty {
        env.push("TERM=xterm".into());
    }
    env.push(format!("HOME={home}"));
    override_env(env, own)
}

/// The request's, over docker's defaults for a network of its own.
fn sysctls(spec: &ContainerSpec) -> Value {
    let mut all = serde_json::Map::new();
    let own_network =
        !matches!(spec.network, NetworkMode::Host | NetworkMode::Container(_) | NetworkMode::Sandbox(_));
    if own_network && !spec.privileged {
        all.insert("net.ipv4.ip_unprivileged_port_start".into(), json!("0"));
    }
    all.extend(spec.sysctls.iter().map(|(name, value)| (name.clone(), json!(value))));
    Value::Object(all)
}

/// Refuses kernel parameters that are not a namespace's own, in docker's words.
pub(crate) fn check_sysctls(spec: &ContainerSpec) -> Result<(), EngineError> {
    const OWN: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    for name in spec.sysctls.keys() {
        let network = name.starts_with("net.");
        if network && spec.network == NetworkMode::Host {
            let text = format!("sysctl '{name}' not allowed in host network namespace");
            return Err(EngineError::Invalid(text));
        }
        let ipc = name.starts_with("fs.mqueue.") || OWN.contains(&name.as_str());
        if ipc && spec.namespaces.ipc == IpcMode::Host {
            let text = format!("sysctl '{name}' not allowed in host ipc namespace");
            return Err(EngineError::Invalid(text));
        }
        if name == "kernel.domainname" && !spec.namespaces.host_uts {
            continue;
        }
        if !network && !ipc {
            return Err(EngineError::Invalid(format!("sysctl '{name}' is not allowed")));
        }
        if name.contains('/') || name.contains("..") {
            return Err(EngineError::Invalid(format!("sysctl '{name}' is not allowed")));
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
