//! Which requests are told, and how much of them.
//!
//! Source: apiserver `pkg/audit/policy/{checker,reader}.go`, `pkg/apis/audit/validation`.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::auth::User;
use crate::decode;
use crate::rbac::{Access, Target};

/// Largest policy.
const MAX_POLICY: u64 = 1024 * 1024;

/// Why there is no audit log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PolicyError {
    #[error("read the audit policy `{path}`")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the audit policy `{path}` is not good: {why}")]
    Malformed { path: PathBuf, why: String },
    #[error("open the audit log `{path}`")]
    Log {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// How much is told of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(crate) enum Level {
    /// Nothing.
    None,
    /// Who asked for what, and the code of the answer.
    Metadata,
    /// What was sent too.
    Request,
    /// What was answered too.
    RequestResponse,
}

impl Level {
    /// Returns the word in events.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }
}

/// When something is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

impl Stage {
    /// Returns the word in events.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::RequestReceived => "RequestReceived",
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
            Self::Panic => "Panic",
        }
    }
}

/// The rules, of which the first that fits decides.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Policy {
    rules: Vec<Rule>,
    omit_stages: Vec<Stage>,
    omit_managed_fields: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<Resources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Resources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

/// What a policy says of a request.
#[derive(Debug, Clone)]
pub(crate) struct Decision {
    pub(crate) level: Level,
    pub(crate) omits: Vec<Stage>,
    pub(crate) omits_managed_fields: bool,
}

impl Policy {
    /// Reads a policy file. Blocks.
    pub(super) fn load(path: &Path) -> Result<Self, PolicyError> {
        use std::io::Read as _;
        let unread = |source| PolicyError::Read { path: path.to_owned(), source };
        let mut text = Vec::new();
        let file = std::fs::File::open(path).map_err(unread)?;
        file.take(MAX_POLICY).read_to_end(&mut text).map_err(unread)?;
        Self::parse(&text).map_err(|why| PolicyError::Malformed { path: path.to_owned(), why })
    }

    fn parse(text: &[u8]) -> Result<Self, String> {
        let value = decode::decode("application/yaml", text).map_err(|refusal| refusal.message)?.value;
        let (version, kind) = (&value["apiVersion"], &value["kind"]);
        if version != "audit.k8s.io/v1" || kind != "Policy" {
            return Err(format!("want apiVersion audit.k8s.io/v1 and kind Policy, got {version} and {kind}"));
        }
        let policy = Self::deserialize(&value).map_err(|why| why.to_string())?;
        if policy.rules.is_empty() {
            return Err("loaded illegal policy with 0 rules".into());
        }
        for (index, rule) in policy.rules.iter().enumerate() {
            rule.check().map_err(|why| format!("rules[{index}].{why}"))?;
        }
        Ok(policy)
    }

    /// Decides over a request.
    pub(super) fn decide(&self, user: &User, access: &Access) -> Decision {
        let rule = self.rules.iter().find(|rule| rule.fits(user, access));
        let Some(rule) = rule else {
            return Decision { level: Level::None, omits: Vec::new(), omits_managed_fields: false };
        };
        let omits = self.omit_stages.iter().chain(&rule.omit_stages).copied().collect();
        let omits_managed_fields = rule.omit_managed_fields.unwrap_or(self.omit_managed_fields);
        Decision { level: rule.level, omits, omits_managed_fields }
    }
}

impl Rule {
    fn check(&self) -> Result<(), String> {
        let about_objects = !self.resources.is_empty() || !self.namespaces.is_empty();
        if about_objects && !self.non_resource_urls.is_empty() {
            return Err("nonResourceURLs: Invalid value: rules cannot apply to both regular resources and non-resource URLs".into());
        }
        for url in self.non_resource_urls.iter().filter(|url| *url != "*") {
            if !url.starts_with('/') {
                return Err(
                    "nonResourceURLs: Invalid value: non-resource URL rules must begin with a '/' character"
                        .into(),
                );
            }
            if url.trim_end_matches('*').contains('*') {
                return Err("nonResourceURLs: Invalid value: non-resource URL wildcards '*' must be the final character of the rule".into());
            }
        }
        for named in self.resources.iter().filter(|one| !one.resource_names.is_empty()) {
            if named.resources.is_empty() {
                return Err("resources.resourceNames: Invalid value: using resourceNames requires at least one resource".into());
            }
        }
        Ok(())
    }

