//! Health.

use chiton_compute_wire::names::SERVICE;
use tonic::Code;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use crate::stage::Stage;
use crate::verdict::{By, Verdict, ensure, must, not_here};

pub(crate) async fn says_serving(stage: &Stage) -> Verdict {
    let mut client = HealthClient::new(stage.wire.channel.clone());
    let mut known = false;
    // A server may know itself as a whole, this service, or both.
    for service in ["", SERVICE] {
        let asked = client.check(HealthCheckRequest { service: service.to_owned() });
        let answer = stage.wire.answer("grpc.health.v1 Check", stage.limits().call, asked).await?;
        match answer.as_ref().map_err(tonic::Status::code) {
            Err(Code::Unimplemented) => return not_here(By::Driver, "grpc.health.v1 is not served"),
            Err(Code::NotFound) => continue,
            _ => {}
        }
        let status = must("grpc.health.v1 Check", answer)?.status();
        known = true;
        let what = if service.is_empty() { "the health of the server" } else { "the health of the service" };
        ensure(status == ServingStatus::Serving, what, "SERVING", status.as_str_name())?;
    }
    ensure(known, "grpc.health.v1", "the server or the service is known to it", "neither")
}
