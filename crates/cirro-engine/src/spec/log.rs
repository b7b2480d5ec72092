//! What is noted with each line of a container's log: labels, variables and a tag.
//!
//! Source: moby `daemon/logger/loginfo.go` and `daemon/logger/loggerutils/log_tag.go`.

use std::collections::BTreeMap;

use cirro_seams::container::{Container, LogAttributes};
use regex::{Regex, RegexBuilder};

use crate::error::EngineError;

/// Largest compiled form of a pattern.
const MAX_PATTERN: usize = 1 << 20;
/// Digits of a short id.
const SHORT: usize = 12;
/// What `{{.DaemonName}}` says, whatever the daemon is.
const DAEMON: &str = "docker";

/// Refuses patterns and tags that cannot be read.
pub(crate) fn check(asked: &LogAttributes) -> Result<(), EngineError> {
    pattern("labels-regex", asked.labels_pattern.as_deref())?;
    pattern("env-regex", asked.env_pattern.as_deref())?;
    pieces(asked.tag.as_deref().unwrap_or_default()).map(drop)
}

/// Returns what is noted with each line of a container's log.
pub(crate) fn attributes(container: &Container) -> Result<BTreeMap<String, String>, EngineError> {
    let asked = &container.spec.log.attributes;
    let mut noted = BTreeMap::new();
    let labels = pattern("labels-regex", asked.labels_pattern.as_deref())?;
    for (name, value) in &container.labels {
        if asked.labels.contains(name) || labels.as_ref().is_some_and(|labels| labels.is_match(name)) {
            noted.insert(name.clone(), value.clone());
        }
    }
    let env = pattern("env-regex", asked.env_pattern.as_deref())?;
    for (name, value) in container.env.iter().filter_map(|entry| entry.split_once('=')) {
        if asked.env.iter().any(|wanted| wanted == name) || env.as_ref().is_some_and(|env| env.is_match(name))
        {
            noted.insert(name.to_owned(), value.to_owned());
        }
    }
    let mut tag = String::new();
    for piece in pieces(asked.tag.as_deref().unwrap_or_default())? {
        match piece {
            Piece::Text(text) => tag.push_str(text),
            Piece::Field(field) => tag.push_str(&field.of(container)),
        }
    }
    if !tag.is_empty() {
        noted.insert("tag".into(), tag);
    }
    Ok(noted)
}

fn pattern(option: &str, text: Option<&str>) -> Result<Option<Regex>, EngineError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let invalid = |error| EngineError::Invalid(format!("invalid value for log option {option}: {error}"));
    RegexBuilder::new(text).size_limit(MAX_PATTERN).build().map(Some).map_err(invalid)
}

/// A part of a tag.
enum Piece<'a> {
    Text(&'a str),
    Field(Field),
}

/// What a tag can say of a container.
#[derive(Clone, Copy)]
enum Field {
    Command,
    Daemon,
    FullId,
    Id,
    ImageFullId,
    ImageId,
    ImageName,
    Name,
    NameWithSlash,
}

impl Field {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            ".Command" => Self::Command,
            ".DaemonName" => Self::Daemon,
            ".FullID" | ".ContainerID" => Self::FullId,
            ".ID" => Self::Id,
            ".ImageFullID" | ".ContainerImageID" => Self::ImageFullId,
            ".ImageID" => Self::ImageId,
            ".ImageName" | ".ContainerImageName" => Self::ImageName,
            ".Name" => Self::Name,
            ".ContainerName" => Self::NameWithSlash,
            _ => return None,
        })
    }

    fn of(self, container: &Container) -> String {
        let short = |id: &str| id.chars().take(SHORT).collect();
        match self {
            Self::Command => container.args.join(" "),
            Self::Daemon => DAEMON.into(),
            Self::FullId => container.id.clone(),
            Self::Id => short(&container.id),
            Self::ImageFullId => container.image_id.clone(),
            // Docker cuts the id with its algorithm before it.
            Self::ImageId => short(&container.image_id),
            Self::ImageName => container.spec.image.clone(),
            Self::Name => container.name.clone(),
            Self::NameWithSlash => format!("/{}", container.name),
        }
    }
}

/// Cuts a tag into text and `{{.Field}}`; Go's other templates are refused.
fn pieces(tag: &str) -> Result<Vec<Piece<'_>>, EngineError> {
    let mut pieces = Vec::new();
    let mut rest = tag;
    while let Some((text, after)) = rest.split_once("{{") {
        let Some((action, next)) = after.split_once("}}") else {
            return Err(EngineError::Invalid(format!(
                "invalid value for log option tag: unclosed action in {tag}"
            )));
        };
        let field = Field::parse(action.trim()).ok_or_else(|| {
            EngineError::NotSupported(format!(
                "the template {{{{{action}}}}} in the log option tag is not supported yet"
            ))
        })?;
        pieces.extend([Piece::Text(text), Piece::Field(field)]);
        rest = next;
    }
    pieces.push(Piece::Text(rest));
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::document::tests::container;

    fn noted(asked: LogAttributes) -> Result<Vec<(String, String)>, EngineError> {
        let mut container = container(Default::default());
        container.labels = [("tier", "front"), ("team", "blue"), ("zone", "a")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        container.env = vec!["MODE=test".into(), "MODEL=x".into(), "PATH=/bin".into()];
        container.spec.log.attributes = asked;
        Ok(attributes(&container)?.into_iter().collect())
    }

    #[test]
    fn labels_and_variables_are_chosen_by_name_and_by_pattern() {
        let asked = LogAttributes {
            labels: vec!["zone".into(), "absent".into()],
            labels_pattern: Some("^te".into()),
            env: vec!["PATH".into()],
            env_pattern: Some("^MODE$".into()),
            tag: None,
        };
        let pairs = [("MODE", "test"), ("PATH", "/bin"), ("team", "blue"), ("zone", "a")];
        assert_eq!(noted(asked).unwrap(), pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn a_tag_names_the_container() {
        let tag = |tag: &str| noted(LogAttributes { tag: Some(tag.into()), ..LogAttributes::default() });
        let pair = |text: &str| vec![("tag".to_owned(), text.to_owned())];
        assert_eq!(tag("{{.Name}}/{{ .DaemonName }}!").unwrap(), pair("web/docker!"));
        assert_eq!(tag("plain").unwrap(), pair("plain"));
        assert!(tag("").unwrap().is_empty());
        assert!(matches!(tag("{{json .}}"), Err(EngineError::NotSupported(_))));
        assert!(matches!(tag("{{.Name"), Err(EngineError::Invalid(_))));
    }

    #[test]
    fn a_pattern_that_cannot_be_read_is_refused() {
        let asked = LogAttributes { env_pattern: Some("(".into()), ..LogAttributes::default() };
        assert!(check(&asked).unwrap_err().to_string().starts_with("invalid value for log option env-regex"));
    }
}
