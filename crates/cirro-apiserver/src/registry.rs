//! The registry of kinds: what the API serves, as data.
//!
//! Every handler asks a [`Kind`]; none knows a kind by name. Built-in kinds and our own are made by the
//! functions in `kinds/`; kinds that arrive at run time are made from their definitions (`custom`). Where a
//! rule needs code, the entry names a [`Strategy`].

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use cirro_seams::Pending;
use cirro_seams::api::{ApiError, DeleteOptions, Resource};
use serde_json::Value;

use crate::custom::{Conversion, CustomVersion};
use crate::error::Causes;
use crate::table::Column;

/// What a kind is to the API.
pub(crate) struct Kind {
    pub(crate) group: String,
    /// The storage version; where a webhook converts, the version that this kind works in.
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) namespaced: bool,
    /// Name of its schema's definition.
    pub(crate) schema: String,
    /// Its type, when the kind came at run time.
    pub(crate) own_type: Option<Arc<crate::schema::Type>>,
    /// Whether objects are kept; others are answered from the request alone (reviews).
    pub(crate) stored: bool,
    pub(crate) subresources: Vec<Subresource>,
    /// What field selectors may name beside `metadata.name` and `metadata.namespace`.
    pub(crate) selectable: Vec<Selectable>,
    pub(crate) columns: Vec<Column>,
    pub(crate) strategy: Rules,
    /// Other groups and versions that the same objects are served in.
    pub(crate) views: Vec<View>,
    /// What its definition says, when the kind came at run time.
    pub(crate) custom: Option<Arc<CustomVersion>>,
}

/// The strategy of a kind: one that is built in, or one that was made from a definition.
pub(crate) enum Rules {
    BuiltIn(&'static dyn Strategy),
    Custom(Box<dyn Strategy>),
}

impl Deref for Rules {
    type Target = dyn Strategy;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::BuiltIn(strategy) => *strategy,
            Self::Custom(strategy) => strategy.as_ref(),
        }
    }
}

/// A field that a selector may name.
pub(crate) struct Selectable {
    /// The name in the selector.
    pub(crate) label: String,
    /// Where the value is.
    pub(crate) path: String,
}

/// A part of an object with a path of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subresource {
    /// The status and nothing else.
    Status,
    /// `spec.replicas` in the shape of `autoscaling/v1` Scale.
    Scale,
    /// Assigns a pod to a node.
    Binding,
    /// Evicts a pod.
    Eviction,
    /// Ends a namespace.
    Finalize,
    /// A container's log.
    Log,
    /// Runs a command.
    Exec,
    /// Attaches to the process.
    Attach,
    /// Connects to ports.
    PortForward,
    /// Carries requests to what the object serves; the kind of its options.
    Proxy(&'static str),
    /// A machine's serial console.
    Console,
    /// A token of a service account.
    Token,
    /// Approval or denial of a signing request.
    Approval,
    /// The containers that are added to a pod for a look at it.
    EphemeralContainers,
    /// What a pod's containers may use.
    Resize,
}

impl Subresource {
    /// Returns its path element.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Scale => "scale",
            Self::Binding => "binding",
            Self::Eviction => "eviction",
            Self::Finalize => "finalize",
            Self::Log => "log",
            Self::Exec => "exec",
            Self::Attach => "attach",
            Self::PortForward => "portforward",
            Self::Proxy(_) => "proxy",
            Self::Console => "console",
            Self::Token => "token",
            Self::Approval => "approval",
            Self::EphemeralContainers => "ephemeralcontainers",
            Self::Resize => "resize",
        }
    }

    /// Returns the group, version and kind it speaks, when it is not the object's own.
    pub(crate) fn speaks(self) -> Option<(&'static str, &'static str, &'static str)> {
        match self {
            Self::Scale => Some(("autoscaling", "v1", "Scale")),
            Self::Binding => Some(("", "v1", "Binding")),
            Self::Eviction => Some(("policy", "v1", "Eviction")),
            Self::Exec => Some(("", "v1", "PodExecOptions")),
            Self::Attach => Some(("", "v1", "PodAttachOptions")),
            Self::PortForward => Some(("", "v1", "PodPortForwardOptions")),
            Self::Proxy(options) => Some(("", "v1", options)),
            Self::Token => Some(("authentication.k8s.io", "v1", "TokenRequest")),
            Self::Status | Self::Finalize | Self::Log | Self::Console | Self::Approval => None,
            Self::EphemeralContainers | Self::Resize => None,
        }
    }

    /// Returns the verbs that discovery names.
    pub(crate) fn verbs(self) -> &'static [&'static str] {
        match self {
            Self::Status | Self::Scale | Self::Approval => &["get", "patch", "update"],
            Self::EphemeralContainers | Self::Resize => &["get", "patch", "update"],
            Self::Binding | Self::Eviction | Self::Token => &["create"],
            Self::Finalize => &["update"],
            Self::Proxy(_) => &["create", "delete", "get", "patch", "update"],
            Self::Log | Self::Console => &["get"],
            Self::Exec | Self::Attach | Self::PortForward => &["create", "get"],
        }
    }
}

