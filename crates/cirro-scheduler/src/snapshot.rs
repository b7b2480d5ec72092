//! What the scheduler sees of nodes and workloads.

use std::collections::BTreeMap;

use cirro_client::{labels, name, text};
use cirro_types::Quantity;
use serde_json::Value;

/// Everything a decision is made from.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The nodes, in order of their names.
    pub nodes: Vec<Node>,
}

/// A node with what is taken of it.
#[derive(Debug, Clone, Default)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its taints.
    pub taints: Vec<Taint>,
    /// Whether it was cordoned.
    pub unschedulable: bool,
    /// Thousandths of a processor that pods may have.
    pub cpu_milli: i64,
    /// Bytes of memory that pods may have.
    pub memory: i64,
    /// Number of pods that it may have.
    pub pods: i64,
    /// What the workloads on it asked for.
    pub used: Vec<Request>,
}

/// What a workload asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// Thousandths of a processor.
    pub cpu_milli: i64,
    /// Bytes of memory.
    pub memory: i64,
    /// Whether it counts as a pod.
    pub is_pod: bool,
    /// Ports of the host.
    pub host_ports: Vec<HostPort>,
    /// Labels that its node must have.
    pub node_selector: BTreeMap<String, String>,
    /// What it puts up with.
    pub tolerations: Vec<Toleration>,
}

/// A port of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// Host address; every one when empty.
    pub address: String,
    /// Number.
    pub port: i64,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

/// A taint of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value.
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

/// A toleration of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toleration {
    /// Key; every one when empty.
    pub key: String,
    /// Value.
    pub value: String,
    /// Effect; every one when empty.
    pub effect: String,
    /// Whether only the key counts.
    pub exists: bool,
}

impl Node {
    /// Reads a node object; nothing is used on it yet.
    pub fn read(node: &Value) -> Self {
        let quantity = |pointer: &str| text(node, pointer).parse::<Quantity>().unwrap_or_default();
        let taints = node.pointer("/spec/taints").and_then(Value::as_array);
        Self {
            name: name(node).to_owned(),
            labels: owned(labels(node)),
            taints: taints.into_iter().flatten().map(Taint::read).collect(),
            unschedulable: node.pointer("/spec/unschedulable") == Some(&Value::Bool(true)),
            cpu_milli: quantity("/status/allocatable/cpu").milli(),
            memory: quantity("/status/allocatable/memory").units(),
            pods: quantity("/status/allocatable/pods").units(),
            used: Vec::new(),
        }
    }
}

impl Taint {
    fn read(taint: &Value) -> Self {
        let part = |pointer: &str| text(taint, pointer).to_owned();
        Self { key: part("/key"), value: part("/value"), effect: part("/effect") }
    }
}

impl Toleration {
    fn read(toleration: &Value) -> Self {
        let part = |pointer: &str| text(toleration, pointer).to_owned();
        Self {
            key: part("/key"),
            value: part("/value"),
            effect: part("/effect"),
            exists: text(toleration, "/operator") == "Exists",
        }
    }

    /// Whether it covers a taint.
    pub fn covers(&self, taint: &Taint) -> bool {
        (self.effect.is_empty() || self.effect == taint.effect)
            && (self.key.is_empty() || self.key == taint.key)
            && (self.exists || self.value == taint.value)
    }
}

impl Request {
    /// Reads a pod object.
    ///
    /// A pod needs the sum of its containers, or what its largest init container needs when that is more.
    pub fn of_pod(pod: &Value) -> Self {
        let containers = |list: &str| -> Vec<&Value> {
            pod.pointer(list).and_then(Value::as_array).into_iter().flatten().collect()
        };
        let main = containers("/spec/containers");
        let init = containers("/spec/initContainers");
        let amount = |container: &&Value, resource: &str| {
            text(container, &format!("/resources/requests/{resource}"))
                .parse::<Quantity>()
                .unwrap_or_default()
        };
        let need = |resource: &str, read: fn(Quantity) -> i64| {
            let sum: i64 = main.iter().map(|container| read(amount(container, resource))).sum();
            let largest = init.iter().map(|container| read(amount(container, resource))).max();
            // What its class of runtimes takes beside the containers.
            let overhead = text(pod, &format!("/spec/overhead/{resource}")).parse().unwrap_or_default();
            sum.max(largest.unwrap_or(0)) + read(overhead)
        };
        let ports = main.iter().filter_map(|container| container["ports"].as_array()).flatten();
        let selector = pod.pointer("/spec/nodeSelector").and_then(Value::as_object);
        let tolerations = pod.pointer("/spec/tolerations").and_then(Value::as_array);
        Self {
            cpu_milli: need("cpu", Quantity::milli),
            memory: need("memory", Quantity::units),
            is_pod: true,
            host_ports: ports.filter_map(HostPort::read).collect(),
            node_selector: selector
                .into_iter()
                .flatten()
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect(),
            tolerations: tolerations.into_iter().flatten().map(Toleration::read).collect(),
        }
    }

    /// Reads an instance object. Its processors are shared with others, its memory is not.
    pub fn of_instance(instance: &Value) -> Self {
        let memory = text(instance, "/spec/memory").parse::<Quantity>().unwrap_or_default();
        Self { memory: memory.units(), ..Self::default() }
    }
}

impl HostPort {
    fn read(port: &Value) -> Option<Self> {
        let number = port["hostPort"].as_i64().filter(|number| *number > 0)?;
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        let address = port["hostIP"].as_str().filter(|address| *address != "0.0.0.0").unwrap_or_default();
        Some(Self { address: address.to_owned(), port: number, protocol: protocol.to_owned() })
    }

    /// Whether both cannot be had at once.
    pub fn collides(&self, other: &Self) -> bool {
        let addresses = self.address.is_empty() || other.address.is_empty() || self.address == other.address;
        addresses && self.port == other.port && self.protocol == other.protocol
    }
}

fn owned(labels: BTreeMap<&str, &str>) -> BTreeMap<String, String> {
    labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}
