//! What an extension declares about itself.

use std::collections::BTreeSet;

use chiton_lifecycle::extension::{Descriptor, Needs, ReconcileSupport};
use chiton_model::{ExtensionName, Phase, printable};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{document, said};
use crate::proto::{DescribeExtensionResponse, ExtensionNeeds};

/// More hooks at once than anybody means.
const MOST_HOOKS: u32 = 4096;

pub(crate) fn describe(descriptor: &Descriptor) -> DescribeExtensionResponse {
    DescribeExtensionResponse {
        name: descriptor.name.to_string(),
        version: descriptor.version.clone(),
        summary: descriptor.summary.clone(),
        phases: descriptor.phases.iter().map(ToString::to_string).collect(),
        needs: Some(needs(&descriptor.needs)),
        wants: Some(needs(&descriptor.wants)),
        state_schema: descriptor.state_schema,
        reads_schemas: descriptor.reads_schemas.iter().copied().collect(),
        authoritative: descriptor.reconcile == ReconcileSupport::Authoritative,
        local_effects: descriptor.local_effects,
        concurrency: descriptor.concurrency,
        config_schema_json: match &descriptor.config_schema {
            Value::Null => String::new(),
            schema => schema.to_string(),
        },
    }
}

fn needs(needs: &Needs) -> ExtensionNeeds {
    ExtensionNeeds {
        points: needs.points.iter().map(|point| point.as_str().to_owned()).collect(),
        features: needs.features.iter().map(|feature| feature.as_str().to_owned()).collect(),
    }
}

/// Reads what a process says of the extension of this name.
pub(crate) fn read_descriptor(name: &ExtensionName, said_of: DescribeExtensionResponse) -> Result<Descriptor, String> {
    if said_of.name != name.as_str() {
        return Err(format!("it calls itself {:?} and is configured as {:?}", printable(&said_of.name), name.as_str()));
    }
    let phases = said_of.phases.iter().map(|word| {
        Phase::parse(word).ok_or_else(|| format!("it takes part in a phase {:?}, which there is not", printable(word)))
    });
    let phases: Vec<Phase> = phases.collect::<Result<_, _>>()?;
    let mut descriptor = Descriptor::new(name.as_str(), &said(&said_of.version), &said(&said_of.summary), phases)
        .map_err(|error| error.to_string())?;
    descriptor.needs = read_needs(said_of.needs)?;
    descriptor.wants = read_needs(said_of.wants)?;
    if said_of.state_schema == 0 {
        return Err("its state_schema is 0; the first is 1".to_owned());
    }
    descriptor.state_schema = said_of.state_schema;
    descriptor.reads_schemas = said_of.reads_schemas.into_iter().collect();
    if said_of.authoritative {
        descriptor.reconcile = ReconcileSupport::Authoritative;
    }
    descriptor.local_effects = said_of.local_effects;
    if said_of.concurrency > 0 {
        descriptor.concurrency = said_of.concurrency.min(MOST_HOOKS);
    }
    if !said_of.config_schema_json.is_empty() {
        descriptor.config_schema = document("config_schema_json", &said_of.config_schema_json)?;
    }
    Ok(descriptor)
}

fn read_needs(said_of: Option<ExtensionNeeds>) -> Result<Needs, String> {
    let ExtensionNeeds { points, features } = said_of.unwrap_or_default();
    Ok(Needs { points: words("point", points)?, features: words("feature", features)? })
}

fn words<T: DeserializeOwned + Ord>(what: &str, words: Vec<String>) -> Result<BTreeSet<T>, String> {
    let read = |word: String| {
        serde_json::from_value(Value::String(word.clone()))
            .map_err(|_| format!("it needs or wants a {what} {:?}, which there is not", printable(&word)))
    };
    words.into_iter().map(read).collect()
}
