//! A stranger's connection, read as the library reads it.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::pin::Pin;

use chiton_model::SandboxId;
use futures::poll;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Extensions;

use super::{Connection, Known, Limits, Listen, Places, Stream, TRIAL};
use crate::places::From;

/// Two ends of one connection over TCP, ours as a stranger's.
async fn connected(places: &std::sync::Arc<Places>) -> (Connection, tokio::net::TcpStream) {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a listener");
    let address = listener.local_addr().expect("its address");
    let (theirs, ours) = tokio::join!(tokio::net::TcpStream::connect(address), listener.accept());
    let ours = Stream::Tcp(ours.expect("accepted").0);
    (Connection::new(ours, places.stranger(From::Here), Limits::default().strangers), theirs.expect("connected"))
}

#[tokio::test]
async fn little_is_read_from_a_stranger_and_all_once_he_is_known() {
    let places = Places::new(Limits::default());
    let (mut ours, mut theirs) = connected(&places).await;
    let all = 2 * TRIAL;
    let (sent, mut buffer) = (vec![7; all], vec![0; all]);
    // What is not read both sides' kernels take.
    let (written, read) = tokio::join!(theirs.write_all(&sent), ours.read_exact(&mut buffer[..TRIAL]));
    written.expect("written");
    read.expect("a first call's worth");
    let known = ours.place.known();
    let reading = ours.read_exact(&mut buffer[TRIAL..]);
    tokio::pin!(reading);
    assert!(poll!(Pin::new(&mut reading)).is_pending(), "more is there, and is left there");
    let mut extensions = Extensions::new();
    extensions.insert(known);
    Known::set(&extensions, &SandboxId::new("s-1").expect("an id")).expect("a place");
    // Woken by that.
    let read = tokio::time::timeout(std::time::Duration::from_secs(30), reading).await.expect("in time");
    assert_eq!(read.expect("the rest"), all - TRIAL);
}

#[tokio::test]
async fn a_newcomer_always_gets_in_and_the_fullest_address_pays() {
    let limits = Limits { strangers_at_once: 4, strangers_of_one: 3, connections_of_one: 1, ..Limits::default() };
    let places = Places::new(limits);
    let address = |last| From::address(Ipv4Addr::new(10, 0, 0, last).into());
    let mut flood: Vec<_> = (0..3).map(|_| places.stranger(address(1))).collect();
    let quiet = places.stranger(address(2));
    let ended = |of: &[crate::places::Place]| of.iter().map(|one| one.standing().has_ended()).collect::<Vec<_>>();
    assert_eq!(ended(&flood), [false; 3]);
    // Of its own.
    flood.push(places.stranger(address(1)));
    assert_eq!(ended(&flood), [true, false, false, false]);
    // All places are taken: not by the one whose place is his only one.
    let newcomer = places.stranger(address(3));
    assert_eq!(ended(&flood), [true, true, false, false]);
    assert!(!quiet.standing().has_ended() && !newcomer.standing().has_ended());
    // Who is known is no stranger, and cannot be driven out.
    let set = |place: &crate::places::Place, sandbox: &str| {
        let mut extensions = Extensions::new();
        extensions.insert(place.known());
        Known::set(&extensions, &SandboxId::new(sandbox).expect("an id"))
    };
    set(&newcomer, "s-1").expect("a place");
    let others: Vec<_> = (0..8).map(|_| places.stranger(address(4))).collect();
    assert!(newcomer.standing().is_known() && !newcomer.standing().has_ended());
    // One sandbox's places are its own, and come back.
    assert_eq!(set(&quiet, "s-1").expect_err("it has its one").code(), tonic::Code::ResourceExhausted);
    set(&quiet, "s-2").expect("another's");
    drop(newcomer);
    set(others.last().expect("one"), "s-1").expect("its place came back");
}

#[test]
fn addresses_are_told_apart_as_far_as_their_owners_are() {
    let six = |text: &str| From::address(text.parse::<Ipv6Addr>().expect("an address").into());
    assert_eq!(six("2001:db8::1"), six("2001:db8::2:3:4"));
    assert_ne!(six("2001:db8::1"), six("2001:db8:0:1::1"));
    assert_eq!(six("::ffff:10.0.0.1"), From::address(Ipv4Addr::new(10, 0, 0, 1).into()));
    assert_eq!([six("::1"), six("::ffff:127.0.0.2")], [From::Here; 2]);
    assert!(matches!(super::Options::new(Listen::Unix("/x".into())).limits.connections_of_one, 2..=16));
}
