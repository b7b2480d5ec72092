//! Answers a question from the names that its asker sees: a pure function.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use cirro_seams::network::NameTarget;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, PTR, SOA, SRV};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::{Asker, CLUSTER_DOMAIN, ClusterNames, Scope, TENANT_DOMAIN};

/// How long our names may be kept, also that they are missing: containers and pods come and go.
const TTL_SECONDS: u32 = 5;
/// Aliases that are followed in one answer.
const MAX_ALIASES: usize = 8;
/// Payload that we offer for UDP, below every path's MTU (DNS flag day 2020).
const UDP_PAYLOAD: u16 = 1232;

/// What becomes of a question.
#[derive(Debug)]
pub(super) enum Outcome {
    /// This answer.
    Reply(Message),
    /// Ask outside for `question`; `aliases` lead from the name that was asked for to its name.
    Forward {
        /// Records to put before the outside's.
        aliases: Vec<Record>,
        /// What to ask.
        question: Query,
    },
}

/// Answers `request` as seen by `scope`.
pub(super) fn answer(
    scope: &Scope,
    asker: Option<&Asker<'_>>,
    cluster: Option<&ClusterNames>,
    request: &Message,
) -> Outcome {
    if request.metadata.op_code != OpCode::Query {
        return Outcome::Reply(reply(request, ResponseCode::NotImp));
    }
    let [question] = request.queries.as_slice() else {
        return Outcome::Reply(reply(request, ResponseCode::FormErr));
    };
    if question.query_class() != DNSClass::IN {
        return Outcome::Reply(reply(request, ResponseCode::Refused));
    }
    let name = text(question.name());
    let Some(asker) = asker else { return Outcome::Reply(reply(request, ResponseCode::ServFail)) };
    if *scope == Scope::Cluster && is_in(&name, CLUSTER_DOMAIN) {
        return match cluster {
            Some(names) => answer_cluster(names, request, question),
            None => Outcome::Reply(reply(request, ResponseCode::ServFail)),
        };
    }
    if let Some(of) = reverse_of(&name).and_then(|address| asker.name(address)) {
        let mut reply = reply(request, ResponseCode::NoError);
        let target = Name::from_str(of).map(absolute).unwrap_or_default();
        let record = Record::from_rdata(question.name().clone(), TTL_SECONDS, RData::PTR(PTR(target)));
        finish(&mut reply, question, vec![record], zone_of(&name));
        return Outcome::Reply(reply);
    }
    if let Some(addresses) = asker.addresses(&name) {
        let mut reply = reply(request, ResponseCode::NoError);
        let found = addresses_of(question.name(), addresses.iter().copied(), request.metadata.id);
        finish(&mut reply, question, found, zone_of(&name));
        return Outcome::Reply(reply);
    }
    let ours = matches!(scope, Scope::Subnet(_)) && is_in(&name, TENANT_DOMAIN);
    // No public name has one label; asking for one outside would only tell what we run.
    let short =
        *scope != Scope::Cluster && asker.resolvers().is_empty() && !name.is_empty() && !name.contains('.');
    if ours || short {
        let mut reply = reply(request, ResponseCode::NXDomain);
        reply.add_authority(soa(zone_of(&name)));
        return Outcome::Reply(reply);
    }
    if !asker.forwards() {
        return Outcome::Reply(reply(request, ResponseCode::ServFail));
    }
    Outcome::Forward { aliases: Vec::new(), question: question.clone() }
}

fn answer_cluster(names: &ClusterNames, request: &Message, question: &Query) -> Outcome {
    let mut aliases: Vec<Record> = Vec::new();
    let mut name = question.name().clone();
    loop {
        let key = text(&name);
        if !is_in(&key, CLUSTER_DOMAIN) {
            let mut question = question.clone();
            question.set_name(name);
            return Outcome::Forward { aliases, question };
        }
        let Some(targets) = names.targets.get(&key) else {
            let exists = names.parents.contains(&key) || key == CLUSTER_DOMAIN || !aliases.is_empty();
            let code = if exists { ResponseCode::NoError } else { ResponseCode::NXDomain };
            let mut reply = reply(request, code);
            reply.add_answers(aliases);
            reply.add_authority(soa(CLUSTER_DOMAIN));
            return Outcome::Reply(reply);
        };
        let next = targets.iter().find_map(|target| match target {
            NameTarget::Alias(to) => Name::from_str(to).ok().map(absolute),
            _ => None,
        });
        match next.filter(|_| aliases.len() < MAX_ALIASES) {
            Some(next) => {
                let alias = RData::CNAME(CNAME(next.clone()));
                aliases.push(Record::from_rdata(name, TTL_SECONDS, alias));
                if question.query_type() == RecordType::CNAME {
                    let mut reply = reply(request, ResponseCode::NoError);
                    reply.add_answers(aliases);
                    return Outcome::Reply(reply);
                }
                name = next;
            }
            None => {
                let mut reply = reply(request, ResponseCode::NoError);
                aliases.extend(records_of(names, &name, targets, question.query_type(), &mut reply, request));
                finish(&mut reply, question, aliases, CLUSTER_DOMAIN);
                return Outcome::Reply(reply);
            }
        }
    }
}

