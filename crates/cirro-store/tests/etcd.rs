//! What only the store in etcd promises.

mod etcd_server;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cirro_store::{
    Change, Condition, EmbeddedStore, EtcdOptions, EtcdStore, ObjectStore, Operation, Record, StoreError,
    WatchItem, fill,
};
use etcd_server::{EtcdServer, TlsFiles, open};
use tokio::sync::mpsc::Receiver;

/// Longer than anything here takes, under load too.
const PATIENCE: Duration = Duration::from_secs(60);

fn put(key: &str, value: impl Into<Bytes>) -> Operation {
    Operation::Put(key.into(), value.into())
}

async fn write(store: &EtcdStore, key: &str, value: &'static str) -> u64 {
    store.commit(vec![], vec![put(key, value)]).await.unwrap()
}

async fn next(watcher: &mut Receiver<WatchItem>) -> WatchItem {
    loop {
        let item = tokio::time::timeout(PATIENCE, watcher.recv()).await.expect("an item comes");
        match item.expect("the watch goes on") {
            WatchItem::Progress(_) => {}
            item => return item,
        }
    }
}

async fn next_put(watcher: &mut Receiver<WatchItem>) -> (u64, Record) {
    match next(watcher).await {
        WatchItem::Changes(revision, changes) => match &changes[..] {
            [Change::Put(record, _)] => (revision, record.clone()),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

/// Tries until it succeeds.
async fn eventually<T>(mut attempt: impl AsyncFnMut() -> Result<T, StoreError>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn servers_on_one_etcd_see_each_others_writes() {
    let etcd = EtcdServer::start();
    let (one, other) = (etcd.store("/cloud").await, etcd.store("/cloud").await);
    let stranger = etcd.store("/another").await;
    let mut watcher = other.watch("/a", other.revision()).await.unwrap();
    for number in 0..50_u64 {
        let revision = one.commit(vec![], vec![put("/a", number.to_string())]).await.unwrap();
        let seen = other.get("/a").await.unwrap().unwrap();
        assert_eq!((seen.revision, seen.value), (revision, number.to_string().into()));
        assert_eq!(next_put(&mut watcher).await.0, revision);
        stranger.commit(vec![], vec![put("/a", "x")]).await.unwrap();
        // What the other cloud did is a revision here too, of which nothing is to be told.
        assert!(other.newest_revision().await.unwrap() > revision);
    }
    let last = other.get("/a").await.unwrap().unwrap().revision;
    let stale = other.commit(vec![Condition::Absent("/a".into())], vec![put("/a", "y")]).await;
    assert!(matches!(stale, Err(StoreError::Conflict { key, revision }) if key == "/a" && revision == last));
    assert_eq!(stranger.list("", None, 0, 0).await.unwrap().total, 1);
    // A revision that one server made is known to the other when a client brings it.
    let revision = one.commit(vec![], vec![put("/b", "1")]).await.unwrap();
    assert_eq!(other.list("/b", None, 0, revision).await.unwrap().total, 1);
    let future = revision + 1000;
    assert!(matches!(other.list("/b", None, 0, future).await, Err(StoreError::Future(r)) if r == future));
    assert!(matches!(other.watch("/b", future).await, Err(StoreError::Future(_))));
}

#[tokio::test]
async fn all_is_there_after_opening_again() {
    let etcd = EtcdServer::start();
    let store = etcd.store("/cloud").await;
    for number in 0..300 {
        let value = Bytes::from(vec![number as u8; 10_000]);
        store.commit(vec![], vec![put(&format!("/{number:03}"), value)]).await.unwrap();
    }
    let last = store.commit(vec![], vec![Operation::Delete("/007".into())]).await.unwrap();
    let records = store.list("", None, 0, 0).await.unwrap().records;
    assert_eq!(records.len(), 299);
    drop(store);
    let store = etcd.store("/cloud").await;
    assert_eq!(store.revision(), last);
    assert_eq!(store.list("", None, 0, 0).await.unwrap().records, records);
    assert!(matches!(store.watch("", last - 1).await, Err(StoreError::Compacted(_))));
    store.watch("", last).await.unwrap();
}

#[tokio::test]
async fn while_etcd_is_away_errors_say_so_and_watches_wait() {
    let mut etcd = EtcdServer::start();
    let store = etcd.store("/cloud").await;
    let before = write(&store, "/a", "1").await;
    let mut watcher = store.watch("/a", before).await.unwrap();
    etcd.kill();
    let unavailable = |error: StoreError| assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    unavailable(store.get("/a").await.unwrap_err());
    unavailable(store.list("", None, 0, 0).await.unwrap_err());
    unavailable(store.commit(vec![], vec![put("/a", "2")]).await.unwrap_err());
    assert_eq!(store.list("", None, 0, before).await.unwrap().total, 1, "what is known can be told");
    assert!(watcher.try_recv().is_err());
    assert!(etcd.run());
    let record = eventually(async || store.get("/a").await).await.unwrap();
    assert_eq!(record.value, "1", "it was away when it was asked");
    let revision = eventually(async || store.commit(vec![], vec![put("/a", "3")]).await).await;
    assert_eq!(next_put(&mut watcher).await.0, revision);
}

#[tokio::test]
async fn one_member_that_answers_is_enough() {
    let etcd = EtcdServer::start();
    let mut options = etcd.options("/cloud");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    options.endpoints.insert(0, cirro_store::Endpoint { host: "127.0.0.1".into(), address: nobody });
    let store = open(options).await;
    write(&store, "/a", "1").await;
    assert_eq!(store.get("/a").await.unwrap().unwrap().value, "1");
}

/// An authority, and what it signed for one who is at 127.0.0.1.
fn tls_files(directory: &std::path::Path) -> TlsFiles {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let (authority, own) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&authority).unwrap();
    let issuer = Issuer::new(params, authority);
    let certificate =
        CertificateParams::new(vec!["127.0.0.1".into()]).unwrap().signed_by(&own, &issuer).unwrap();
    let write = |name: &str, text: String| {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    TlsFiles {
        ca: write("ca.crt", ca.pem()),
        certificate: write("own.crt", certificate.pem()),
        key: write("own.key", own.serialize_pem()),
    }
}

fn tls(files: &TlsFiles, shows_certificate: bool) -> Arc<rustls::ClientConfig> {
    use rustls_pki_types::pem::PemObject as _;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&files.ca).unwrap()).unwrap();
    let builder =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
    let mut tls = if shows_certificate {
        let chain = vec![CertificateDer::from_pem_file(&files.certificate).unwrap()];
        builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&files.key).unwrap()).unwrap()
    } else {
        builder.with_no_client_auth()
    };
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(tls)
}

