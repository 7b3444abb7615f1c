//! Kinds of extension: what is compiled in, and how a config becomes an instance.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use chiton_model::{Error, ExtensionName, nearest, printable};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Descriptor, Extension};

/// Something wrong in a config document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigIssue {
    /// JSON pointer of the part that is wrong; empty for the document.
    pub pointer: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub cure: Option<String>,
}

type Build = dyn Fn(&Value) -> Result<Arc<dyn Extension>, Vec<ConfigIssue>> + Send + Sync;
type Check = dyn Fn(&Value) -> Vec<ConfigIssue> + Send + Sync;

/// A compiled-in extension.
#[derive(Clone)]
pub struct ExtensionKind {
    descriptor: Arc<Descriptor>,
    build: Arc<Build>,
    check: Arc<Check>,
}

impl ExtensionKind {
    /// An extension whose config is `C` (strict: it must deny unknown fields). `check` looks at a config without
    /// constructing anything; `build` makes the instance.
    pub fn new<C, E>(
        mut descriptor: Descriptor,
        check: impl Fn(&C) -> Vec<ConfigIssue> + Send + Sync + Clone + 'static,
        build: impl Fn(C) -> Result<E, Error> + Send + Sync + 'static,
    ) -> Self
    where
        C: DeserializeOwned + JsonSchema,
        E: Extension,
    {
        descriptor.config_schema = schemars::schema_for!(C).to_value();
        let checked = check.clone();
        Self {
            descriptor: Arc::new(descriptor),
            check: Arc::new(move |document| match decode_config::<C>(document) {
                Ok(config) => check(&config),
                Err(issue) => vec![issue],
            }),
            build: Arc::new(move |document| {
                let config = decode_config::<C>(document).map_err(|issue| vec![issue])?;
                let issues = checked(&config);
                if !issues.is_empty() {
                    return Err(issues);
                }
                match build(config) {
                    Ok(extension) => Ok(Arc::new(extension)),
                    Err(error) => {
                        Err(vec![ConfigIssue { pointer: String::new(), message: error.message, cure: error.cure }])
                    }
                }
            }),
        }
    }

    /// An extension whose declaration and config are known only at run time: one that is served by another process. `build`
    /// refuses what `check` would.
    pub fn dynamic(
        descriptor: Descriptor,
        check: impl Fn(&Value) -> Vec<ConfigIssue> + Send + Sync + 'static,
        build: impl Fn(&Value) -> Result<Arc<dyn Extension>, Vec<ConfigIssue>> + Send + Sync + 'static,
    ) -> Self {
        Self { descriptor: Arc::new(descriptor), build: Arc::new(build), check: Arc::new(check) }
    }

    /// The same kind with every instance wrapped and its declaration changed, for builds and kits that stand something
    /// between the engine and an extension.
    #[must_use]
    pub fn wrapped(
        &self,
        change: impl FnOnce(&mut Descriptor),
        wrap: impl Fn(Arc<dyn Extension>) -> Arc<dyn Extension> + Send + Sync + 'static,
    ) -> Self {
        let mut descriptor = (*self.descriptor).clone();
        change(&mut descriptor);
        let build = Arc::clone(&self.build);
        Self {
            descriptor: Arc::new(descriptor),
            build: Arc::new(move |document| build(document).map(&wrap)),
            check: Arc::clone(&self.check),
        }
    }

    /// Its declaration.
    pub fn descriptor(&self) -> &Arc<Descriptor> {
        &self.descriptor
    }

    /// Everything that is wrong with a config. Constructs nothing.
    pub fn check(&self, document: &Value) -> Vec<ConfigIssue> {
        (self.check)(document)
    }

    /// An instance for a config.
    pub fn build(&self, document: &Value) -> Result<Arc<dyn Extension>, Vec<ConfigIssue>> {
        (self.build)(document)
    }
}

impl fmt::Debug for ExtensionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExtensionKind").field("name", &self.descriptor.name).finish_non_exhaustive()
    }
}

/// Decodes a config document strictly; the type must deny unknown fields. What is wrong is named by its path, and an unknown
/// field is answered with the nearest known one.
pub fn decode_config<C: DeserializeOwned>(document: &Value) -> Result<C, ConfigIssue> {
    serde_path_to_error::deserialize(document).map_err(|error| {
        use serde_path_to_error::Segment;
        let mut pointer = String::new();
        for segment in error.path() {
            let part = match segment {
                Segment::Seq { index } => index.to_string(),
                Segment::Map { key } => key.clone(),
                Segment::Enum { variant } => variant.clone(),
                Segment::Unknown => break,
            };
            pointer = format!("{pointer}/{}", part.replace('~', "~0").replace('/', "~1"));
        }
        let message = printable(&error.inner().to_string());
        // serde names the field and the known ones: "unknown field `labls`, expected one of `labels`".
        let cure = match message.strip_prefix("unknown field ").and_then(|rest| rest.rsplit_once("`, expected ")) {
            Some((unknown, known)) => {
                let known: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
                match nearest(unknown.trim_start_matches('`'), known.iter().copied()) {
                    Some(name) => Some(format!("did you mean {name:?}?")),
                    None => Some(format!("the options are {}", known.join(", "))),
                }
            }
            None => Some("give it the form that the schema says".to_owned()),
        };
        ConfigIssue { pointer, message, cure }
    })
}

/// All compiled-in extensions.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    kinds: BTreeMap<ExtensionName, ExtensionKind>,
}

impl Registry {
    /// Adds a kind; a second one of the same name is an error.
    pub fn register(&mut self, kind: ExtensionKind) -> Result<(), Error> {
        let name = kind.descriptor.name.clone();
        if self.kinds.contains_key(&name) {
            return Err(Error::already_exists(format!("two extensions are registered as {:?}", name.as_str()))
                .cure("give one of them another name"));
        }
        self.kinds.insert(name, kind);
        Ok(())
    }

    /// A kind by name.
    pub fn get(&self, name: &ExtensionName) -> Option<&ExtensionKind> {
        self.kinds.get(name)
    }

    /// All kinds, by name.
    pub fn iter(&self) -> impl Iterator<Item = &ExtensionKind> {
        self.kinds.values()
    }
}
