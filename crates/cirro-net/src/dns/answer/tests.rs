//! Questions and answers.

use std::collections::BTreeMap;

use cirro_seams::network::NameRecord;

use super::super::{Client, Names, View};
use super::*;

fn ask(scope: &Scope, names: &Names, views: &[(Scope, View)], name: &str, kind: RecordType) -> Outcome {
    let mut request = Message::new(0, MessageType::Query, OpCode::Query);
    request.add_query(Query::query(Name::from_str(name).unwrap(), kind));
    let view = views.iter().find(|(other, _)| other == scope).map(|(_, view)| view);
    let asker = view.map(|view| Asker { views: vec![view], client: None });
    answer(scope, asker.as_ref(), names.cluster().as_deref(), &request)
}

fn cluster(name: &str, kind: RecordType) -> Outcome {
    let names = Names::default();
    let record = |name: &str, target| NameRecord { name: name.into(), target };
    let addresses =
        |list: &[&str]| NameTarget::Addresses(list.iter().map(|text| text.parse().unwrap()).collect());
    names.set_cluster(vec![
        record("web.default.svc.cluster.local", addresses(&["10.43.0.9"])),
        record("a.web.default.svc.cluster.local", addresses(&["10.42.0.3", "10.42.0.4"])),
        record(
            "_http._tcp.web.default.svc.cluster.local",
            NameTarget::Service { port: 80, host: "web.default.svc.cluster.local".into() },
        ),
        record("far.default.svc.cluster.local", NameTarget::Alias("example.com".into())),
        record("near.default.svc.cluster.local", NameTarget::Alias("web.default.svc.cluster.local".into())),
        record("loop.default.svc.cluster.local", NameTarget::Alias("loop.default.svc.cluster.local".into())),
    ]);
    let views = [(Scope::Cluster, View { forwards: true, ..View::default() })];
    ask(&Scope::Cluster, &names, &views, name, kind)
}

fn replied(outcome: Outcome) -> Message {
    match outcome {
        Outcome::Reply(message) => message,
        Outcome::Forward { .. } => panic!("forwarded"),
    }
}

#[test]
fn a_service_has_its_address_and_no_other_type() {
    let found = replied(cluster("WEB.default.svc.cluster.local.", RecordType::A));
    assert_eq!(found.answers.len(), 1);
    assert_eq!(found.answers[0].data, RData::A(A("10.43.0.9".parse().unwrap())));
    let other = replied(cluster("web.default.svc.cluster.local.", RecordType::AAAA));
    assert_eq!(other.metadata.response_code, ResponseCode::NoError);
    assert!(other.answers.is_empty());
    assert_eq!(other.authorities.len(), 1);
}

#[test]
fn a_missing_name_is_told_apart_from_one_with_names_below() {
    let missing = replied(cluster("none.default.svc.cluster.local.", RecordType::A));
    assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
    let parent = replied(cluster("default.svc.cluster.local.", RecordType::A));
    assert_eq!(parent.metadata.response_code, ResponseCode::NoError);
    assert!(parent.answers.is_empty());
}

#[test]
fn srv_comes_with_its_hosts_address() {
    let found = replied(cluster("_http._tcp.web.default.svc.cluster.local.", RecordType::SRV));
    assert!(matches!(&found.answers[0].data, RData::SRV(srv) if srv.port == 80));
    assert_eq!(found.additionals.len(), 1);
}

#[test]
fn aliases_are_followed_inside_and_asked_for_outside() {
    let near = replied(cluster("near.default.svc.cluster.local.", RecordType::A));
    assert_eq!(near.answers.len(), 2);
    let Outcome::Forward { aliases, question } = cluster("far.default.svc.cluster.local.", RecordType::A)
    else {
        panic!("not forwarded")
    };
    assert_eq!((aliases.len(), text(question.name()).as_str()), (1, "example.com"));
    let circle = replied(cluster("loop.default.svc.cluster.local.", RecordType::A));
    assert!(circle.answers.len() <= MAX_ALIASES);
}

