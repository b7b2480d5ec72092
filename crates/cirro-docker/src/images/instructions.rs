//! The `changes` of an import: Dockerfile instructions that alter an image's configuration.

use cirro_types::ContainerConfig;
use serde_json::json;

use crate::error::ApiError;

const MAX_CHANGES: usize = 1000;

/// Applies instructions to a configuration.
pub(crate) fn apply<'a>(
    changes: impl Iterator<Item = &'a str>,
    config: &mut ContainerConfig,
) -> Result<(), ApiError> {
    let lines = changes.flat_map(str::lines).map(str::trim).filter(|line| !line.is_empty());
    for (index, line) in lines.enumerate() {
        if index == MAX_CHANGES {
            return Err(ApiError::invalid(format!("more than {MAX_CHANGES} changes")));
        }
        apply_one(line, config)?;
    }
    Ok(())
}

fn apply_one(line: &str, config: &mut ContainerConfig) -> Result<(), ApiError> {
    let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let name = name.to_ascii_uppercase();
    let rest = rest.trim();
    if rest.is_empty() {
        return Err(ApiError::invalid(format!("{name} requires at least one argument")));
    }
    match name.as_str() {
        "CMD" => config.cmd = argv(rest),
        "ENTRYPOINT" => config.entrypoint = argv(rest),
        "ENV" => {
            pairs(&name, rest)?.into_iter().for_each(|(key, value)| set_env(&mut config.env, &key, &value))
        }
        "LABEL" => config.labels.extend(pairs(&name, rest)?),
        "EXPOSE" => {
            for port in words(rest)? {
                let (number, protocol) = crate::containers::ports::parse_port(&port)?;
                config.exposed_ports.insert(format!("{number}/{}", protocol.as_str()), json!({}));
            }
        }
        "USER" => config.user = one_word(&name, rest)?,
        "WORKDIR" => config.working_dir = working_dir(&config.working_dir, &one_word(&name, rest)?),
        "VOLUME" => {
            let paths = json_words(rest).map_or_else(|| words(rest), Ok)?;
            config.volumes.extend(paths.into_iter().map(|path| (path, json!({}))));
        }
        "STOPSIGNAL" => config.stop_signal = Some(one_word(&name, rest)?),
        "HEALTHCHECK" | "ONBUILD" | "SHELL" => {
            return Err(ApiError::not_supported(format!("{name} in the changes of an import")));
        }
        _ => return Err(ApiError::invalid(format!("{name} is not a valid change command"))),
    }
    Ok(())
}

/// Reads an argument vector: JSON, or else a line for the shell.
fn argv(rest: &str) -> Vec<String> {
    json_words(rest).unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into(), rest.to_owned()])
}

fn json_words(rest: &str) -> Option<Vec<String>> {
    serde_json::from_str(rest).ok()
}

fn set_env(env: &mut Vec<String>, name: &str, value: &str) {
    env.retain(|entry| entry.split('=').next() != Some(name));
    env.push(format!("{name}={value}"));
}

/// Reads `a=b "c=d e"`, or the old form `a b` for one pair.
fn pairs(instruction: &str, rest: &str) -> Result<Vec<(String, String)>, ApiError> {
    let words = words(rest)?;
    if !words[0].contains('=') {
        let (name, value) = rest
            .split_once(char::is_whitespace)
            .ok_or_else(|| ApiError::invalid(format!("{instruction} must have two arguments")))?;
        return Ok(vec![(name.to_owned(), value.trim().to_owned())]);
    }
    words
        .iter()
        .map(|word| match word.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(ApiError::invalid(format!(
                "Syntax error - can't find = in \"{word}\". Must be of the form: name=value"
            ))),
        })
        .collect()
}

fn one_word(instruction: &str, rest: &str) -> Result<String, ApiError> {
    match &words(rest)?[..] {
        [word] => Ok(word.clone()),
        _ => Err(ApiError::invalid(format!("{instruction} requires exactly one argument"))),
    }
}

fn working_dir(current: &str, next: &str) -> String {
    match next.starts_with('/') {
        true => next.to_owned(),
        false => format!("{}/{next}", current.trim_end_matches('/')),
    }
}

/// Splits at blanks; quotes and backslashes keep them.
fn words(text: &str) -> Result<Vec<String>, ApiError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (Some(open), letter) if letter == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(letters.next()),
            (None, blank) if blank.is_whitespace() => words.extend(word.take()),
            (_, letter) => word.get_or_insert_default().push(letter),
        }
    }
    if quote.is_some() {
        return Err(ApiError::invalid(format!(
            "unexpected end of statement while looking for matching quote in {text}"
        )));
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(changes: &[&str]) -> Result<ContainerConfig, ApiError> {
        let mut config = ContainerConfig { env: vec!["A=old".into()], ..ContainerConfig::default() };
        apply(changes.iter().copied(), &mut config).map(|()| config)
    }

    #[test]
    fn instructions_change_the_configuration() {
        let config = applied(&[
            r#"CMD ["sh", "-c", "true"]"#,
            "entrypoint exec app",
            "ENV A=new B=\"two words\"\nENV C three words",
            "LABEL tier=front",
            "EXPOSE 80 53/udp",
            "USER 1000",
            "WORKDIR /srv",
            "WORKDIR app",
            "VOLUME /data /more",
            "STOPSIGNAL SIGINT",
        ])
        .unwrap();
        assert_eq!(config.cmd, ["sh", "-c", "true"]);
        assert_eq!(config.entrypoint, ["/bin/sh", "-c", "exec app"]);
        assert_eq!(config.env, ["A=new", "B=two words", "C=three words"]);
        assert_eq!(config.labels["tier"], "front");
        assert!(config.exposed_ports.contains_key("80/tcp") && config.exposed_ports.contains_key("53/udp"));
        assert_eq!((config.user.as_str(), config.working_dir.as_str()), ("1000", "/srv/app"));
        assert_eq!(config.volumes.keys().collect::<Vec<_>>(), ["/data", "/more"]);
        assert_eq!(config.stop_signal.as_deref(), Some("SIGINT"));
    }

    #[test]
    fn other_instructions_are_refused() {
        for (change, status) in [
            ("RUN true", 400),
            ("FROM x", 400),
            ("CMD", 400),
            ("ENV A", 400),
            ("ENV A=b c", 400),
            ("USER a b", 400),
            ("LABEL a=\"b", 400),
            ("EXPOSE x", 400),
            ("HEALTHCHECK NONE", 501),
        ] {
            assert_eq!(applied(&[change]).unwrap_err().status, status, "{change}");
        }
    }
}
