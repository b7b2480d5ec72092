//! What nobody needs is taken away while the engine works; what somebody needs stays.

use super::lab::{script, with_engine, within};

#[test]
fn files_without_a_container_are_collected_and_no_others_as_root() {
    with_engine(|lab| async move {
        let kept = lab.run(script("echo kept; sleep 1000")).await;
        let stray = lab.path("data/containers").join("ab".repeat(32));
        std::fs::create_dir(&stray).unwrap();
        std::fs::write(stray.join("old-json.log"), "{}").unwrap();
        let layers = || std::fs::read_dir(lab.path("data/layers")).unwrap().count();
        let before = layers();
        assert_eq!(within(lab.engine.collect()).await.unwrap(), 0, "every layer is needed");
        assert!(!stray.exists());
        assert_eq!(layers(), before);
        assert!(lab.path("data/containers").join(&kept).exists());
        let (out, _, _) = lab.output(script("echo still here")).await;
        assert_eq!(out, "still here\n");
        within(lab.engine.remove_container(&kept, true, false)).await.unwrap();
        within(lab.engine.prune_containers(|_| true)).await.unwrap();
        lab
    });
}