#[test]
fn before_the_cluster_has_told_its_names_they_are_not_denied() {
    let views = [(Scope::Cluster, View::default())];
    let outcome =
        ask(&Scope::Cluster, &Names::default(), &views, "web.default.svc.cluster.local.", RecordType::A);
    assert_eq!(replied(outcome).metadata.response_code, ResponseCode::ServFail);
}

#[test]
fn a_network_sees_its_own_names_only() {
    let one = Scope::Docker("one".into());
    let two = Scope::Docker("two".into());
    let hosts = [("web".to_owned(), vec!["172.18.0.2".parse().unwrap()])].into();
    let views = [
        (one.clone(), View { hosts, forwards: true, ..View::default() }),
        (two.clone(), View { forwards: false, ..View::default() }),
    ];
    let names = Names::default();
    assert_eq!(replied(ask(&one, &names, &views, "Web.", RecordType::A)).answers.len(), 1);
    let hidden = replied(ask(&two, &names, &views, "web.", RecordType::A));
    assert_eq!(hidden.metadata.response_code, ResponseCode::NXDomain);
    assert!(matches!(ask(&one, &names, &views, "example.com.", RecordType::A), Outcome::Forward { .. }));
    let inner = replied(ask(&two, &names, &views, "example.com.", RecordType::A));
    assert_eq!(inner.metadata.response_code, ResponseCode::ServFail);
}

#[test]
fn answers_begin_with_another_address_each_time() {
    let list: [Ipv4Addr; 2] = ["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()];
    let first = |turn| addresses_of(&Name::root(), list.into_iter(), turn)[0].data.clone();
    assert_ne!(first(0), first(1));
}

#[test]
fn a_container_sees_its_other_networks_and_its_links() {
    let web: IpAddr = "172.18.0.2".parse().unwrap();
    let own = Ipv4Addr::new(172, 19, 0, 3);
    let client = Client {
        networks: vec!["one".into()],
        links: [("site".to_owned(), "web".to_owned())].into(),
        resolvers: Vec::new(),
    };
    let views = BTreeMap::from([
        (
            Scope::Docker("one".into()),
            View {
                hosts: [("web".to_owned(), vec![web, "fd00::2".parse().unwrap()])].into(),
                addresses: [(web, "web.front".to_owned())].into(),
                ..View::default()
            },
        ),
        (Scope::Docker("two".into()), View { clients: [(own, client)].into(), ..View::default() }),
    ]);
    let scope = Scope::Docker("two".into());
    let ask = |address: IpAddr, name: &str, kind| {
        let mut request = Message::new(0, MessageType::Query, OpCode::Query);
        request.add_query(Query::query(Name::from_str(name).unwrap(), kind));
        let asker = Asker::find(&views, &scope, address);
        replied(answer(&scope, asker.as_ref(), None, &request)).answers
    };
    assert_eq!(ask(own.into(), "web.", RecordType::A).len(), 1);
    assert_eq!(ask(own.into(), "site.", RecordType::AAAA).len(), 1);
    let pointer = ask(own.into(), "2.0.18.172.in-addr.arpa.", RecordType::PTR);
    assert!(matches!(&pointer[0].data, RData::PTR(name) if name.0.to_ascii() == "web.front."));
    assert!(ask(Ipv4Addr::new(172, 19, 0, 4).into(), "web.", RecordType::A).is_empty());
}

#[test]
fn addresses_are_read_out_of_their_names() {
    assert_eq!(reverse_of("2.0.18.172.in-addr.arpa"), Some(IpAddr::from([172, 18, 0, 2])));
    let six = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
    assert_eq!(reverse_of(six), "fd00::2".parse().ok());
    assert_eq!(reverse_of("2.ip6.arpa"), None);
    assert_eq!(reverse_of("web"), None);
}
