//! Operations that overlap: a reference model of the conflict table and of request ids, who waits for whom and how long,
//! and stores that are backed up, restored and copied.
//!
//! A failure prints its seed. `CHITON_SEED=<seed>` replays that one history; `CHITON_CASES=<n>` runs more of them.

mod starvation;
