//! Builds through the engine: steps run as containers and leave only what they made.

use bytes::Bytes;
use cirro_build::{BuildEvent, BuildRequest};
use cirro_engine::{BuildContext, Engine};
use tokio::sync::mpsc;

use super::lab::{command, with_engine, within};

pub(crate) fn context(dockerfile: &str) -> BuildContext {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in [("Dockerfile", dockerfile), ("app.txt", "copied")] {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, bytes.as_bytes()).unwrap();
    }
    let bytes = tar.into_inner().unwrap();
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move { sender.send(Ok(Bytes::from(bytes))).await });
    BuildContext::Upload(receiver)
}

async fn build(engine: &Engine, dockerfile: &str) -> Result<String, String> {
    let request = BuildRequest {
        dockerfile: "Dockerfile".into(),
        tags: vec!["app".parse().unwrap()],
        network: "none".into(),
        ..BuildRequest::default()
    };
    let mut events =
        engine.build_image(context(dockerfile), request).await.map_err(|error| error.to_string())?;
    let mut text = String::new();
    while let Some(event) = within(events.recv()).await {
        match event? {
            BuildEvent::Line(line) => text.push_str(&line),
            BuildEvent::Output(bytes) => text.push_str(&String::from_utf8_lossy(&bytes)),
            BuildEvent::Step(_) | BuildEvent::Outline(_) | BuildEvent::Looking(_) | BuildEvent::Found(_) => {}
            BuildEvent::Image(id) => return Ok(format!("{text}\n{id}")),
        }
    }
    Err(format!("no image: {text}"))
}

#[test]
fn a_built_image_has_what_its_steps_made_and_nothing_of_ours_as_root() {
    with_engine(|lab| async move {
        let dockerfile = "FROM busybox\nWORKDIR /app\nCOPY app.txt .\nRUN echo said; cat /etc/hosts > hosts.txt; id -u > user\nCMD [\"cat\", \"/app/app.txt\"]\n";
        let text = build(&lab.engine, dockerfile).await.unwrap();
        assert!(text.contains("said\n"), "{text}");
        let run =
            cirro_seams::container::ContainerSpec { image: "app".into(), command: None, ..command(&[]) };
        let (out, err, code) = lab.output(run).await;
        assert_eq!((out.as_str(), code), ("copied", Some(0)), "{err}");
        let image = lab.engine.image("app").await.unwrap();
        let sizes = lab.engine.layer_sizes(&image).await.unwrap();
        assert!(sizes.len() >= 3);
        // The layers as directories: the runtime's mount points are in none of ours.
        let mut found = Vec::new();
        walk(&lab.path("data"), &mut found);
        let made: Vec<_> = found.iter().filter(|path| path.ends_with("app/user")).collect();
        assert_eq!(made.len(), 1, "{found:?}");
        let layer = std::path::Path::new(made[0]).parent().unwrap().parent().unwrap().to_owned();
        let names: Vec<_> =
            std::fs::read_dir(&layer).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(names, ["app"], "only the step's own directory");
        let failed = build(&lab.engine, "FROM busybox\nRUN exit 4\n").await.unwrap_err();
        assert!(failed.contains("returned a non-zero code: 4"), "{failed}");
        assert!(lab.engine.containers().iter().all(|container| !container.id.starts_with("build-")));
        lab
    });
}

fn walk(dir: &std::path::Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&path, found);
        } else {
            found.push(path.to_string_lossy().into_owned());
        }
    }
}

#[test]
fn a_build_that_nobody_waits_for_ends_as_root() {
    with_engine(|lab| async move {
        let request = BuildRequest {
            dockerfile: "Dockerfile".into(),
            network: "none".into(),
            ..BuildRequest::default()
        };
        let mut events = lab
            .engine
            .build_image(context("FROM busybox\nRUN echo begun; sleep 1000\n"), request)
            .await
            .unwrap();
        while let Some(event) = within(events.recv()).await {
            if matches!(&event, Ok(BuildEvent::Output(bytes)) if bytes.starts_with(b"begun")) {
                break;
            }
        }
        drop(events);
        // Tearing down waits for the step's own end; nothing of it may be left.
        lab
    });
}
