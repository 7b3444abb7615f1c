//! `[secrets.REF]`: where the values are, and who may use them. No value is read here, and nothing that might be one is
//! repeated in a message.

use std::collections::BTreeMap;

use chiton_lifecycle::policy::Match;

use super::error::quote;
use super::keys::ENV_PREFIX;
use super::policy::rule;
use super::reader::{Field, Notes, Section, path};
use super::sources::Sources;
use super::types::{SecretRef, SecretSource};

pub(super) fn secrets(root: &Section<'_>, sources: &Sources, notes: &mut Notes) -> BTreeMap<String, SecretRef> {
    let mut secrets = BTreeMap::new();
    for (name, field) in root.section("secrets").fields() {
        let sound = matches!(name.len(), 1..=63)
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if !sound {
            notes.wrong(
                field.origin(),
                &field.path,
                format!("{} is not a secret's reference", quote(name)),
                "use 1 to 63 letters, digits, '-', '_' and '.'",
            );
        }
        let section = field.section();
        let source = source(&field, &section, sources, notes);
        let allow = allow(&field, &section, notes);
        if let (true, Some(source)) = (sound, source) {
            secrets.insert(name.to_owned(), SecretRef { source, allow });
        }
    }
    secrets
}

fn source(field: &Field<'_>, section: &Section<'_>, sources: &Sources, notes: &mut Notes) -> Option<SecretSource> {
    let cure = "write either env = \"NAME\" or file = \"/path\"";
    match (section.field("env"), section.field("file")) {
        (None, None) => {
            notes.wrong(field.origin(), &field.path, "the secret has no source", cure);
            None
        }
        (Some(_), Some(file)) => {
            notes.wrong(file.origin(), &file.path, "the secret has two sources", cure);
            None
        }
        (Some(env), None) => {
            let name = env.text()?;
            let sound = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if !sound {
                notes.wrong(
                    env.origin(),
                    &env.path,
                    "this is not the name of an environment variable",
                    "write the variable's name, not its value: letters, digits and '_', not beginning with a digit",
                );
                return None;
            }
            if name.starts_with(ENV_PREFIX) {
                notes.wrong(
                    env.origin(),
                    &env.path,
                    "variables that begin with CHITON_ are the gateway's own settings",
                    "use a variable with another name",
                );
                return None;
            }
            notes.show(env.origin(), &env.path, format!("{name:?}"));
            Some(SecretSource::Env(name.to_owned()))
        }
        (None, Some(file)) => {
            let place = path(notes, &file, file.text()?, &sources.cwd)?;
            notes.show(file.origin(), &file.path, format!("{place:?}"));
            Some(SecretSource::File(place))
        }
    }
}

fn allow(field: &Field<'_>, section: &Section<'_>, notes: &mut Notes) -> Match {
    if let Some(allow) = section.field("allow") {
        return rule(&allow, false, notes);
    }
    notes.wrong(
        field.origin(),
        &field.path,
        "the secret says nothing about who may use it",
        "add for example allow = { workspaces = [\"default\"] }",
    );
    Match::default()
}
