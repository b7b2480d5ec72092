//! Daemons die, power fails.

use std::fs;
use std::sync::Arc;

use cirro_image::Library;
use cirro_types::Digest;

use crate::archive::{Fixture, Tar, docker_archive};

fn reopened(fixture: &Fixture) -> Library {
    Library::open(&fixture.path(), Arc::clone(&fixture.db)).unwrap()
}

#[test]
fn everything_is_there_after_a_restart() {
    let fixture = Fixture::new();
    let layer = Tar::new().file("a", b"x").end();
    let id = fixture.load(&docker_archive(&["app:1"], &[&layer])).unwrap()[0].id;
    let root = fixture.library.create_root("c1", &id).unwrap();
    fs::write(root.upper.join("written"), "x").unwrap();
    let library = reopened(&fixture);
    assert_eq!(library.find("app:1").unwrap().id, id);
    assert!(library.create_root("c1", &id).unwrap().upper.join("written").exists());
    let mut archive = Vec::new();
    library.save(&["app:1".into()], &mut archive).unwrap();
    assert!(archive.windows(layer.len()).any(|window| window == layer));
}

#[test]
fn what_a_crash_left_is_removed() {
    let fixture = Fixture::new();
    let (_, scratch) = fixture.library.open_layer(&[]).unwrap();
    let stray = format!("layers/{}", "0".repeat(64));
    for name in ["temporary/7/diff", "roots/stray/upper", &stray] {
        fs::create_dir_all(fixture.path().join(name)).unwrap();
    }
    let library = reopened(&fixture);
    assert!(!scratch.upper.exists());
    for name in ["temporary/7", "roots/stray", &stray] {
        assert!(!fixture.path().join(name).exists(), "{name}");
    }
    assert!(library.list().unwrap().is_empty());
    fixture.assert_empty();
    fixture.load(&docker_archive(&["app"], &[&Tar::new().end()])).unwrap();
}

/// A layer that a build noted in the cache only, so that nothing waited for the disk.
fn unsynced_layer(fixture: &Fixture) -> (Digest, Digest) {
    let (key, root) = fixture.library.open_layer(&[]).unwrap();
    fs::write(root.upper.join("file"), "contents").unwrap();
    let diff_id = fixture.library.commit_layer(&key).unwrap();
    let cache_key = Digest::of(b"key");
    fixture.library.remember_layer(&cache_key, &diff_id).unwrap();
    (cache_key, diff_id)
}

/// Makes the record say that the layer was written in another boot.
fn reboot(fixture: &Fixture) {
    for (key, value) in fixture.db.scan("image-layers", "").unwrap() {
        let text = String::from_utf8(value).unwrap();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        assert!(text.contains(boot.trim()), "it is not known to be on the disk");
        let text = text.replace(boot.trim(), "another boot");
        fixture.db.write(&[("image-layers", &key, Some(text.as_bytes()))]).unwrap();
    }
}

#[test]
fn after_a_power_cut_a_sound_layer_is_kept() {
    let fixture = Fixture::new();
    let (key, diff_id) = unsynced_layer(&fixture);
    reboot(&fixture);
    assert_eq!(reopened(&fixture).cached_layer(&key).unwrap(), Some(diff_id));
}

#[test]
fn after_a_power_cut_a_damaged_layer_is_forgotten() {
    let fixture = Fixture::new();
    let (key, diff_id) = unsynced_layer(&fixture);
    let dir = fixture.library.layer_dirs(&[diff_id]).unwrap().remove(0);
    fs::write(dir.join("file"), "").unwrap();
    reboot(&fixture);
    assert_eq!(reopened(&fixture).cached_layer(&key).unwrap(), None);
    assert!(!dir.exists());
}

#[test]
fn a_lost_layer_comes_back_with_its_image() {
    let fixture = Fixture::new();
    let archive = docker_archive(&["app"], &[&Tar::new().file("a", b"x").end()]);
    let id = fixture.load(&archive).unwrap()[0].id;
    let layers = fixture.path().join("layers");
    fs::remove_dir_all(layers).unwrap();
    let library = reopened(&fixture);
    assert!(library.create_root("c1", &id).is_err());
    library.load(&mut &archive[..], &mut |_| {}).unwrap();
    assert!(library.create_root("c1", &id).is_ok());
}
