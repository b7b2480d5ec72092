//! Runs a call that enters a container from a view of the program that nobody can write, with no descriptor too many.

use std::ffi::CString;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;

use cirro_sys::process;

use super::error::CliError;

/// First argument of the second incarnation.
const MARK: &str = "--from-read-only-view";

/// The arguments, and which incarnation this is.
#[derive(Debug)]
pub(super) struct Marked {
    arguments: Vec<String>,
    from_read_only_view: bool,
}

impl Marked {
    pub(super) fn of(arguments: &[String]) -> Self {
        let marked = arguments.first().is_some_and(|first| first == MARK);
        Self { arguments: arguments[usize::from(marked)..].to_vec(), from_read_only_view: marked }
    }

    pub(super) fn arguments(&self) -> &[String] {
        &self.arguments
    }

    /// Returns in the second incarnation, in which all descriptors are closed but the standard ones and those `preserved`.
    pub(super) fn secure(&self, preserved: u32) -> Result<(), CliError> {
        let first_foreign = preserved.saturating_add(3).cast_signed();
        process::close_from(first_foreign);
        if self.from_read_only_view {
            return Ok(());
        }
        let view = self.read_only_view().map_err(CliError::system("open own executable read-only"))?;
        let view = process::move_descriptor(view, first_foreign)
            .map_err(CliError::system("move own executable's descriptor"))?;
        let mut command = vec![c"cirro".to_owned(), c"runtime".to_owned()];
        let rest = std::iter::once(MARK).chain(self.arguments.iter().map(String::as_str));
        command.extend(rest.map(|one| CString::new(one).expect("an argument has no zero byte")));
        let environment: Vec<CString> = std::env::vars_os()
            .filter_map(|(name, value)| {
                let (mut bytes, value) = (name.into_vec(), value.into_vec());
                bytes.push(b'=');
                bytes.extend(value);
                CString::new(bytes).ok()
            })
            .collect();
        debug_assert!(view.as_raw_fd() >= first_foreign);
        Err(CliError::system("execute own executable")(process::execute_descriptor(
            &view,
            &command,
            &environment,
        )))
    }

    fn read_only_view(&self) -> std::io::Result<std::os::fd::OwnedFd> {
        // An overlay wants a second layer, and a directory that is always there and never written to is enough.
        cirro_sys::mounts::open_own_executable_read_only(std::path::Path::new("/proc/self/fdinfo"))
    }
}