/// The same objects under another group or version.
pub(crate) struct View {
    pub(crate) group: String,
    pub(crate) version: String,
    /// Name of the view's schema.
    pub(crate) schema: String,
    /// Turns the view's form into the storage form (all but `apiVersion`), the view's defaults included.
    pub(crate) import: fn(&mut Value),
    /// Turns the storage form into the view's form (all but `apiVersion`).
    pub(crate) export: fn(&mut Value),
    /// Sent as a warning with every answer.
    pub(crate) deprecation: Option<String>,
}

/// The rules of a kind that need code. The methods are called in this order: `defaults`,
/// `prepare_create` or `prepare_update`, `allocate`, `validate`, `validate_update`, `claims`.
pub(crate) trait Strategy: Sync + Send {
    /// Fills in what the client left out.
    fn defaults(&self, _object: &mut Value) {}
    /// Sets what the server decides at creation.
    fn prepare_create(&self, _object: &mut Value) {}
    /// Sets what follows from the name, which may be generated.
    fn named(&self, _object: &mut Value) {}
    /// Carries over what an update may not change silently.
    fn prepare_update(&self, _object: &mut Value, _old: &Value) {}
    /// Whether `allocate` has something to do: then it gets what is taken.
    fn allocates(&self) -> bool {
        false
    }
    /// Gives addresses and ports that the client did not choose.
    fn allocate(
        &self,
        _object: &mut Value,
        _old: Option<&Value>,
        _pool: &mut crate::allocate::Pool,
        _causes: &mut Causes,
    ) {
    }
    /// Finds faults of an object on its own.
    fn validate(&self, _object: &Value, _causes: &mut Causes) {}
    /// Finds faults of a change: of the new state, and of the way there.
    fn validate_change(&self, object: &Value, old: &Value, causes: &mut Causes) {
        self.validate(object, causes);
        self.validate_update(object, old, causes);
    }
    /// Whether a write to the status alone is validated too.
    fn validates_status(&self) -> bool {
        false
    }
    /// Returns `old` with what a write to one of its parts may change, as `new` has it.
    fn with_part(&self, _part: Subresource, _new: &Value, old: &Value) -> Value {
        old.clone()
    }
    /// Finds faults of a change of one part.
    fn validate_part(&self, _part: Subresource, object: &Value, old: &Value, causes: &mut Causes) {
        self.validate_change(object, old, causes);
    }
    /// Finds forbidden changes.
    fn validate_update(&self, _object: &Value, _old: &Value, _causes: &mut Causes) {}
    /// Store keys that the object owns exclusively, written and deleted with it in one transaction.
    fn claims(&self, _object: &Value) -> Vec<String> {
        Vec::new()
    }
    /// Decides the grace of a deletion; `None` deletes at once (finalizers apart).
    fn grace(&self, _object: &Value, _options: &DeleteOptions) -> Option<i64> {
        None
    }
    /// Changes an object whose deletion begins.
    fn begin_deletion(&self, _object: &mut Value) {}
    /// Whether something beside `metadata.finalizers` keeps a deleted object.
    fn kept_by(&self, _object: &Value) -> bool {
        false
    }
    /// Whether an object of this name is never deleted.
    fn is_immortal(&self, _name: &str) -> bool {
        false
    }
    /// Remarks for the client that do not refuse the object.
    fn warnings(&self, _object: &Value) -> Vec<String> {
        Vec::new()
    }
    /// Whether the status that a creation carries is kept.
    fn keeps_status_at_creation(&self) -> bool {
        false
    }
    /// Whether `metadata.generation` counts the changes of the object.
    fn has_generation(&self) -> bool {
        false
    }
    /// Answers a kind that is not stored, from the request and who asks.
    fn answer<'a>(&'a self, object: Value, _asker: Asker<'a>) -> Pending<'a, Result<Value, ApiError>> {
        Box::pin(async { Ok(object) })
    }
    /// Whether the objects of a kind that is not stored are found out when somebody asks.
    fn is_computed(&self) -> bool {
        false
    }
    /// Finds out the objects of such a kind, in a namespace or everywhere.
    fn compute<'a>(&'a self, _asker: Asker<'a>) -> Pending<'a, Result<Vec<Value>, ApiError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    /// Returns the refusal for one of them that there is not, when it is not the usual one.
    fn not_found(&self, _namespace: &str, _name: &str) -> Option<ApiError> {
        None
    }
    /// What names of this kind must look like.
    fn name_rule(&self) -> crate::validate::NameRule {
        crate::validate::NameRule::Subdomain
    }
}

