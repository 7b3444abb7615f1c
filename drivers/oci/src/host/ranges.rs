//! Which host ids each sandbox has.

use std::collections::BTreeMap;

use chiton_driver::{CallError, CallResult};
use chiton_model::Error;

use super::{Doing, Host};
use crate::means::{IDS, Ids, Means, Range};
use crate::plan::{ImageKind, OciPlan};
use crate::record::{self, Paths, Record};

/// The end of the ids that may be used: those above are negative to some programs.
const LAST_ID: u32 = 0x7fff_0000;

/// How many sandboxes have a range, by its first id; the record of each sandbox has its own. `None` before the first
/// look.
pub(super) type Used = Option<BTreeMap<u32, usize>>;

impl Host {
    /// Reserves a range of ids. To root they are host ids that no other sandbox of this driver has; to an ordinary user
    /// ids of its user namespace, which others have too when it was granted fewer.
    pub(super) fn take_range(&self, means: &Means, plan: &OciPlan) -> CallResult<Range> {
        let mut ranges = self.ranges.lock();
        let used = match &mut *ranges {
            Some(used) => used,
            none => {
                let mut used = BTreeMap::new();
                for id in record::ids(&self.options).not_run("list the sandboxes")? {
                    let dir = Paths::new(&self.options, &id).dir;
                    if let Some(record) = Record::load(&dir).not_run("read a sandbox's record")? {
                        *used.entry(record.first_id).or_insert(0) += 1;
                    }
                }
                none.insert(used)
            }
        };
        let range = match &means.ids {
            Ids::Any => {
                let step = usize::try_from(IDS).unwrap_or(usize::MAX);
                let free =
                    (self.options.first_id..=LAST_ID - IDS).step_by(step).find(|first| !used.contains_key(first));
                let first = free.ok_or_else(|| {
                    CallError::NotRun(
                        Error::exhausted("ids", "every range of host ids is taken by a sandbox")
                            .cure("delete sandboxes that are not needed"),
                    )
                })?;
                Range { first, count: IDS }
            }
            Ids::One { .. } => Range { first: 0, count: 1 },
            // Without idmapped mounts an image's and a volume's files keep their owner, who is the user: only as the
            // sandbox's root can it be shown there. Further ids would show nothing: no process in a sandbox can become another user.
            Ids::Ranges(_) if plan.image.kind != ImageKind::Host || !plan.volumes.is_empty() => {
                Range { first: 0, count: 1 }
            }
            Ids::Ranges(granted) => {
                let windows = granted.windows().into_iter();
                let least = windows.min_by_key(|window| used.get(&window.first).copied().unwrap_or(0));
                least.unwrap_or(Range { first: 0, count: 1 })
            }
        };
        *used.entry(range.first).or_insert(0) += 1;
        Ok(range)
    }

    /// Gives a range back.
    pub(super) fn free_range(&self, first: u32) {
        if let Some(used) = &mut *self.ranges.lock()
            && let Some(count) = used.get_mut(&first)
        {
            *count -= 1;
            if *count == 0 {
                used.remove(&first);
            }
        }
    }

    /// Refuses a start whose sandbox has ids that this user can no longer map: its files would be nobody's.
    pub(super) fn still_mapped(means: &Means, record: &Record) -> Result<(), Error> {
        let end = record.first_id.saturating_add(record.ids);
        let had = match &means.ids {
            Ids::Any => return Ok(()),
            Ids::One { .. } => 1,
            Ids::Ranges(granted) => granted.total().saturating_add(1),
        };
        if end <= had {
            return Ok(());
        }
        let text = format!("the files of sandbox {} belong to host ids that this user can no longer map", record.id);
        Err(Error::refused("driver", text).cure(match &means.ids {
            Ids::One { why, cure } => format!("{why}; {cure}"),
            _ => "grant the user its former ranges in /etc/subuid and /etc/subgid".to_owned(),
        }))
    }
}
