//! Which requests belong together, and what each level may take.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use cirro_store::Record;
use serde_json::Value;

use super::{Flow, defaults};
use crate::auth::User;
use crate::authenticate::service_account;
use crate::json;
use crate::rbac::{Access, Target};
use crate::record;

const ALL: &str = "*";

/// The objects of a moment.
pub(super) struct Config {
    /// In the order in which they are tried.
    schemas: Vec<Schema>,
    pub(super) levels: Vec<Level>,
}

/// A FlowSchema.
struct Schema {
    name: String,
    uid: String,
    precedence: i64,
    level: String,
    distinguisher: String,
    rules: Vec<Value>,
}

/// A PriorityLevelConfiguration.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Level {
    pub(super) name: String,
    pub(super) uid: String,
    /// `None` takes whatever it wants.
    pub(super) limits: Option<Limits>,
}

/// What a limited level may take.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Limits {
    pub(super) shares: u32,
    pub(super) lendable_percent: u32,
    /// How much more than its own it may borrow; as much as there is without.
    pub(super) borrowing_percent: Option<u32>,
    /// Queues, the size of a hand of them, and their length; refuses without.
    pub(super) queuing: Option<Queuing>,
}

/// The queues of a level.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Queuing {
    pub(super) queues: usize,
    pub(super) hand: usize,
    pub(super) length: usize,
}

/// Most queues that a level has here; more would only be memory.
const MAX_QUEUES: i64 = 4096;

impl Config {
    /// Reads the objects in a store. Those that must be there are, whatever the store says.
    pub(super) fn read(records: &[Record]) -> Self {
        let (mut schemas, mut levels) = (Vec::new(), Vec::new());
        for stored in records {
            let Ok(object) = record::decode(&stored.value, stored.revision) else { continue };
            match stored.key.contains("/flowschemas/") {
                true => schemas.push(Schema::read(&object)),
                false => levels.push(Level::read(&object)),
            }
        }
        for (plural, object) in defaults::mandatory() {
            let name = json::name(&object);
            match plural {
                "flowschemas" if !schemas.iter().any(|schema| schema.name == name) => {
                    schemas.push(Schema::read(&object));
                }
                "prioritylevelconfigurations" if !levels.iter().any(|level| level.name == name) => {
                    levels.push(Level::read(&object));
                }
                _ => {}
            }
        }
        // One whose level is not there is as if it were not there.
        schemas.retain(|schema| levels.iter().any(|level| level.name == schema.level));
        schemas.sort_by(|one, other| (one.precedence, &one.name).cmp(&(other.precedence, &other.name)));
        Self { schemas, levels }
    }

    /// Returns a config of levels alone.
    #[cfg(test)]
    pub(super) fn of_levels(levels: Vec<Level>) -> Self {
        Self { schemas: Vec::new(), levels }
    }

    /// Finds the flow of a request.
    pub(super) fn flow(&self, user: &User, access: &Access) -> Flow {
        let fitting = self.schemas.iter().find(|schema| schema.fits(user, access));
        let schema = fitting.or_else(|| self.schemas.iter().find(|schema| schema.name == "catch-all"));
        let schema = schema.expect("the mandatory ones are there");
        let level = self.levels.iter().find(|level| level.name == schema.level);
        let mut hasher = DefaultHasher::new();
        let distinguisher = match schema.distinguisher.as_str() {
            "ByUser" => &user.name,
            "ByNamespace" => access.namespace(),
            _ => "",
        };
        (&schema.name, distinguisher).hash(&mut hasher);
        Flow {
            schema_uid: schema.uid.clone(),
            level_uid: level.map(|level| level.uid.clone()).unwrap_or_default(),
            level: schema.level.clone(),
            hash: hasher.finish(),
        }
    }
}

impl Schema {
    fn read(object: &Value) -> Self {
        let text = |path: &str| json::text(object, path).to_owned();
        Self {
            name: text("metadata.name"),
            uid: text("metadata.uid"),
            precedence: json::number(object, "spec.matchingPrecedence").unwrap_or(1000),
            level: text("spec.priorityLevelConfiguration.name"),
            distinguisher: text("spec.distinguisherMethod.type"),
            rules: json::array(object, "spec.rules").to_vec(),
        }
    }

    fn fits(&self, user: &User, access: &Access) -> bool {
        self.rules.iter().any(|rule| {
            json::array(rule, "subjects").iter().any(|subject| is_subject(subject, user))
                && match &access.target {
                    Target::Path(path) => json::array(rule, "nonResourceRules")
                        .iter()
                        .any(|one| path_fits(one, &access.verb, path)),
                    Target::Resource { .. } => {
                        json::array(rule, "resourceRules").iter().any(|one| resource_fits(one, access))
                    }
                }
        })
    }
}

fn is_subject(subject: &Value, user: &User) -> bool {
    match json::text(subject, "kind") {
        "User" => fits(json::text(subject, "user.name"), &user.name),
        "Group" => {
            let name = json::text(subject, "group.name");
            name == ALL || user.is_in(name)
        }
        "ServiceAccount" => service_account(&user.name).is_some_and(|(namespace, name)| {
            namespace == json::text(subject, "serviceAccount.namespace")
                && fits(json::text(subject, "serviceAccount.name"), name)
        }),
        _ => false,
    }
}