/// Returns the records of a name; the addresses of a service's hosts go along in `reply`.
fn records_of(
    names: &ClusterNames,
    name: &Name,
    targets: &[NameTarget],
    kind: RecordType,
    reply: &mut Message,
    request: &Message,
) -> Vec<Record> {
    let mut records = Vec::new();
    for target in targets {
        match target {
            NameTarget::Addresses(addresses) if matches!(kind, RecordType::A | RecordType::ANY) => {
                records.extend(addresses_of(name, addresses.iter().copied(), request.metadata.id));
            }
            NameTarget::Service { port, host } if matches!(kind, RecordType::SRV | RecordType::ANY) => {
                let Ok(host_name) = Name::from_str(host).map(absolute) else { continue };
                let data = RData::SRV(SRV::new(0, 100, *port, host_name.clone()));
                records.push(Record::from_rdata(name.clone(), TTL_SECONDS, data));
                for target in names.targets.get(host).into_iter().flatten() {
                    if let NameTarget::Addresses(addresses) = target {
                        let addresses = addresses.iter().copied();
                        reply.add_additionals(addresses_of(&host_name, addresses, 0));
                    }
                }
            }
            _ => {}
        }
    }
    records
}

/// Puts the records that were asked for into the reply, or says that there are none of this type.
fn finish(reply: &mut Message, question: &Query, records: Vec<Record>, zone: &str) {
    let kind = question.query_type();
    let wanted = |record: &Record| {
        kind == RecordType::ANY || record.record_type() == kind || record.record_type() == RecordType::CNAME
    };
    reply.add_answers(records.into_iter().filter(wanted));
    if reply.answers.iter().all(|record| record.record_type() == RecordType::CNAME) {
        reply.add_authority(soa(zone));
    }
}

/// Makes an answer without records.
pub(super) fn reply(request: &Message, code: ResponseCode) -> Message {
    let mut reply = Message::new(request.metadata.id, MessageType::Response, request.metadata.op_code);
    reply.metadata.recursion_desired = request.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.metadata.authoritative = matches!(code, ResponseCode::NoError | ResponseCode::NXDomain);
    reply.metadata.response_code = code;
    reply.add_queries(request.queries.iter().cloned());
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_PAYLOAD).set_version(0);
        reply.edns = Some(edns);
    }
    reply
}

/// Makes addresses into records, beginning with another one each time, so that clients spread.
fn addresses_of(name: &Name, addresses: impl Iterator<Item = impl Into<IpAddr>>, turn: u16) -> Vec<Record> {
    let data = |address| match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    };
    let mut records: Vec<Record> = addresses
        .map(|address| Record::from_rdata(name.clone(), TTL_SECONDS, data(address.into())))
        .collect();
    if !records.is_empty() {
        let turn = usize::from(turn) % records.len();
        records.rotate_left(turn);
    }
    records
}

/// Reads the name of an address: `2.0.18.172.in-addr.arpa`.
fn reverse_of(name: &str) -> Option<IpAddr> {
    if let Some(labels) = name.strip_suffix(".in-addr.arpa") {
        let labels: Vec<&str> = labels.split('.').rev().collect();
        return labels.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    }
    let labels: Vec<&str> = name.strip_suffix(".ip6.arpa")?.split('.').rev().collect();
    if labels.len() != 32 || labels.iter().any(|label| label.len() != 1) {
        return None;
    }
    let groups: Vec<String> = labels.chunks(4).map(<[&str]>::concat).collect();
    groups.join(":").parse::<std::net::Ipv6Addr>().ok().map(IpAddr::V6)
}

fn soa(zone: &str) -> Record {
    let name = |text: &str| absolute(Name::from_str(text).expect("our zones are names"));
    let server = name(&format!("ns.dns.{zone}"));
    let seconds = TTL_SECONDS as i32;
    let data =
        SOA::new(server, name(&format!("hostmaster.{zone}")), 1, seconds, seconds, seconds, TTL_SECONDS);
    Record::from_rdata(name(zone), TTL_SECONDS, RData::SOA(data))
}

fn zone_of(name: &str) -> &'static str {
    if is_in(name, TENANT_DOMAIN) { TENANT_DOMAIN } else { "local" }
}

fn is_in(name: &str, zone: &str) -> bool {
    name.strip_suffix(zone).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Prints a name as our records have it: lower case, no final dot.
fn text(name: &Name) -> String {
    let mut text = name.to_ascii().to_ascii_lowercase();
    if text.ends_with('.') {
        text.pop();
    }
    text
}

fn absolute(mut name: Name) -> Name {
    name.set_fqdn(true);
    name
}

#[cfg(test)]
mod tests;
