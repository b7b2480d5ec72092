//! Instructions that change the image's configuration and make no layer.

use serde_json::{Value, json};

use crate::dockerfile::{Command, Health, Instruction, Kind};
use crate::error::Refusal;
use crate::expand::Expander;
use crate::state::State;

/// Carries out a metadata instruction; returns the text for the image's history.
///
/// `None` for instructions that make a layer or need more than the state.
pub(crate) fn apply(
    state: &mut State,
    instruction: &Instruction,
    expander: &Expander<'_>,
) -> Result<Option<String>, Refusal> {
    let created_by = match &instruction.kind {
        Kind::Env(pairs) => env(state, pairs, expander)?,
        Kind::Label(pairs) => label(state, pairs, expander)?,
        Kind::Maintainer(name) => {
            state.config.author = Some(name.clone());
            format!("MAINTAINER {name}")
        }
        Kind::User(user) => {
            state.config.config.user = expander.word(user)?;
            format!("USER {}", state.config.config.user)
        }
        Kind::Expose(ports) => expose(state, ports, expander)?,
        Kind::Volume(volumes) => volume(state, volumes, expander)?,
        Kind::Entrypoint(command) => {
            state.config.config.entrypoint = arguments(state, command);
            if !state.command_is_own {
                state.config.config.cmd.clear();
            }
            format!("ENTRYPOINT {}", quoted(&state.config.config.entrypoint))
        }
        Kind::Cmd(command) => {
            state.config.config.cmd = arguments(state, command);
            state.command_is_own = true;
            format!("CMD {}", quoted(&state.config.config.cmd))
        }
        Kind::Shell(shell) => {
            state.config.config.shell = shell.clone();
            format!("SHELL [{}]", shell.join(" "))
        }
        Kind::StopSignal(signal) => {
            let signal = expander.word(signal)?;
            if !is_signal(&signal) {
                return Err(Refusal::new(format!("invalid signal: {signal}")));
            }
            state.config.config.stop_signal = Some(signal.clone());
            format!("STOPSIGNAL {signal}")
        }
        Kind::Healthcheck(health) => {
            let value = healthcheck(instruction, health)?;
            let created_by = format!("HEALTHCHECK {value}");
            state.config.config.healthcheck = Some(value);
            created_by
        }
        Kind::OnBuild(trigger) => {
            state.config.config.on_build.push(trigger.clone());
            format!("ONBUILD {trigger}")
        }
        Kind::From { .. }
        | Kind::Arg(_)
        | Kind::Run { .. }
        | Kind::Copy(_)
        | Kind::Add(_)
        | Kind::Workdir(_) => return Ok(None),
    };
    Ok(Some(created_by))
}

/// Returns the argument vector of a command; the shell form gets the shell before it.
pub(crate) fn arguments(state: &State, command: &Command) -> Vec<String> {
    match command {
        Command::Exec(arguments) => arguments.clone(),
        Command::Shell(line) => {
            let mut arguments = state.shell();
            arguments.push(line.clone());
            arguments
        }
    }
}

/// Every value is expanded with what was in force before the instruction.
fn expanded(pairs: &[(String, String)], expander: &Expander<'_>) -> Result<Vec<(String, String)>, Refusal> {
    pairs.iter().map(|(name, value)| Ok((expander.word(name)?, expander.word(value)?))).collect()
}

fn env(state: &mut State, pairs: &[(String, String)], expander: &Expander<'_>) -> Result<String, Refusal> {
    let mut created_by = "ENV".to_owned();
    for (name, value) in expanded(pairs, expander)? {
        state.set_env(&name, &value);
        created_by.push_str(&format!(" {name}={value}"));
    }
    Ok(created_by)
}

fn label(state: &mut State, pairs: &[(String, String)], expander: &Expander<'_>) -> Result<String, Refusal> {
    let mut created_by = "LABEL".to_owned();
    for (name, value) in expanded(pairs, expander)? {
        created_by.push_str(&format!(" {name}={value}"));
        state.config.config.labels.insert(name, value);
    }
    Ok(created_by)
}

