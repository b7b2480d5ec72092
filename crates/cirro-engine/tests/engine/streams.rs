//! Streams: attach before the start, stdin, terminals, exec, logs that are followed.

use bytes::Bytes;
use cirro_container::LogQuery;
use cirro_engine::EngineError;
use cirro_seams::container::{ContainerSpec, Phase};
use cirro_seams::node::{ExecRequest, Output};

use super::lab::{collect, command, script, with_engine, within};

fn exec(args: &[&str]) -> ExecRequest {
    ExecRequest {
        command: args.iter().map(|arg| (*arg).to_owned()).collect(),
        stdout: true,
        stderr: true,
        ..ExecRequest::default()
    }
}

#[test]
fn stdin_reaches_a_container_that_was_attached_before_its_start_as_root() {
    with_engine(|lab| async move {
        let spec = ContainerSpec { open_stdin: true, stdin_once: true, ..command(&["cat"]) };
        let (id, _) = lab.engine.create_container(spec).await.unwrap();
        let mut session = lab.engine.attach_container(&id, true).await.unwrap();
        let input = session.input.take().unwrap();
        input.send(Bytes::from("before ")).await.unwrap();
        lab.engine.start_container(&id).await.unwrap();
        input.send(Bytes::from("after")).await.unwrap();
        drop(input);
        let (out, _, code) = collect(session).await;
        assert_eq!((out.as_str(), code), ("before after", Some(0)));
        lab
    });
}

#[test]
fn a_terminal_has_the_size_it_was_given_before_the_start_as_root() {
    with_engine(|lab| async move {
        let spec =
            ContainerSpec { tty: true, open_stdin: true, ..script("stty size; test -t 0 && echo terminal") };
        let (id, _) = lab.engine.create_container(spec).await.unwrap();
        let session = lab.engine.attach_container(&id, true).await.unwrap();
        lab.engine.resize_container(&id, 100, 30).await.unwrap();
        lab.engine.start_container(&id).await.unwrap();
        let (out, _, _) = collect(session).await;
        assert_eq!(out, "30 100\r\nterminal\r\n");
        lab
    });
}

#[test]
fn commands_run_in_a_container_with_their_own_user_and_exit_code_as_root() {
    with_engine(|lab| async move {
        let engine = &lab.engine;
        let id = lab.run(command(&["sleep", "1000"])).await;
        let request = ExecRequest {
            user: Some("web".into()),
            env: vec!["A=1".into()],
            working_dir: Some("/tmp".into()),
            ..exec(&["sh", "-c", "id -u; pwd; echo $A; exit 9"])
        };
        let exec_id = engine.create_exec(&id, request).await.unwrap();
        let session = engine.start_exec(&exec_id).await.unwrap();
        assert_eq!(collect(session).await, ("33\n/tmp\n1\n".into(), String::new(), Some(9)));
        let state = engine.exec(&exec_id).unwrap();
        assert_eq!((state.running, state.exit_code), (false, Some(9)));
        assert!(matches!(engine.start_exec(&exec_id).await, Err(EngineError::Conflict(_))));
        let missing = engine.create_exec(&id, exec(&["nothere"])).await.unwrap();
        let error = engine.start_exec(&missing).await.unwrap_err().to_string();
        assert!(error.ends_with("exec: \"nothere\": executable file not found in $PATH: unknown"), "{error}");
        assert_eq!(engine.exec(&missing).unwrap().exit_code, Some(127));
        engine.kill_container(&id, "").await.unwrap();
        lab.phase(&id, Phase::Exited).await;
        let refused = engine.create_exec(&id, exec(&["true"])).await.unwrap_err();
        assert_eq!(refused.to_string(), format!("container {id} is not running"));
        lab
    });
}

#[test]
fn a_followed_log_ends_with_the_container_as_root() {
    with_engine(|lab| async move {
        let spec = ContainerSpec { open_stdin: true, ..command(&["cat"]) };
        let id = lab.run(spec).await;
        let query = LogQuery { follow: true, ..LogQuery::default() };
        let mut log = lab.engine.container_logs(&id, query).await.unwrap();
        let mut session = lab.engine.attach_container(&id, true).await.unwrap();
        let input = session.input.take().unwrap();
        input.send(Bytes::from("one\n")).await.unwrap();
        assert_eq!(within(log.recv()).await.unwrap().line, "one\n");
        assert_eq!(within(session.output.recv()).await.unwrap(), Output::Stdout("one\n".into()));
        lab.engine.kill_container(&id, "KILL").await.unwrap();
        assert_eq!(within(log.recv()).await, None);
        lab
    });
}
