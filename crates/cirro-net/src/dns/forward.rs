//! Asks the host's resolvers for what is not ours.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::RecordType;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

/// Resolvers that are tried in turn, as resolv.conf(5) has it.
const MAX_SERVERS: usize = 3;
/// How long each may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Questions on their way at one time; more are refused at once.
const MAX_FLYING: usize = 256;
/// Answers that are kept.
const MAX_KEPT: usize = 1024;
/// How long an answer is kept at most.
const MAX_AGE: Duration = Duration::from_secs(300);
/// How long it is kept that there is none.
const NEGATIVE_AGE: Duration = Duration::from_secs(5);

/// A name and type, and who is asked when that is not the host's choice.
type Key = (String, RecordType, Vec<IpAddr>);

/// The way outside.
#[derive(Debug)]
pub(super) struct Forwarder {
    resolv_conf: PathBuf,
    flying: Semaphore,
    kept: Mutex<HashMap<Key, (Instant, Instant, Message)>>,
}

impl Forwarder {
    /// Asks the servers of `/etc/resolv.conf`, read anew for each question that is not kept.
    pub(super) fn new() -> Self {
        Self {
            resolv_conf: "/etc/resolv.conf".into(),
            flying: Semaphore::new(MAX_FLYING),
            kept: Mutex::default(),
        }
    }

    /// Returns the outside's answer; `None` if nobody answered. `own` are servers that would ask us
    /// again; `resolvers` are asked instead of the host's, if there are any.
    pub(super) async fn ask(
        &self,
        question: &Query,
        own: &[Ipv4Addr],
        resolvers: &[IpAddr],
    ) -> Option<Message> {
        let name = question.name().to_ascii().to_ascii_lowercase();
        let key = (name, question.query_type(), resolvers.to_vec());
        if let Some(kept) = self.kept(&key) {
            return Some(kept);
        }
        let _flying = self.flying.try_acquire().ok()?;
        let servers = if resolvers.is_empty() {
            servers(&tokio::fs::read_to_string(&self.resolv_conf).await.unwrap_or_default(), own)
        } else {
            resolvers.iter().take(MAX_SERVERS).map(|address| SocketAddr::new(*address, 53)).collect()
        };
        for server in servers {
            let Ok(Ok(answer)) = timeout(PATIENCE, exchange(server, question)).await else { continue };
            if matches!(answer.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain) {
                self.keep(key, &answer);
                return Some(answer);
            }
        }
        None
    }

    fn kept(&self, key: &Key) -> Option<Message> {
        let kept = self.kept.lock().expect("nothing panics with the lock");
        let (since, until, answer) = kept.get(key)?;
        let now = Instant::now();
        if now >= *until {
            return None;
        }
        let age = u32::try_from((now - *since).as_secs()).unwrap_or(u32::MAX);
        let mut answer = answer.clone();
        for record in answer.answers.iter_mut().chain(&mut answer.authorities) {
            record.decrement_ttl(age);
        }
        Some(answer)
    }

    fn keep(&self, key: Key, answer: &Message) {
        let shortest = answer.answers.iter().map(|record| record.ttl).min();
        let age = shortest.map_or(NEGATIVE_AGE, |seconds| Duration::from_secs(seconds.into()).min(MAX_AGE));
        let now = Instant::now();
        let mut kept = self.kept.lock().expect("nothing panics with the lock");
        if kept.len() >= MAX_KEPT {
            kept.retain(|_, (_, until, _)| now < *until);
        }
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert(key, (now, now + age, answer.clone()));
    }
}

/// Reads the servers of a resolv.conf.
pub(super) fn servers(text: &str, own: &[Ipv4Addr]) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter(|rest| rest.starts_with([' ', '\t']))
        .filter_map(|rest| rest.split_whitespace().next()?.parse::<IpAddr>().ok())
        .filter(|address| !matches!(address, IpAddr::V4(address) if own.contains(address)))
        .map(|address| SocketAddr::new(address, 53))
        .take(MAX_SERVERS)
        .collect()
}

