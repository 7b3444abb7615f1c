//! Who is in a sandbox's chain: decided by the operator's policy, asked for by the request, stamped by the gateway.

use chiton_model::{Error, ExtensionName, Principal, SandboxSpec, WorkspaceName, nearest};
use serde_json::json;

use crate::engine::ExtensionConfig;
use crate::journal::ActivationStamp;
use crate::plan::digest_json;
use crate::policy::Activation;

/// The extensions of a request's chain, in config order, each with its stamp. Fails closed: an unknown or disallowed
/// extension refuses the request.
pub(crate) fn decide<'a>(
    configured: &'a [ExtensionConfig],
    spec: &SandboxSpec,
    workspace: &WorkspaceName,
    principal: &Principal,
) -> Result<Vec<(&'a ExtensionConfig, ActivationStamp)>, Error> {
    for asked in &spec.extensions {
        if !configured.iter().any(|extension| extension.name == *asked) {
            return Err(unknown(asked, configured));
        }
    }
    let mut chain = Vec::new();
    for extension in configured {
        let asked = spec.extensions.contains(&extension.name);
        let holds = |rule: &crate::policy::Match| rule.holds(workspace.as_str(), &principal.subject, &spec.labels);
        let active = match &extension.policy.activation {
            Activation::Always => true,
            Activation::Match(rule) => holds(rule),
            Activation::OnRequest(allow) => asked && holds(allow),
        };
        if asked && !active {
            let name = extension.name.as_str();
            let cure = match extension.policy.activation {
                Activation::Match(_) => {
                    format!(
                        "it cannot be asked for, it comes where the operator's rule says: [compute.policy.{name:?}] match"
                    )
                }
                _ => format!("ask the operator to allow it: [compute.policy.{name:?}] allow"),
            };
            return Err(Error::refused(
                "policy",
                format!(
                    "extension {:?} is not allowed for {} in workspace {:?}",
                    name,
                    principal.subject,
                    workspace.as_str()
                ),
            )
            .cure(cure));
        }
        if active {
            let rule = extension.policy.activation.as_str();
            let inputs = digest_json(&json!({
                "workspace": workspace, "principal": principal.subject, "labels": spec.labels, "asked": asked, "rule": rule,
            }))?;
            chain.push((
                extension,
                ActivationStamp { rule: rule.to_owned(), inputs, principal: principal.subject.clone() },
            ));
        }
    }
    Ok(chain)
}

fn unknown(asked: &ExtensionName, configured: &[ExtensionConfig]) -> Error {
    let known: Vec<&str> = configured.iter().map(|extension| extension.name.as_str()).collect();
    let error = Error::refused("policy", format!("extension {:?} is not one that this gateway offers", asked.as_str()));
    match nearest(asked.as_str(), known.iter().copied()) {
        Some(name) => error.cure(format!("did you mean {name:?}?")),
        None if known.is_empty() => error.cure("this gateway has no extensions; leave it out"),
        None => error.cure(format!("known: {}", known.join(", "))),
    }
}