/// Who asks for the answer of a kind that is not stored, and where.
pub(crate) struct Asker<'a> {
    pub(crate) server: &'a crate::server::ApiServer,
    pub(crate) user: &'a crate::auth::User,
    pub(crate) kind: &'a Kind,
    /// The path's namespace; empty when it has none.
    pub(crate) namespace: &'a str,
}

/// A kind without rules of its own.
pub(crate) struct NoRules;

impl Strategy for NoRules {}

impl Kind {
    /// Starts a namespaced kind.
    pub(crate) fn namespaced(group: &str, version: &str, kind: &str, plural: &str) -> Self {
        Self {
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
            plural: plural.into(),
            singular: kind.to_lowercase(),
            short_names: Vec::new(),
            categories: Vec::new(),
            namespaced: true,
            schema: String::new(),
            own_type: None,
            stored: true,
            subresources: Vec::new(),
            selectable: Vec::new(),
            columns: crate::table::name_and_age(),
            strategy: Rules::BuiltIn(&NoRules),
            views: Vec::new(),
            custom: None,
        }
    }

    /// Starts a cluster-scoped kind.
    pub(crate) fn cluster(group: &str, version: &str, kind: &str, plural: &str) -> Self {
        Self { namespaced: false, ..Self::namespaced(group, version, kind, plural) }
    }

    /// Gives short names.
    pub(crate) fn short(mut self, names: &[&str]) -> Self {
        self.short_names = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    /// Puts it into a category.
    pub(crate) fn category(mut self, category: &str) -> Self {
        self.categories.push(category.into());
        self
    }

    /// Names its schema.
    pub(crate) fn schema(mut self, definition: &str) -> Self {
        self.schema = definition.into();
        self
    }

    /// Gives subresources.
    pub(crate) fn subresources(mut self, subresources: &[Subresource]) -> Self {
        self.subresources = subresources.to_vec();
        self
    }

    /// Lets field selectors name these paths.
    pub(crate) fn selectable(mut self, paths: &[&str]) -> Self {
        let field = |path: &&str| Selectable { label: (*path).into(), path: (*path).into() };
        self.selectable = paths.iter().map(field).collect();
        self
    }

    /// Gives the columns of its Tables.
    pub(crate) fn columns(mut self, columns: Vec<Column>) -> Self {
        self.columns = columns;
        self
    }

    /// Names its rules.
    pub(crate) fn strategy(mut self, strategy: &'static dyn Strategy) -> Self {
        self.strategy = Rules::BuiltIn(strategy);
        self
    }

    /// Serves it under another group and version too.
    pub(crate) fn view(mut self, view: View) -> Self {
        self.views.push(view);
        self
    }

    /// Answers it from the request alone.
    pub(crate) fn not_stored(mut self) -> Self {
        self.stored = false;
        self
    }

    /// Returns `deployments.apps`, or `pods` for core.
    pub(crate) fn resource(&self) -> String {
        Resource::new(&self.group, &self.plural).to_string()
    }

    /// Returns `apps/v1`, or `v1` for core.
    pub(crate) fn api_version(&self) -> String {
        join_version(&self.group, &self.version)
    }

    /// Returns what converts its objects, when a webhook does.
    pub(crate) fn conversion(&self) -> Option<&Conversion> {
        self.custom.as_ref()?.conversion.as_ref()
    }

    /// Returns `apiVersion` of what is stored, which is the kind's own unless a webhook converts.
    pub(crate) fn storage_api_version(&self) -> String {
        self.conversion().map_or_else(|| self.api_version(), |conversion| conversion.storage.clone())
    }

    /// Whether it has this subresource.
    pub(crate) fn has(&self, subresource: Subresource) -> bool {
        self.subresources.contains(&subresource)
    }

    /// Returns the verbs that discovery names.
    pub(crate) fn verbs(&self) -> &'static [&'static str] {
        if self.stored {
            &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
        } else if self.strategy.is_computed() {
            &["get", "list"]
        } else {
            &["create"]
        }
    }