fn expose(state: &mut State, ports: &[String], expander: &Expander<'_>) -> Result<String, Refusal> {
    let mut exposed = Vec::new();
    for text in ports {
        for port in expander.words(text)? {
            exposed.extend(port_range(&port)?);
        }
    }
    exposed.sort();
    exposed.dedup();
    let shown: Vec<String> = exposed.iter().map(|port| format!("{port}:{{}}")).collect();
    for port in exposed {
        state.config.config.exposed_ports.insert(port, json!({}));
    }
    Ok(format!("EXPOSE map[{}]", shown.join(" ")))
}

/// Reads `80`, `80/udp` or `8000-8010/tcp`.
fn port_range(text: &str) -> Result<Vec<String>, Refusal> {
    let invalid = || Refusal::new(format!("invalid containerPort: {text}"));
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Err(Refusal::new(format!("invalid proto: {protocol}")));
    }
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let first: u16 = first.parse().map_err(|_| invalid())?;
    let last: u16 = last.parse().map_err(|_| invalid())?;
    if first > last {
        return Err(invalid());
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

fn volume(state: &mut State, volumes: &[String], expander: &Expander<'_>) -> Result<String, Refusal> {
    let mut shown = Vec::new();
    for text in volumes {
        let volume = expander.word(text)?;
        if volume.trim().is_empty() {
            return Err(Refusal::new("VOLUME specified can not be an empty string"));
        }
        state.config.config.volumes.insert(volume.clone(), json!({}));
        shown.push(volume);
    }
    Ok(format!("VOLUME [{}]", shown.join(" ")))
}

fn healthcheck(instruction: &Instruction, health: &Health) -> Result<Value, Refusal> {
    let command = match health {
        Health::None => return Ok(json!({ "Test": ["NONE"] })),
        Health::Command(command) => command,
    };
    let test = match command {
        // The runtime takes the image's own shell for it.
        Command::Shell(line) => vec!["CMD-SHELL".into(), line.clone()],
        Command::Exec(arguments) => [vec!["CMD".to_owned()], arguments.clone()].concat(),
    };
    let mut value = json!({ "Test": test });
    let times = [
        ("interval", "Interval"),
        ("timeout", "Timeout"),
        ("start-period", "StartPeriod"),
        ("start-interval", "StartInterval"),
    ];
    for (flag, member) in times {
        if let Some(text) = instruction.flag(flag) {
            let nanoseconds = duration(text)
                .ok_or_else(|| Refusal::new(format!("invalid duration {text:?} of --{flag}")))?;
            if nanoseconds != 0 && nanoseconds < 1_000_000 {
                return Err(Refusal::new(format!("Interval {flag:?} cannot be less than 1ms")));
            }
            if nanoseconds != 0 {
                value[member] = nanoseconds.into();
            }
        }
    }
    if let Some(text) = instruction.flag("retries") {
        let retries: u32 =
            text.parse().map_err(|_| Refusal::new(format!("--retries must be a number and not {text:?}")))?;
        if retries != 0 {
            value["Retries"] = retries.into();
        }
    }
    Ok(value)
}

/// Reads a duration as Go writes it (`1m30s`, `1.5h`, `300ms`); returns nanoseconds.
fn duration(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, unit) = rest.split_at(digits);
        let end = unit.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(unit.len());
        let scale = match &unit[..end] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * scale;
        rest = &unit[end..];
    }
    (!text.is_empty() && total < i64::MAX as f64).then_some(total.round() as u64)
}

/// Says whether Docker takes this as a signal: a number, or a name with or without `SIG`.
fn is_signal(text: &str) -> bool {
    const NAMES: &str = "ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV \
        STKFLT STOP SYS TERM TRAP TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ RTMIN RTMAX";
    if let Ok(number) = text.parse::<u8>() {
        return (1..=64).contains(&number);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let real_time =
        |offset: &str, last: u8| offset.parse::<u8>().is_ok_and(|offset| (1..=last).contains(&offset));
    NAMES.split_whitespace().any(|known| known == name)
        || name.strip_prefix("RTMIN+").is_some_and(|offset| real_time(offset, 15))
        || name.strip_prefix("RTMAX-").is_some_and(|offset| real_time(offset, 14))
}

/// Writes a list as Go's `%q` does.
fn quoted(arguments: &[String]) -> String {
    let quoted: Vec<String> = arguments.iter().map(|argument| format!("{argument:?}")).collect();
    format!("[{}]", quoted.join(" "))
}

#[cfg(test)]
mod tests;
