//! A client as buildx is one: a session whose files, secrets and passwords it serves, and BuildKit's own calls.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cirro_buildkit::messages::{
    BridgeSolveRequest, BridgeSolveResponse, BuildResult, BytesMessage, CredentialsRequest,
    CredentialsResponse, Empty, Exporter, GetSecretRequest, GetSecretResponse, Packet, PongResponse,
    ReturnRequest, RpcStatus, SolveRequest, SolveResponse, Stat, StatusRequest, StatusResponse,
};
use cirro_grpc::client::Channel;
use cirro_grpc::server::{Call, Service};
use cirro_grpc::{Code, Status};
use cirro_seams::Pending;

pub(crate) const METHODS: [&str; 5] = [
    "/moby.filesync.v1.FileSync/DiffCopy",
    "/moby.filesync.v1.FileSend/DiffCopy",
    "/moby.filesync.v1.Auth/Credentials",
    "/moby.buildkit.secrets.v1.Secrets/GetSecret",
    "/moby.upload.v1.Upload/Pull",
];
const CONTROL: &str = "/moby.buildkit.v1.Control";
const BRIDGE: &str = "/moby.buildkit.v1.frontend.LLBBridge";
const DIRECTORY: u32 = 1 << 31;
const LINK: u32 = 1 << 27;

/// What a client serves in its session.
#[derive(Default)]
pub(crate) struct Served {
    /// Directories by name.
    pub(crate) directories: BTreeMap<String, PathBuf>,
    pub(crate) secrets: BTreeMap<String, String>,
    /// What `FileSend` brought, by exporter: bytes, and paths of trees.
    pub(crate) received: Mutex<BTreeMap<String, Vec<u8>>>,
    /// What was asked for of directories: name, and the paths to follow.
    pub(crate) asked: Mutex<Vec<(String, Vec<String>)>>,
    /// Files whose content was asked for.
    pub(crate) requested: Mutex<Vec<String>>,
}

fn values(call: &Call, name: &str) -> Vec<String> {
    let all = call.metadata.get_all(name).iter();
    all.map(|value| value.to_str().unwrap().to_owned()).collect()
}

impl Service for Served {
    fn call(&self, mut call: Call) -> Pending<'_, Result<(), Status>> {
        Box::pin(async move {
            match call.path.as_str() {
                "/moby.filesync.v1.FileSync/DiffCopy" => self.send(call).await,
                "/moby.filesync.v1.FileSend/DiffCopy" => self.receive(call).await,
                "/moby.filesync.v1.Auth/Credentials" => {
                    let asked: CredentialsRequest = call.question().await?;
                    let secret = format!("password of {}", asked.host);
                    call.answers.send(&CredentialsResponse { username: "me".into(), secret }).await
                }
                "/moby.buildkit.secrets.v1.Secrets/GetSecret" => {
                    let asked: GetSecretRequest = call.question().await?;
                    let secret = self.secrets.get(&asked.id);
                    let secret = secret.ok_or_else(|| Status::new(Code::NotFound, "no such secret"))?;
                    call.answers.send(&GetSecretResponse { data: secret.clone().into() }).await
                }
                "/moby.upload.v1.Upload/Pull" => {
                    let path = values(&call, "urlpath").concat();
                    call.answers.send(&BytesMessage { data: format!("upload of {path}").into() }).await
                }
                other => Err(Status::new(Code::Unimplemented, format!("unknown method {other}"))),
            }
        })
    }
}

