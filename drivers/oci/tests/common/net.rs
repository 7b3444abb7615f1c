//! A machine of its own for tests of the network: a network namespace that stands for the host, and another one for the
//! world outside, joined by a pair of interfaces. The test runs itself again inside, so that it cannot touch the real
//! host's interfaces and rules, and all it makes is gone with it.
#![allow(dead_code, unreachable_pub)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use chiton_driver::{ComputeDriver, PlanRequest};
use chiton_driver_oci::OciDriver;
use chiton_model::{NetworkMode, NetworkSpec, SandboxId};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::common::{PATIENCE, World, call, init, request};

/// Long enough for a packet that is dropped to be missed.
pub const MISSED: Duration = Duration::from_secs(3);
pub const SLEEP: [&str; 3] = ["sh", "-c", "while :; do sleep 0.05; done"];

/// The host's address on the way out, and the world's.
pub const HOST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub const PUBLIC: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
pub const PRIVATE: Ipv4Addr = Ipv4Addr::new(10, 50, 0, 1);
pub const PRIVATE_TOO: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 1);
pub const CARRIER: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 9);
pub const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
pub const WORLD: [Ipv4Addr; 5] = [PUBLIC, PRIVATE, PRIVATE_TOO, CARRIER, METADATA];

/// Runs the test of this name again in namespaces of its own. `true` in that run; `false` when it is over, or cannot be.
pub fn machine(test: &str) -> bool {
    if std::env::var_os("OCI_TEST_MACHINE").is_some() {
        return true;
    }
    if !crate::common::root(test) {
        return false;
    }
    let tools = ["/usr/sbin/nft", "/usr/sbin/ip"];
    if let Some(missing) = tools.iter().find(|tool| !std::path::Path::new(tool).exists()) {
        assert!(std::env::var_os("CI").is_none(), "{missing} is missing");
        eprintln!("SKIPPED {test}: {missing} is missing");
        return false;
    }
    let output = Command::new("unshare")
        .args(["--net", "--mount"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env("OCI_TEST_MACHINE", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    println!("{said}");
    assert!(output.status.success() && said.contains("1 passed"), "{test} failed in its own machine");
    false
}

pub fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The world outside; it ends with the test.
pub struct Outside {
    pub namespace: File,
}

/// Builds the machine: addresses, routes, and services on every address of the world and of the host.
pub fn build() -> Outside {
    let (told, hears) = mpsc::channel();
    std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let namespace = File::open("/proc/thread-self/ns/net").unwrap();
        told.send((namespace, rustix::thread::gettid().as_raw_pid())).unwrap();
        loop {
            std::thread::park();
        }
    });
    let (namespace, thread) = hears.recv().unwrap();
    sh(&format!(
        "ip link set lo up; echo 1 > /proc/sys/net/ipv4/ip_forward; ip link add wan0 type veth peer name wan1; \
         ip link set wan1 netns {thread}; ip addr add {HOST}/24 dev wan0; ip link set wan0 up; \
         ip route add default via {PUBLIC}"
    ));
    within_namespace(&namespace, || {
        sh(&format!("ip link set lo up; ip addr add {PUBLIC}/24 dev wan1; ip link set wan1 up"));
        for address in &WORLD[1..] {
            sh(&format!("ip addr add {address}/32 dev lo"));
        }
        for address in WORLD {
            serve(address, 8080);
            serve(address, 8081);
        }
    });
    // A service bound to every address answers datagrams from another one than it was asked at.
    serve(HOST, 9090);
    serve(Ipv4Addr::LOCALHOST, 9090);
    serve(Ipv4Addr::UNSPECIFIED, 9091);
    for address in WORLD {
        patiently(|| tcp(address, 8080));
        patiently(|| udp(None, address, 8081));
    }
    Outside { namespace }
}

/// Runs something in a network namespace, on a thread of its own.
pub fn within_namespace<T: Send>(namespace: &File, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

/// Answers over TCP and UDP with the address that the question came from.
pub fn serve(address: Ipv4Addr, port: u16) {
    let listener = TcpListener::bind((address, port)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let peer = stream.peer_addr().map(|peer| peer.ip().to_string()).unwrap_or_default();
            let _ = stream.write_all(peer.as_bytes());
        }
    });
    let socket = UdpSocket::bind((address, port)).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(peer.ip().to_string().as_bytes(), peer);
        }
    });
}

/// Connects and returns whom the service saw.
pub fn tcp(to: Ipv4Addr, port: u16) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((to, port)), MISSED)?;
    stream.set_read_timeout(Some(MISSED))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// The same by UDP, from an address if one is given.
pub fn udp(from: Option<Ipv4Addr>, to: Ipv4Addr, port: u16) -> io::Result<String> {
    let socket = UdpSocket::bind((from.unwrap_or(Ipv4Addr::UNSPECIFIED), 0))?;
    socket.connect(SocketAddrV4::new(to, port))?;
    socket.set_read_timeout(Some(MISSED))?;
    socket.send(b"?")?;
    let mut buffer = [0; 64];
    let count = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..count]).into_owned())
}

/// Asks until there is an answer: on a way that is open, too, a packet may be lost or come late.
pub fn patiently<T, E: std::fmt::Debug>(ask: impl Fn() -> Result<T, E>) -> T {
    let begin = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(error) => assert!(begin.elapsed() < PATIENCE, "no answer: {error:?}"),
        }
        std::thread::yield_now();
    }
}

/// A world whose bridge goes with its last sandbox.
pub fn world() -> World {
    let mut world = World::new();
    world.options.network.idle = Duration::ZERO;
    world
}

pub fn bridged(command: &[&str], allow: &[&str]) -> PlanRequest {
    let mut request = request("host", command);
    let allow = allow.iter().map(|rule| rule.parse().unwrap()).collect();
    request.network = NetworkSpec { mode: NetworkMode::Bridge, allow, dns: Vec::new() };
    request
}

/// A sandbox that runs, and its network namespace.
pub async fn running(driver: &OciDriver, request: &PlanRequest) -> (SandboxId, File) {
    let id = crate::common::sandbox_id();
    let call = call(driver, request, &id).await;
    driver.create(&call).await.unwrap();
    driver.start(&call).await.unwrap();
    let namespace = namespace(&id);
    (id, namespace)
}

pub fn namespace(id: &SandboxId) -> File {
    File::open(format!("/proc/{}/ns/net", init(id))).unwrap()
}

/// The address of a sandbox's interface.
pub fn address(namespace: &File) -> Ipv4Addr {
    let text = within_namespace(namespace, || sh("ip -4 -o addr show dev eth0"));
    let words: Vec<&str> = text.split_whitespace().collect();
    words[3].split_once('/').unwrap().0.parse().unwrap()
}

/// What the kernel has of anybody's bridge: interfaces and tables.
pub fn kernel_objects() -> Vec<String> {
    let links = sh("ip -o link show");
    let tables = sh("nft list ruleset");
    let link = links.lines().filter(|line| line.split(": ").nth(1).is_some_and(|name| name.starts_with("ch")));
    link.chain(tables.lines().filter(|line| line.contains("chiton"))).map(ToOwned::to_owned).collect()
}

pub fn assert_no_objects() {
    let objects = kernel_objects();
    assert!(objects.is_empty(), "left behind: {objects:#?}");
}