#[tokio::test]
async fn both_sides_show_certificates() {
    let directory = tempfile::tempdir().unwrap();
    let files = tls_files(directory.path());
    let etcd = EtcdServer::start_with(Some(files.clone()));
    let options = |tls| EtcdOptions { tls, ..etcd.options("/cloud") };
    let store = open(options(Some(tls(&files, true)))).await;
    let revision = write(&store, "/a", "1").await;
    assert_eq!(store.get("/a").await.unwrap().unwrap().revision, revision);
    let another = tempfile::tempdir().unwrap();
    let other = tls_files(another.path());
    for refused in [None, Some(tls(&files, false)), Some(tls(&other, true))] {
        let refused = EtcdStore::open(options(refused)).await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))));
    }
}

#[tokio::test]
async fn who_missed_what_etcd_has_compacted_begins_anew() {
    let mut etcd = EtcdServer::start();
    let store = etcd.store("/cloud").await;
    write(&store, "/a", "1").await;
    let mut watcher = store.watch("/", store.revision()).await.unwrap();
    etcd.kill();
    // While it is away from this store, the cluster goes on at another address and forgets.
    let here = etcd.address;
    etcd.address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert!(etcd.run());
    let other = etcd.store("/cloud").await;
    let mut last = 0;
    for value in ["2", "3", "4"] {
        last = write(&other, "/a", value).await;
    }
    write(&other, "/b", "1").await;
    other.compact(last).await.unwrap();
    drop(other);
    etcd.kill();
    etcd.address = here;
    assert!(etcd.run());
    assert!(matches!(next(&mut watcher).await, WatchItem::Lost));
    let record = eventually(async || store.get("/a").await).await.unwrap();
    assert_eq!((record.value, record.revision), (Bytes::from_static(b"4"), last));
    assert_eq!(store.list("", None, 0, 0).await.unwrap().total, 2);
    assert!(matches!(store.watch("/", last - 1).await, Err(StoreError::Compacted(_))));
}

#[tokio::test]
async fn an_idle_watcher_is_told_how_far_things_are() {
    let etcd = EtcdServer::start();
    let store = etcd.store("/cloud").await;
    let mut watcher = store.watch("/quiet", store.revision()).await.unwrap();
    let commits: Vec<_> = (0..40)
        .map(|number| {
            let key = format!("/loud/{number}");
            let value = Bytes::from(vec![7; 200_000]);
            store.commit(vec![], vec![put(&key, value)])
        })
        .collect();
    for commit in commits {
        commit.await.unwrap();
    }
    for number in 0..40 {
        store.commit(vec![], vec![Operation::Delete(format!("/loud/{number}"))]).await.unwrap();
    }
    let item = tokio::time::timeout(PATIENCE, watcher.recv()).await.unwrap();
    assert!(matches!(item, Some(WatchItem::Progress(revision)) if revision > 40), "{item:?}");
}

#[tokio::test]
async fn all_of_a_large_revision_comes_at_once() {
    let etcd = EtcdServer::start();
    let store = etcd.store("/cloud").await;
    let other = etcd.store("/cloud").await;
    let mut watcher = other.watch("/", other.revision()).await.unwrap();
    let value = Bytes::from(vec![7; 100_000]);
    let puts = |round: usize| (0..15).map(move |number| format!("/{round}/{number:02}"));
    for round in 0..8 {
        let operations = puts(round).map(|key| put(&key, value.clone())).collect();
        store.commit(vec![], operations).await.unwrap();
    }
    for round in 0..8 {
        let WatchItem::Changes(_, changes) = next(&mut watcher).await else { panic!() };
        let keys: Vec<_> = changes.iter().map(|change| change.key().to_string()).collect();
        assert_eq!(keys, puts(round).collect::<Vec<_>>());
    }
}

