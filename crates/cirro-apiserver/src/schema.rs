//! The types of the API: members, kinds of values, protobuf numbers, patch rules.
//!
//! Read from a generated, compressed file (tools/openapi-gen) at the first use.

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::OnceLock;

use serde::Deserialize;

mod check;

pub(crate) use check::{Checked, check};

static FILE: &[u8] = include_bytes!("../data/types.json.gz");

/// Types whose objects have one owner as a whole (`+structType=atomic`).
const ATOMIC_TYPES: [&str; 27] = [
    "LabelSelector",
    "ObjectReference",
    "LocalObjectReference",
    "TypedLocalObjectReference",
    "SecretReference",
    "SecretKeySelector",
    "ConfigMapKeySelector",
    "ConfigMapNodeConfigSource",
    "ResourceFieldSelector",
    "ObjectFieldSelector",
    "NodeSelector",
    "NodeSelectorTerm",
    "TopologySelectorTerm",
    "TopologySelectorLabelRequirement",
    "ScopeSelector",
    "ScopedResourceSelectorRequirement",
    "EndpointAddress",
    "EndpointPort",
    "OwnerReference",
    "RoleRef",
    "Subject",
    "ParamRef",
    "ParamKind",
    "NamedRuleWithOperations",
    "MatchResources",
    "UserSubject",
    "GroupSubject",
];

/// Maps that have one owner as a whole (`+mapType=atomic`).
const ATOMIC_MEMBERS: [(&str, &str); 3] =
    [("PodSpec", "nodeSelector"), ("ServiceSpec", "selector"), ("ReplicationControllerSpec", "selector")];

/// All types.
pub(crate) struct Types {
    types: Vec<Type>,
    by_name: HashMap<Box<str>, usize>,
}

/// One object type.
#[derive(Debug, Default)]
pub(crate) struct Type {
    /// Its name without the package, as Go's messages have it.
    pub(crate) name: Box<str>,
    /// Members, sorted by name.
    fields: Vec<(Box<str>, Field)>,
    /// Protobuf messages that JSON inlines.
    inlined: Vec<Inlined>,
    /// What members look like that the type does not name, where it lets them be.
    others: Option<Box<Field>>,
}

/// A message in protobuf whose fields are members of the outer object in JSON.
#[derive(Debug)]
struct Inlined {
    number: u32,
    /// Number and member of each field.
    members: Vec<(u32, Box<str>)>,
}

/// One member of an object type.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) shape: Shape,
    /// Number in protobuf; 0 when it has none.
    pub(crate) number: u32,
    pub(crate) patch: Patch,
    pub(crate) list: ListKind,
    /// Whether a map or an object has one owner as a whole.
    pub(crate) atomic: bool,
}

/// How server-side apply treats a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum ListKind {
    /// It has one owner as a whole.
    #[default]
    Atomic,
    /// Its elements are their own keys.
    Set,
    /// These members tell its elements apart.
    Map(Vec<Box<str>>),
}

/// How a strategic merge patch treats a member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Patch {
    /// Whether lists are merged; else replaced.
    pub(crate) merge: bool,
    /// The member that tells elements apart.
    pub(crate) key: Option<Box<str>>,
}

/// What a value looks like.
#[derive(Debug, Clone)]
pub(crate) enum Shape {
    Text,
    Int32,
    Int64,
    Number,
    Boolean,
    Bytes,
    Quantity,
    IntOrString,
    Time,
    MicroTime,
    /// An object of any kind, in protobuf as its JSON.
    Raw,
    /// Managed fields, in protobuf as their JSON.
    Fields,
    /// Any object.
    Object,
    /// Any value.
    Any,
    List(Box<Shape>),
    Map(Box<Shape>),
    Type(usize),
    /// An object type of a kind that came at run time.
    Own(std::sync::Arc<Type>),
}

