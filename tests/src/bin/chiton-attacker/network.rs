//! Ways to others that need no file.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixStream};
use std::time::Duration;

use crate::raw::Argument::{Bytes, Number};
use crate::raw::call;
use crate::{Attack, Tried, argument, failed};

pub(crate) const ATTACKS: &[(&str, Attack)] = &[
    ("socket", socket),
    ("abstract", abstract_socket),
    ("unix", unix),
    ("tcp", tcp),
    ("vsock", vsock),
    ("abstract-any", abstract_any),
    ("hold-abstract", hold_abstract),
];

/// Longer than any answer on one machine takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A socket of a kind for which a sandbox has no use.
fn socket(arguments: &[String]) -> Tried {
    let (family, kind, protocol) = match argument(arguments, 0, "a kind")? {
        "raw" => (libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP),
        "raw6" => (libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6),
        "packet" => (libc::AF_PACKET, libc::SOCK_RAW, 0),
        "packet-dgram" => (libc::AF_PACKET, libc::SOCK_DGRAM, 0),
        "vsock" => (libc::AF_VSOCK, libc::SOCK_STREAM, 0),
        "alg" => (libc::AF_ALG, libc::SOCK_SEQPACKET, 0),
        "netlink-audit" => (libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_AUDIT),
        "netlink-netfilter" => (libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER),
        "xdp" => (libc::AF_XDP, libc::SOCK_RAW, 0),
        "bluetooth" => (libc::AF_BLUETOOTH, libc::SOCK_RAW, 1),
        "can" => (libc::AF_CAN, libc::SOCK_RAW, 1),
        other => return Err(failed(format!("no kind {other}"))),
    };
    let arguments = [Number(family.into()), Number(kind.into()), Number(protocol.into())];
    call(libc::SYS_socket, arguments).map(|descriptor| format!("descriptor {descriptor}"))
}

/// Says a word and hears one.
fn talk(mut stream: UnixStream) -> Tried {
    stream.set_read_timeout(Some(PATIENCE))?;
    // One that answers at once and closes is reached all the same.
    drop(stream.write_all(b"attack\n"));
    let mut heard = [0; 64];
    let length = stream.read(&mut heard)?;
    Ok(format!("heard {:?}", String::from_utf8_lossy(&heard[..length])))
}

/// NAME: somebody's socket without a file.
fn abstract_socket(arguments: &[String]) -> Tried {
    let address = UnixAddress::from_abstract_name(argument(arguments, 0, "a name")?)?;
    talk(UnixStream::connect_addr(&address)?)
}

/// PATH: somebody's socket in a folder.
fn unix(arguments: &[String]) -> Tried {
    talk(UnixStream::connect(argument(arguments, 0, "a path")?)?)
}

/// Which abstract sockets can be seen at all.
fn abstract_any(_: &[String]) -> Tried {
    let table = std::fs::read_to_string("/proc/net/unix")?;
    let names: Vec<&str> = table.lines().filter_map(|line| line.split_whitespace().nth(7)).collect();
    Ok(names.join(" "))
}

/// NAME: listens on an abstract socket and answers whoever comes, until killed.
fn hold_abstract(arguments: &[String]) -> Tried {
    let address = UnixAddress::from_abstract_name(argument(arguments, 0, "a name")?)?;
    let listener = std::os::unix::net::UnixListener::bind_addr(&address)?;
    loop {
        let (mut stream, _) = listener.accept()?;
        drop(stream.write_all(b"taken in\n"));
    }
}

fn tcp(arguments: &[String]) -> Tried {
    let port = argument(arguments, 1, "a port")?;
    let address: SocketAddr =
        format!("{}:{port}", argument(arguments, 0, "an address")?).parse().map_err(io::Error::other)?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut heard = [0; 64];
    let length = stream.read(&mut heard)?;
    Ok(format!("heard {:?}", String::from_utf8_lossy(&heard[..length])))
}

/// Connects to the machine below or to this one: these addresses know no namespaces.
fn vsock(arguments: &[String]) -> Tried {
    let place: u32 = argument(arguments, 0, "an address")?.parse().map_err(io::Error::other)?;
    let descriptor = call(
        libc::SYS_socket,
        [Number(libc::AF_VSOCK.into()), Number(i64::from(libc::SOCK_STREAM | libc::SOCK_NONBLOCK)), Number(0)],
    )?;
    // struct sockaddr_vm: family, reserved, port, address.
    let mut address = [0_u8; 16];
    address[..2].copy_from_slice(&40_u16.to_ne_bytes());
    address[4..8].copy_from_slice(&1_u32.to_ne_bytes());
    address[8..12].copy_from_slice(&place.to_ne_bytes());
    match call(libc::SYS_connect, [Number(descriptor), Bytes(&mut address), Number(16)]) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok("on its way".to_owned()),
        Err(error) => Err(error),
        Ok(_) => Ok("connected".to_owned()),
    }
}
