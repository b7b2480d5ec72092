//! What differs from machine to machine in the guest's first file system: names, command, user data.
//!
//! It travels as a second archive behind the common one. Nothing of it is on the kernel's command line, and the shell
//! there reads every word in quotes.

use crate::cpio::Cpio;
use crate::{BootRequest, GuestCommand, MachineError};

/// Where docker and the kernel look for programs when nobody says.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The guest's own tools, seen from the root disk.
const BUSYBOX: &str = "/dev/.cirro/busybox";

/// Returns the archive of one machine.
pub(crate) fn archive(request: &BootRequest) -> Result<Vec<u8>, MachineError> {
    let mut archive = Cpio::default();
    archive.directory("cirro", 0o700);
    archive.file("cirro/settings", 0o600, format!("HOSTNAME={}\n", quote(&request.hostname)).as_bytes());
    archive.file("cirro/run", 0o600, run_script(&request.command)?.as_bytes());
    if let Some(user_data) = &request.user_data {
        archive.file("cirro/user-data", 0o600, user_data.as_bytes());
    }
    Ok(archive.finish())
}

/// Returns the script that becomes the command; the root is the disk already.
fn run_script(command: &GuestCommand) -> Result<String, MachineError> {
    if command.args.is_empty() {
        return Err(MachineError::Invalid("the image has no command to run".into()));
    }
    if command.args.iter().chain(&command.env).any(|word| word.contains('\0')) {
        return Err(MachineError::Invalid("a command cannot hold a zero byte".into()));
    }
    let directory = if command.working_dir.is_empty() { "/" } else { &command.working_dir };
    let directory = quote(directory);
    let mut environment = Vec::new();
    for (key, default) in [("PATH=", quote(DEFAULT_PATH)), ("HOME=", "HOME=\"$home\"".into())] {
        if !command.env.iter().any(|variable| variable.starts_with(key)) {
            environment.push(default);
        }
    }
    environment.extend(command.env.iter().map(|variable| quote(variable)));
    let (home, user) = match command.user.as_str() {
        "" | "0" | "root" | "0:0" | "root:root" => ("home=/root\n".to_owned(), String::new()),
        user => {
            let name = user.split(':').next().unwrap_or(user);
            let home = format!(
                "home=$({BUSYBOX} awk -F: -v u={} '$1 == u || $3 == u {{ print $6; exit }}' /etc/passwd 2>/dev/null)\n: \"${{home:=/}}\"\n",
                quote(name)
            );
            // With a file that is not there it does not look for a process that runs already.
            let change =
                format!("{BUSYBOX} start-stop-daemon -S -q -p /dev/.cirro/none -c {} -x ", quote(user));
            (home, change)
        }
    };
    let words: Vec<String> = command.args.iter().map(|word| quote(word)).collect();
    let command = match (user.is_empty(), words.split_first()) {
        (false, Some((program, rest))) => format!("{user}{program} -- {}", rest.join(" ")),
        _ => words.join(" "),
    };
    Ok(format!(
        "[ -d {directory} ] || {BUSYBOX} mkdir -p {directory}\ncd {directory} || exit 126\n{home}\
         exec {BUSYBOX} env -i {} {command}\n",
        environment.join(" ")
    ))
}

/// Quotes a word for the shell: nothing in it means anything.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_of_the_command_is_quoted() {
        let command = GuestCommand {
            args: vec!["/bin/sh".into(), "-c".into(), "echo $(reboot) 'it''s'; x".into()],
            env: vec!["A=$(reboot)".into(), "PATH=/bin".into()],
            working_dir: "/a b".into(),
            user: String::new(),
        };
        assert_eq!(
            run_script(&command).unwrap(),
            "[ -d '/a b' ] || /dev/.cirro/busybox mkdir -p '/a b'\ncd '/a b' || exit 126\nhome=/root\n\
             exec /dev/.cirro/busybox env -i HOME=\"$home\" 'A=$(reboot)' 'PATH=/bin' \
             '/bin/sh' '-c' 'echo $(reboot) '\\''it'\\'''\\''s'\\''; x'\n"
        );
    }

    #[test]
    fn the_shell_reads_back_what_was_quoted() {
        let word = "a'b\"c$d`e`\\f\n*;&|<>(){}#!~ ü";
        let output = std::process::Command::new("/bin/sh")
            .args(["-c", &format!("printf %s {}", quote(word))])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
    }

    #[test]
    fn a_command_that_cannot_be_run_is_refused() {
        assert!(run_script(&GuestCommand::default()).is_err());
        let zero = GuestCommand { args: vec!["a\0b".into()], ..GuestCommand::default() };
        assert!(run_script(&zero).is_err());
    }
}
