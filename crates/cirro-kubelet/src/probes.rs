//! Startup, readiness and liveness probes: a task each, results in memory.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cirro_client::{WorkQueue, text, uid};
use cirro_seams::container::{Container, Phase};
use cirro_seams::node::{ExecRequest, NodeEngine};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tracing::debug;

use crate::pods::container_name;

/// A container that liveness gave up gets this time to end, unless its pod says otherwise.
const DEFAULT_GRACE: i64 = 30;

/// The probes of all pods.
pub(crate) struct Probes {
    engine: Arc<dyn NodeEngine>,
    queue: Arc<WorkQueue<String>>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// By pod and container.
    results: HashMap<(String, String), Outcome>,
    /// By container id.
    tasks: HashMap<String, (String, Vec<AbortHandle>)>,
}

/// What the probes of one container found.
#[derive(Debug, Clone, Copy)]
struct Outcome {
    started: bool,
    ready: bool,
}

/// What the probes of one pod found.
#[derive(Debug, Default)]
pub(crate) struct Results {
    unstarted: HashSet<String>,
    unready: HashSet<String>,
}

impl Results {
    /// Whether a container has passed its startup probe, or has none.
    pub(crate) fn started(&self, container: &str) -> bool {
        !self.unstarted.contains(container)
    }

    /// Whether a container has passed its readiness probe, or has none.
    pub(crate) fn ready(&self, container: &str) -> bool {
        !self.unready.contains(container)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Startup,
    Readiness,
    Liveness,
}

/// A probe as the pod describes it.
struct Probe {
    kind: Kind,
    action: Value,
    initial_delay: Duration,
    period: Duration,
    timeout: Duration,
    success_threshold: u64,
    failure_threshold: u64,
    grace: i64,
    address: Ipv4Addr,
    ports: Value,
}

impl Probes {
    pub(crate) fn new(engine: Arc<dyn NodeEngine>, queue: Arc<WorkQueue<String>>) -> Self {
        Self { engine, queue, state: Arc::default() }
    }

    /// Starts the probes of containers that run, ends those of containers that do not.
    pub(crate) fn follow(&self, pod: &Value, containers: &[Container], address: Ipv4Addr) {
        let pod_uid = uid(pod);
        let running: Vec<&Container> =
            containers.iter().filter(|container| container.phase == Phase::Running).collect();
        let mut state = self.state();
        state.tasks.retain(|id, (of, tasks)| {
            let stays = of != pod_uid || running.iter().any(|container| container.id == *id);
            if !stays {
                tasks.iter().for_each(AbortHandle::abort);
            }
            stays
        });
        for container in running {
            let name = container_name(container);
            let specs = pod["spec"]["containers"].as_array().into_iter().flatten();
            let Some(spec) = specs.into_iter().find(|spec| spec["name"] == name) else { continue };
            if state.tasks.contains_key(&container.id) {
                continue;
            }
            let key = (pod_uid.to_owned(), name.to_owned());
            let startup = Probe::read(Kind::Startup, spec, pod, address);
            let readiness = Probe::read(Kind::Readiness, spec, pod, address);
            // A kubelet that starts anew goes by what the one before it found of this very container.
            let earlier = earlier(pod, container);
            let outcome = Outcome {
                started: startup.is_none() || earlier.started,
                ready: readiness.is_none() || earlier.ready,
            };
            let startup = startup.filter(|_| !earlier.started);
            state.results.insert(key.clone(), outcome);
            let rest = [readiness, Probe::read(Kind::Liveness, spec, pod, address)];
            let run = Run {
                engine: self.engine.clone(),
                queue: self.queue.clone(),
                state: self.state.clone(),
                key,
                id: container.id.clone(),
            };
            let task = tokio::spawn(run.all(startup, rest.into_iter().flatten().collect()));
            state.tasks.insert(container.id.clone(), (pod_uid.to_owned(), vec![task.abort_handle()]));
        }
    }

    /// Returns what the probes of a pod found.
    pub(crate) fn results(&self, pod_uid: &str) -> Results {
        let state = self.state();
        let mut results = Results::default();
        for ((_, container), outcome) in state.results.iter().filter(|((of, _), _)| of == pod_uid) {
            if !outcome.started {
                results.unstarted.insert(container.clone());
            }
            if !outcome.ready {
                results.unready.insert(container.clone());
            }
        }
        results
    }

    /// Ends the probes of a pod.
    pub(crate) fn stop(&self, pod_uid: &str) {
        let mut state = self.state();
        state.results.retain(|(of, _), _| of != pod_uid);
        state.tasks.retain(|_, (of, tasks)| {
            if of == pod_uid {
                tasks.iter().for_each(AbortHandle::abort);
            }
            of != pod_uid
        });
    }