#[derive(Deserialize)]
struct TypeEntry<'a> {
    #[serde(borrow)]
    f: HashMap<&'a str, FieldEntry<'a>>,
    #[serde(borrow, default)]
    i: HashMap<&'a str, HashMap<&'a str, &'a str>>,
}

#[derive(Deserialize)]
struct FieldEntry<'a> {
    t: &'a str,
    #[serde(default)]
    n: u32,
    #[serde(default)]
    p: &'a str,
    k: Option<&'a str>,
    #[serde(default)]
    l: &'a str,
    #[serde(borrow, default)]
    m: Vec<&'a str>,
}

/// Returns the types.
pub(crate) fn types() -> &'static Types {
    static TYPES: OnceLock<Types> = OnceLock::new();
    TYPES.get_or_init(|| {
        let mut text = String::new();
        flate2::read::GzDecoder::new(FILE).read_to_string(&mut text).expect("the file is built in");
        Types::read(&text).expect("the file is built in and tested")
    })
}

impl Types {
    fn read(text: &str) -> Result<Self, serde_json::Error> {
        let entries: HashMap<&str, TypeEntry<'_>> = serde_json::from_str(text)?;
        let mut names: Vec<_> = entries.keys().copied().collect();
        names.sort_unstable();
        let by_name: HashMap<Box<str>, usize> =
            names.iter().enumerate().map(|(index, name)| ((*name).into(), index)).collect();
        let types = names.iter().map(|name| Type::read(name, &entries[name], &by_name)).collect();
        Ok(Self { types, by_name })
    }

    /// Finds a type by the name of its definition.
    pub(crate) fn find(&self, definition: &str) -> Option<usize> {
        self.by_name.get(definition).copied()
    }

    /// Returns the types of a name without its package.
    #[cfg(test)]
    pub(crate) fn named(&self, name: &str) -> impl Iterator<Item = &Type> {
        self.types.iter().filter(move |one| *one.name == *name)
    }

    /// Returns a type.
    pub(crate) fn get(&self, index: usize) -> &Type {
        &self.types[index]
    }
}

impl Type {
    fn read(name: &str, entry: &TypeEntry<'_>, by_name: &HashMap<Box<str>, usize>) -> Self {
        let mut fields: Vec<_> = entry
            .f
            .iter()
            .map(|(member, field)| ((*member).into(), Field::read(name, member, field, by_name)))
            .collect();
        fields.sort_by(|(one, _): &(Box<str>, Field), (other, _)| one.cmp(other));
        let number = |text: &str| text.parse().unwrap_or(0);
        let inlined = entry.i.iter().map(|(outer, members)| {
            let members = members.iter().map(|(inner, member)| (number(inner), (*member).into()));
            Inlined { number: number(outer), members: members.collect() }
        });
        let short = name.rsplit('.').next().unwrap_or(name);
        Self { name: short.into(), inlined: inlined.collect(), fields, others: None }
    }

    /// Makes the type of a kind that came at run time.
    pub(crate) fn own(name: &str, mut fields: Vec<(Box<str>, Field)>, others: Option<Field>) -> Self {
        fields.sort_by(|(one, _), (other, _)| one.cmp(other));
        Self { name: name.into(), fields, inlined: Vec::new(), others: others.map(Box::new) }
    }

    /// Returns what members look like that the type does not name, where it lets them be.
    pub(crate) fn others(&self) -> Option<&Field> {
        self.others.as_deref()
    }

