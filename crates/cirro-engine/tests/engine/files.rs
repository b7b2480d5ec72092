//! Files in and out of containers, running and not.

use std::collections::BTreeMap;
use std::io::Read;

use bytes::Bytes;
use cirro_engine::{ChangeKind, Commit, Engine, EngineError, PutArchive};
use cirro_seams::container::{ContainerSpec, Mount, MountSource, Phase};
use tokio::sync::mpsc;

use super::lab::{script, with_engine, within};

fn mount(source: MountSource, target: &str, read_only: bool) -> Mount {
    Mount { source, target: target.into(), read_only, options: Default::default() }
}

/// A tar with files of these names and contents; a name that ends in a slash is a directory, contents after `->` a link.
fn tar(entries: &[(&str, &str)]) -> mpsc::Receiver<Result<Bytes, String>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, text) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o640);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(1_600_000_000);
        header.set_size(0);
        // Written by hand: the crate refuses to make hostile names.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        if let Some(target) = text.strip_prefix("->") {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_link_name_literal(target).unwrap();
        } else if name.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
        } else {
            header.set_size(text.len() as u64);
        }
        header.set_cksum();
        tar.append(&header, if header.size().unwrap() > 0 { text.as_bytes() } else { b"" }).unwrap();
    }
    let (sender, receiver) = mpsc::channel(1);
    let bytes = tar.into_inner().unwrap();
    tokio::spawn(async move { sender.send(Ok(Bytes::from(bytes))).await });
    receiver
}

async fn put(engine: &Engine, id: &str, path: &str, entries: &[(&str, &str)]) -> Result<(), EngineError> {
    let options = PutArchive { keep_kinds: true, own: false };
    within(engine.put_archive(id, path, tar(entries), options)).await
}

/// A tar compressed by a program of the host.
async fn packed(program: &str, entries: &[(&str, &str)]) -> mpsc::Receiver<Result<Bytes, String>> {
    use std::io::Write;
    let mut pieces = tar(entries);
    let tar = within(pieces.recv()).await.unwrap().unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&tar).unwrap();
    let said = std::process::Command::new(program).arg("-c").arg(file.path()).output().unwrap();
    assert!(said.status.success());
    let (sender, receiver) = mpsc::channel(1);
    sender.send(Ok(Bytes::from(said.stdout))).await.unwrap();
    receiver
}

/// Packs a path; returns names and contents.
async fn get(engine: &Engine, id: &str, path: &str) -> Result<BTreeMap<String, String>, EngineError> {
    let (_, pieces) = within(engine.get_archive(id, path)).await?;
    Ok(read_all(pieces).await)
}

