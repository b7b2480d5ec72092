//! The decision: which node, or why none.

use std::collections::BTreeMap;
use std::fmt;

use crate::snapshot::{Node, Request, Snapshot};

/// Why no node fits; displays as upstream's message does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    nodes: usize,
    reasons: BTreeMap<String, usize>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        write!(f, "0/{} nodes are available: ", self.nodes)?;
        for (place, (reason, count)) in self.reasons.iter().enumerate() {
            write!(f, "{}{count} {reason}", if place == 0 { "" } else { ", " })?;
        }
        f.write_str(".")
    }
}

/// Chooses the node for a request: of those that fit, the one that is used least.
///
/// # Errors
/// The reasons of all nodes, counted.
pub fn place<'a>(snapshot: &'a Snapshot, request: &Request) -> Result<&'a Node, Refusal> {
    let mut refusal = Refusal { nodes: snapshot.nodes.len(), reasons: BTreeMap::new() };
    let mut best: Option<(i64, &Node)> = None;
    for node in &snapshot.nodes {
        let reasons = obstacles(node, request);
        if reasons.is_empty() {
            let score = free_share(node, request);
            if best.is_none_or(|(highest, _)| score > highest) {
                best = Some((score, node));
            }
        }
        for reason in reasons {
            *refusal.reasons.entry(reason).or_insert(0) += 1;
        }
    }
    best.map(|(_, node)| node).ok_or(refusal)
}

/// Returns what keeps a request from a node, in upstream's words.
///
/// Upstream's filters stop at the first that refuses; resources report all that lack.
fn obstacles(node: &Node, request: &Request) -> Vec<String> {
    if node.unschedulable {
        return vec!["node(s) were unschedulable".into()];
    }
    let hindering = |effect: &str| effect == "NoSchedule" || effect == "NoExecute";
    let untolerated = node.taints.iter().filter(|taint| hindering(&taint.effect));
    if let Some(taint) = untolerated
        .into_iter()
        .find(|taint| !request.tolerations.iter().any(|toleration| toleration.covers(taint)))
    {
        return vec![format!("node(s) had untolerated taint {{{}: {}}}", taint.key, taint.value)];
    }
    if request.node_selector.iter().any(|(key, value)| node.labels.get(key) != Some(value)) {
        return vec!["node(s) didn't match Pod's node affinity/selector".into()];
    }
    let taken = node.used.iter().flat_map(|used| &used.host_ports);
    if taken.into_iter().any(|taken| request.host_ports.iter().any(|port| port.collides(taken))) {
        return vec!["node(s) didn't have free ports for the requested pod ports".into()];
    }
    let sum = |amount: fn(&Request) -> i64| node.used.iter().map(amount).sum::<i64>();
    let mut lacking = Vec::new();
    if request.is_pod && sum(|used| i64::from(used.is_pod)) + 1 > node.pods {
        lacking.push("Too many pods".into());
    }
    if request.cpu_milli > 0 && sum(|used| used.cpu_milli) + request.cpu_milli > node.cpu_milli {
        lacking.push("Insufficient cpu".into());
    }
    if request.memory > 0 && sum(|used| used.memory) + request.memory > node.memory {
        lacking.push("Insufficient memory".into());
    }
    lacking
}