    /// Ends every probe.
    pub(crate) fn stop_all(&self) {
        let mut state = self.state();
        for (_, tasks) in state.tasks.values() {
            tasks.iter().for_each(AbortHandle::abort);
        }
        state.tasks.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the pod's status says of a container that runs; of another run of it, nothing.
fn earlier(pod: &Value, container: &Container) -> Outcome {
    let statuses = pod.pointer("/status/containerStatuses").and_then(Value::as_array);
    let own = format!("cirro://{}", container.id);
    let status = statuses.into_iter().flatten().find(|status| status["containerID"] == own.as_str());
    let says = |member: &str| status.is_some_and(|status| status[member] == true);
    Outcome { started: says("started"), ready: says("ready") }
}

/// The probing of one container.
struct Run {
    engine: Arc<dyn NodeEngine>,
    queue: Arc<WorkQueue<String>>,
    state: Arc<Mutex<State>>,
    key: (String, String),
    id: String,
}

impl Run {
    async fn all(self, startup: Option<Probe>, rest: Vec<Probe>) {
        if let Some(startup) = startup {
            self.follow(&startup).await;
        }
        futures_join(rest.iter().map(|probe| self.follow(probe))).await;
    }

    /// Probes again and again; a startup probe ends with its first success, a liveness probe with the kill.
    async fn follow(&self, probe: &Probe) {
        tokio::time::sleep(probe.initial_delay).await;
        let (mut successes, mut failures) = (0, 0);
        loop {
            let attempt = tokio::time::timeout(probe.timeout, self.attempt(probe)).await;
            let failure = match attempt {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error),
                Err(_) => Some("timed out".to_owned()),
            };
            match failure {
                None => (successes, failures) = (successes + 1, 0),
                Some(error) => {
                    debug!(container = %self.key.1, kind = ?probe.kind, error, "probe failed");
                    (successes, failures) = (0, failures + 1);
                }
            }
            if successes >= probe.success_threshold {
                self.note(|outcome| match probe.kind {
                    Kind::Startup => outcome.started = true,
                    Kind::Readiness => outcome.ready = true,
                    Kind::Liveness => {}
                });
                if probe.kind == Kind::Startup {
                    return;
                }
            } else if failures >= probe.failure_threshold {
                if probe.kind == Kind::Readiness {
                    self.note(|outcome| outcome.ready = false);
                } else {
                    // The restart policy brings it back.
                    let _ = self.engine.stop_container(&self.id, probe.grace).await;
                    return;
                }
            }
            tokio::time::sleep(probe.period).await;
        }
    }

    fn note(&self, change: impl FnOnce(&mut Outcome)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(outcome) = state.results.get_mut(&self.key) else { return };
        let before = *outcome;
        change(outcome);
        if (before.started, before.ready) != (outcome.started, outcome.ready) {
            self.queue.add(self.key.0.clone());
        }
    }

    async fn attempt(&self, probe: &Probe) -> Result<(), String> {
        if let Some(exec) = probe.action.get("exec") {
            return self.exec(exec).await;
        }
        if let Some(get) = probe.action.get("httpGet") {
            return http_get(get, probe.target(get)?).await;
        }
        if let Some(socket) = probe.action.get("tcpSocket") {
            let connected = TcpStream::connect(probe.target(socket)?).await;
            return connected.map(drop).map_err(|error| error.to_string());
        }
        Err("this kind of probe is not supported yet".into())
    }

    async fn exec(&self, exec: &Value) -> Result<(), String> {
        let words = exec["command"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let command = words.map(str::to_owned).collect();
        let request = ExecRequest { command, stdout: true, stderr: true, ..ExecRequest::default() };
        let mut session = self.engine.exec(&self.id, request).await.map_err(|error| error.to_string())?;
        while session.output.recv().await.is_some() {}
        match session.exit.await {
            Ok(0) => Ok(()),
            Ok(code) => Err(format!("command exited with {code}")),
            Err(_) => Err("the command's exit code is unknown".into()),
        }
    }
}

impl Probe {
    fn read(kind: Kind, container: &Value, pod: &Value, address: Ipv4Addr) -> Option<Self> {
        let member = match kind {
            Kind::Startup => "startupProbe",
            Kind::Readiness => "readinessProbe",
            Kind::Liveness => "livenessProbe",
        };
        let action = container.get(member).filter(|action| action.is_object())?;
        let number = |member: &str, default: u64| action[member].as_u64().unwrap_or(default);
        let grace = action["terminationGracePeriodSeconds"].as_i64();
        let of_pod = pod["spec"]["terminationGracePeriodSeconds"].as_i64();
        Some(Self {
            kind,
            action: action.clone(),
            initial_delay: Duration::from_secs(number("initialDelaySeconds", 0)),
            period: Duration::from_secs(number("periodSeconds", 10).max(1)),
            timeout: Duration::from_secs(number("timeoutSeconds", 1).max(1)),
            success_threshold: number("successThreshold", 1).max(1),
            failure_threshold: number("failureThreshold", 3).max(1),
            grace: grace.or(of_pod).unwrap_or(DEFAULT_GRACE),
            address,
            ports: container["ports"].clone(),
        })
    }

    fn target(&self, action: &Value) -> Result<SocketAddr, String> {
        let port = match &action["port"] {
            Value::String(wanted) => {
                let mut ports = self.ports.as_array().into_iter().flatten();
                ports.find(|port| port["name"] == wanted.as_str()).map(|port| &port["containerPort"])
            }
            number => Some(number),
        };
        let port = port.and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
        let port = port.ok_or_else(|| "the probe's port is unknown".to_owned())?;
        let host = match text(action, "/host") {
            "" => IpAddr::V4(self.address),
            host => host.parse().map_err(|_| format!("host `{host}` is not an address"))?,
        };
        Ok(SocketAddr::new(host, port))
    }
}

async fn http_get(get: &Value, target: SocketAddr) -> Result<(), String> {
    if text(get, "/scheme") == "HTTPS" {
        return Err("HTTPS probes are not supported yet".into());
    }
    let say = |error: &dyn std::fmt::Display| error.to_string();
    let stream = TcpStream::connect(target).await.map_err(|error| say(&error))?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| say(&error))?;
    let connection = tokio::spawn(connection);
    let path = Some(text(get, "/path")).filter(|path| path.starts_with('/')).unwrap_or("/");
    let mut request =
        http::Request::builder().uri(path).header("user-agent", "kube-probe/1.33").header("accept", "*/*");
    let headers = get["httpHeaders"].as_array().into_iter().flatten();
    let mut host = target.to_string();
    for header in headers {
        if text(header, "/name").eq_ignore_ascii_case("host") {
            host = text(header, "/value").to_owned();
        } else {
            request = request.header(text(header, "/name"), text(header, "/value"));
        }
    }
    let request = request.header("host", host).body(Empty::<Bytes>::new()).map_err(|error| say(&error))?;
    let response = sender.send_request(request).await.map_err(|error| say(&error));
    connection.abort();
    match response?.status().as_u16() {
        200..400 => Ok(()),
        code => Err(format!("HTTP probe failed with statuscode: {code}")),
    }
}

/// Awaits all futures together.
async fn futures_join(futures: impl Iterator<Item = impl Future<Output = ()>>) {
    let mut futures: Vec<_> = futures.map(Box::pin).collect();
    std::future::poll_fn(|context| {
        futures.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if futures.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_probes_port_may_be_a_name() {
        let container = json!({"ports": [{"name": "web", "containerPort": 8080}],
            "readinessProbe": {"httpGet": {"port": "web", "path": "/ok"}, "periodSeconds": 0}});
        let probe = Probe::read(Kind::Readiness, &container, &json!({}), Ipv4Addr::LOCALHOST).unwrap();
        let target = probe.target(&container["readinessProbe"]["httpGet"]).unwrap();
        assert_eq!(target.to_string(), "127.0.0.1:8080");
        assert_eq!((probe.period, probe.failure_threshold), (Duration::from_secs(1), 3));
        assert!(probe.target(&json!({"port": "other"})).is_err());
        assert!(Probe::read(Kind::Liveness, &container, &json!({}), Ipv4Addr::LOCALHOST).is_none());
    }

    #[test]
    fn what_an_earlier_kubelet_found_holds_for_the_same_run_only() {
        let container = |id: &str| -> Container {
            serde_json::from_value(json!({"id": id, "name": "k8s_c_p_ns_u_0", "spec": {}, "image_id": "", "args": [],
                "env": [], "working_dir": "", "user": "", "labels": {}, "exposed_ports": [], "phase": "running", "pid": 1,
                "exit_code": null, "oom_killed": false, "error": null, "created_at": "", "started_at": null,
                "finished_at": null, "restart_count": 0, "endpoint": null, "ports": [], "log_path": "", "mounts": []}))
            .unwrap()
        };
        let pod = json!({"status": {"containerStatuses": [{"containerID": "cirro://a", "ready": true, "started": true}]}});
        assert!(earlier(&pod, &container("a")).ready && earlier(&pod, &container("a")).started);
        assert!(!earlier(&pod, &container("b")).ready);
    }

    #[tokio::test]
    async fn an_http_probe_judges_by_the_status_code() {
        for (status, fine) in [("200 OK", true), ("302 Found", true), ("404 Not Found", false)] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let target = listener.local_addr().unwrap();
            tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut request).await;
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                tokio::io::AsyncWriteExt::write_all(&mut stream, answer.as_bytes()).await.unwrap();
            });
            assert_eq!(http_get(&json!({"path": "/"}), target).await.is_ok(), fine, "{status}");
        }
    }
}
