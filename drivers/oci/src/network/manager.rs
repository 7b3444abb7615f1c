//! The gateway's part: who has which address, the bridge, and the packet filter's tables.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use chiton_driver::{CallError, CallResult};
use chiton_model::{Error, SandboxId};
use ipnet::Ipv4Net;
use parking_lot::{Condvar, Mutex};

use super::join::{Attachment, NetworkDocument};
use super::names::{self, Names};
use super::netlink::{Link, Netlink};
use super::table::{self, Entries};
use super::{Lease, check, nft, rules, subnet};
use crate::host::Doing;
use crate::options::{NetworkOptions, OciOptions};
use crate::plan::{NetworkMode, NetworkPlan};

/// The network of one driver's sandboxes.
pub(crate) struct Network {
    options: NetworkOptions,
    names: Names,
    /// Where a chosen range is kept.
    folder: PathBuf,
    /// The packet filter's script; its lock keeps two gateways apart.
    script: PathBuf,
    subnet: Mutex<Option<Ipv4Net>>,
    claims: Mutex<Claims>,
    /// What the tables hold; `None` when that is not known. Held while anything is changed in the kernel.
    table: Mutex<Option<Entries>>,
    /// The file that says which process looks after the bridge, and what it says of this one.
    keeper: PathBuf,
    token: String,
    /// Whether somebody listens for changes of the tables.
    watched: OnceLock<()>,
    idle: Mutex<bool>,
    waiting: Condvar,
}

/// Who has which address.
#[derive(Default)]
struct Claims {
    held: BTreeMap<Ipv4Addr, Claim>,
    /// The address that was given out last: addresses are used again as late as possible.
    last: Option<Ipv4Addr>,
}

struct Claim {
    sandbox: SandboxId,
    exceptions: Vec<rules::Exception>,
    /// It is being removed; the address is free when that is done.
    leaves: bool,
}

impl Network {
    pub(crate) fn new(options: &OciOptions) -> Arc<Self> {
        Arc::new(Self {
            options: options.network.clone(),
            names: Names::new(&options.gateway, &options.id),
            folder: options.state_dir.clone(),
            script: options.run_dir.join("network.nft"),
            subnet: Mutex::default(),
            claims: Mutex::default(),
            table: Mutex::default(),
            keeper: options.run_dir.join("network.keeper"),
            token: token(),
            watched: OnceLock::new(),
            idle: Mutex::default(),
            waiting: Condvar::new(),
        })
    }

    /// The bridge's range: the operator's, or one that is chosen once.
    fn subnet(&self) -> io::Result<Ipv4Net> {
        let mut known = self.subnet.lock();
        if let Some(subnet) = *known {
            return Ok(subnet);
        }
        let subnet = match self.options.subnet {
            Some(subnet) => subnet,
            None => subnet::chosen(&self.folder, self.names.seed())?,
        };
        Ok(*known.insert(subnet))
    }

    /// Checks a plan against the operator's settings and this machine.
    pub(crate) fn check(&self, plan: &NetworkPlan) -> CallResult<()> {
        check::allowed(plan, &self.options).map_err(CallError::NotRun)?;
        if plan.mode != NetworkMode::Bridge {
            return Ok(());
        }
        check::machine(&self.options).map_err(CallError::NotRun)?;
        let subnet = self.subnet().not_run("choose the bridge's range")?;
        let addresses = Netlink::open().and_then(|mut netlink| netlink.addresses());
        let own: Vec<Ipv4Addr> =
            addresses.not_run("list the host's addresses")?.iter().map(|(range, _)| range.addr()).collect();
        check::bridge(plan, &self.options, subnet, &own).map_err(CallError::NotRun)
    }