/// How much would stay free, in thousandths, processors and memory alike; fewer workloads win a tie.
fn free_share(node: &Node, request: &Request) -> i64 {
    let share = |capacity: i64, amount: fn(&Request) -> i64| {
        let used: i64 = node.used.iter().map(amount).sum::<i64>() + amount(request);
        if capacity <= 0 { 0 } else { (capacity - used).max(0).saturating_mul(1000) / capacity }
    };
    let crowd = i64::try_from(node.used.len()).unwrap_or(i64::MAX).min(1000);
    (share(node.cpu_milli, |used| used.cpu_milli) + share(node.memory, |used| used.memory)) * 1000 - crowd
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::snapshot::HostPort;

    fn node(name: &str) -> Node {
        Node { name: name.into(), cpu_milli: 2000, memory: 1 << 30, pods: 3, ..Node::default() }
    }

    fn pod(cpu_milli: i64, memory: i64) -> Request {
        Request { cpu_milli, memory, is_pod: true, ..Request::default() }
    }

    #[test]
    fn a_taken_host_port_is_told_in_upstreams_words() {
        let port = |address: &str| HostPort { address: address.into(), port: 8080, protocol: "TCP".into() };
        let first = Request { host_ports: vec![port("")], ..pod(10, 10) };
        let mut snapshot = Snapshot { nodes: vec![node("a")] };
        assert_eq!(place(&snapshot, &first).unwrap().name, "a");
        snapshot.nodes[0].used.push(first.clone());
        let other_address = Request { host_ports: vec![port("127.0.0.1")], ..pod(10, 10) };
        for request in [first, other_address] {
            assert_eq!(
                place(&snapshot, &request).unwrap_err().to_string(),
                "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."
            );
        }
    }

    #[test]
    fn reasons_are_counted_over_the_nodes() {
        let mut full = node("b");
        full.used.push(pod(1990, 0));
        let cordoned = Node { unschedulable: true, ..node("c") };
        let snapshot = Snapshot { nodes: vec![full.clone(), full, cordoned] };
        assert_eq!(
            place(&snapshot, &pod(100, 0)).unwrap_err().to_string(),
            "0/3 nodes are available: 2 Insufficient cpu, 1 node(s) were unschedulable."
        );
        assert_eq!(
            place(&Snapshot::default(), &pod(1, 1)).unwrap_err().to_string(),
            "no nodes available to schedule pods"
        );
    }

    #[test]
    fn taints_and_selectors_are_honoured() {
        let object = json!({"metadata": {"name": "a", "labels": {"disk": "ssd"}},
            "spec": {"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]},
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "10"}}});
        let snapshot = Snapshot { nodes: vec![Node::read(&object)] };
        let request = |tolerations: serde_json::Value, selector: serde_json::Value| {
            Request::of_pod(
                &json!({"spec": {"containers": [], "tolerations": tolerations, "nodeSelector": selector}}),
            )
        };
        let tolerant = json!([{"key": "gpu", "operator": "Exists"}]);
        assert!(place(&snapshot, &request(tolerant.clone(), json!({"disk": "ssd"}))).is_ok());
        let refusal = place(&snapshot, &request(json!([]), json!({}))).unwrap_err().to_string();
        assert!(refusal.contains("untolerated taint {gpu: yes}"), "{refusal}");
        let refusal = place(&snapshot, &request(tolerant, json!({"disk": "hdd"}))).unwrap_err().to_string();
        assert!(refusal.contains("node affinity/selector"), "{refusal}");
    }

    #[test]
    fn the_emptier_node_wins() {
        let mut busy = node("a");
        busy.used.push(pod(500, 1000));
        let snapshot = Snapshot { nodes: vec![busy, node("b")] };
        assert_eq!(place(&snapshot, &pod(10, 10)).unwrap().name, "b");
    }

    #[test]
    fn init_containers_count_by_the_largest() {
        let container = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let pod = json!({"spec": {"containers": [container("100m"), container("200m")],
            "initContainers": [container("500m"), container("50m")]}});
        assert_eq!(Request::of_pod(&pod).cpu_milli, 500);
    }

    proptest! {
        #[test]
        fn no_node_is_ever_overcommitted(requests in prop::collection::vec((0_i64..1500, 0_i64..(1 << 29)), 0..40)) {
            let mut snapshot = Snapshot { nodes: vec![node("a"), node("b"), node("c")] };
            for (cpu, memory) in requests {
                let request = pod(cpu, memory);
                let chosen = place(&snapshot, &request).ok().map(|node| node.name.clone());
                for node in &mut snapshot.nodes {
                    if Some(&node.name) == chosen.as_ref() {
                        node.used.push(request.clone());
                    }
                }
            }
            for node in &snapshot.nodes {
                prop_assert!(node.used.iter().map(|used| used.cpu_milli).sum::<i64>() <= node.cpu_milli);
                prop_assert!(node.used.iter().map(|used| used.memory).sum::<i64>() <= node.memory);
                prop_assert!(node.used.len() <= 3);
            }
        }
    }
}
