//! Volumes and binds.

use std::collections::BTreeMap;

use cirro_engine::EngineError;
use cirro_seams::container::{ContainerSpec, Mount, MountSource};

use super::lab::{script, with_engine, within};

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

fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn is_mounted(path: &std::path::Path) -> bool {
    let text = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    text.lines().any(|line| line.split(' ').nth(4).is_some_and(|point| std::path::Path::new(point) == path))
}

#[test]
fn what_a_volume_has_mounted_is_shared_and_there_while_a_container_runs_as_root() {
    with_engine(|lab| async move {
        let engine = &lab.engine;
        let memory = options(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m,uid=33,noexec")]);
        let volume = engine.create_volume("memory", BTreeMap::new(), memory).await.unwrap();
        let mounts = || vec![mount(MountSource::Volume { name: Some("memory".into()) }, "/memory", false)];
        let text = "echo shared > /memory/x; while test -e /memory/x; do sleep 0.05; done";
        let (id, _) =
            engine.create_container(ContainerSpec { mounts: mounts(), ..script(text) }).await.unwrap();
        assert!(!is_mounted(&volume.mountpoint), "nobody runs yet");
        engine.start_container(&id).await.unwrap();
        let text =
            "until test -e /memory/x; do sleep 0.05; done; cat /memory/x; stat -c %u /memory; ls /memory";
        let (out, err, _) = lab.output(ContainerSpec { mounts: mounts(), ..script(text) }).await;
        assert_eq!(out, "shared\n33\nx\n", "{err}");
        assert!(is_mounted(&volume.mountpoint), "the first one still runs");
        std::fs::remove_file(volume.mountpoint.join("x")).unwrap();
        lab.phase(&id, cirro_seams::container::Phase::Exited).await;
        within(async {
            while is_mounted(&volume.mountpoint) {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        })
        .await;
        let absent = options(&[("type", "none"), ("o", "bind"), ("device", "/absent/directory")]);
        engine.create_volume("absent", BTreeMap::new(), absent).await.unwrap();
        let mounts = vec![mount(MountSource::Volume { name: Some("absent".into()) }, "/absent", false)];
        let (id, _) = engine.create_container(ContainerSpec { mounts, ..script("true") }).await.unwrap();
        let error = engine.start_container(&id).await.unwrap_err().to_string();
        let at = lab.path("data/volumes/absent/_data");
        let wanted = format!(
            "error while mounting volume '{0}': failed to mount local volume: mount /absent/directory:{0}, flags: 0x1000: no such \
             file or directory",
            at.display()
        );
        assert_eq!(error, wanted);
        engine.prune_containers(|_| true).await.unwrap();
        engine.remove_volume("absent", false).await.unwrap();
        engine.remove_volume("memory", false).await.unwrap();
        lab
    });
}

/// A mount of the host that is shared, with all that comes to be mounted below it.
struct Shared(std::path::PathBuf);

impl Shared {
    fn new(path: std::path::PathBuf) -> Self {
        use rustix::mount::{MountFlags, MountPropagationFlags};
        std::fs::create_dir(&path).unwrap();
        rustix::mount::mount("none", &path, "tmpfs", MountFlags::empty(), None).unwrap();
        rustix::mount::mount_change(&path, MountPropagationFlags::SHARED).unwrap();
        for name in ["out", "in"] {
            std::fs::create_dir(path.join(name)).unwrap();
        }
        Self(path)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_shared_bind_passes_mounts_on_in_both_directions_and_a_slave_in_one_as_root() {
    use cirro_seams::container::Propagation;
    with_engine(|lab| async move {
        let engine = &lab.engine;
        let host = Shared::new(lab.path("shared"));
        let spec = |propagation, text: &str| {
            let mut bind = mount(MountSource::Bind { path: host.0.clone(), create: false }, "/x", false);
            bind.options.propagation = propagation;
            ContainerSpec { mounts: vec![bind], privileged: true, ..script(text) }
        };
        let text = "busybox mount -t tmpfs none /x/out; until busybox grep -q ' /x/in ' /proc/mounts; do sleep 0.05; done";
        for (propagation, reaches) in [(Propagation::RShared, true), (Propagation::RSlave, false)] {
            let (id, _) = engine.create_container(spec(propagation, text)).await.unwrap();
            engine.start_container(&id).await.unwrap();
            if reaches {
                within(async {
                    while !is_mounted(&host.0.join("out")) {
                        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                    }
                })
                .await;
            }
            let inner = host.0.join("in");
            rustix::mount::mount("none", &inner, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
            lab.phase(&id, cirro_seams::container::Phase::Exited).await;
            assert_eq!(is_mounted(&host.0.join("out")), reaches, "{propagation:?}");
            for name in ["in", "out"] {
                let _ = rustix::mount::unmount(host.0.join(name), rustix::mount::UnmountFlags::DETACH);
            }
        }
        drop(host);
        engine.prune_containers(|_| true).await.unwrap();
        lab
    });
}

#[test]
fn a_source_that_the_host_may_only_read_stays_so_as_root() {
    with_engine(|lab| async move {
        let host = Shared::new(lab.path("readable"));
        let flags = rustix::mount::MountFlags::RDONLY | rustix::mount::MountFlags::BIND;
        rustix::mount::mount_bind(&host.0, &host.0).unwrap();
        rustix::mount::mount_remount(&host.0, flags, c"").unwrap();
        let mounts = vec![mount(MountSource::Bind { path: host.0.clone(), create: false }, "/x", false)];
        let text = "touch /x/file || echo refused";
        let (out, _, _) = lab.output(ContainerSpec { mounts, ..script(text) }).await;
        let _ = rustix::mount::unmount(&host.0, rustix::mount::UnmountFlags::DETACH);
        drop(host);
        assert_eq!(out, "refused\n");
        lab
    });
}