    /// Returns the store's prefix of all its objects.
    pub(crate) fn prefix(&self) -> String {
        let group = if self.group.is_empty() { "core" } else { &self.group };
        format!("/registry/{group}/{}/", self.plural)
    }

    /// Returns the store's prefix of its objects in a namespace, or everywhere.
    pub(crate) fn prefix_in(&self, namespace: Option<&str>) -> String {
        match namespace {
            Some(namespace) if self.namespaced => format!("{}{namespace}/", self.prefix()),
            _ => self.prefix(),
        }
    }

    /// Returns an object's key in the store.
    pub(crate) fn key(&self, namespace: &str, name: &str) -> String {
        if self.namespaced {
            format!("{}{namespace}/{name}", self.prefix())
        } else {
            format!("{}{name}", self.prefix())
        }
    }
}

/// Writes a group and a version as `apiVersion` does.
pub(crate) fn join_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// A kind as a request named it: in its storage version or in a view.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) kind: Arc<Kind>,
    view: Option<usize>,
}

impl Served {
    /// Serves a kind in its storage version.
    pub(crate) fn storage(kind: Arc<Kind>) -> Self {
        Self { kind, view: None }
    }

    /// Serves a kind in one of its views.
    pub(crate) fn in_view(kind: Arc<Kind>, index: usize) -> Self {
        Self { kind, view: Some(index) }
    }

    /// Whether stored bytes go out as they are.
    pub(crate) fn is_stored_form(&self) -> bool {
        self.view.is_none() && self.kind.custom.is_none()
    }

    /// Returns the view, unless it is the storage version.
    pub(crate) fn view(&self) -> Option<&View> {
        self.view.map(|index| &self.kind.views[index])
    }

    /// Returns the group of the request.
    pub(crate) fn group(&self) -> &str {
        self.view().map_or(&self.kind.group, |view| &view.group)
    }

    /// Returns the version of the request.
    pub(crate) fn version(&self) -> &str {
        self.view().map_or(&self.kind.version, |view| &view.version)
    }

    /// Returns the definition of the request's schema.
    pub(crate) fn schema(&self) -> &str {
        self.view().map_or(&self.kind.schema, |view| &view.schema)
    }

    /// Returns `apiVersion` of the request's objects.
    pub(crate) fn api_version(&self) -> String {
        join_version(self.group(), self.version())
    }

    /// Returns the storage form of a client's object.
    pub(crate) fn import(&self, mut object: Value) -> Value {
        if let Some(view) = self.view() {
            (view.import)(&mut object);
        }
        object["apiVersion"] = self.kind.api_version().into();
        object["kind"] = self.kind.kind.clone().into();
        object
    }

    /// Returns the form of the request's version of a stored object.
    pub(crate) fn export<'a>(&self, object: &'a Value) -> Cow<'a, Value> {
        let mut object = Cow::Borrowed(object);
        if let Some(view) = self.view() {
            let object = object.to_mut();
            (view.export)(object);
            object["apiVersion"] = self.api_version().into();
        } else if let Some(custom) = &self.kind.custom {
            let object = object.to_mut();
            // It may have been stored in another version.
            object["apiVersion"] = self.api_version().into();
            custom.complete(object);
        }
        object
    }
}

