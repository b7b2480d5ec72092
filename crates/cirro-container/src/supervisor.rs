//! The supervisor: parent of every workload of one host; one thread, one epoll loop.
//!
//! ```text
//!  connections ─ requests ─▶ helpers ─▶ workloads ─ outputs ─▶ log, attachers
//!                       └──▶ launches ─▶ commands in workloads ─ outputs ─▶ the daemon
//!                               ▲           ▲  └──── ends ───▶ records, events
//!  guardian ── kept descriptors, ends ──────┘
//! ```
//! It never blocks on a client, a helper or a workload. All it must not forget is in a file per workload and in the guardian's
//! hands before anybody is told, so that it can be killed between any two instructions.

mod adopt;
mod attachers;
mod compression;
mod connections;
mod ends;
mod event_loop;
mod handover;
mod helpers;
mod launches;
mod outputs;
mod parents;
mod record;
mod removal;
mod requests;
mod slots;
mod strays;
mod workload;

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use crate::arguments::Arguments;
use crate::guardian::{GuardianLink, LINK_DESCRIPTOR, directory};

use event_loop::EventLoop;

/// The name of the socket in the supervisor's directory.
pub(crate) const SOCKET: &str = "supervisor.sock";

/// Entry point of `cirro supervisor`: never returns. Called before any thread exists, by the guardian only.
pub fn supervisor_main(args: &[OsString]) -> ExitCode {
    match Arguments::parse(args).map_err(io::Error::other).and_then(|arguments| run(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("supervisor: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns the cgroup that a workload's own is below, if that is not the cloud's.
pub(crate) fn cgroup_parent(run_dir: &Path, id: &str) -> Option<String> {
    record::Record::load(&directory(run_dir).join(id)).ok()?.cgroup_parent
}

fn run(arguments: &Arguments) -> io::Result<()> {
    let link = cirro_sys::process::inherited_descriptor(LINK_DESCRIPTOR)?;
    rustix::thread::set_name(c"cirro-supervise")?;
    cirro_sys::process::become_subreaper()?;
    cirro_sys::process::raise_open_files()?;
    let directory = directory(&arguments.run_dir);
    // Sockets are bound by short names.
    crate::process::enter_directory(&directory)?;
    let new = |link, first_token| {
        EventLoop::new(arguments.name.clone(), directory.clone(), GuardianLink::new(link), first_token)
    };
    let state = arguments.handover.map(handover::read_state).transpose();
    let mut event_loop = match state {
        Ok(None) => new(link, 0)?,
        Ok(Some(state)) => {
            let executable =
                arguments.executable.map(cirro_sys::process::inherited_descriptor).transpose()?;
            let mut event_loop = new(link, state.next_token)?;
            event_loop.take_over(state, executable)?;
            return event_loop.run();
        }
        Err(error) => {
            eprintln!("supervisor: take over: {error}; starting as after a crash");
            cirro_sys::process::close_all_but(&[LINK_DESCRIPTOR]);
            new(link, 0)?
        }
    };
    event_loop.adopt_all()?;
    event_loop.run()
}
