//! Where a driver's sandboxes want to call the gateway, held against where it listens for them. A wish is no permission:
//! nothing is opened for it, the operator is told.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use chiton_compute_wire::text::{MESSAGE, NAME, told};
use chiton_compute_wire::v1;
use chiton_compute_wire::v1::gateway_listener_requirement::Selector;
use chiton_model::Error;

/// More wishes than this are not looked at.
const MOST: usize = 32;

/// What of a driver's wishes is not met, each with the cure.
pub(crate) fn unmet(driver: &str, wishes: &[v1::GatewayListenerRequirement], listen: SocketAddr) -> Vec<Error> {
    let out = way_out();
    wishes.iter().take(MOST).filter_map(|wish| of(driver, wish, listen, out)).collect()
}

fn of(driver: &str, wish: &v1::GatewayListenerRequirement, listen: SocketAddr, out: Option<IpAddr>) -> Option<Error> {
    let port = listen.port();
    let (met, place, cure) = match &wish.selector {
        Some(Selector::ExactBindAddress(text)) => match text.parse::<SocketAddr>() {
            Ok(wanted) => (takes(listen, wanted), wanted.to_string(), Some(wanted)),
            Err(_) => (false, format!("{:?}, which is no address", told(text, NAME)), None),
        },
        Some(Selector::LoopbackInterface(_)) => {
            let met = listen.ip().is_loopback() || listen.ip().is_unspecified();
            (met, "the loopback interface".to_owned(), Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)))
        }
        Some(Selector::DefaultRouteInterface(_)) => {
            // Without a route nobody can say which address that is; any that others reach may be it.
            let met = out.map_or(!listen.ip().is_loopback(), |out| takes(listen, SocketAddr::new(out, port)));
            (met, "the interface of the default route".to_owned(), out.map(|out| SocketAddr::new(out, port)))
        }
        None => (false, "a place that is of no known kind".to_owned(), None),
    };
    if met {
        return None;
    }
    let why = told(&wish.reason, MESSAGE);
    let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
    let text = format!(
        "driver {driver:?} asks the gateway to listen on {place}{why}; its supervisors are listened for on {listen} alone and \
         may not reach that"
    );
    let remote = |address: SocketAddr| if address.ip().is_loopback() { "" } else { " and allow_remote = true" };
    Some(Error::unavailable(driver, text).cure(match cure {
        Some(address) => format!(
            "set listen = \"{address}\"{} in [supervisor], or an address of all interfaces where it is asked for more than \
             one, and let a firewall keep others out; or have a proxy listen there",
            remote(address)
        ),
        None => "correct the driver, or see in its own settings where its sandboxes call".to_owned(),
    }))
}

/// Whether who listens there is reached at the other address. A port that the system chooses may be any.
fn takes(listen: SocketAddr, wanted: SocketAddr) -> bool {
    let all = match listen.ip() {
        IpAddr::V4(ip) => ip.is_unspecified() && wanted.is_ipv4(),
        // Linux takes IPv4 there, too, unless it is told otherwise (ipv6(7), IPV6_V6ONLY).
        IpAddr::V6(ip) => ip.is_unspecified(),
    };
    (all || listen.ip() == wanted.ip()) && (listen.port() == wanted.port() || listen.port() == 0)
}

/// The machine's own address on the default route. Nothing is sent: the kernel is asked which way it would go.
fn way_out() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // Of the range that is nobody's (RFC 5737).
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

#[cfg(test)]
mod tests;