    /// Takes up what the records say, and removes interfaces and tables that no record speaks of.
    pub(crate) fn recover(self: &Arc<Self>, records: Vec<(SandboxId, Lease)>) -> CallResult<()> {
        {
            let mut claims = self.claims.lock();
            for (sandbox, lease) in records {
                let exceptions = rules::compile(&lease.allow, &lease.dns, &self.options);
                claims.held.insert(lease.address, Claim { sandbox, exceptions, leaves: false });
            }
        }
        fs::write(&self.keeper, &self.token).not_run("say who looks after the bridge")?;
        let mut netlink = Netlink::open().not_run("open a netlink socket")?;
        let links = netlink.links().not_run("list the interfaces")?;
        let (bridge, prefix) = (self.names.bridge(), self.names.port_prefix());
        let there = links.iter().find(|link| link.name == bridge && self.is_ours(link)).map(|link| link.index);
        let known: Vec<(String, String)> = {
            let claims = self.claims.lock();
            let both = |(address, claim): (&Ipv4Addr, &Claim)| {
                (self.names.port(*address), self.names.port_owner(&claim.sandbox))
            };
            claims.held.iter().map(both).collect()
        };
        let ours = links.iter().filter(|link| {
            let half_made = link.alias.is_empty() && there.is_some() && link.controller == there;
            link.name.starts_with(&prefix) && (half_made || link.alias.starts_with(&format!("{} ", self.names.owner())))
        });
        for link in ours.filter(|link| !known.contains(&(link.name.clone(), link.alias.clone()))) {
            netlink.delete(link.index).failed("remove an interface that no sandbox has")?;
        }
        if known.is_empty() {
            // The tables are never without the bridge.
            return if there.is_some() { self.leave() } else { Ok(()) };
        }
        self.ready()?;
        self.apply()
    }

    /// Gives a sandbox its place on the bridge: the one that it had, the one in its plan, or a free one.
    pub(crate) fn claim(&self, id: &SandboxId, plan: &NetworkPlan, old: Option<&Lease>) -> CallResult<Option<Lease>> {
        if plan.mode != NetworkMode::Bridge {
            return Ok(None);
        }
        let subnet = self.subnet().not_run("choose the bridge's range")?;
        let planned = plan.address.as_deref().map(|text| check::address(text, subnet)).transpose();
        let wanted = planned.map_err(CallError::NotRun)?.or(old.map(|lease| lease.address));
        if let Some(old) = old.filter(|old| !subnet::usable(subnet, old.address)) {
            let text = format!("sandbox {id} has address {}, and the bridge's range is now {subnet}", old.address);
            return Err(CallError::NotRun(
                Error::refused("policy", text).cure("set the bridge's subnet back, or delete the sandbox"),
            ));
        }
        let dns: Vec<Ipv4Addr> = plan
            .dns
            .iter()
            .filter_map(|server| match server {
                IpAddr::V4(server) => Some(*server),
                IpAddr::V6(_) => None,
            })
            .collect();
        let mut claims = self.claims.lock();
        let address = match wanted {
            Some(address) => {
                if let Some(claim) = claims.held.get(&address).filter(|claim| claim.leaves || claim.sandbox != *id) {
                    let text = format!("address {address} is sandbox {}'s", claim.sandbox);
                    return Err(CallError::NotRun(Error::conflict(text)));
                }
                address
            }
            None => claims.free(subnet).ok_or_else(|| {
                CallError::NotRun(
                    Error::exhausted("addresses", format!("every address of the bridge's range {subnet} is taken"))
                        .cure("delete sandboxes that are not needed, or give the bridge a larger subnet"),
                )
            })?,
        };
        let exceptions = rules::compile(&plan.allow, &dns, &self.options);
        claims.held.insert(address, Claim { sandbox: id.clone(), exceptions, leaves: false });
        claims.last = Some(address);
        Ok(Some(Lease { address, subnet, allow: plan.allow.clone(), dns }))
    }

    /// What the launch child is told.
    pub(crate) fn document(&self, id: &SandboxId, plan: &NetworkPlan, lease: Option<&Lease>) -> NetworkDocument {
        match (plan.mode, lease) {
            (NetworkMode::Host, _) => NetworkDocument::Host,
            (NetworkMode::Bridge, Some(lease)) => NetworkDocument::Bridge(Attachment {
                bridge: self.names.bridge(),
                bridge_owner: self.names.owner().to_owned(),
                port: self.names.port(lease.address),
                port_owner: self.names.port_owner(id),
                address: lease.address,
                subnet: lease.subnet,
                router: subnet::router(lease.subnet),
            }),
            _ => NetworkDocument::None,
        }
    }

