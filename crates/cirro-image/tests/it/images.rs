//! Names, ids and removals, as docker has them.

use cirro_image::{ImageError, Removed};
use cirro_types::Digest;

use crate::archive::{Fixture, Tar, docker_archive};

fn nobody(_: &Digest) -> Option<String> {
    None
}

fn layer(name: &str) -> Vec<u8> {
    Tar::new().file(name, name.as_bytes()).end()
}

/// Two images that share a layer: `a` (two names) and `b`.
fn two_images() -> (Fixture, Digest, Digest) {
    let fixture = Fixture::new();
    let [base, top] = [layer("base"), layer("top")];
    let a = fixture.load(&docker_archive(&["a:1", "a:2"], &[&base])).unwrap()[0].id;
    let b = fixture.load(&docker_archive(&["b"], &[&base, &top])).unwrap()[0].id;
    (fixture, a, b)
}

fn layers_on_disk(fixture: &Fixture) -> usize {
    std::fs::read_dir(fixture.path().join("layers")).unwrap().count()
}

#[test]
fn an_image_is_found_by_name_id_and_prefix() {
    let (fixture, a, b) = two_images();
    let find = |name: &str| fixture.library.find(name).map(|image| image.id);
    let hex = a.hex();
    for name in
        ["a:1", "docker.io/library/a:2", &hex, &hex[..12], &a.to_string(), &format!("sha256:{}", &hex[..6])]
    {
        assert_eq!(find(name).unwrap(), a, "{name}");
    }
    assert_eq!(find("b").unwrap(), b);
    assert_eq!(find("a").unwrap_err().to_string(), "No such image: a:latest");
    assert_eq!(find("UPPER").unwrap_err().to_string(), "No such image: UPPER");
    let absent = "0".repeat(64);
    assert_eq!(find(&absent).unwrap_err().to_string(), format!("No such image: sha256:{absent}"));
}

#[test]
fn an_ambiguous_prefix_is_told() {
    let fixture = Fixture::new();
    for index in 0..17 {
        fixture.load(&docker_archive(&[], &[&layer(&index.to_string())])).unwrap();
    }
    let images = fixture.library.list().unwrap();
    let twice = images
        .iter()
        .map(|image| image.id.hex()[..1].to_owned())
        .find(|prefix| images.iter().filter(|image| image.id.hex().starts_with(prefix)).count() > 1)
        .expect("seventeen ids, sixteen digits");
    assert!(matches!(fixture.library.find(&twice), Err(ImageError::Ambiguous(_))));
}

#[test]
fn a_name_goes_before_the_image_and_shared_layers_stay() {
    let (fixture, a, b) = two_images();
    let remove = |name: &str| fixture.library.remove(name, false, &nobody).unwrap();
    assert_eq!(remove("a:1"), [Removed::Untagged("a:1".into())]);
    assert_eq!(remove("a:2"), [Removed::Untagged("a:2".into()), Removed::Deleted(a)]);
    assert_eq!(layers_on_disk(&fixture), 2);
    let removed = remove(&b.short());
    assert_eq!(removed[..2], [Removed::Untagged("b:latest".into()), Removed::Deleted(b)]);
    assert_eq!(removed.len(), 4);
    fixture.assert_empty();
}

#[test]
fn an_id_with_several_names_must_be_forced() {
    let (fixture, a, _) = two_images();
    let error = fixture.library.remove(&a.hex(), false, &nobody).unwrap_err();
    let text = format!(
        "conflict: unable to delete {} (must be forced) - image is referenced in multiple repositories",
        a.short()
    );
    assert_eq!(error.to_string(), text);
    assert!(matches!(error, ImageError::InUse(_)));
    assert_eq!(fixture.library.remove(&a.hex(), true, &nobody).unwrap().len(), 3);
}

