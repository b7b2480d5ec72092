//! The changes of a commit or an import: Dockerfile instructions that alter a configuration and make no layer.
//!
//! Source: moby `builder/dockerfile/builder.go`, `BuildFromConfig`.

use cirro_types::{ContainerConfig, ImageConfig};

use crate::dockerfile::{self, Instruction, Kind};
use crate::error::{BuildError, Refusal};
use crate::expand::Expander;
use crate::metadata;
use crate::state::State;

/// Applies instructions, one or more in each text, to a configuration.
///
/// # Errors
/// [`BuildError::Parse`] and [`BuildError::Step`], with the number of the line among all; the configuration is as it was then.
pub fn apply_changes<'a>(
    texts: impl IntoIterator<Item = &'a str>,
    config: &mut ContainerConfig,
) -> Result<(), BuildError> {
    let text = texts.into_iter().collect::<Vec<_>>().join("\n");
    if text.trim().is_empty() {
        return Ok(());
    }
    // A build, as far as the parser can tell.
    let file = dockerfile::parse(&format!("FROM scratch\n{text}"))?;
    if file.stages.len() > 1 {
        return Err(refused("FROM").on(2));
    }
    let image = ImageConfig { config: config.clone(), ..ImageConfig::default() };
    let mut state = State::on(image, String::new());
    for instruction in file.stages.iter().flat_map(|stage| &stage.body) {
        apply(&mut state, instruction, file.escape)
            .map_err(|refusal| refusal.on(instruction.line.saturating_sub(1)))?;
    }
    *config = state.config.config;
    Ok(())
}

fn apply(state: &mut State, instruction: &Instruction, escape: char) -> Result<(), Refusal> {
    let before = state.clone();
    let lookup = |name: &str| before.variable(name);
    let expander = Expander { escape, lookup: &lookup };
    match &instruction.kind {
        Kind::Workdir(path) => {
            let path = state.absolute(&expander.word(path)?);
            state.config.config.working_dir = path.to_string_lossy().into_owned();
            Ok(())
        }
        // Docker takes neither in a change, although they make no layer.
        Kind::Maintainer(_) | Kind::Shell(_) => Err(refused(&instruction.keyword)),
        _ => match metadata::apply(state, instruction, &expander)? {
            Some(_) => Ok(()),
            None => Err(refused(&instruction.keyword)),
        },
    }
}

fn refused(keyword: &str) -> Refusal {
    Refusal::new(format!("{keyword} is not a valid change command"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn applied(changes: &[&str]) -> Result<ContainerConfig, BuildError> {
        let mut config = ContainerConfig { env: vec!["A=old".into()], ..ContainerConfig::default() };
        apply_changes(changes.iter().copied(), &mut config).map(|()| config)
    }

    #[test]
    fn instructions_change_the_configuration() {
        let config = applied(&[
            r#"CMD ["sh", "-c", "true"]"#,
            "entrypoint exec app",
            "ENV A=new B=\"two words\"\nENV C three words\nENV D=$A/x",
            "LABEL tier=front",
            "EXPOSE 80 53/udp",
            "USER 1000",
            "WORKDIR /srv",
            "WORKDIR app",
            "VOLUME /data /more",
            "STOPSIGNAL SIGINT",
            "HEALTHCHECK --interval=5s --retries=2 CMD test -e /ok",
            "ONBUILD RUN true",
        ])
        .unwrap();
        assert_eq!(config.cmd, ["sh", "-c", "true"]);
        assert_eq!(config.entrypoint, ["/bin/sh", "-c", "exec app"]);
        assert_eq!(config.env, ["A=new", "B=two words", "C=three words", "D=new/x"]);
        assert_eq!(config.labels["tier"], "front");
        assert!(config.exposed_ports.contains_key("80/tcp") && config.exposed_ports.contains_key("53/udp"));
        assert_eq!((config.user.as_str(), config.working_dir.as_str()), ("1000", "/srv/app"));
        assert_eq!(config.volumes.keys().collect::<Vec<_>>(), ["/data", "/more"]);
        assert_eq!(config.stop_signal.as_deref(), Some("SIGINT"));
        let health =
            json!({"Test": ["CMD-SHELL", "test -e /ok"], "Interval": 5_000_000_000u64, "Retries": 2});
        assert_eq!((config.healthcheck, config.on_build), (Some(health), vec!["RUN true".to_owned()]));
        assert_eq!(applied(&[]).unwrap().env, ["A=old"]);
    }

    #[test]
    fn what_makes_a_layer_or_is_no_instruction_is_refused() {
        for change in [
            "RUN true",
            "FROM x",
            "COPY a b",
            "ARG a",
            "SHELL [\"sh\"]",
            "NONSENSE",
            "CMD",
            "ENV A",
            "ENV A=b c",
            "LABEL a=\"b",
            "EXPOSE x",
            "STOPSIGNAL NEVER",
        ] {
            assert!(applied(&[change]).is_err(), "{change}");
        }
        assert!(
            applied(&["RUN true"]).unwrap_err().to_string().contains("RUN is not a valid change command")
        );
    }
}