    /// Makes the bridge if it is not there.
    pub(crate) fn ready(self: &Arc<Self>) -> CallResult<()> {
        check::machine(&self.options).map_err(CallError::Failed)?;
        let mut applied = self.table.lock();
        self.watched.get_or_init(|| {
            if let Err(error) = super::watch::watch(Arc::downgrade(self)) {
                tracing::warn!(%error, "a removal of the packet filter's tables will not be noticed");
            }
        });
        let mut netlink = Netlink::open().failed("open a netlink socket")?;
        let (name, owner) = (self.names.bridge(), self.names.owner());
        let subnet = self.subnet().failed("choose the bridge's range")?;
        let wanted = Ipv4Net::new_assert(subnet::router(subnet), subnet.prefix_len());
        if let Some(link) = netlink.link(&name).failed("look for the bridge")? {
            if !self.is_ours(&link) {
                let text = format!("interface {name} is not this gateway's bridge: its alias is {:?}", link.alias);
                return Err(CallError::Failed(Error::conflict(text)));
            }
            let addresses = netlink.addresses().failed("list the addresses")?;
            if link.up && link.alias == owner && addresses.contains(&(wanted, link.index)) {
                return Ok(());
            }
            // Half made, or made for another range.
            netlink.delete(link.index).failed("remove the old bridge")?;
        }
        *applied = None;
        if let Some(range) = subnet::obstacle(&mut netlink, subnet, None).failed("look at the routes")? {
            let text = format!("the bridge's range {subnet} overlaps {range}, which has a route on this machine");
            return Err(CallError::Failed(
                Error::refused("driver", text).cure("set another subnet in the bridge settings of this driver"),
            ));
        }
        netlink.add_bridge(&name, names::hardware(wanted.addr())).failed("make the bridge")?;
        let made = self.set_up(&mut netlink, &name, wanted);
        made.failed("set the bridge up")
    }

    /// Whether the interface with the bridge's name is the bridge of this gateway, perhaps half made: it is named before
    /// it is brought up.
    fn is_ours(&self, link: &Link) -> bool {
        link.alias == self.names.owner() || (link.alias.is_empty() && !link.up)
    }

    fn set_up(&self, netlink: &mut Netlink, name: &str, address: Ipv4Net) -> io::Result<()> {
        let link = netlink.link(name)?.ok_or_else(|| io::Error::other("it is gone already"))?;
        netlink.adopt(link.index, self.names.owner())?;
        netlink.add_address(link.index, address.addr(), address.trunc())?;
        if self.options.enable_forwarding && !check::forwards() {
            fs::write(check::FORWARD, "1")?;
        }
        netlink.up(link.index)
    }

    /// Brings the tables to what the claims say. Whoever waits for another's change finds its own made with it.
    pub(crate) fn apply(&self) -> CallResult<()> {
        let mut applied = self.table.lock();
        self.bring(&mut applied)
    }

    fn bring(&self, applied: &mut Option<Entries>) -> CallResult<()> {
        let wanted: Entries = {
            let claims = self.claims.lock();
            let here = claims.held.iter().filter(|(_, claim)| !claim.leaves);
            here.map(|(address, claim)| (*address, claim.exceptions.clone())).collect()
        };
        if applied.as_ref() == Some(&wanted) {
            return Ok(());
        }
        let change = applied.take().and_then(|from| table::change(&self.names, &from, &wanted));
        // Tables that somebody else flushed do not take a change, and are made anew.
        if change.is_none_or(|script| nft::run(&self.script, &script).is_err()) {
            let subnet = self.subnet().failed("choose the bridge's range")?;
            nft::run(&self.script, &table::whole(&self.names, subnet, &wanted)).failed("load the packet filter")?;
        }
        *applied = Some(wanted);
        Ok(())
    }

    /// Whether no later gateway of this installation has begun.
    fn keeps(&self) -> bool {
        fs::read_to_string(&self.keeper).is_ok_and(|token| token == self.token)
    }

    /// Makes the tables anew if they are to be there and are not.
    pub(super) fn restore(&self) -> CallResult<()> {
        let mut applied = self.table.lock();
        let missing = |family: &&str| nft::run(&self.script, &table::probe(&self.names, family)).is_err();
        // What a later gateway of this installation removed is not this one's to bring back.
        if applied.is_none() || !self.keeps() || !table::FAMILIES.iter().any(missing) {
            return Ok(());
        }
        tracing::warn!("somebody removed the packet filter's tables; they are made anew");
        *applied = None;
        self.bring(&mut applied)
    }

