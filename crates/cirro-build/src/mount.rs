//! `RUN --mount`: what is asked for.
//!
//! Source: Dockerfile reference, "RUN --mount".

use cirro_seams::build::Sharing;

use crate::error::Refusal;

/// One `--mount`, its variables expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunMount {
    pub(crate) kind: MountKind,
    /// As it is written; a relative one is taken from the working directory.
    pub(crate) target: String,
    /// Path in what `from` names; its root when empty.
    pub(crate) source: String,
    /// A stage or image; the build context when absent.
    pub(crate) from: Option<String>,
    pub(crate) read_only: bool,
}

/// What a mount shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MountKind {
    /// Files of the context, a stage or an image; what is written is thrown away.
    Bind,
    /// A directory that outlives the build.
    Cache {
        id: String,
        sharing: Sharing,
        mode: u32,
        owner: (u32, u32),
    },
    Tmpfs {
        size: Option<u64>,
    },
    /// A file, and a variable if `env` names one, with a secret of the one who builds.
    Secret {
        id: String,
        env: Option<String>,
        is_file: bool,
        required: bool,
        mode: u32,
        owner: (u32, u32),
    },
    /// An agent's socket.
    Ssh {
        id: String,
        required: bool,
        mode: u32,
        owner: (u32, u32),
    },
}

/// The options of a mount as they come.
#[derive(Default)]
struct Options {
    kind: Option<String>,
    target: Option<String>,
    source: Option<String>,
    from: Option<String>,
    id: Option<String>,
    env: Option<String>,
    sharing: Option<String>,
    size: Option<String>,
    mode: Option<u32>,
    uid: u32,
    gid: u32,
    read_only: Option<bool>,
    required: bool,
}

/// Reads the value of a `--mount`.
///
/// # Errors
/// If an option is unknown, has no place with this type, or has a value that cannot be.
pub(crate) fn parse(
    text: &str,
    expand: &dyn Fn(&str) -> Result<String, Refusal>,
) -> Result<RunMount, Refusal> {
    let mut options = Options::default();
    for field in text.split(',') {
        options.take(field, expand)?;
    }
    options.finish(text)
}

/// Returns the stage or image that the value of a `--mount` names.
pub(crate) fn from(text: &str) -> Option<&str> {
    text.split(',').find_map(|field| match field.split_once('=') {
        Some((key, value)) if key.trim().eq_ignore_ascii_case("from") && !value.is_empty() => Some(value),
        _ => None,
    })
}

impl Options {
    fn take(&mut self, field: &str, expand: &dyn Fn(&str) -> Result<String, Refusal>) -> Result<(), Refusal> {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (field, None),
        };
        let key = key.trim().to_ascii_lowercase();
        let given =
            || value.ok_or_else(|| Refusal::new(format!("invalid field '{field}' must be a key=value pair")));
        let wrong = || Refusal::new(format!("invalid value for {key}: {}", value.unwrap_or_default()));
        match key.as_str() {
            "type" => self.kind = Some(given()?.to_ascii_lowercase()),
            "target" | "dst" | "destination" => self.target = Some(expand(given()?)?),
            "source" | "src" => self.source = Some(expand(given()?)?),
            "from" => self.from = Some(given()?.to_owned()).filter(|from| !from.is_empty()),
            "id" => self.id = Some(expand(given()?)?),
            "env" => self.env = Some(given()?.to_owned()).filter(|env| !env.is_empty()),
            "sharing" => self.sharing = Some(given()?.to_ascii_lowercase()),
            "size" => self.size = Some(expand(given()?)?),
            "mode" => self.mode = Some(mode(given()?).ok_or_else(wrong)?),
            "uid" => self.uid = given()?.parse().map_err(|_| wrong())?,
            "gid" => self.gid = given()?.parse().map_err(|_| wrong())?,
            "readonly" | "ro" => self.read_only = Some(truth(value).ok_or_else(wrong)?),
            "readwrite" | "rw" => self.read_only = Some(!truth(value).ok_or_else(wrong)?),
            "required" => self.required = truth(value).ok_or_else(wrong)?,
            _ => return Err(Refusal::new(format!("unexpected key '{key}' in '{field}'"))),
        }
        Ok(())
    }

    fn finish(self, text: &str) -> Result<RunMount, Refusal> {
        let kind = self.kind.as_deref().unwrap_or("bind");
        let only = |given: bool, option: &str, kinds: &[&str]| match given && !kinds.contains(&kind) {
            true => Err(Refusal::new(format!("{option} is not allowed for mount type {kind}: {text}"))),
            false => Ok(()),
        };
        only(self.from.is_some(), "from", &["bind", "cache"])?;
        only(self.source.is_some(), "source", &["bind", "cache", "secret"])?;
        only(self.sharing.is_some(), "sharing", &["cache"])?;
        only(self.size.is_some(), "size", &["tmpfs"])?;
        only(self.required, "required", &["secret", "ssh"])?;
        only(self.env.is_some(), "env", &["secret"])?;
        only(self.mode.is_some(), "mode", &["cache", "secret", "ssh"])?;
        let owner = (self.uid, self.gid);
        let source = self.source.clone().unwrap_or_default();
        let mut target = self.target.clone().unwrap_or_default();
        let read_only = self.read_only.unwrap_or(kind == "bind");
        let kind = match kind {
            "bind" => MountKind::Bind,
            "cache" => MountKind::Cache {
                id: self.id.filter(|id| !id.is_empty()).unwrap_or_else(|| target.clone()),
                sharing: sharing(self.sharing.as_deref())?,
                mode: self.mode.unwrap_or(0o755),
                owner,
            },
            "tmpfs" => MountKind::Tmpfs { size: self.size.as_deref().map(size).transpose()? },
            "secret" => {
                let path = if source.is_empty() { &target } else { &source };
                let base = path.rsplit('/').next().unwrap_or_default().to_owned();
                let id = self.id.filter(|id| !id.is_empty()).unwrap_or(base);
                if id.is_empty() {
                    return Err(Refusal::new(format!("invalid empty ID for secret: {text}")));
                }
                let is_file = self.env.is_none() || self.target.is_some();
                if is_file && target.is_empty() {
                    target = format!("/run/secrets/{id}");
                }
                let mode = self.mode.unwrap_or(0o400);
                MountKind::Secret { id, env: self.env, is_file, required: self.required, mode, owner }
            }
            "ssh" => MountKind::Ssh {
                id: self.id.filter(|id| !id.is_empty()).unwrap_or_else(|| "default".into()),
                required: self.required,
                mode: self.mode.unwrap_or(0o600),
                owner,
            },
            other => return Err(Refusal::new(format!("unsupported mount type {other:?}"))),
        };
        let needs_target =
            matches!(kind, MountKind::Bind | MountKind::Cache { .. } | MountKind::Tmpfs { .. });
        if needs_target && target.is_empty() {
            return Err(Refusal::new(format!("target is required in {text:?}")));
        }
        Ok(RunMount { kind, target, source, from: self.from, read_only })
    }
}