#[test]
fn a_used_image_is_refused_in_dockers_words() {
    let (fixture, a, b) = two_images();
    let container = "0123456789abcdef0123";
    let stopped = |_: &Digest| Some(container.to_owned());
    let running = |_: &Digest| Some(format!("running {container}"));
    let refused = |name: &str, force: bool, user: &dyn Fn(&Digest) -> Option<String>| {
        fixture.library.remove(name, force, user).unwrap_err().to_string()
    };
    assert_eq!(
        refused("b", false, &running),
        format!(
            "conflict: unable to remove repository reference \"b\" (must force) - container 0123456789ab is \
             using its referenced image {}",
            b.short()
        )
    );
    assert_eq!(
        refused(&b.short(), false, &stopped),
        format!(
            "conflict: unable to delete {} (must be forced) - image is being used by stopped container 0123456789ab",
            b.short()
        )
    );
    assert_eq!(
        refused(&b.short(), true, &running),
        format!(
            "conflict: unable to delete {} (cannot be forced) - image is being used by running container 0123456789ab",
            b.short()
        )
    );
    // One of several names may go; the last one of a running container's image goes by force and leaves the image.
    assert_eq!(fixture.library.remove("a:1", false, &running).unwrap().len(), 1);
    assert_eq!(fixture.library.remove("a:2", true, &running).unwrap(), [Removed::Untagged("a:2".into())]);
    assert!(fixture.library.find(&a.hex()).unwrap().tags.is_empty());
    assert_eq!(fixture.library.remove("b", true, &stopped).unwrap()[1], Removed::Deleted(b));
}

#[test]
fn a_root_keeps_its_layers_when_its_image_is_gone() {
    let (fixture, a, b) = two_images();
    let root = fixture.library.create_root("c1", &b).unwrap();
    assert_eq!(root.lower.len(), 2);
    fixture.library.remove("b", true, &nobody).unwrap();
    fixture.library.remove(&a.hex(), true, &nobody).unwrap();
    assert_eq!(layers_on_disk(&fixture), 2);
    assert_eq!(fixture.library.create_root("c1", &b).unwrap().upper, root.upper, "it is found again");
    fixture.library.remove_root("c1").unwrap();
    fixture.library.remove_root("c1").unwrap();
    fixture.library.prune(false, &|_| true, &nobody).unwrap();
    fixture.assert_empty();
}

#[test]
fn a_roots_name_cannot_be_a_path() {
    let (fixture, a, _) = two_images();
    for name in ["", ".", "..", "../x", "a/b", "a\0b", &"x".repeat(200)] {
        assert!(fixture.library.create_root(name, &a).is_err(), "{name:?}");
        assert!(fixture.library.remove_root(name).is_err(), "{name:?}");
    }
}

#[test]
fn a_prune_takes_what_has_no_name_and_is_not_used() {
    let (fixture, a, b) = two_images();
    fixture.load(&docker_archive(&["b"], &[&layer("newer")])).unwrap();
    let used = |id: &Digest| (*id == a).then(|| "c1".to_owned());
    let (removed, bytes) = fixture.library.prune(false, &|_| true, &used).unwrap();
    assert_eq!(removed[0], Removed::Deleted(b));
    assert_eq!((removed.len(), bytes), (2, 3));
    let (removed, bytes) = fixture.library.prune(true, &|_| true, &used).unwrap();
    assert_eq!((removed.len(), bytes), (3, 5));
    assert_eq!(fixture.library.list().unwrap().len(), 1);
}

#[test]
fn tags_move_and_must_be_tags() {
    let (fixture, a, b) = two_images();
    fixture.library.tag(&a, &"b".parse().unwrap()).unwrap();
    assert_eq!(fixture.library.find("b").unwrap().id, a);
    assert!(fixture.library.find(&b.hex()).unwrap().tags.is_empty());
    let pinned = format!("b@{b}").parse().unwrap();
    assert!(matches!(fixture.library.tag(&a, &pinned), Err(ImageError::Invalid(_))));
    let absent = Digest::of(b"absent");
    assert!(matches!(fixture.library.tag(&absent, &"c".parse().unwrap()), Err(ImageError::NotFound(_))));
}