impl Served {
    async fn send(&self, mut call: Call) -> Result<(), Status> {
        let name = values(&call, "dir-name").concat();
        let follow = values(&call, "followpaths");
        let exclude = values(&call, "exclude-patterns");
        self.asked.lock().unwrap().push((name.clone(), follow.clone()));
        let Some(root) = self.directories.get(&name) else {
            return Err(Status::new(Code::NotFound, format!("no access allowed to dir {name:?}")));
        };
        let mut stats = Vec::new();
        walk(root, "", &mut stats);
        stats.retain(|stat: &Stat| {
            (follow.is_empty() || follow.contains(&stat.path)) && !exclude.contains(&stat.path)
        });
        for stat in &stats {
            let stat = Some(stat.clone());
            call.answers.send(&Packet { kind: Packet::STAT, stat, ..Packet::default() }).await?;
        }
        call.answers.send(&Packet { kind: Packet::STAT, ..Packet::default() }).await?;
        while let Some(packet) = call.messages.next::<Packet>().await? {
            if packet.kind == Packet::FINISH {
                return call.answers.send(&Packet { kind: Packet::FINISH, ..Packet::default() }).await;
            }
            let path = &stats[packet.id as usize].path;
            self.requested.lock().unwrap().push(path.clone());
            let content = std::fs::read(root.join(path)).unwrap();
            for piece in content.chunks(32 << 10).chain([&[][..]]) {
                let data = Bytes::copy_from_slice(piece);
                call.answers
                    .send(&Packet { kind: Packet::DATA, id: packet.id, data, ..Packet::default() })
                    .await?;
            }
        }
        Ok(())
    }

    /// Takes a tree if the first message is an entry of one, else an archive.
    async fn receive(&self, mut call: Call) -> Result<(), Status> {
        let exporter = values(&call, "buildkit-attachable-exporter-id").concat();
        if exporter == "tree" || self.directories.contains_key(&format!("out-{exporter}")) {
            return self.receive_tree(call, exporter).await;
        }
        while let Some(message) = call.messages.next::<BytesMessage>().await? {
            let mut received = self.received.lock().unwrap();
            received.entry(exporter.clone()).or_default().extend_from_slice(&message.data);
        }
        Ok(())
    }

    async fn receive_tree(&self, mut call: Call, exporter: String) -> Result<(), Status> {
        let (mut paths, mut listed, mut open) = (Vec::new(), false, 0);
        while let Some(packet) = call.messages.next::<Packet>().await? {
            match (packet.kind, packet.stat) {
                (Packet::STAT, Some(stat)) => {
                    let id = paths.len() as u32;
                    if stat.mode & (DIRECTORY | LINK) == 0 {
                        open += 1;
                        call.answers.send(&Packet { kind: Packet::REQUEST, id, ..Packet::default() }).await?;
                    }
                    paths.push(stat.path);
                }
                (Packet::STAT, None) => listed = true,
                (Packet::DATA, _) if packet.data.is_empty() => open -= 1,
                (Packet::DATA, _) => {
                    let path = format!("{exporter}/{}", paths[packet.id as usize]);
                    let mut received = self.received.lock().unwrap();
                    received.entry(path).or_default().extend_from_slice(&packet.data);
                }
                (Packet::FINISH, _) => return Ok(()),
                (kind, _) => panic!("packet of type {kind}"),
            }
            if listed && open == 0 {
                call.answers.send(&Packet { kind: Packet::FINISH, ..Packet::default() }).await?;
            }
        }
        Ok(())
    }
}

fn walk(root: &Path, path: &str, stats: &mut Vec<Stat>) {
    let mut names: Vec<_> =
        std::fs::read_dir(root.join(path)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    for name in names {
        let name = name.to_str().unwrap();
        let path = if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
        let meta = root.join(&path).symlink_metadata().unwrap();
        let mut stat = Stat {
            path: path.clone(),
            mode: meta.permissions().mode() & 0o777,
            size: meta.size().cast_signed(),
            modified: meta.mtime() * 1_000_000_000,
            ..Stat::default()
        };
        if meta.is_dir() {
            stat.mode |= DIRECTORY;
        }
        if meta.is_symlink() {
            stat.mode |= LINK;
            stat.link = std::fs::read_link(root.join(&path)).unwrap().to_str().unwrap().to_owned();
        }
        stats.push(stat);
        if meta.is_dir() {
            walk(root, &path, stats);
        }
    }
}

/// What a build came to.
pub(crate) struct Built {
    pub(crate) response: Result<SolveResponse, Status>,
    pub(crate) told: Vec<StatusResponse>,
}

impl Built {
    /// Names of the vertexes in the order they began.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for vertex in self.told.iter().flat_map(|part| &part.vertexes) {
            if !names.contains(&vertex.name) {
                names.push(vertex.name.clone());
            }
        }
        names
    }

    pub(crate) fn output(&self) -> String {
        let logs = self.told.iter().flat_map(|part| &part.logs);
        logs.map(|log| String::from_utf8_lossy(&log.message).into_owned()).collect()
    }
}

