use super::*;

fn record(id: &str, name: &str) -> Record {
    let container = serde_json::json!({
        "id": id, "name": name, "spec": {}, "image_id": "", "args": [], "env": [], "working_dir": "/", "user": "",
        "labels": {}, "exposed_ports": [], "phase": "created", "pid": null, "exit_code": null, "oom_killed": false,
        "error": null, "created_at": id, "started_at": null, "finished_at": null, "restart_count": 0,
        "endpoint": null, "ports": [], "log_path": "", "mounts": []
    });
    Record {
        container: serde_json::from_value(container).unwrap(),
        root: Rootfs { lower: vec![], upper: "".into(), work: "".into() },
        stop_signal: 15,
        stopped_by_hand: false,
        anonymous_volumes: vec![],
        shell: vec![],
    }
}

fn table() -> Containers {
    let mut table = Containers::default();
    for (id, name) in [("aabb11", "web"), ("aacc22", "db"), ("web333", "other")] {
        table.reserve(name, id).unwrap();
        table.insert(Entry::new(record(id, name)));
    }
    table
}

#[test]
fn a_container_is_found_by_name_id_and_unique_prefix() {
    let table = table();
    assert_eq!(table.find("/web").unwrap(), "aabb11", "a name goes before a prefix");
    assert_eq!(table.find("aacc22").unwrap(), "aacc22");
    assert_eq!(table.find("aab").unwrap(), "aabb11");
    assert_eq!(table.find("nope").unwrap_err().to_string(), "No such container: nope");
    assert!(matches!(table.find("aa"), Err(EngineError::Invalid(_))));
    assert!(table.find("").is_err());
}

#[test]
fn a_taken_name_is_refused_in_dockers_words_and_free_again_after_removal() {
    let mut table = table();
    let error = table.reserve("web", "ffff").unwrap_err();
    assert_eq!(
        error.to_string(),
        "Conflict. The container name \"/web\" is already in use by container \"aabb11\". \
         You have to remove (or rename) that container to be able to reuse that name."
    );
    table.remove("aabb11").unwrap();
    table.reserve("web", "ffff").unwrap();
    assert!(table.find("aabb").is_err());
}

#[test]
fn the_newest_container_comes_first() {
    let table = table();
    let ids: Vec<_> = table.newest_first().map(|entry| entry.record.container.id.as_str()).collect();
    assert_eq!(ids, ["web333", "aacc22", "aabb11"]);
}

#[tokio::test]
async fn a_keyed_lock_is_held_by_one_at_a_time_and_forgotten_after() {
    let locks = KeyedLocks::default();
    let first = locks.lock("a").await;
    let _other = locks.lock("b").await;
    let waiting = tokio::time::timeout(std::time::Duration::from_millis(20), locks.lock("a"));
    assert!(waiting.await.is_err());
    drop(first);
    locks.lock("a").await;
    locks.lock("c").await;
    assert!(locks.locks.lock().unwrap().len() <= 2);
}