fn objects(count: usize) -> Vec<(String, Bytes)> {
    (0..count)
        .map(|number| (format!("/registry/{number:04}"), Bytes::from(vec![number as u8; 500])))
        .collect()
}

async fn embedded(path: &std::path::Path, count: usize) -> EmbeddedStore {
    let store = EmbeddedStore::open(path).unwrap();
    for batch in objects(count).chunks(100) {
        let puts = batch.iter().map(|(key, value)| put(key, value.clone())).collect();
        store.commit(vec![], puts).await.unwrap();
    }
    for _ in 0..50 {
        store.commit(vec![], vec![put("/registry/0000", objects(1)[0].1.clone())]).await.unwrap();
    }
    store
}

fn plain(etcd: &EtcdServer) -> EtcdOptions {
    EtcdOptions { first_revision: None, ..etcd.options("/cloud") }
}

async fn contents(store: &dyn ObjectStore) -> Vec<(String, Bytes)> {
    let records = store.list("", None, 0, 0).await.unwrap().records;
    records.into_iter().map(|record| (record.key.to_string(), record.value)).collect()
}

#[tokio::test]
async fn a_move_keeps_objects_and_goes_on_above_old_revisions() {
    let etcd = EtcdServer::start();
    let directory = tempfile::tempdir().unwrap();
    let from = embedded(&directory.path().join("objects.redb"), 450).await;
    drop(open(EtcdOptions { prefix: "/ready".into(), ..plain(&etcd) }).await);
    assert_eq!(fill(&plain(&etcd), &from).await.unwrap(), 450);
    assert_eq!(fill(&plain(&etcd), &from).await.unwrap(), 450, "once more changes nothing");
    let store = open(plain(&etcd)).await;
    assert_eq!(contents(&store).await, objects(450));
    let old = from.revision();
    assert!(store.revision() > old);
    let records = store.list("", None, 0, 0).await.unwrap().records;
    assert!(records.iter().all(|record| record.revision > old && record.create_revision > old));
    assert!(matches!(store.watch("", old).await, Err(StoreError::Compacted(_))));
    let stale = Condition::Revision("/registry/0000".into(), 2);
    let refused = store.commit(vec![stale], vec![put("/registry/0000", "x")]).await;
    assert!(matches!(refused, Err(StoreError::Conflict { revision, .. }) if revision > old));
    // A store that lives is not written over.
    assert!(matches!(fill(&plain(&etcd), &from).await, Ok(450)));
    store.commit(vec![], vec![put("/registry/0000", "changed")]).await.unwrap();
    assert!(matches!(fill(&plain(&etcd), &from).await, Err(StoreError::Invalid(_))));
    assert_eq!(store.get("/registry/0000").await.unwrap().unwrap().value, "changed");
}

/// The child of [`a_move_that_was_killed_begins_anew`].
#[tokio::test]
#[ignore = "is started by another test"]
async fn child_that_moves() {
    let address: std::net::SocketAddr = std::env::var("CIRRO_STORE_TEST_ETCD").unwrap().parse().unwrap();
    let path = std::env::var_os("CIRRO_STORE_TEST_PATH").unwrap();
    let options = EtcdOptions {
        endpoints: vec![cirro_store::Endpoint { host: "127.0.0.1".into(), address }],
        tls: None,
        prefix: "/cloud".into(),
        first_revision: None,
    };
    fill(&options, &EmbeddedStore::open(path).unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_move_that_was_killed_begins_anew() {
    let etcd = EtcdServer::start();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("objects.redb");
    drop(embedded(&path, 3000).await);
    // A store beside it shows how far the child is.
    let beside = etcd.store("/beside").await;
    let mut interrupted = 0;
    for revisions in [2, 8, 20] {
        let start = beside.newest_revision().await.unwrap();
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_moves", "--ignored"])
            .env("CIRRO_STORE_TEST_PATH", &path)
            .env("CIRRO_STORE_TEST_ETCD", etcd.address.to_string())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        while beside.newest_revision().await.unwrap() < start + revisions {
            assert!(child.try_wait().unwrap().is_none(), "it ended before it was killed");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        match EtcdStore::open(plain(&etcd)).await {
            Err(StoreError::Io(why)) => {
                assert!(why.contains("still being moved"), "{why}");
                interrupted += 1;
            }
            // It was done between our look and its end.
            Ok(_) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(interrupted > 0);
    let from = EmbeddedStore::open(&path).unwrap();
    assert_eq!(fill(&plain(&etcd), &from).await.unwrap(), 3000);
    let store = open(plain(&etcd)).await;
    assert_eq!(contents(&store).await, objects(3000));
    assert!(store.revision() > from.revision());
}
