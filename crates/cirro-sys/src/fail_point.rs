//! Fail points: named places where a test ends the process or makes a step fail.
//!
//! They act in debug builds only; a release build keeps nothing of them. A point does nothing until it is armed, by
//! [`arm`] or, for a process that a test starts, by the environment:
//!
//! - `CIRRO_FAIL_POINT=NAME=ACTION`, several separated by commas. `ACTION` is `kill` (the process ends at once, as by
//!   `kill -9`) or `error`; `kill@3` and `error@3` act when the point is met for the third time.
//! - `CIRRO_FAIL_POINT_LOG=FILE`: every point that is met is appended to the file, so that a test can learn which there are.

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, OnceLock};

/// The environment variable that arms points.
pub const ARM: &str = "CIRRO_FAIL_POINT";
/// The environment variable that names the file of met points.
pub const LOG: &str = "CIRRO_FAIL_POINT_LOG";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Kill,
    Error,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Armed {
    action: Action,
    /// How often it is still met before it acts.
    left: u32,
}

#[derive(Default)]
struct State {
    armed: HashMap<String, Armed>,
    log: Option<std::fs::File>,
}

/// Fails, or ends the process, when the point `name` is armed.
///
/// # Errors
/// Of kind [`io::ErrorKind::Other`], naming the point.
#[inline]
pub fn fail_point(name: &str) -> io::Result<()> {
    if cfg!(debug_assertions) { meet(name) } else { Ok(()) }
}

/// Arms points in this process: `NAME=ACTION`, several separated by commas; an empty text disarms all.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] for what cannot be read; [`io::ErrorKind::Unsupported`] in a release build.
pub fn arm(points: &str) -> io::Result<()> {
    if !cfg!(debug_assertions) {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "fail points are in debug builds only"));
    }
    let armed = parse(points)?;
    state().lock().expect("no panic while it is held").armed = armed;
    Ok(())
}

fn state() -> &'static Mutex<State> {
    static STATE: OnceLock<Mutex<State>> = OnceLock::new();
    STATE.get_or_init(|| {
        let text = std::env::var(ARM).unwrap_or_default();
        let armed = parse(&text).unwrap_or_else(|error| panic!("{ARM}: {error}"));
        let log = std::env::var_os(LOG).map(|path| {
            let log = std::fs::File::options().create(true).append(true).open(path);
            log.unwrap_or_else(|error| panic!("{LOG}: {error}"))
        });
        Mutex::new(State { armed, log })
    })
}

fn meet(name: &str) -> io::Result<()> {
    let action = {
        let mut state = state().lock().expect("no panic while it is held");
        if let Some(log) = &mut state.log {
            io::Write::write_all(log, format!("{name}\n").as_bytes())?;
        }
        let Some(armed) = state.armed.get_mut(name) else { return Ok(()) };
        armed.left -= 1;
        if armed.left > 0 {
            return Ok(());
        }
        let action = armed.action;
        state.armed.remove(name);
        action
    };
    match action {
        Action::Kill => {
            // SAFETY: no memory is passed; a process may signal itself.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
            // The signal comes before this thread runs on; the compiler cannot know.
            crate::process::end(137)
        }
        Action::Error => Err(io::Error::other(format!("fail point {name}"))),
    }
}

fn parse(points: &str) -> io::Result<HashMap<String, Armed>> {
    let bad = |point: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("fail point `{point}`"));
    let mut armed = HashMap::new();
    for point in points.split(',').filter(|point| !point.is_empty()) {
        let (name, action) = point.split_once('=').ok_or_else(|| bad(point))?;
        let (action, left) = action.split_once('@').unwrap_or((action, "1"));
        let action = match action {
            "kill" => Action::Kill,
            "error" => Action::Error,
            _ => return Err(bad(point)),
        };
        let left = left.parse().ok().filter(|left| *left > 0).ok_or_else(|| bad(point))?;
        armed.insert(name.to_owned(), Armed { action, left });
    }
    Ok(armed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_armed_point_fails_once_when_its_turn_comes() {
        arm("here=error@2").unwrap();
        fail_point("there").unwrap();
        fail_point("here").unwrap();
        assert_eq!(fail_point("here").unwrap_err().to_string(), "fail point here");
        fail_point("here").unwrap();
    }

    #[test]
    fn what_arms_is_read_or_refused() {
        let armed = parse("a=kill,b.c=error@3").unwrap();
        assert_eq!(armed["a"], Armed { action: Action::Kill, left: 1 });
        assert_eq!(armed["b.c"], Armed { action: Action::Error, left: 3 });
        for bad in ["a", "a=explode", "a=kill@0", "a=kill@x"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