/// Builds as buildx does: one call waits for the result, others drive the build, one listens.
pub(crate) async fn build(
    channel: &Channel,
    reference: &str,
    session: &str,
    attributes: &[(&str, &str)],
    exporters: Vec<Exporter>,
) -> Built {
    let attributes: BTreeMap<String, String> =
        attributes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let request = SolveRequest {
        reference: reference.into(),
        session: session.into(),
        frontend_attributes: attributes.clone(),
        exporter: exporters.first().map(|exporter| exporter.kind.clone()).unwrap_or_default(),
        exporters,
        ..SolveRequest::default()
    };
    let solving = channel.ask::<_, SolveResponse>(concat_path(CONTROL, "Solve"), &[], &request);
    let driving = drive(channel, reference, attributes);
    let listening = async {
        let mut exchange = channel.start(concat_path(CONTROL, "Status"), &[]).await.unwrap();
        exchange.questions.send(&StatusRequest { reference: reference.into() }).await.unwrap();
        exchange.questions.end();
        let mut told = Vec::new();
        while let Some(part) = exchange.answers.next::<StatusResponse>().await.unwrap() {
            told.push(part);
        }
        told
    };
    let (response, (), told) = tokio::join!(solving, driving, listening);
    Built { response, told }
}

fn concat_path(service: &'static str, method: &str) -> &'static str {
    match (service, method) {
        (CONTROL, "Solve") => "/moby.buildkit.v1.Control/Solve",
        (CONTROL, _) => "/moby.buildkit.v1.Control/Status",
        (_, "Ping") => "/moby.buildkit.v1.frontend.LLBBridge/Ping",
        (_, "Solve") => "/moby.buildkit.v1.frontend.LLBBridge/Solve",
        _ => "/moby.buildkit.v1.frontend.LLBBridge/Return",
    }
}

async fn drive(channel: &Channel, reference: &str, options: BTreeMap<String, String>) {
    let id = [("buildkit-controlapi-buildid".to_owned(), reference.to_owned())];
    let pong: PongResponse = channel.ask(concat_path(BRIDGE, "Ping"), &id, &Empty::default()).await.unwrap();
    assert!(pong.frontend_caps.iter().any(|cap| cap.id == "return" && cap.enabled));
    let request = BridgeSolveRequest {
        frontend: "dockerfile.v0".into(),
        frontend_options: options,
        ..BridgeSolveRequest::default()
    };
    let solved = channel.ask::<_, BridgeSolveResponse>(concat_path(BRIDGE, "Solve"), &id, &request).await;
    let returned = match solved {
        Ok(answer) => ReturnRequest { result: answer.result, error: None },
        Err(status) => {
            let error = RpcStatus { code: status.code, message: status.message, details: status.details };
            ReturnRequest { result: None::<BuildResult>, error: Some(error) }
        }
    };
    channel.ask::<_, Empty>(concat_path(BRIDGE, "Return"), &id, &returned).await.unwrap();
}

/// Serves a session on the client's end of its connection.
pub(crate) async fn serve_session(
    served: Arc<Served>,
    connection: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
) {
    let _ = cirro_grpc::server::serve(connection, served, cirro_buildkit::LIMITS).await;
}
