//! Two hundred containers, and a daemon and a supervisor that are killed among them: nobody notices, nothing is lost.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cirro_engine::{Engine, WaitCondition};
use cirro_seams::container::{ContainerSpec, Phase, RestartPolicy};
use cirro_seams::node::NodeEvent;
use futures_util::StreamExt;

use super::lab::{Lab, script, with_engine, within};

const CROWD: usize = 200;
const AT_ONCE: usize = 8;
const ROUNDS: u64 = 4;
/// Seed of the moments at which it is killed.
const SEED: u64 = 20_261_121;

/// One line a second without a process for it: `read` waits for a standard input that says nothing.
const COUNTING: &str = "n=0; while :; do n=$((n+1)); echo line $n; read -t 1 x; done";

fn counting(text: &str) -> ContainerSpec {
    ContainerSpec { open_stdin: true, ..script(text) }
}

async fn run_all(engine: &Engine, specs: impl Iterator<Item = ContainerSpec>) -> Vec<String> {
    let runs = specs.map(|spec| async move {
        let (id, _) = engine.create_container(spec).await.expect("create");
        engine.start_container(&id).await.expect("start");
        id
    });
    within(futures_util::stream::iter(runs).buffered(AT_ONCE).collect()).await
}

/// Numbers of the lines in a container's log; they must follow each other.
async fn lines(engine: &Engine, id: &str) -> usize {
    let mut log = engine.container_logs(id, Default::default()).await.expect("log");
    let mut count = 0;
    while let Some(entry) = within(log.recv()).await {
        count += 1;
        assert_eq!(entry.line, format!("line {count}\n"), "container {id}");
    }
    count
}

/// Waits until every container has said something more: they run, and are heard.
async fn all_go_on(engine: &Engine, crowd: &BTreeMap<String, Option<i32>>, since: &BTreeMap<String, usize>) {
    for (id, pid) in crowd {
        let container = engine.container(id).expect("container");
        assert_eq!((container.phase, container.pid), (Phase::Running, *pid), "container {id}");
        within(async {
            while lines(engine, id).await <= since.get(id).copied().unwrap_or(0) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
        .await;
    }
}

async fn count_all(engine: &Engine, crowd: &BTreeMap<String, Option<i32>>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for id in crowd.keys() {
        counts.insert(id.clone(), lines(engine, id).await);
    }
    counts
}

/// A daemon that makes, starts and removes containers, until it is killed at a moment of its seed.
async fn killed_daemon(directory: &std::path::Path, name: &str, round: u64) {
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_cirro-engine-test"))
        .arg("churn")
        .arg(directory)
        .arg(name)
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    let random = SEED.wrapping_mul(6_364_136_223_846_793_005).rotate_left((round * 13) as u32 % 64) >> 33;
    tokio::time::sleep(Duration::from_millis(200 + random % 2500)).await;
    assert!(daemon.try_wait().unwrap().is_none(), "it ended by itself");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}

#[test]
fn a_crowd_survives_killed_daemons_and_a_killed_supervisor_as_root() {
    with_engine(|lab| async move {
        let ids = run_all(&lab.engine, (0..CROWD).map(|_| counting(COUNTING))).await;
        let crowd: BTreeMap<String, Option<i32>> =
            ids.iter().map(|id| (id.clone(), lab.engine.container(id).expect("container").pid)).collect();
        // Ends of these come while daemons are killed.
        let codes: Vec<i32> = (3..11).collect();
        let ending = codes.iter().map(|code| script(&format!("sleep {code}; exit {code}")));
        let ending = run_all(&lab.engine, ending).await;
        let again = ContainerSpec { restart: RestartPolicy::Always, ..script("sleep 3; exit 1") };
        let again = run_all(&lab.engine, [again].into_iter()).await;

        let counts = count_all(&lab.engine, &crowd).await;
        let lab = lab
            .replaced(async |directory, name| {
                for round in 0..ROUNDS {
                    killed_daemon(directory, name, round).await;
                }
            })
            .await;
        assert_eq!(lab.engine.leaks().await.unwrap(), Vec::<String>::new());
        all_go_on(&lab.engine, &crowd, &counts).await;
        for (id, code) in ending.iter().zip(&codes) {
            if let Ok(ended) = lab.engine.wait_container(id, WaitCondition::NotRunning).await {
                within(ended).await.unwrap();
            }
            assert_eq!(lab.engine.container(id).unwrap().exit_code, Some(*code));
        }
        let restarts = lab.engine.container(&again[0]).unwrap();
        assert!(matches!(restarts.phase, Phase::Running | Phase::Restarting), "{restarts:?}");

        kill_supervisor(&lab, &crowd).await;
        let begun = Instant::now();
        let lab = lab.restarted().await;
        eprintln!("{CROWD} containers: the engine was back after {:?}", begun.elapsed());
        lab
    });
}

/// Kills the supervisor while containers are made and removed around the crowd.
async fn kill_supervisor(lab: &Lab, crowd: &BTreeMap<String, Option<i32>>) {
    let counts = count_all(&lab.engine, crowd).await;
    let mut changes = lab.engine.node().events();
    let churn = tokio::spawn({
        let engine = lab.engine.clone();
        async move {
            for _ in 0..12 {
                // One that was on its way when the supervisor died may fail, and leaves nothing then.
                let Ok((id, _)) = engine.create_container(script("exit 4")).await else { continue };
                if engine.start_container(&id).await.is_ok()
                    && let Ok(ended) = engine.wait_container(&id, WaitCondition::NotRunning).await
                {
                    let code = ended.await.expect("end").0;
                    // What nobody could see is said to be unknown.
                    assert!(code == 4 || code == 255, "{code}");
                }
                engine.remove_container(&id, true, true).await.expect("remove");
            }
        }
    });
    let supervisor = super::kills::process("cirro-supervise", &lab.path("run")).expect("supervisor");
    let pid = rustix::process::Pid::from_raw(supervisor).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    within(async { while changes.recv().await.unwrap() != NodeEvent::Everything {} }).await;
    within(churn).await.expect("churn");
    all_go_on(&lab.engine, crowd, &counts).await;
    assert_eq!(lab.engine.leaks().await.unwrap(), Vec::<String>::new());
}
