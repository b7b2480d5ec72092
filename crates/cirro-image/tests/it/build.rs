//! What the builder does: scratch spaces, commits, the cache of layers.

use std::fs;

use cirro_image::ImageError;
use cirro_types::{Digest, ImageConfig};

use crate::archive::{Fixture, Tar};

fn nobody(_: &Digest) -> Option<String> {
    None
}

fn build(fixture: &Fixture, below: &[Digest], name: &str, contents: &str) -> Digest {
    let (key, root) = fixture.library.open_layer(below).unwrap();
    fs::write(root.upper.join(name), contents).unwrap();
    let file = fs::File::options().write(true).open(root.upper.join(name)).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    fixture.library.commit_layer(&key).unwrap()
}

#[test]
fn nothing_written_is_the_empty_layer() {
    let fixture = Fixture::new();
    let (key, _) = fixture.library.open_layer(&[]).unwrap();
    let empty = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";
    assert_eq!(fixture.library.commit_layer(&key).unwrap().to_string(), empty);
}

#[test]
fn the_upper_directory_itself_becomes_the_layer() {
    use std::os::unix::fs::MetadataExt;
    let fixture = Fixture::new();
    let (key, root) = fixture.library.open_layer(&[]).unwrap();
    fs::write(root.upper.join("big"), vec![1; 1 << 20]).unwrap();
    let inode = fs::metadata(root.upper.join("big")).unwrap().ino();
    let diff_id = fixture.library.commit_layer(&key).unwrap();
    let dir = fixture.library.layer_dirs(&[diff_id]).unwrap().remove(0);
    assert_eq!(fs::metadata(dir.join("big")).unwrap().ino(), inode);
    assert_eq!(fixture.library.layer_sizes(&[diff_id]).unwrap(), [1 << 20]);
    assert!(!root.upper.exists());
}

#[test]
fn the_same_tree_is_the_same_layer() {
    let fixture = Fixture::new();
    let one = build(&fixture, &[], "a", "x");
    assert_eq!(build(&fixture, &[], "a", "x"), one);
    assert_ne!(build(&fixture, &[], "a", "y"), one);
    assert_eq!(fs::read_dir(fixture.path().join("layers")).unwrap().count(), 2);
}

#[test]
fn dropped_scratch_space_leaves_nothing() {
    let fixture = Fixture::new();
    let (key, root) = fixture.library.open_layer(&[]).unwrap();
    fs::write(root.upper.join("x"), "").unwrap();
    fixture.library.drop_layer(&key).unwrap();
    fixture.assert_empty();
    assert!(matches!(fixture.library.drop_layer(&key), Err(ImageError::Invalid(_))));
    assert!(fixture.library.commit_layer("../roots/x").is_err());
}

#[test]
fn a_tree_that_no_tar_can_hold_is_refused_and_stays() {
    let fixture = Fixture::new();
    let (key, root) = fixture.library.open_layer(&[]).unwrap();
    fs::write(root.upper.join(".wh.file"), "").unwrap();
    assert!(fixture.library.commit_layer(&key).unwrap_err().to_string().contains("whiteout"));
    assert!(root.upper.join(".wh.file").exists());
    fs::remove_file(root.upper.join(".wh.file")).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    fs::create_dir(root.upper.join("moved")).unwrap();
    rustix::fs::setxattr(root.upper.join("moved"), "trusted.overlay.redirect", b"/from", flags).unwrap();
    assert!(fixture.library.commit_layer(&key).unwrap_err().to_string().contains("redirect_dir=off"));
    fixture.library.drop_layer(&key).unwrap();
}

#[test]
fn the_cache_knows_layers_as_long_as_they_are_here() {
    let fixture = Fixture::new();
    let key = Digest::of(b"key");
    assert_eq!(fixture.library.cached_layer(&key).unwrap(), None);
    let diff_id = build(&fixture, &[], "a", "x");
    fixture.library.remember_layer(&key, &diff_id).unwrap();
    let mut config = ImageConfig::default();
    config.rootfs.diff_ids = vec![diff_id];
    fixture.library.put_image(&config, &["built".parse().unwrap()]).unwrap();
    fixture.library.remove("built", false, &nobody).unwrap();
    assert_eq!(fixture.library.cached_layer(&key).unwrap(), Some(diff_id), "a rebuild is quick");
    fixture.library.put_image(&config, &["built".parse().unwrap()]).unwrap();
    fixture.library.prune(true, &|_| true, &nobody).unwrap();
    assert_eq!(fixture.library.cached_layer(&key).unwrap(), None);
    fixture.assert_empty();
}

#[test]
fn a_prune_leaves_a_build_at_work_alone() {
    let fixture = Fixture::new();
    let stage = build(&fixture, &[], "stage", "x");
    let (key, _) = fixture.library.open_layer(&[]).unwrap();
    fixture.library.prune(true, &|_| true, &nobody).unwrap();
    assert!(fixture.library.layer_dirs(&[stage]).is_ok());
    fixture.library.drop_layer(&key).unwrap();
}

#[test]
fn an_image_needs_its_layers() {
    let fixture = Fixture::new();
    let mut config = ImageConfig::default();
    config.rootfs.diff_ids = vec![Digest::of(b"absent")];
    assert!(fixture.library.put_image(&config, &[]).is_err());
    assert!(fixture.library.open_layer(&[Digest::of(b"absent")]).is_err());
    fixture.layer(&Tar::new().end()).unwrap();
}

#[test]
fn a_cache_prune_takes_what_it_is_told_and_no_image() {
    let fixture = Fixture::new();
    let (kept, gone) = (Digest::of(b"kept"), Digest::of(b"gone"));
    let layers = [build(&fixture, &[], "a", "x"), build(&fixture, &[], "b", "y")];
    fixture.library.remember_layer(&kept, &layers[0]).unwrap();
    fixture.library.remember_layer(&gone, &layers[1]).unwrap();
    let mut config = ImageConfig::default();
    config.rootfs.diff_ids = vec![layers[0]];
    let dangling = fixture.library.put_image(&config, &[]).unwrap();
    // A layer that was in an image is no longer one that a build may be waiting for.
    config.rootfs.diff_ids = vec![layers[1]];
    fixture.library.put_image(&config, &["once".parse().unwrap()]).unwrap();
    fixture.library.remove("once", false, &nobody).unwrap();
    let (removed, bytes) = fixture.library.prune_cache(&|layer| !layer.shared).unwrap();
    assert_eq!(removed, [layers[1]]);
    assert!(bytes > 0);
    assert_eq!(fixture.library.cached_layer(&kept).unwrap(), Some(layers[0]));
    assert_eq!(fixture.library.cached_layer(&gone).unwrap(), None);
    let (removed, _) = fixture.library.prune_cache(&|_| true).unwrap();
    assert!(removed.is_empty());
    assert_eq!(fixture.library.cached_layer(&kept).unwrap(), None);
    assert_eq!(fixture.library.find(&dangling.to_string()).unwrap().id, dangling);
}
