//! Reads a command line as runc's library does: `-x` and `--x` are the same, values follow after `=` or as the next argument.
//!
//! Flags of all commands stand on either side of the command's name, the command's own also on either side of the container's.
//! Commands that take a program's command line end their flags at the container.

use std::str::FromStr;

use super::error::CliError;

/// A flag that a command knows.
#[derive(Debug)]
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) short: Option<&'static str>,
    /// What its value stands for; a switch has none.
    pub(super) value: Option<&'static str>,
    pub(super) help: &'static str,
}

impl Flag {
    pub(super) const fn switch(name: &'static str, help: &'static str) -> Self {
        Self { name, short: None, value: None, help }
    }
    pub(super) const fn value(name: &'static str, value: &'static str, help: &'static str) -> Self {
        Self { name, short: None, value: Some(value), help }
    }
    pub(super) const fn short(mut self, short: &'static str) -> Self {
        self.short = Some(short);
        self
    }
    fn is_called(&self, name: &str) -> bool {
        self.name == name || self.short == Some(name)
    }
}

/// Whether what follows the container's id is a program's own command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    Flags,
    Program,
}

/// Shape of one command.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) name: &'static str,
    pub(super) flags: &'static [Flag],
    pub(super) rest: Rest,
}

/// A command line that was read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parsed {
    pub(super) command: Option<&'static str>,
    /// In their order.
    flags: Vec<(&'static str, String)>,
    pub(super) arguments: Vec<String>,
}

impl Parsed {
    /// Whether a switch is on.
    pub(super) fn has(&self, name: &str) -> bool {
        self.value(name).is_some_and(|value| value != "false")
    }

    /// A flag's last value.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.flags.iter().rev().find(|(flag, _)| *flag == name).map(|(_, value)| value.as_str())
    }

    /// All values of a flag that may be repeated.
    pub(super) fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.flags.iter().filter(move |(flag, _)| *flag == name).map(|(_, value)| value.as_str())
    }

    /// A flag's value as a number.
    pub(super) fn number<T: FromStr>(&self, name: &str) -> Result<Option<T>, CliError> {
        let parse = |text: &str| {
            text.parse().map_err(|_| CliError::Usage(format!("invalid value \"{text}\" for flag -{name}")))
        };
        self.value(name).map(parse).transpose()
    }

    /// The container's id, which must be there.
    pub(super) fn id(&self) -> Result<&str, CliError> {
        self.arguments
            .first()
            .map(String::as_str)
            .ok_or_else(|| CliError::Usage("container id cannot be empty".to_owned()))
    }
}

/// Reads a command line against the flags of all and the commands.
pub(super) fn parse<'a>(
    arguments: &[String],
    global: &'static [Flag],
    mut shapes: impl Iterator<Item = &'a Shape>,
) -> Result<Parsed, CliError> {
    let mut parsed = Parsed::default();
    let mut shape: Option<&Shape> = None;
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let flag = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-'));
        match (flag, shape) {
            (Some(""), Some(_)) if argument == "--" => parsed.arguments.extend(rest.by_ref().cloned()),
            (Some(flag), _) if !flag.is_empty() => {
                let (name, value) =
                    flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
                let own = shape.map_or(&[][..], |shape| shape.flags);
                let found = own
                    .iter()
                    .chain(global)
                    .find(|flag| flag.is_called(name))
                    .ok_or_else(|| CliError::Usage(format!("flag provided but not defined: -{name}")))?;
                let value = match (value, found.value) {
                    (Some(value), _) => value.to_owned(),
                    (None, None) => "true".to_owned(),
                    (None, Some(_)) => rest
                        .next()
                        .cloned()
                        .ok_or_else(|| CliError::Usage(format!("flag needs an argument: -{name}")))?,
                };
                parsed.flags.push((found.name, value));
            }
            (_, None) => {
                let found = shapes.find(|one| one.name == argument);
                let found =
                    found.ok_or_else(|| CliError::Usage(format!("No help topic for '{argument}'")))?;
                (shape, parsed.command) = (Some(found), Some(found.name));
            }
            (_, Some(found)) => {
                parsed.arguments.push(argument.clone());
                if found.rest == Rest::Program {
                    parsed.arguments.extend(rest.by_ref().cloned());
                }
            }
        }
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GLOBAL: &[Flag] =
        &[Flag::value("root", "DIR", ""), Flag::switch("debug", ""), Flag::switch("systemd-cgroup", "")];
    const SHAPES: &[Shape] = &[
        Shape {
            name: "create",
            flags: &[Flag::value("bundle", "DIR", "").short("b"), Flag::switch("no-pivot", "")],
            rest: Rest::Flags,
        },
        Shape { name: "exec", flags: &[Flag::switch("tty", "").short("t")], rest: Rest::Program },
    ];

    fn read(text: &str) -> Result<Parsed, String> {
        let arguments: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        parse(&arguments, GLOBAL, SHAPES.iter()).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_stand_on_either_side() {
        let one = read("--root /r create --bundle /b --no-pivot c1").expect("read");
        assert_eq!(
            (one.value("root"), one.value("bundle"), one.has("no-pivot")),
            (Some("/r"), Some("/b"), true)
        );
        for same in [
            "create --root=/r --bundle=/b --no-pivot c1",
            "create c1 -b /b -root /r --no-pivot=true",
            "-root=/r create -no-pivot c1 -bundle=/b",
        ] {
            let other = read(same).expect(same);
            assert_eq!(other.arguments, one.arguments, "{same}");
            assert_eq!(other.value("root"), one.value("root"), "{same}");
            assert_eq!(other.value("bundle"), one.value("bundle"), "{same}");
            assert!(other.has("no-pivot"), "{same}");
        }
        assert!(!read("create --no-pivot=false c1").expect("read").has("no-pivot"));
    }

    #[test]
    fn a_programs_own_flags_are_left_to_it() {
        let parsed = read("exec -t c1 ls -l --root /x -- y").expect("read");
        assert!(parsed.has("tty"));
        assert_eq!(parsed.arguments, ["c1", "ls", "-l", "--root", "/x", "--", "y"]);
        assert_eq!(parsed.value("root"), None);
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(read("create --what c1"), Err("flag provided but not defined: -what".to_owned()));
        assert_eq!(read("create c1 --bundle"), Err("flag needs an argument: -bundle".to_owned()));
        assert_eq!(read("frobnicate"), Err("No help topic for 'frobnicate'".to_owned()));
        assert_eq!(
            read("create").expect("read").id().expect_err("none").to_string(),
            "container id cannot be empty"
        );
    }
}
