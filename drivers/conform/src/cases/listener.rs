//! Where the driver wants to be listened for.

use std::net::SocketAddr;

use chiton_compute_wire::v1::gateway_listener_requirement::Selector;
use tonic::Code;

use crate::stage::Stage;
use crate::verdict::{By, Verdict, broken, ensure, must, not_here};

pub(crate) async fn requirements_are_sound(stage: &Stage) -> Verdict {
    let answer = stage.wire.requirements().await?;
    if answer.as_ref().is_err_and(|status| status.code() == Code::Unimplemented) {
        return not_here(By::Driver, "GetGatewayListenerRequirements is optional and not implemented");
    }
    for wanted in must("GetGatewayListenerRequirements", answer)? {
        ensure(!wanted.reason.trim().is_empty(), "a requirement's reason", "words", "nothing")?;
        match &wanted.selector {
            None => return Err(broken("a requirement's selector", "one", "none")),
            Some(Selector::ExactBindAddress(address)) => {
                ensure(address.parse::<SocketAddr>().is_ok(), "exact_bind_address", "an address and a port", address)?;
            }
            Some(Selector::DefaultRouteInterface(_) | Selector::LoopbackInterface(_)) => {}
        }
    }
    Ok(())
}