/// All kinds that are served at a time.
pub(crate) struct Registry {
    kinds: Vec<Arc<Kind>>,
    /// In the order of discovery.
    serving: Vec<Served>,
    /// Places in `kinds` and in `serving` by the plural; few share one.
    by_plural: HashMap<String, (Vec<usize>, Vec<usize>)>,
    /// The document of OpenAPI v2 about these kinds, once somebody asked: as JSON and as protobuf.
    pub(crate) swagger: [OnceLock<bytes::Bytes>; 2],
}

impl Registry {
    /// Gathers kinds.
    pub(crate) fn new(kinds: Vec<Kind>) -> Self {
        let kinds: Vec<_> = kinds.into_iter().map(Arc::new).collect();
        // Views come last, so that a group's first version is the one that is stored.
        let storage = kinds.iter().cloned().map(Served::storage);
        let views = kinds
            .iter()
            .flat_map(|kind| (0..kind.views.len()).map(|index| Served::in_view(kind.clone(), index)));
        let serving = storage.chain(views).collect();
        Self::serving(kinds, serving)
    }

    /// Returns the registry with kinds more: each as it is stored, and as it is served.
    pub(crate) fn with(&self, more: impl Iterator<Item = (Arc<Kind>, Vec<Served>)>) -> Self {
        let (mut kinds, mut serving) = (self.kinds.clone(), self.serving.clone());
        for (kind, served) in more {
            kinds.push(kind);
            serving.extend(served);
        }
        Self::serving(kinds, serving)
    }

    fn serving(kinds: Vec<Arc<Kind>>, serving: Vec<Served>) -> Self {
        let mut by_plural = HashMap::<String, (Vec<usize>, Vec<usize>)>::new();
        for (index, kind) in kinds.iter().enumerate() {
            by_plural.entry(kind.plural.clone()).or_default().0.push(index);
        }
        for (index, served) in serving.iter().enumerate() {
            by_plural.entry(served.kind.plural.clone()).or_default().1.push(index);
        }
        Self { kinds, serving, by_plural, swagger: Default::default() }
    }

    /// Returns every kind once.
    pub(crate) fn kinds(&self) -> &[Arc<Kind>] {
        &self.kinds
    }

    /// Finds what a request's path names.
    pub(crate) fn served(&self, group: &str, version: &str, plural: &str) -> Option<&Served> {
        let (_, serving) = self.by_plural.get(plural)?;
        // The last one of a path is the one that counts.
        let mut serving = serving.iter().rev().map(|index| &self.serving[*index]);
        serving.find(|served| served.group() == group && served.version() == version)
    }

    /// Finds a kind by group and plural, whatever the version.
    pub(crate) fn kind(&self, group: &str, plural: &str) -> Option<&Arc<Kind>> {
        let (kinds, _) = self.by_plural.get(plural)?;
        kinds.iter().map(|index| &self.kinds[*index]).find(|kind| kind.group == group)
    }

    /// Returns the groups with their versions, in the order of discovery, each with what it serves.
    pub(crate) fn groups(&self) -> Vec<Group<'_>> {
        let mut groups: Vec<Group<'_>> = Vec::new();
        for served in &self.serving {
            let at = groups.iter().position(|group| group.name == served.group());
            let at = at.unwrap_or_else(|| {
                groups.push(Group { name: served.group(), versions: Vec::new() });
                groups.len() - 1
            });
            let versions = &mut groups[at].versions;
            match versions.iter_mut().find(|(version, _)| *version == served.version()) {
                Some((_, kinds)) => kinds.push(served),
                None => versions.push((served.version(), vec![served])),
            }
        }
        let came_later = |group: &&mut Group<'_>| {
            group.versions.iter().any(|(_, all)| all.iter().any(|one| one.kind.custom.is_some()))
        };
        for group in groups.iter_mut().filter(came_later) {
            group.versions.sort_by(|(one, _), (other, _)| crate::custom::by_priority(one, other));
        }
        groups
    }
}

/// A group of discovery.
pub(crate) struct Group<'a> {
    pub(crate) name: &'a str,
    /// Versions, the preferred one first, with what each serves.
    pub(crate) versions: Vec<(&'a str, Vec<&'a Served>)>,
}
