//! Flags of the `guardian` and `supervisor` subcommands, which only our own processes type.

use std::ffi::OsString;
use std::path::PathBuf;

/// Flags of both subcommands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    /// The cloud's run directory.
    pub(crate) run_dir: PathBuf,
    /// The cloud's name.
    pub(crate) name: String,
    /// The descriptor of the read-only executable, once the guardian (or an upgraded supervisor) runs from it.
    pub(crate) executable: Option<i32>,
    /// The descriptor of what an upgraded supervisor takes over from the program that it was.
    pub(crate) handover: Option<i32>,
}

impl Arguments {
    /// Reads `--run-dir DIR --name NAME [--executable-descriptor N] [--handover-descriptor N]`.
    pub(crate) fn parse(arguments: &[OsString]) -> Result<Self, String> {
        let (mut run_dir, mut name, mut executable, mut handover) = (None, None, None, None);
        let mut rest = arguments.iter();
        while let Some(flag) = rest.next() {
            let flag = flag.to_string_lossy();
            let value = rest.next().ok_or_else(|| format!("{flag} wants a value"))?;
            match flag.as_ref() {
                "--run-dir" => run_dir = Some(PathBuf::from(value)),
                "--name" => name = Some(value.to_string_lossy().into_owned()),
                "--executable-descriptor" | "--handover-descriptor" => {
                    let number = value.to_string_lossy().parse();
                    let number = Some(number.map_err(|_| format!("{flag} wants a number"))?);
                    *if flag == "--handover-descriptor" { &mut handover } else { &mut executable } = number;
                }
                _ => return Err(format!("unknown flag {flag}")),
            }
        }
        Ok(Self {
            run_dir: run_dir.filter(|path| path.is_absolute()).ok_or("--run-dir wants an absolute path")?,
            name: name.filter(|name| is_safe_name(name)).ok_or("--name wants a plain name")?,
            executable,
            handover,
        })
    }
}

/// Whether a name can be a file's and a cgroup's name: letters, digits, `_`, `.`, `-`, at most 128, no dot first.
pub(crate) fn is_safe_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    !name.is_empty() && name.len() <= 128 && !name.starts_with('.') && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_and_bad_ones_refused() {
        let parse = |text: &str| Arguments::parse(&text.split(' ').map(OsString::from).collect::<Vec<_>>());
        let good = parse("--run-dir /run/x --name x --executable-descriptor 7").expect("good");
        assert_eq!(
            good,
            Arguments { run_dir: "/run/x".into(), name: "x".into(), executable: Some(7), handover: None }
        );
        for bad in ["--run-dir run --name x", "--run-dir /run", "--run-dir /run --name ../x", "--what 1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
