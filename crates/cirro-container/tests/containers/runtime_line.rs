//! Each command of the runtime, as its callers type it.

use std::io::Read;
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::line::{Line, say, wait_for};

#[test]
fn a_container_goes_through_all_its_states() {
    let line = Line::new();
    let bundle = line.bundle("one", "trap 'exit 9' TERM; while :; do sleep 0.05; done", |_| ());
    let pid_file = line.path("pid").to_string_lossy().into_owned();
    line.command(&["create", "--bundle", &bundle, "--pid-file", &pid_file, "one"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("create");
    let state: Value = serde_json::from_str(&line.say(&["state", "one"]).ok()).expect("json");
    assert_eq!(state["status"], "created");
    assert_eq!(state["bundle"], bundle.as_str());
    assert_eq!(state["pid"].to_string(), std::fs::read_to_string(&pid_file).expect("pid file"));
    let again = line.say(&["create", "--bundle", &bundle, "one"]);
    assert!(again.code == 1 && again.stderr.contains("container with given ID already exists"), "{again:?}");

    line.say(&["start", "one"]).ok();
    assert_eq!(line.status("one"), "running");
    assert!(line.say(&["start", "one"]).stderr.contains("already running"));
    let list: Value = serde_json::from_str(&line.say(&["list", "--format", "json"]).ok()).expect("json");
    assert_eq!((&list[0]["id"], list.as_array().map(Vec::len)), (&json!("one"), Some(1)));
    let pids: Vec<u32> = serde_json::from_str(&line.say(&["ps", "--format=json", "one"]).ok()).expect("json");
    assert!(pids.contains(&u32::try_from(state["pid"].as_u64().expect("pid")).expect("pid")));
    assert!(line.say(&["ps", "one", "-ef"]).ok().lines().count() > 1);

    line.say(&["pause", "one"]).ok();
    assert_eq!(line.status("one"), "paused");
    assert!(line.say(&["exec", "one", "true"]).stderr.contains("paused"));
    line.say(&["resume", "one"]).ok();
    assert!(line.say(&["delete", "one"]).stderr.contains("that is not stopped: running"));

    line.say(&["kill", "one", "SIGTERM"]).ok();
    wait_for("the end", || (line.status("one") == "stopped").then_some(()));
    let late = line.say(&["kill", "one", "KILL"]);
    assert!(late.code == 1 && late.stderr.contains("container not running"), "{late:?}");
    line.say(&["delete", "one"]).ok();
    let gone = line.say(&["delete", "one"]);
    assert!(gone.code == 1 && gone.stderr.contains("container does not exist"), "{gone:?}");
    line.say(&["delete", "--force", "one"]).ok();
    line.end();
}

#[test]
fn run_and_exec_give_exit_codes_and_output_back() {
    let line = Line::new();
    let said = line.run("two", "echo out; echo err >&2; exit 7", |_| ());
    assert_eq!((said.code, said.stdout.as_str(), said.stderr.as_str()), (7, "out\n", "err\n"));
    let killed = line.run("three", "kill -9 $$; sleep 1", |_| ());
    assert!(killed.code == 137 || killed.code == 0, "{killed:?}");

    let bundle = line.bundle("home", "exec sleep 1000", |_| ());
    let detached = line
        .command(&["run", "-d", "--bundle", &bundle, "home"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(detached.expect("run").success());
    let said = line.say(&[
        "exec",
        "--user",
        "7:8",
        "--cwd",
        "/tmp",
        "--env",
        "A=b",
        "home",
        "sh",
        "-c",
        "id; pwd; echo $A; exit 5",
    ]);
    assert_eq!((said.code, said.stdout.as_str()), (5, "uid=7 gid=8\n/tmp\nb\n"), "{said:?}");
    let missing = line.say(&["exec", "home", "nonsense"]);
    assert_eq!(missing.code, 255, "{missing:?}");
    assert!(missing.stderr.contains("executable file not found in $PATH"), "{missing:?}");
    let process = json!({
        "user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["sh", "-c", "echo from file; exit 6"], "env": ["PATH=/bin"]
    });
    let file = line.path("process.json");
    std::fs::write(&file, process.to_string()).expect("process");
    let said = line.say(&["exec", "--process", &file.to_string_lossy(), "home"]);
    assert_eq!((said.code, said.stdout.as_str()), (6, "from file\n"), "{said:?}");
    line.say(&["delete", "--force", "home"]).ok();
    line.end();
}

#[test]
fn limits_change_and_are_counted() {
    let line = Line::new();
    let bundle = line.bundle("limited", "exec sleep 1000", |spec| {
        spec["linux"]["resources"]["pids"] = json!({"limit": 50});
    });
    let created = line
        .command(&["run", "--detach", "--bundle", &bundle, "limited"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
    assert!(created.expect("run").success());
    line.say(&["update", "--memory", "64m", "--pids-limit", "77", "limited"]).ok();
    let events: Value =
        serde_json::from_str(&line.say(&["events", "--stats", "limited"]).ok()).expect("json");
    assert_eq!(events["data"]["pids"]["limit"], 77);
    assert_eq!(events["data"]["memory"]["usage"]["limit"], 64 << 20);
    line.say(&["delete", "--force", "limited"]).ok();
    line.end();
}

#[test]
fn a_terminal_goes_to_the_console_socket() {
    let line = Line::new();
    let bundle = line.bundle("term", "tty; stty size; exit 4", |spec| {
        spec["process"]["terminal"] = json!(true);
        spec["process"]["consoleSize"] = json!({"height": 33, "width": 77});
    });
    let socket = line.path("console");
    let listener = UnixListener::bind(&socket).expect("socket");
    let refused = line.say(&["create", "--bundle", &bundle, "term"]);
    assert!(refused.stderr.contains("without setting console socket"), "{refused:?}");
    line.say(&["create", "--bundle", &bundle, "--console-socket", &socket.to_string_lossy(), "term"]).ok();
    let (connection, _) = listener.accept().expect("connection");
    let (mut name, mut descriptors) = ([0; 64], Vec::new());
    cirro_sys::descriptors::receive(&connection, &mut name, &mut descriptors).expect("terminal");
    let mut master = std::fs::File::from(descriptors.pop().expect("a descriptor"));
    line.say(&["start", "term"]).ok();
    let mut text = Vec::new();
    let mut buffer = [0; 256];
    // The end of a terminal is an error.
    while let Ok(length @ 1..) = master.read(&mut buffer) {
        text.extend_from_slice(&buffer[..length]);
    }
    assert_eq!(String::from_utf8_lossy(&text), "/dev/pts/0\r\n33 77\r\n");
    wait_for("the end", || (line.status("term") == "stopped").then_some(()));
    line.say(&["delete", "term"]).ok();
    line.end();
}

#[test]
fn errors_are_logged_where_callers_read_them() {
    let line = Line::new();
    let log = line.path("log.json");
    let bundle = line.bundle("broken", "true", |spec| spec["process"]["args"] = json!(["/bin/nonsense"]));
    let said = line.say(&[
        "--log",
        &log.to_string_lossy(),
        "--log-format",
        "json",
        "create",
        "--bundle",
        &bundle,
        "broken",
    ]);
    assert_eq!(said.code, 1);
    let text = std::fs::read_to_string(&log).expect("log");
    let entry: Value = serde_json::from_str(text.lines().last().expect("a line")).expect("json");
    assert_eq!(entry["level"], "error");
    let message = entry["msg"].as_str().expect("message");
    assert!(message.contains("no such file or directory"), "{message}");
    assert_eq!(said.stderr.trim_end(), message);
    assert_eq!(line.say(&["list", "--format", "json"]).ok(), "null\n");

    let refused = line.say(&["--systemd-cgroup", "create", "--bundle", &bundle, "broken"]);
    assert!(refused.code == 1 && refused.stderr.contains("cgroupfs"), "{refused:?}");
    assert!(line.say(&["--version"]).ok().starts_with("cirro-runtime version "));
    let features: Value = serde_json::from_str(&line.say(&["features"]).ok()).expect("json");
    assert_eq!(features["ociVersionMin"], "1.0.0");
    std::fs::create_dir(line.path("fresh")).expect("directory");
    line.say(&["spec", "--bundle", &line.path("fresh").to_string_lossy()]).ok();
    assert!(line.path("fresh").join("config.json").exists());
    line.end();
}

#[test]
fn hooks_are_run_in_their_order() {
    let line = Line::new();
    let trace = line.path("trace").to_string_lossy().into_owned();
    let hook = |name: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("grep -q '\"id\":\"hooked\"' && echo {name} >> {trace}")]}]);
    let said = line.run("hooked", "true", |spec| {
        spec["hooks"] = json!({
            "prestart": hook("prestart"), "createRuntime": hook("createRuntime"),
            "poststart": hook("poststart"), "poststop": hook("poststop"),
        });
    });
    assert_eq!(said.code, 0, "{said:?}");
    let text = std::fs::read_to_string(&trace).expect("trace");
    assert_eq!(text.lines().collect::<Vec<_>>(), ["prestart", "createRuntime", "poststart", "poststop"]);
    line.end();
}

#[test]
fn descriptors_are_handed_on_only_when_asked_for() {
    let line = Line::new();
    let bundle = line.bundle("fds", "ls /proc/self/fd | tr '\\n' ' '", |_| ());
    let run = |preserve: &str| {
        let mut command = std::process::Command::new("sh");
        let script = "exec 3</etc/passwd 4</ 9</etc; exec \"$@\"";
        command
            .args(["-c", script, "sh"])
            .arg(line.program())
            .args(["runtime", "--root"])
            .arg(line.path("root"));
        say(command.args(["run", "--preserve-fds", preserve, "--bundle", &bundle, "fds"])).ok()
    };
    // The directory that `ls` itself reads is the first free number.
    assert_eq!(run("0").trim(), "0 1 2 3");
    assert_eq!(run("2").trim(), "0 1 2 3 4 5");
    line.end();
}