fn fits(pattern: &str, text: &str) -> bool {
    pattern == ALL || pattern == text
}

fn among(rule: &Value, member: &str, text: &str) -> bool {
    json::array(rule, member).iter().any(|one| one.as_str().is_some_and(|one| fits(one, text)))
}

fn path_fits(rule: &Value, verb: &str, path: &str) -> bool {
    let urls = json::array(rule, "nonResourceURLs").iter().filter_map(Value::as_str);
    among(rule, "verbs", verb)
        && urls.into_iter().any(|url| {
            fits(url, path) || url.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
        })
}

fn resource_fits(rule: &Value, access: &Access) -> bool {
    let Target::Resource { group, resource, subresource, namespace, .. } = &access.target else {
        return false;
    };
    let place = match namespace.as_str() {
        "" => rule["clusterScope"] == true,
        namespace => among(rule, "namespaces", namespace),
    };
    let named = match subresource.as_str() {
        "" => among(rule, "resources", resource),
        subresource => among(rule, "resources", &format!("{resource}/{subresource}")),
    };
    place && named && among(rule, "verbs", &access.verb) && among(rule, "apiGroups", group)
}

impl Level {
    /// Reads an object.
    pub(super) fn read(object: &Value) -> Self {
        let limited = json::at(object, "spec.limited");
        Self {
            name: json::name(object).to_owned(),
            uid: json::text(object, "metadata.uid").to_owned(),
            limits: limited.filter(|_| json::text(object, "spec.type") != "Exempt").map(Limits::read),
        }
    }
}

impl Limits {
    fn read(limited: &Value) -> Self {
        let number = |path: &str| json::number(limited, path).and_then(|number| u32::try_from(number).ok());
        let response = &limited["limitResponse"];
        let size = |member: &str, least: i64| {
            let number = json::number(&response["queuing"], member).unwrap_or(least);
            usize::try_from(number.clamp(1, MAX_QUEUES)).expect("it is positive and small")
        };
        let queuing = (json::text(response, "type") == "Queue").then(|| {
            let queues = size("queues", 64);
            Queuing { queues, hand: size("handSize", 8).min(queues), length: size("queueLengthLimit", 50) }
        });
        Self {
            shares: number("nominalConcurrencyShares").unwrap_or(30),
            lendable_percent: number("lendablePercent").unwrap_or(0).min(100),
            borrowing_percent: number("borrowingLimitPercent"),
            queuing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, groups: &[&str]) -> User {
        let mut groups: Vec<_> = groups.iter().map(|group| (*group).to_owned()).collect();
        groups.push(User::AUTHENTICATED.into());
        User { name: name.into(), groups, ..User::default() }
    }

    /// Returns the config of upstream's own objects.
    fn config() -> Config {
        let all = defaults::all();
        let of = |wanted: &str| {
            all.iter()
                .filter(|(plural, _)| *plural == wanted)
                .map(|(_, object)| object.clone())
                .collect::<Vec<_>>()
        };
        let mut schemas: Vec<_> = of("flowschemas").iter().map(Schema::read).collect();
        schemas.sort_by_key(|schema| schema.precedence);
        Config { schemas, levels: of("prioritylevelconfigurations").iter().map(Level::read).collect() }
    }

    #[test]
    fn requests_go_to_the_levels_that_upstream_says() {
        let config = config();
        let level = |user: &User, access: Access| config.flow(user, &access).level;
        let pods = || Access::to_resource("list", "", "pods", "", "x", "");
        let lease = || Access::to_resource("update", "coordination.k8s.io", "leases", "", "kube-system", "a");
        assert_eq!(level(&user("admin", &["system:masters"]), pods()), "exempt");
        assert_eq!(level(&user("jane", &[]), pods()), "global-default");
        assert_eq!(level(&user("jane", &[]), Access::to_path("get", "/livez")), "exempt");
        assert_eq!(level(&user("system:kube-scheduler", &[]), lease()), "leader-election");
        assert_eq!(level(&user("system:kube-scheduler", &[]), pods()), "workload-high");
        let account = user("system:serviceaccount:x:robot", &["system:serviceaccounts"]);
        assert_eq!(level(&account, pods()), "workload-low");
        let node = user("system:node:a", &["system:nodes"]);
        assert_eq!(level(&node, pods()), "system");
        assert_eq!(level(&node, Access::to_resource("patch", "", "nodes", "status", "", "a")), "node-high");
        // Flows are told apart as the schema says.
        let hash = |name: &str| config.flow(&user(name, &[]), &pods()).hash;
        assert!(hash("jane") != hash("john") && hash("jane") == hash("jane"));
    }

    #[test]
    fn without_objects_the_mandatory_ones_act() {
        let config = Config::read(&[]);
        assert_eq!(config.flow(&user("jane", &[]), &Access::to_path("get", "/x")).level, "catch-all");
        assert_eq!(
            config.flow(&user("a", &["system:masters"]), &Access::to_path("get", "/x")).level,
            "exempt"
        );
    }
}