    /// Returns all members.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&str, &Field)> {
        self.fields.iter().map(|(name, field)| (&**name, field))
    }

    /// Finds a member.
    pub(crate) fn field(&self, member: &str) -> Option<&Field> {
        let at = self.fields.binary_search_by(|(name, _)| (**name).cmp(member)).ok()?;
        Some(&self.fields[at].1)
    }

    /// Whether JSON inlines the message of this protobuf number.
    pub(crate) fn inlines(&self, number: u32) -> bool {
        self.inlined.iter().any(|inlined| inlined.number == number)
    }

    /// Finds a member by its protobuf number in a message that JSON inlines.
    pub(crate) fn inlined(&self, outer: u32, number: u32) -> Option<(&str, &Field)> {
        let inlined = self.inlined.iter().find(|inlined| inlined.number == outer)?;
        let (_, member) = inlined.members.iter().find(|(inner, _)| *inner == number)?;
        self.field(member).map(|field| (&**member, field))
    }

    /// Finds a member by its protobuf number.
    pub(crate) fn numbered(&self, number: u32) -> Option<(&str, &Field)> {
        let found = self.fields.iter().find(|(_, field)| field.number == number && number != 0);
        found.map(|(name, field)| (&**name, field))
    }
}

impl Field {
    fn read(owner: &str, member: &str, entry: &FieldEntry<'_>, by_name: &HashMap<Box<str>, usize>) -> Self {
        let merge = entry.p.split(',').any(|strategy| strategy == "merge");
        let patch = Patch { merge, key: entry.k.map(Into::into) };
        let list = match entry.l {
            "set" => ListKind::Set,
            "map" => ListKind::Map(entry.m.iter().map(|key| (*key).into()).collect()),
            _ => ListKind::Atomic,
        };
        let short = |name: &str| name.rsplit('.').next().unwrap_or(name).to_owned();
        let atomic = ATOMIC_TYPES.contains(&short(entry.t).as_str())
            || ATOMIC_MEMBERS.contains(&(short(owner).as_str(), member));
        Self { shape: Shape::read(entry.t, by_name), number: entry.n, patch, list, atomic }
    }
}

impl Shape {
    /// Returns the object type, when it is one.
    pub(crate) fn object_type(&self) -> Option<&Type> {
        match self {
            Self::Type(index) => Some(types().get(*index)),
            Self::Own(own) => Some(own),
            _ => None,
        }
    }

    fn read(code: &str, by_name: &HashMap<Box<str>, usize>) -> Self {
        let inner = |code: &str| Box::new(Self::read(code, by_name));
        match code {
            "s" => Self::Text,
            "i" => Self::Int32,
            "l" => Self::Int64,
            "d" => Self::Number,
            "b" => Self::Boolean,
            "y" => Self::Bytes,
            "q" => Self::Quantity,
            "x" => Self::IntOrString,
            "t" => Self::Time,
            "u" => Self::MicroTime,
            "w" => Self::Raw,
            "v" => Self::Fields,
            "o" => Self::Object,
            _ => match (code.strip_prefix('['), code.strip_prefix('{'), code.strip_prefix('#')) {
                (Some(items), _, _) => Self::List(inner(items)),
                (_, Some(values), _) => Self::Map(inner(values)),
                // A type without members has no entry.
                (_, _, Some(name)) => by_name.get(name).map_or(Self::Object, |index| Self::Type(*index)),
                _ => Self::Any,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_file_has_the_types_of_every_kind() {
        for kind in crate::kinds::registry().kinds() {
            let views = kind.views.iter().map(|view| &view.schema);
            for schema in views.chain([&kind.schema]) {
                assert!(types().find(schema).is_some(), "{schema}");
            }
        }
    }

    #[test]
    fn patch_rules_are_upstreams() {
        let rule = |definition: &str, member: &str| {
            let found = types().get(types().find(definition).unwrap());
            found.field(member).unwrap().patch.clone()
        };
        let merged = |key: &str| Patch { merge: true, key: Some(key.into()) };
        assert_eq!(rule("io.k8s.api.core.v1.ServiceSpec", "ports"), merged("port"));
        assert_eq!(rule("io.k8s.api.core.v1.PodSpec", "containers"), merged("name"));
        assert_eq!(rule("io.k8s.api.core.v1.PodSpec", "tolerations"), Patch::default());
        assert_eq!(rule("io.k8s.api.core.v1.Container", "ports"), merged("containerPort"));
        assert_eq!(rule("io.k8s.api.core.v1.NodeSpec", "taints"), Patch::default());
    }
}
