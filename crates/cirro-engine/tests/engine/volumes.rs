//! Volumes and binds.

use std::collections::BTreeMap;

use cirro_engine::EngineError;
use cirro_seams::container::{ContainerSpec, Mount, MountSource};

use super::lab::{script, with_engine};

fn mount(source: MountSource, target: &str, read_only: bool) -> Mount {
    Mount { source, target: target.into(), read_only, options: Default::default() }
}

#[test]
fn a_volume_is_filled_from_the_image_and_outlives_its_containers_as_root() {
    with_engine(|lab| async move {
        let engine = &lab.engine;
        let named = || vec![mount(MountSource::Volume { name: Some("store".into()) }, "/data", false)];
        let spec = ContainerSpec { mounts: named(), ..script("cat /data/file; echo more > /data/more") };
        let (out, err, _) = lab.output(spec).await;
        assert_eq!(out, "from the image", "{err}");
        let (out, _, _) = lab.output(ContainerSpec { mounts: named(), ..script("cat /data/more") }).await;
        assert_eq!(out, "more\n");
        let in_use = engine.remove_volume("store", false).await.unwrap_err().to_string();
        assert!(in_use.starts_with("remove store: volume is in use - ["), "{in_use}");
        engine.prune_containers(|_| true).await.unwrap();
        engine.remove_volume("store", false).await.unwrap();
        let missing = engine.remove_volume("store", false).await.unwrap_err();
        assert_eq!(missing.to_string(), "get store: no such volume");
        assert!(engine.create_volume("../x", BTreeMap::new(), BTreeMap::new()).await.is_err());
        lab
    });
}

#[test]
fn anonymous_volumes_go_with_their_container_and_binds_stay_as_root() {
    with_engine(|lab| async move {
        let engine = &lab.engine;
        let host = lab.path("shared");
        std::fs::create_dir(&host).unwrap();
        std::fs::write(host.join("in"), "host").unwrap();
        let mounts = vec![
            mount(MountSource::Bind { path: host.clone(), create: false }, "/host", false),
            mount(MountSource::Bind { path: host.clone(), create: false }, "/readonly", true),
            mount(MountSource::Volume { name: None }, "/anonymous", false),
            mount(MountSource::Tmpfs { size: Some(1 << 20), mode: None }, "/memory", false),
        ];
        let text = "cat /host/in; echo x > /host/out; echo y > /readonly/no || echo refused; echo z > /memory/z && cat /memory/z";
        let (id, _) = engine.create_container(ContainerSpec { mounts, ..script(text) }).await.unwrap();
        assert_eq!(engine.volumes().len(), 1);
        let session = engine.attach_container(&id, false).await.unwrap();
        engine.start_container(&id).await.unwrap();
        let (out, _, _) = super::lab::collect(session).await;
        assert_eq!(out, "hostrefused\nz\n");
        assert_eq!(std::fs::read_to_string(host.join("out")).unwrap(), "x\n");
        lab.phase(&id, cirro_seams::container::Phase::Exited).await;
        engine.remove_container(&id, false, true).await.unwrap();
        assert!(engine.volumes().is_empty());
        let missing = vec![mount(MountSource::Bind { path: lab.path("no"), create: false }, "/x", false)];
        let error =
            engine.create_container(ContainerSpec { mounts: missing, ..script("true") }).await.unwrap_err();
        assert!(
            matches!(error, EngineError::Invalid(_))
                && error.to_string().contains("bind source path does not exist")
        );
        lab
    });
}

#[test]
fn a_container_takes_anothers_mounts_and_a_volume_may_be_elsewhere_as_root() {
    with_engine(|lab| async move {
        let engine = &lab.engine;
        let elsewhere = lab.path("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        let options = [("type", "none"), ("o", "bind"), ("device", elsewhere.to_str().unwrap())];
        let options: BTreeMap<_, _> =
            options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        engine.create_volume("other", BTreeMap::new(), options.clone()).await.unwrap();
        let again = engine.create_volume("other", BTreeMap::new(), options).await.unwrap();
        assert_eq!(again.name, "other");
        let mut empty = mount(MountSource::Volume { name: Some("empty".into()) }, "/data", false);
        empty.options.no_copy = true;
        let tmpfs = || {
            let mut tmpfs =
                mount(MountSource::Tmpfs { size: Some(1 << 20), mode: Some(0o700) }, "/memory", false);
            tmpfs.options.tmpfs = vec!["exec".into(), "uid=33".into()];
            tmpfs
        };
        let mounts =
            vec![empty, mount(MountSource::Volume { name: Some("other".into()) }, "/other", false), tmpfs()];
        let text =
            "ls /data; echo x > /other/x; stat -c %u:%a /memory; cat /proc/mounts | busybox grep /memory";
        let spec = ContainerSpec { name: Some("first".into()), mounts, ..script(text) };
        let (out, err, _) = lab.output(spec).await;
        assert!(out.starts_with("33:700\n"), "{out} {err}");
        assert!(!out.contains("noexec"), "{out}");
        assert_eq!(std::fs::read_to_string(elsewhere.join("x")).unwrap(), "x\n");
        let spec = ContainerSpec {
            volumes_from: vec![("first".into(), true)],
            ..script("cat /other/x; echo y > /other/y || echo refused; ls / | busybox grep memory")
        };
        let (out, _, _) = lab.output(spec).await;
        assert_eq!(out, "x\nrefused\n");
        let spec = ContainerSpec { volumes_from: vec![("nobody".into(), false)], ..script("true") };
        let error = engine.create_container(spec).await.unwrap_err();
        assert_eq!(error.to_string(), "No such container: nobody");
        let mut shared = mount(MountSource::Bind { path: elsewhere.clone(), create: false }, "/x", false);
        shared.options.propagation = cirro_seams::container::Propagation::RSlave;
        let error = engine.create_container(ContainerSpec { mounts: vec![shared], ..script("true") }).await;
        if let Err(error) = error {
            // On a host whose root is shared it works instead.
            assert!(error.to_string().ends_with("but it is not a shared or slave mount"), "{error}");
        }
        engine.prune_containers(|_| true).await.unwrap();
        assert!(elsewhere.join("x").exists());
        lab
    });
}
