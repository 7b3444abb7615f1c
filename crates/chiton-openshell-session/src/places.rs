//! Who may have how many connections, and how much is taken in from whom.
//!
//! Whoever reaches the port is a stranger until a call on his connection had a token that holds; from then on the connection
//! is that sandbox's. A sandbox has a few places of its own and can take nobody else's. Strangers have a few for each
//! address and some altogether; a newcomer always gets in, and where he is one too many, the stranger who was there longest
//! goes: of the same address, or of the one with the most.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Context;

use chiton_model::SandboxId;
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tonic::{Extensions, Status};

use crate::serve::Limits;

/// Where a connection comes from. What comes from this machine or by a socket may be a proxy's, which brings many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum From {
    Here,
    Address(IpAddr),
    /// The network of an IPv6 address: whoever has one address of it has all.
    Network([u16; 4]),
}

impl From {
    pub(crate) fn address(address: IpAddr) -> Self {
        let address = address.to_canonical();
        match address {
            _ if address.is_loopback() => Self::Here,
            IpAddr::V6(six) => {
                let [a, b, c, d, ..] = six.segments();
                Self::Network([a, b, c, d])
            }
            IpAddr::V4(_) => Self::Address(address),
        }
    }
}

/// All places.
pub(crate) struct Places {
    limits: Limits,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    next: u64,
    /// Strangers, in the order in which they came.
    strangers: HashMap<From, BTreeMap<u64, Arc<Standing>>>,
    count: usize,
    sandboxes: HashMap<SandboxId, usize>,
}

/// How a connection stands.
#[derive(Default)]
pub(crate) struct Standing {
    known: AtomicBool,
    ended: AtomicBool,
    /// The connection, where it waits for one of these.
    pub(crate) waits: AtomicWaker,
}

impl Standing {
    pub(crate) fn is_known(&self) -> bool {
        self.known.load(Ordering::Acquire)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// To be woken when that changes. To be asked after this.
    pub(crate) fn register(&self, context: &Context<'_>) {
        self.waits.register(context.waker());
    }

    fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.waits.wake();
    }
}

impl Held {
    /// The stranger who has been there longest of an address leaves.
    fn oldest_leaves(&mut self, from: From) {
        let Some(of) = self.strangers.get_mut(&from) else { return };
        if let Some((_, standing)) = of.pop_first() {
            self.count -= 1;
            standing.end();
        }
        if of.is_empty() {
            self.strangers.remove(&from);
        }
    }

    /// Whether he was one.
    fn stranger_leaves(&mut self, from: From, number: u64) -> bool {
        let Some(of) = self.strangers.get_mut(&from) else { return false };
        let was = of.remove(&number).is_some();
        if of.is_empty() {
            self.strangers.remove(&from);
        }
        self.count -= usize::from(was);
        was
    }
}

impl Places {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, held: Mutex::default() })
    }

    /// A place for somebody who just came.
    pub(crate) fn stranger(self: &Arc<Self>, from: From) -> Place {
        let standing = Arc::new(Standing::default());
        let mut held = self.held.lock();
        let of_one = if from == From::Here { self.limits.strangers_at_once } else { self.limits.strangers_of_one };
        if held.strangers.get(&from).is_some_and(|of| of.len() >= of_one) {
            held.oldest_leaves(from);
        }
        if held.count >= self.limits.strangers_at_once {
            let fullest = held.strangers.iter().max_by_key(|(_, of)| of.len()).map(|(from, _)| *from);
            if let Some(fullest) = fullest {
                held.oldest_leaves(fullest);
            }
        }
        let number = held.next;
        held.next += 1;
        held.count += 1;
        held.strangers.entry(from).or_default().insert(number, Arc::clone(&standing));
        drop(held);
        let seat = Seat { places: Arc::clone(self), from, number, standing, of: Mutex::default() };
        Place(Arc::new(seat))
    }
}

/// A connection's place. It is given back when the connection is gone.
pub(crate) struct Place(Arc<Seat>);

struct Seat {
    places: Arc<Places>,
    from: From,
    number: u64,
    standing: Arc<Standing>,
    /// Whose it is by now.
    of: Mutex<Option<SandboxId>>,
}

impl Place {
    pub(crate) fn standing(&self) -> &Standing {
        &self.0.standing
    }

    pub(crate) fn known(&self) -> Known {
        Known(Arc::clone(&self.0))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.0.places.held.lock();
        held.stranger_leaves(self.0.from, self.0.number);
        if let Some(sandbox) = self.0.of.lock().take()
            && let Some(count) = held.sandboxes.get_mut(&sandbox)
        {
            *count -= 1;
            if *count == 0 {
                held.sandboxes.remove(&sandbox);
            }
        }
        // A call may outlive its connection: whoever comes to be known now is not.
        self.0.standing.end();
    }
}

/// What calls know of their connection.
#[derive(Clone)]
pub(crate) struct Known(Arc<Seat>);

impl Known {
    /// A call on this connection had this sandbox's token: from now on the connection stays.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` when the sandbox has as many as it may have.
    pub(crate) fn set(extensions: &Extensions, sandbox: &SandboxId) -> Result<(), Status> {
        let Some(Self(seat)) = extensions.get() else { return Ok(()) };
        // Whose it is already does not change: a proxy's is its first sandbox's.
        if seat.standing.is_known() {
            return Ok(());
        }
        let mut held = seat.places.held.lock();
        let most = seat.places.limits.connections_of_one;
        if held.sandboxes.get(sandbox).is_some_and(|count| *count >= most) {
            return Err(Status::resource_exhausted(format!(
                "the sandbox's supervisor has {most} connections to its gateway already; make its calls on one"
            )));
        }
        if !held.stranger_leaves(seat.from, seat.number) {
            // Another call on it was faster, or it is gone.
            return Ok(());
        }
        *held.sandboxes.entry(sandbox.clone()).or_default() += 1;
        *seat.of.lock() = Some(sandbox.clone());
        drop(held);
        seat.standing.known.store(true, Ordering::Release);
        seat.standing.waits.wake();
        Ok(())
    }
}