fn truth(value: Option<&str>) -> Option<bool> {
    match value {
        None | Some("1" | "t" | "T" | "true" | "True" | "TRUE") => Some(true),
        Some("0" | "f" | "F" | "false" | "False" | "FALSE") => Some(false),
        Some(_) => None,
    }
}

fn mode(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777)
}

fn sharing(text: Option<&str>) -> Result<Sharing, Refusal> {
    match text.unwrap_or("shared") {
        "shared" => Ok(Sharing::Shared),
        "private" => Ok(Sharing::Private),
        "locked" => Ok(Sharing::Locked),
        other => Err(Refusal::new(format!("unsupported sharing value {other:?}"))),
    }
}

/// Reads a size such as `64m`, in powers of 1024.
fn size(text: &str) -> Result<u64, Refusal> {
    let wrong = || Refusal::new(format!("invalid size: {text}"));
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &lower[digits.len()..] {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).filter(|size| *size > 0).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<RunMount, String> {
        parse(text, &|word| Ok(word.replace("$X", "x"))).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn defaults_are_buildkits() {
        let bind = read("target=/src").unwrap();
        assert_eq!((bind.kind, bind.read_only, bind.from), (MountKind::Bind, true, None));
        let cache = read("type=cache,dst=/root/.npm").unwrap();
        let kind = MountKind::Cache {
            id: "/root/.npm".into(),
            sharing: Sharing::Shared,
            mode: 0o755,
            owner: (0, 0),
        };
        assert_eq!((cache.kind, cache.read_only), (kind, false));
        let secret = read("type=secret,id=key").unwrap();
        assert_eq!(secret.target, "/run/secrets/key");
        let variable = read("type=secret,id=key,env=KEY").unwrap();
        assert!(matches!(variable.kind, MountKind::Secret { is_file: false, .. }), "{variable:?}");
        assert_eq!(
            read("type=tmpfs,target=/t,size=2m").unwrap().kind,
            MountKind::Tmpfs { size: Some(2 << 20) }
        );
    }

    #[test]
    fn options_are_read_and_variables_expanded() {
        let bind = read("type=bind,from=base,source=/$X,target=/y,rw").unwrap();
        assert_eq!((bind.from.as_deref(), bind.source.as_str(), bind.read_only), (Some("base"), "/x", false));
        let cache = read("TYPE=cache,id=$X,target=t,sharing=locked,mode=0700,uid=7,gid=8,ro=true").unwrap();
        let kind = MountKind::Cache { id: "x".into(), sharing: Sharing::Locked, mode: 0o700, owner: (7, 8) };
        assert_eq!((cache.kind, cache.read_only), (kind, true));
        assert_eq!(from("type=bind,from=base,target=/y"), Some("base"));
        assert_eq!(from("type=cache,target=/from=x"), None);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (text, reason) in [
            ("type=bind", "target is required"),
            ("type=nfs,target=/x", "unsupported mount type"),
            ("type=tmpfs,target=/x,from=a", "not allowed"),
            ("type=bind,target=/x,size=1m", "not allowed"),
            ("type=cache,target=/x,sharing=always", "sharing"),
            ("type=tmpfs,target=/x,size=many", "invalid size"),
            ("type=cache,target=/x,mode=9", "invalid value for mode"),
            ("type=secret", "empty ID"),
            ("target", "key=value"),
            ("target=/x,colour=red", "unexpected key"),
            ("target=/x,ro=maybe", "invalid value for ro"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