async fn read_all(mut pieces: mpsc::Receiver<Result<Bytes, String>>) -> BTreeMap<String, String> {
    let mut all = Vec::new();
    while let Some(piece) = within(pieces.recv()).await {
        all.extend_from_slice(&piece.expect("piece"));
    }
    let mut found = BTreeMap::new();
    for entry in tar::Archive::new(&all[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let mut text = match entry.link_name().unwrap() {
            Some(target) => format!("->{}", target.display()),
            None => String::new(),
        };
        if entry.size() < 1 << 16 {
            entry.read_to_string(&mut text).unwrap();
        }
        found.insert(name, text);
    }
    found
}

#[test]
fn files_go_in_and_out_of_a_container_running_or_not_as_root() {
    with_engine(|lab| async move {
        let engine = &lab.engine;
        let mounts = vec![
            mount(MountSource::Volume { name: Some("store".into()) }, "/data", false),
            mount(MountSource::Volume { name: Some("store".into()) }, "/fixed", true),
            mount(MountSource::Tmpfs { size: None, mode: None }, "/memory", false),
        ];
        let text = "ln -s /data /tmp/link; echo in > /memory/file; echo ready > /data/ready; sleep 1000";
        let (id, _) = engine.create_container(ContainerSpec { mounts, ..script(text) }).await.unwrap();
        // Before its first start.
        put(engine, &id, "/", &[("data/early", "volume"), ("tmp/early", "root")]).await.unwrap();
        assert_eq!(get(engine, &id, "/data/early").await.unwrap()["early"], "volume");
        let stat = within(engine.look_at_path(&id, "tmp/early")).await.unwrap();
        assert_eq!((stat.stat.st_uid, stat.stat.st_gid, stat.stat.st_mtime), (7, 8, 1_600_000_000));
        within(engine.start_container(&id)).await.unwrap();
        let ready = lab.path("data/volumes/store/_data/ready");
        within(async {
            while std::fs::read_to_string(&ready).unwrap_or_default().is_empty() {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        })
        .await;
        // While it runs: its tmpfs is there, the kernel's file systems are not.
        assert_eq!(
            get(engine, &id, "/memory/.").await.unwrap(),
            BTreeMap::from([("./".into(), String::new()), ("./file".into(), "in\n".into()),])
        );
        assert_eq!(get(engine, &id, "/proc").await.unwrap().len(), 1);
        put(engine, &id, "/tmp/link", &[("late", "through the link")]).await.unwrap();
        let volume = get(engine, &id, "/data").await.unwrap();
        let names: Vec<_> = volume.keys().map(String::as_str).collect();
        assert_eq!(names, ["data/", "data/early", "data/file", "data/late", "data/ready"]);
        let link = within(engine.look_at_path(&id, "/tmp/link")).await.unwrap();
        assert_eq!(link.link_target.as_deref(), Some("/data"));
        assert_eq!(get(engine, &id, "/tmp/link").await.unwrap()["link"], "->/data");
        for (path, entry, text) in [
            ("/none", "x", "Could not find the file /none in container NAME"),
            ("/etc/passwd", "x", "extraction point is not a directory"),
            ("/fixed", "x", "mounted volume is marked read-only"),
            ("/tmp", "../x", "\"../x\" is outside of \"/tmp\""),
            ("/", "etc", "cannot overwrite directory \"/etc\" with non-directory \"/\""),
            ("/", "etc/passwd/", "cannot overwrite non-directory \"/etc/passwd\" with directory \"/\""),
        ] {
            let error = put(engine, &id, path, &[(entry, "text")]).await.unwrap_err();
            assert_eq!(error.to_string(), text.replace("NAME", &id), "{path}");
        }
        // The root of an export is the container's without its mounts.
        let root = read_all(within(engine.export_container(&id)).await.unwrap()).await;
        assert_eq!(root["tmp/early"], "root");
        assert!(root.contains_key("data/") && !root.contains_key("data/early"), "{:?}", root.keys());
        assert!(!root.keys().any(|name| name.starts_with("proc/") && name != "proc/"));
        within(engine.kill_container(&id, "")).await.unwrap();
        lab.phase(&id, Phase::Exited).await;
        assert_eq!(get(engine, &id, "/tmp/link/late").await.unwrap()["late"], "through the link");
        engine.remove_container(&id, false, false).await.unwrap();
        engine.remove_volume("store", false).await.unwrap();
        lab
    });
}

#[test]
fn a_read_only_container_takes_no_files_as_root() {
    with_engine(|lab| async move {
        let engine = &lab.engine;
        let spec = ContainerSpec { read_only_root: true, ..script("sleep 1000") };
        let id = lab.run(spec).await;
        let error = put(engine, &id, "/tmp", &[("x", "y")]).await.unwrap_err();
        assert_eq!(error.to_string(), "container rootfs is marked read-only");
        engine.remove_container(&id, true, false).await.unwrap();
        lab
    });
}

/// CVE-2018-15664: a process inside swaps a directory for a link to the host's while files are copied.
#[test]
fn a_directory_that_becomes_a_link_leads_nowhere_as_root() {
    with_engine(|lab| async move {
        let engine = &lab.engine;
        let canary = lab.path("canary");
        std::fs::create_dir(&canary).unwrap();
        std::fs::write(canary.join("secret"), "the host's").unwrap();
        let outside = canary.display();
        let text = format!(
            "mkdir -p /swap /dir; echo ours > /dir/secret; ln -s {outside} /link; ln -s ../../../../../../../..{outside} /far; \
             while true; do busybox mv /swap /x; busybox mv /link /swap; busybox mv /swap /link; busybox mv /x /swap; done"
        );
        let id = lab.run(script(&text)).await;
        for round in 0..60 {
            let name = format!("new{round}");
            // It may find the directory, the link that leads nowhere, or nothing; never the host's.
            let _ = put(engine, &id, "/swap", &[(&name, "evil")]).await;
            let _ = put(
                engine,
                &id,
                "/",
                &[(&format!("far/{name}"), "evil"), (&format!("swap/a/{name}"), "evil")],
            )
            .await;
            for path in ["/swap/secret", "/swap/.", "/far/secret"] {
                let Ok((_, mut pieces)) = within(engine.get_archive(&id, path)).await else { continue };
                while let Some(Ok(piece)) = within(pieces.recv()).await {
                    assert!(!String::from_utf8_lossy(&piece).contains("the host's"), "{path}");
                }
            }
        }
        let names: Vec<_> =
            std::fs::read_dir(&canary).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["secret"]);
        engine.remove_container(&id, true, false).await.unwrap();
        lab
    });
}

/// CVE-2019-14271: nothing of the container is loaded or executed, whatever it is called.
#[test]
fn libraries_of_a_container_stay_files_as_root() {
    with_engine(|lab| async move {
        let engine = &lab.engine;
        let id = lab.run(script("sleep 1000")).await;
        let marker = lab.path("marker");
        let evil = format!("#!/bin/sh\ntouch {}\n", marker.display());
        let names =
            ["lib/libnss_files.so.2", "lib64/libnss_files.so.2", "usr/bin/xz", "usr/bin/unpigz", "bin/tar"];
        let entries: Vec<_> = names.iter().map(|name| (*name, evil.as_str())).collect();
        put(engine, &id, "/", &entries).await.unwrap();
        let gzip = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let xz = *b"\xfd7zXZ\0damaged";
        for archive in [Bytes::copy_from_slice(&gzip), Bytes::copy_from_slice(&xz)] {
            let (sender, receiver) = mpsc::channel(1);
            sender.send(Ok(archive)).await.unwrap();
            drop(sender);
            let _ =
                within(engine.put_archive(&id, "/tmp", receiver, PutArchive { keep_kinds: true, own: true }))
                    .await;
        }
        // CVE-2026-41567: nor does it undo an archive's compression, which is done all the same.
        for program in ["xz", "bzip2"] {
            let options = PutArchive { keep_kinds: true, own: false };
            let archive = packed(program, &[("compressed", program)]).await;
            within(engine.put_archive(&id, "/tmp", archive, options)).await.unwrap();
            assert_eq!(get(engine, &id, "/tmp/compressed").await.unwrap()["compressed"], program);
        }
        assert!(get(engine, &id, "/lib").await.unwrap().contains_key("lib/libnss_files.so.2"));
        assert!(!marker.exists());
        engine.remove_container(&id, true, false).await.unwrap();
        lab
    });
}

#[test]
fn a_container_becomes_an_image_with_what_it_changed_as_root() {
    with_engine(|lab| async move {
        let engine = &lab.engine;
        let text = "echo new > /new; rm /data/file; rm -r /tmp; mkdir /tmp; echo kept > /tmp/kept; \
                    touch /two; busybox ln /two /three; touch /ready; sleep 1000";
        let id = lab.run(script(text)).await;
        within(async {
            while within(engine.look_at_path(&id, "/ready")).await.is_err() {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        })
        .await;
        let changes = within(engine.container_changes(&id)).await.unwrap();
        let find = |path: &str| changes.iter().find(|change| change.path == path).map(|change| change.kind);
        assert_eq!(find("/new"), Some(ChangeKind::Added));
        assert_eq!(find("/data/file"), Some(ChangeKind::Deleted));
        assert_eq!(find("/data"), Some(ChangeKind::Modified));
        assert_eq!((find("/etc/hosts"), find("/proc"), find("/etc")), (None, None, None), "{changes:?}");
        let (own, whole) = within(engine.container_size(&id)).await.unwrap();
        assert!(own >= 9 && whole > own + 100_000, "{own} {whole}");
        let commit = Commit {
            tag: Some("made:1".parse().unwrap()),
            config: cirro_types::ContainerConfig {
                cmd: ["sh", "-c", "cat /new /tmp/kept; ls /data /tmp; stat -c %h /two; ls /etc"]
                    .map(str::to_owned)
                    .to_vec(),
                ..Default::default()
            },
            author: "somebody".into(),
            comment: "a remark".into(),
            pause: true,
        };
        let made = within(engine.commit_container(&id, commit)).await.unwrap();
        assert_eq!(engine.container(&id).unwrap().phase, Phase::Running, "it goes on");
        let image = engine.image("made:1").await.unwrap();
        assert_eq!((image.id, image.config.author.as_deref()), (made, Some("somebody")));
        assert_eq!(image.config.rootfs.diff_ids.len(), 2);
        assert_eq!(image.config.history.last().unwrap().comment.as_deref(), Some("a remark"));
        let spec = ContainerSpec { image: "made:1".into(), command: None, ..script("") };
        let (out, err, code) = lab.output(spec).await;
        assert_eq!(code, Some(0), "{err}");
        assert!(out.starts_with("new\nkept\n/data:\n\n/tmp:\nkept\n2\n"), "{out}");
        engine.remove_container(&id, true, false).await.unwrap();
        engine.prune_containers(|_| true).await.unwrap();
        lab
    });
}
