//! The graph of stages: which are needed, on what each is built, which must come first.
//!
//! Pure: the Dockerfile, the build's arguments and what is known of base images go in, a plan comes out.

use std::collections::{BTreeMap, BTreeSet};

use crate::BuildError;
use crate::dockerfile::{Dockerfile, Instruction, Kind, Stage};
use crate::error::Refusal;
use crate::expand::Expander;
use crate::mount;
use crate::named::{Contexts, NamedContext};
use crate::state::architecture;

/// `ARG`s that need no declaration, and that no key or history shows: proxies differ from host to host.
pub(crate) const PROXY_ARGS: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// What a stage is built on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Base {
    /// Nothing.
    Scratch,
    /// An earlier stage.
    Stage(usize),
    /// An image of the library.
    Image(String),
    /// The named context that stands in for it.
    Context(String),
}

/// Values of the `ARG`s before the first `FROM`, and of the automatic ones.
#[derive(Debug, Clone, Default)]
pub(crate) struct GlobalArgs(BTreeMap<String, String>);

impl GlobalArgs {
    /// Computes them.
    pub(crate) fn of(
        file: &Dockerfile,
        build_args: &BTreeMap<String, Option<String>>,
    ) -> Result<Self, BuildError> {
        let mut values = automatic();
        for (name, value) in build_args {
            if let (Some(value), true) = (value, values.contains_key(name)) {
                values.insert(name.clone(), value.clone());
            }
        }
        let mut values = Self(values);
        for instruction in &file.global {
            let Kind::Arg(args) = &instruction.kind else { continue };
            for (name, default) in args {
                let lookup = |name: &str| values.get(name);
                let expander = Expander { escape: file.escape, lookup: &lookup };
                let default = default.as_ref().map(|text| expander.word(text)).transpose();
                let default = default.map_err(|reason| Refusal::from(reason).on(instruction.line))?;
                let given = build_args.get(name).cloned().flatten();
                if let Some(value) = given.or(default) {
                    values.0.insert(name.clone(), value);
                }
            }
        }
        Ok(values)
    }

    /// Returns a value.
    pub(crate) fn get(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }
}

fn automatic() -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    for side in ["TARGET", "BUILD"] {
        values.insert(format!("{side}PLATFORM"), host_platform());
        values.insert(format!("{side}OS"), "linux".to_owned());
        values.insert(format!("{side}ARCH"), architecture().to_owned());
        values.insert(format!("{side}VARIANT"), String::new());
    }
    values
}

/// Returns the only platform that images are built for.
pub(crate) fn host_platform() -> String {
    format!("linux/{}", architecture())
}

/// Finds what stage `index` is built on.
pub(crate) fn base(
    file: &Dockerfile,
    index: usize,
    args: &GlobalArgs,
    contexts: &Contexts,
) -> Result<Base, BuildError> {
    let stage = &file.stages[index];
    let line = stage.from.line;
    let lookup = |name: &str| args.get(name);
    let expander = Expander { escape: file.escape, lookup: &lookup };
    let image = expander.word(&stage.image).map_err(|reason| Refusal::from(reason).on(line))?;
    if image.is_empty() {
        let message = format!("base name ({}) should not be blank", stage.image);
        return Err(BuildError::Parse { line, message });
    }
    if let Some(platform) = stage.from.flag("platform") {
        let platform = expander.word(platform).map_err(|reason| Refusal::from(reason).on(line))?;
        if !is_host_platform(&platform) {
            let message = format!(
                "FROM --platform={platform}: not supported, images are built for {}",
                host_platform()
            );
            return Err(BuildError::Step { line, message });
        }
    }
    if image == "scratch" {
        return Ok(Base::Scratch);
    }
    let name = image.to_ascii_lowercase();
    let earlier = file.stages[..index].iter().rposition(|stage| stage.name.as_ref() == Some(&name));
    Ok(match (earlier, contexts.get(&image)) {
        (Some(stage), _) => Base::Stage(stage),
        (None, Some(NamedContext::Image(other))) => Base::Image(other.clone()),
        (None, Some(_)) => Base::Context(image),
        (None, None) => Base::Image(image),
    })
}

/// Says whether `platform`, in one of the forms that clients write it, is the one that images are built for.
pub fn is_host_platform(platform: &str) -> bool {
    let same_arch = match platform.split_once('/') {
        None => return platform.is_empty() || platform == "linux" || platform == architecture(),
        Some(("linux", "x86_64" | "amd64" | "amd64/v1")) => "amd64",
        Some(("linux", "aarch64" | "arm64" | "arm64/v8")) => "arm64",
        Some(_) => return false,
    };
    same_arch == architecture()
}