    /// Removes a sandbox's interface and rules; its address is free afterwards. Right also when nothing was made.
    pub(crate) fn release(self: &Arc<Self>, id: &SandboxId, lease: Option<&Lease>) -> CallResult<()> {
        let mut mine: Vec<Ipv4Addr> = {
            let mut claims = self.claims.lock();
            let held = claims.held.iter_mut().filter(|(_, claim)| claim.sandbox == *id);
            held.map(|(address, claim)| {
                claim.leaves = true;
                *address
            })
            .collect()
        };
        mine.extend(lease.map(|lease| lease.address).filter(|address| !mine.contains(address)));
        if mine.is_empty() {
            return Ok(());
        }
        let mut applied = self.table.lock();
        let mut netlink = Netlink::open().failed("open a netlink socket")?;
        let bridge =
            netlink.link(&self.names.bridge()).failed("look for the bridge")?.filter(|link| self.is_ours(link));
        let half_made = |link: &Link| {
            let bridge = bridge.as_ref().map(|bridge| bridge.index);
            link.alias.is_empty() && bridge.is_some() && link.controller == bridge
        };
        for address in &mine {
            let link = netlink.link(&self.names.port(*address)).failed("look for the sandbox's interface")?;
            // Somebody else's interface of that name is not this sandbox's to remove.
            if let Some(link) = link.filter(|link| link.alias == self.names.port_owner(id) || half_made(link)) {
                netlink.delete(link.index).failed("remove the sandbox's interface")?;
            }
        }
        let last = self.claims.lock().held.values().all(|claim| claim.leaves);
        if !last || !self.options.idle.is_zero() {
            // Before the first table there is nothing to take out of one.
            if applied.is_some() || !last {
                self.bring(&mut applied)?;
            }
        } else {
            self.remove(&mut applied, &mut netlink)?;
        }
        self.claims.lock().held.retain(|_, claim| claim.sandbox != *id);
        drop(applied);
        if last && !self.options.idle.is_zero() {
            self.leave_later();
        }
        Ok(())
    }

    /// Removes the bridge and the tables if no sandbox uses them.
    fn leave(&self) -> CallResult<()> {
        let mut applied = self.table.lock();
        if !self.claims.lock().held.is_empty() || !self.keeps() {
            return Ok(());
        }
        let mut netlink = Netlink::open().failed("open a netlink socket")?;
        self.remove(&mut applied, &mut netlink)
    }

    /// The tables first: they are never without the bridge, which is how a later gateway knows of them.
    fn remove(&self, applied: &mut Option<Entries>, netlink: &mut Netlink) -> CallResult<()> {
        let link = netlink.link(&self.names.bridge()).failed("look for the bridge")?;
        let Some(link) = link.filter(|link| self.is_ours(link)) else { return Ok(()) };
        *applied = None;
        if nft::find().is_some() {
            nft::run(&self.script, &table::gone(&self.names)).failed("remove the packet filter's tables")?;
        }
        netlink.delete(link.index).failed("remove the bridge")
    }

    /// Removes them when no sandbox came for a while. One thread waits; the next gateway does it when this one ends.
    fn leave_later(self: &Arc<Self>) {
        let mut waits = self.idle.lock();
        if *waits {
            return;
        }
        let network = Arc::clone(self);
        let wait: Duration = self.options.idle;
        let spawned = std::thread::Builder::new().name("oci-bridge-idle".to_owned()).spawn(move || {
            let mut waits = network.idle.lock();
            network.waiting.wait_for(&mut waits, wait);
            *waits = false;
            drop(waits);
            if let Err(error) = network.leave() {
                tracing::warn!(error = %error.into_error(), "the unused bridge was not removed");
            }
        });
        *waits = spawned.is_ok();
    }
}

/// A text that no other driver of this machine has had since it was switched on.
fn token() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let begun = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The time at which the process began is the 22nd field (proc(5)); names may hold spaces.
    let begun = begun.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19)).unwrap_or("0").to_owned();
    format!("{} {begun} {}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

impl Claims {
    fn free(&self, subnet: Ipv4Net) -> Option<Ipv4Addr> {
        subnet::next_free(subnet, self.last, |address| self.held.contains_key(&address))
    }
}
