//! Roots and documents that try to get out.

use std::os::unix::fs::symlink;

use serde_json::json;

use super::{container, refused, said};
use crate::cloud::Cloud;

fn core_pattern() -> String {
    std::fs::read_to_string("/proc/sys/kernel/core_pattern").expect("core_pattern")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kernels_filesystems_are_not_put_behind_links() {
    // CVE-2019-19921, CVE-2023-27561: /proc or /sys of the image is a link.
    let cloud = Cloud::start().await;
    for name in ["proc", "sys"] {
        let request = container(&cloud, name, "true", |_| ());
        let upper = request.rootfs.upper.clone();
        std::fs::create_dir(upper.join("elsewhere")).expect("directory");
        symlink("/elsewhere", upper.join(name)).expect("link");
        let error = refused(&cloud, request).await.to_string();
        assert!(error.contains(&format!("mount at /{name}")), "{error}");
    }
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_images_null_hides_nothing() {
    // CVE-2025-31133: what is bound over a masked path is never the image's /dev/null.
    let mut cloud = Cloud::start().await;
    let before = core_pattern();
    let script = "busybox wc -c < /proc/keys; busybox stat -c '%t %T' /proc/keys; echo evil > /proc/keys; cat /proc/keys;
                  ls -l /dev/null | grep -c core_pattern";
    let request = container(&cloud, "null", &format!("{script}; true"), |spec| {
        // Without a tmpfs the image's own /dev is used.
        spec["mounts"].as_array_mut().expect("mounts").retain(|mount| mount["destination"] != "/dev");
    });
    let upper = request.rootfs.upper.clone();
    std::fs::create_dir(upper.join("dev")).expect("directory");
    symlink("/proc/sys/kernel/core_pattern", upper.join("dev/null")).expect("link");
    let text = said(&mut cloud, request).await;
    assert_eq!(text, "0\n1 3\n1\n");
    assert_eq!(core_pattern(), before);
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_of_mounts_stay_in_the_root() {
    // CVE-2021-30465, CVE-2024-45310: the target of a volume leads out of the root.
    let mut cloud = Cloud::start().await;
    let outside = cloud.path("outside");
    std::fs::create_dir(&outside).expect("directory");
    let source = cloud.path("source");
    std::fs::create_dir(&source).expect("directory");
    std::fs::write(source.join("file"), "volume\n").expect("file");
    let request = container(&cloud, "volume", "cat /out/deep/file /up/deep/file", |spec| {
        for name in ["/out/deep", "/up/deep", "/../../../above"] {
            let mount = json!({"destination": name, "type": "bind", "source": source, "options": ["bind"]});
            spec["mounts"].as_array_mut().expect("mounts").push(mount);
        }
    });
    let upper = request.rootfs.upper.clone();
    // Both lead outside for whoever resolves them by string; inside, the first does not exist and is refused.
    symlink(&outside, upper.join("dangling")).expect("link");
    symlink("../../../../../../../../up2", upper.join("up")).expect("link");
    std::fs::create_dir(upper.join("up2")).expect("directory");
    std::fs::create_dir(upper.join("out")).expect("directory");
    assert_eq!(said(&mut cloud, request).await, "volume\nvolume\n");
    assert!(upper.join("up2/deep").is_dir() && upper.join("above").is_dir());
    let request = container(&cloud, "dangling", "true", |spec| {
        let mount =
            json!({"destination": "/dangling/deep", "type": "bind", "source": source, "options": ["bind"]});
        spec["mounts"].as_array_mut().expect("mounts").push(mount);
    });
    symlink(&outside, request.rootfs.upper.join("dangling")).expect("link");
    crate::cloud::within(cloud.supervisor.delete("volume", false)).await.expect("delete");
    refused(&cloud, request).await;
    assert_eq!(std::fs::read_dir(&outside).expect("list").count(), 0);
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_descriptor_of_the_host_is_left() {
    // CVE-2024-21626: a working directory behind a descriptor that leaked, and descriptors of the waiting process.
    let mut cloud = Cloud::start().await;
    for number in 3..20 {
        let request = container(&cloud, "cwd", "pwd; ls", |spec| {
            spec["process"]["cwd"] = json!(format!("/proc/self/fd/{number}"));
        });
        let error = refused(&cloud, request).await.to_string();
        assert!(error.contains("working directory") || error.contains("chdir"), "{number}: {error}");
    }
    let request = container(&cloud, "open", "ls /proc/self/fd", |_| ());
    let state = crate::cloud::within(cloud.supervisor.create(request)).await.expect("create");
    let pid = state.pid.expect("pid");
    let open: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("descriptors")
        .flatten()
        .map(|entry| std::fs::read_link(entry.path()).expect("link").display().to_string())
        .collect();
    // Its streams, the gate, and the socket over which it said that it is ready.
    assert!(open.len() <= 5, "{open:?}");
    let allowed = |name: &String| {
        name == "/dev/null"
            || name.starts_with("pipe:")
            || name.starts_with("socket:")
            || name.ends_with("/gate")
    };
    assert!(open.iter().all(allowed), "{open:?}");
    crate::cloud::within(cloud.supervisor.start("open")).await.expect("start");
    assert_eq!(cloud.exit("open").await.code, Some(0));
    let numbers = cloud.text("open").await;
    assert_eq!(numbers.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_that_cannot_be_applied_are_refused() {
    let cloud = Cloud::start().await;
    if !std::path::Path::new("/sys/module/apparmor").exists() {
        let request = container(&cloud, "label", "true", |spec| {
            spec["process"]["apparmorProfile"] = json!("docker-default");
        });
        assert!(refused(&cloud, request).await.to_string().contains("apparmor"));
    }
    if !std::path::Path::new("/sys/fs/selinux/enforce").exists() {
        let request =
            container(&cloud, "label", "true", |spec| spec["process"]["selinuxLabel"] = json!("a:b:c:s0"));
        assert!(refused(&cloud, request).await.to_string().contains("selinux"));
    }
    cloud.end().await;
}