/// Finds the stage to stop at: by name or number, else the last.
pub(crate) fn target(file: &Dockerfile, target: Option<&str>) -> Result<usize, BuildError> {
    let Some(target) = target.filter(|target| !target.is_empty()) else {
        return Ok(file.stages.len() - 1);
    };
    let name = target.to_ascii_lowercase();
    let by_name = file.stages.iter().position(|stage| stage.name.as_ref() == Some(&name));
    let by_number = || target.parse().ok().filter(|number| *number < file.stages.len());
    by_name
        .or_else(by_number)
        .ok_or_else(|| BuildError::Request { message: format!("target stage {target:?} could not be found") })
}

/// Where a `COPY --from` takes its sources from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum From {
    Stage(usize),
    Image(String),
}

/// Resolves a `--from` in stage `index`: an earlier stage by name or number, else an image.
pub(crate) fn from(stages: &[Stage], index: usize, text: &str) -> Result<From, Refusal> {
    let name = text.to_ascii_lowercase();
    if let Some(stage) = stages[..index].iter().rposition(|stage| stage.name.as_ref() == Some(&name)) {
        return Ok(From::Stage(stage));
    }
    match text.parse::<usize>() {
        Ok(number) if number < index => Ok(From::Stage(number)),
        Ok(number) => Err(Refusal::new(format!("invalid from flag value {number}: not an earlier stage"))),
        Err(_) if stages.get(index).is_some_and(|stage| stage.name.as_ref() == Some(&name)) => {
            Err(Refusal::new(format!("invalid from flag value {text}: refers to current build stage")))
        }
        Err(_) => Ok(From::Image(text.to_owned())),
    }
}

/// Returns the stages that `instructions` of stage `index` copy from.
pub(crate) fn copied_stages(
    stages: &[Stage],
    index: usize,
    instructions: &[Instruction],
) -> Result<BTreeSet<usize>, BuildError> {
    let mut copied = BTreeSet::new();
    for instruction in instructions {
        let sources: Vec<&str> = match &instruction.kind {
            Kind::Copy(_) => instruction.flag("from").into_iter().collect(),
            Kind::Run { .. } => {
                let mounts = instruction.flags.iter().filter(|flag| flag.name == "mount");
                mounts.filter_map(|flag| mount::from(flag.value.as_deref()?)).collect()
            }
            _ => continue,
        };
        for text in sources {
            if let From::Stage(stage) =
                from(stages, index, text).map_err(|refusal| refusal.on(instruction.line))?
            {
                copied.insert(stage);
            }
        }
    }
    Ok(copied)
}

/// Refuses what Docker knows and we do not, before anything is run.
pub(crate) fn check_supported(instruction: &Instruction) -> Result<(), BuildError> {
    for flag in &instruction.flags {
        let value = flag.value.as_deref().unwrap_or("true");
        let supported = match (instruction.keyword.as_str(), flag.name.as_str()) {
            ("FROM", "platform") | ("COPY", "from") | ("COPY" | "ADD", "chown" | "chmod") => true,
            ("RUN", "network") => ["default", "none", "host"].contains(&value),
            ("RUN", "mount") => true,
            ("RUN", "security") => value == "sandbox",
            ("COPY" | "ADD", "link" | "exclude") | ("COPY", "parents") | ("ADD", "unpack") => true,
            ("ADD", "keep-git-dir" | "checksum") => true,
            ("HEALTHCHECK", _) => true,
            _ => false,
        };
        if !supported {
            let written = flag.value.as_ref().map(|value| format!("={value}")).unwrap_or_default();
            let message = match (flag.name.as_str(), value) {
                // BuildKit's words for a builder without the entitlement; nobody can be given it here.
                ("security", "insecure") => {
                    format!("{} --security=insecure: security.insecure is not allowed", instruction.keyword)
                }
                _ => format!("{} --{}{written}: not supported", instruction.keyword, flag.name),
            };
            return Err(BuildError::Step { line: instruction.line, message });
        }
    }
    Ok(())
}

/// Returns the names among `build_args` that no `ARG` of the Dockerfile declares.
pub(crate) fn unconsumed(file: &Dockerfile, build_args: &BTreeMap<String, Option<String>>) -> Vec<String> {
    let all = file.global.iter().chain(file.stages.iter().flat_map(|stage| &stage.body));
    let mut declared: BTreeSet<&str> = PROXY_ARGS.into_iter().chain(["SOURCE_DATE_EPOCH"]).collect();
    for instruction in all {
        if let Kind::Arg(args) = &instruction.kind {
            declared.extend(args.iter().map(|(name, _)| name.as_str()));
        }
    }
    build_args.keys().filter(|name| !declared.contains(name.as_str())).cloned().collect()
}
