//! What a run found, as one JSON document.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

/// Kills by what they were aimed at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Kills {
    /// Of the gateway, in all.
    pub gateway: u64,
    /// Of these, while requests were under way on a gateway that served.
    pub serving: u64,
    /// Of these, while it took up what the last kill had interrupted, before or just after it served.
    pub recovering: u64,
    /// Of these, how many came during the recovery from a kill that itself came during a recovery.
    pub recovering_again: u64,
    /// Of what the driver has beside the gateway, by kind: helper processes, containers by hand.
    pub helpers: BTreeMap<String, u64>,
    /// Of the engine that the driver drives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<u64>,
}

/// Requests by what became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Requests {
    /// Sent, by kind.
    pub sent: BTreeMap<String, u64>,
    /// Taken on.
    pub accepted: u64,
    /// Answered with an error by a gateway that lived, by code.
    pub refused: BTreeMap<String, u64>,
    /// Without an answer: the gateway died.
    pub cut: u64,
    /// Creates that were sent again with their request id after a kill.
    pub repeated: u64,
}

/// Operations by how they ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Operations {
    /// Seen to succeed.
    pub completed: u64,
    /// Seen to fail; everything that they did was undone.
    pub unwound: u64,
    /// Interrupted by a kill and taken up again.
    pub resumed: u64,
    /// The most obligations that were open at an audit.
    pub most_obligations: usize,
    /// The most sandboxes at an audit that waited until nothing of them could land late on an engine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub most_tombstones: Option<usize>,
}

/// A distribution of times.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Times {
    /// How many.
    pub count: usize,
    /// The middle one, in milliseconds.
    pub p50_ms: f64,
    /// In milliseconds.
    pub p99_ms: f64,
    /// In milliseconds.
    pub max_ms: f64,
}

impl Times {
    /// Of these.
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        let at = |percent: usize| {
            let index = (times.len() * percent).div_ceil(100).saturating_sub(1);
            times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e3)
        };
        Self { count: times.len(), p50_ms: at(50), p99_ms: at(99), max_ms: at(100) }
    }
}

/// What a run found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Plays it again.
    pub seed: u64,
    /// The driver's id.
    pub driver: String,
    /// Kills.
    pub kills: Kills,
    /// What the kills of the gateway interrupted, as `operation/step`: the operations that the next life took up, and the
    /// step that each had begun last.
    pub interrupted: BTreeMap<String, u64>,
    /// Starts of the gateway.
    pub starts: u64,
    /// From the start of the process to serving.
    pub to_serving: Times,
    /// From the start of the process until nothing interrupted was left, where nothing else was asked meanwhile.
    pub to_settled: Times,
    /// Requests.
    pub requests: Requests,
    /// Operations.
    pub operations: Operations,
    /// Looks at the world.
    pub audits: u64,
    /// What nobody owns, what a sandbox lacks, and whatever else must not be. Empty is a success.
    pub leaks: Vec<String>,
    /// In seconds.
    pub duration_s: f64,
    /// The command that plays the seed again.
    pub replay: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_of_the_sorted_list() {
        let times = Times::of((1..=200).rev().map(Duration::from_millis).collect());
        assert_eq!((times.count, times.p50_ms, times.p99_ms, times.max_ms), (200, 100.0, 198.0, 200.0));
        assert_eq!(Times::of(Vec::new()), Times::default());
    }
}