/// Asks one server.
pub(super) async fn exchange(server: SocketAddr, question: &Query) -> std::io::Result<Message> {
    let mut request = Message::query();
    request.metadata.recursion_desired = true;
    request.add_query(question.clone());
    let bytes = request.to_vec().map_err(std::io::Error::other)?;
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(&bytes).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let Ok(answer) = Message::from_vec(&buffer[..length]) else { continue };
        if !belongs(&request, &answer) {
            continue;
        }
        if answer.metadata.truncation {
            return exchange_by_stream(server, &request, &bytes).await;
        }
        return Ok(answer);
    }
}

async fn exchange_by_stream(server: SocketAddr, request: &Message, bytes: &[u8]) -> std::io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; length.into()];
    stream.read_exact(&mut buffer).await?;
    let answer = Message::from_vec(&buffer).map_err(std::io::Error::other)?;
    if belongs(request, &answer) {
        Ok(answer)
    } else {
        Err(std::io::Error::other("answer to another question"))
    }
}

fn belongs(request: &Message, answer: &Message) -> bool {
    answer.metadata.id == request.metadata.id && answer.queries == request.queries
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{Name, RData, Record};

    use super::*;

    #[test]
    fn servers_are_read_and_our_own_left_out() {
        let text = "# x\nsearch a b\nnameserver 10.0.0.1\nnameserver\t172.18.0.1 # c\nnameserver ::1\n\
                    nameservers 9.9.9.9\nnameserver 1.1.1.1\nnameserver 1.0.0.1\n";
        let found = servers(text, &[Ipv4Addr::new(172, 18, 0, 1)]);
        let expected: Vec<SocketAddr> =
            ["10.0.0.1:53", "[::1]:53", "1.1.1.1:53"].map(|text| text.parse().unwrap()).into();
        assert_eq!(found, expected);
    }

    /// Answers each question with an address, with a truncated message by UDP where the name begins with `long`.
    fn resolver() -> std::thread::JoinHandle<usize> {
        let udp = std::net::UdpSocket::bind("127.0.0.1:53").unwrap();
        let tcp = std::net::TcpListener::bind("127.0.0.1:53").unwrap();
        let reply = |bytes: &[u8]| {
            let request = Message::from_vec(bytes).unwrap();
            let name = request.queries[0].name().clone();
            let mut reply = request.into_response();
            let address = RData::A(A(Ipv4Addr::new(192, 0, 2, 7)));
            reply.add_answer(Record::from_rdata(name, 60, address));
            reply
        };
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            for asked in 1.. {
                let (length, client) = udp.recv_from(&mut buffer).unwrap();
                let mut answer = reply(&buffer[..length]);
                let name = answer.queries[0].name().to_ascii();
                answer.metadata.truncation = name.starts_with("long");
                udp.send_to(&answer.to_vec().unwrap(), client).unwrap();
                if answer.metadata.truncation {
                    let (mut stream, _) = tcp.accept().unwrap();
                    let mut length = [0; 2];
                    stream.read_exact(&mut length).unwrap();
                    let mut bytes = vec![0; u16::from_be_bytes(length).into()];
                    stream.read_exact(&mut bytes).unwrap();
                    let bytes = reply(&bytes).to_vec().unwrap();
                    stream.write_all(&[&(bytes.len() as u16).to_be_bytes(), &bytes[..]].concat()).unwrap();
                    return asked;
                }
            }
            unreachable!()
        })
    }

    #[test]
    fn root_questions_are_forwarded_kept_and_asked_again_by_stream() {
        let host = cirro_sys::netns::Netns::fresh().unwrap();
        host.run(|| {
            let mut netlink = cirro_sys::netlink::Netlink::open().unwrap();
            let lo = netlink.index("lo").unwrap();
            netlink.set_up(lo, true).unwrap();
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), "nameserver 127.0.0.9\nnameserver 127.0.0.1\n").unwrap();
            let forwarder = Forwarder { resolv_conf: file.path().into(), ..Forwarder::new() };
            let server = resolver();
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let ask = |name: &str| {
                let question = Query::query(Name::from_ascii(name).unwrap(), RecordType::A);
                runtime.block_on(forwarder.ask(&question, &[], &[]))
            };
            // The first server refuses: the second is asked.
            assert_eq!(ask("example.com.").unwrap().answers.len(), 1);
            assert_eq!(ask("EXAMPLE.com.").unwrap().answers.len(), 1);
            assert!(!ask("long.example.com.").unwrap().metadata.truncation);
            assert_eq!(server.join().unwrap(), 2, "the second question was answered from what is kept");
        })
        .unwrap();
    }
}
