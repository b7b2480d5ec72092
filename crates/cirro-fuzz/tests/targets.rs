//! Every target on its seeds and on some hundreds of their mutations.

use cirro_fuzz::{Mutator, TARGETS, Target};

const MUTATIONS: usize = 400;

fn try_out(name: &str) {
    let target = Target::find(name).expect("a target");
    let seeds = target.seeds().expect("a corpus");
    assert!(!seeds.is_empty(), "{name} has no seeds");
    let directory = tempfile::tempdir().expect("a directory");
    let mut mutator = Mutator::new(1);
    let mutations = (0..MUTATIONS).map(|_| mutator.next(&seeds));
    for input in seeds.iter().cloned().chain(mutations) {
        (target.run)(&input, directory.path());
        assert_eq!(std::fs::read_dir(directory.path()).expect("the directory").count(), 0);
    }
}

macro_rules! targets {
    ($($test:ident: $name:literal),+ $(,)?) => {
        $(#[test]
        fn $test() {
            try_out($name);
        })+

        #[test]
        fn every_target_is_tried() {
            let tried = [$($name),+];
            assert!(TARGETS.iter().all(|target| tried.contains(&target.name)));
        }
    };
}

targets! {
    tar: "tar",
    layer: "layer",
    manifest: "manifest",
    image_config: "image-config",
    compression: "compression",
    challenge: "challenge",
    reference: "reference",
    dockerfile: "dockerfile",
    dockerignore: "dockerignore",
    build_context: "build-context",
    buildkit: "buildkit",
    transfer: "transfer",
    wire: "wire",
    log: "log",
    bundle: "bundle",
    filters: "filters",
    create: "create",
    spdy: "spdy",
}