    fn fits(&self, user: &User, access: &Access) -> bool {
        let among = |list: &[String], one: &str| list.is_empty() || list.iter().any(|other| other == one);
        let in_group = self.user_groups.is_empty() || self.user_groups.iter().any(|group| user.is_in(group));
        if !among(&self.users, &user.name) || !in_group || !among(&self.verbs, &access.verb) {
            return false;
        }
        match &access.target {
            Target::Path(path) => {
                self.namespaces.is_empty()
                    && self.resources.is_empty()
                    && (self.non_resource_urls.is_empty()
                        || self.non_resource_urls.iter().any(|url| path_fits(url, path)))
            }
            Target::Resource { namespace, .. } => {
                self.non_resource_urls.is_empty()
                    && among(&self.namespaces, namespace)
                    && (self.resources.is_empty() || self.resources.iter().any(|one| one.fits(access)))
            }
        }
    }
}

impl Resources {
    fn fits(&self, access: &Access) -> bool {
        let Target::Resource { group, resource, subresource, name, .. } = &access.target else {
            return false;
        };
        if *group != self.group {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        let named = self.resource_names.is_empty() || self.resource_names.contains(name);
        named
            && self.resources.iter().any(|wanted| match wanted.split_once('/') {
                _ if wanted == "*" => true,
                None => subresource.is_empty() && wanted == resource,
                Some(("*", sub)) => !subresource.is_empty() && sub == subresource,
                Some((of, "*")) => of == resource,
                Some((of, sub)) => of == resource && sub == subresource,
            })
    }
}

fn path_fits(wanted: &str, path: &str) -> bool {
    wanted == "*" || wanted == path || wanted.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: ["system:kube-proxy"]
  verbs: ["watch"]
- level: RequestResponse
  namespaces: ["prod"]
  resources: [{group: "", resources: ["pods", "pods/status"]}]
  omitStages: [ResponseStarted]
- level: Request
  resources: [{group: "", resources: ["configmaps"], resourceNames: ["one"]}, {group: "apps"}]
- level: None
  nonResourceURLs: ["/api*", "/version"]
- level: Metadata
"#;

    #[test]
    fn the_first_rule_that_fits_decides() {
        let policy = Policy::parse(POLICY.as_bytes()).unwrap();
        let user = |name: &str| User { name: name.into(), ..User::default() };
        let level = |who: &str, access: Access| policy.decide(&user(who), &access).level;
        let to = |verb: &str, group: &str, resource: &str, sub: &str, namespace: &str, name: &str| {
            Access::to_resource(verb, group, resource, sub, namespace, name)
        };
        assert_eq!(level("system:kube-proxy", to("watch", "", "services", "", "", "")), Level::None);
        assert_eq!(level("x", to("get", "", "pods", "", "prod", "a")), Level::RequestResponse);
        assert_eq!(level("x", to("get", "", "pods", "log", "prod", "a")), Level::Metadata);
        assert_eq!(level("x", to("get", "", "configmaps", "", "prod", "one")), Level::Request);
        assert_eq!(level("x", to("get", "", "configmaps", "", "prod", "two")), Level::Metadata);
        assert_eq!(level("x", to("get", "apps", "deployments", "scale", "d", "a")), Level::Request);
        assert_eq!(level("x", Access::to_path("get", "/apis/apps")), Level::None);
        assert_eq!(level("x", Access::to_path("get", "/metrics")), Level::Metadata);
        let decision = policy.decide(&user("x"), &to("get", "", "pods", "", "prod", "a"));
        assert_eq!(decision.omits, [Stage::RequestReceived, Stage::ResponseStarted]);
    }

    #[test]
    fn policies_that_mean_nothing_are_refused() {
        let refused = |text: &str| Policy::parse(text.as_bytes()).unwrap_err();
        let head = "apiVersion: audit.k8s.io/v1\nkind: Policy\n";
        assert_eq!(refused(head), "loaded illegal policy with 0 rules");
        assert!(refused("kind: Policy").contains("audit.k8s.io/v1"));
        assert!(refused(&format!("{head}rules: [{{level: Loud}}]")).contains("Loud"));
        let both = format!("{head}rules: [{{level: None, nonResourceURLs: [/x], namespaces: [a]}}]");
        assert!(refused(&both).contains("rules cannot apply to both"));
    }
}
