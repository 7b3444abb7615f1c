//! News: a snapshot, its end, and then changes, each as late as the platform is.

use std::collections::VecDeque;

use chiton_driver::DriverEvent;
use futures::StreamExt;
use futures::stream::{BoxStream, unfold};

use super::platform::ScriptedPlatform;
use crate::world::Process;

struct Watch {
    platform: ScriptedPlatform,
    process: Process,
    snapshot: VecDeque<DriverEvent>,
    /// The next piece of news to tell; absent before the snapshot.
    next: Option<usize>,
    number: u64,
}

pub(super) fn watch(platform: ScriptedPlatform, process: Process) -> BoxStream<'static, DriverEvent> {
    let number = platform.0.state.lock().watches;
    unfold(Watch { platform, process, snapshot: VecDeque::new(), next: None, number }, tell).boxed()
}

async fn tell(mut watch: Watch) -> Option<(DriverEvent, Watch)> {
    watch.process.live().await;
    let next = if let Some(next) = watch.next {
        next
    } else {
        let state = watch.platform.0.state.lock();
        if state.down {
            return None;
        }
        watch.snapshot = state.objects.values().map(|object| DriverEvent::Changed(object.observed.clone())).collect();
        watch.snapshot.push_back(DriverEvent::SnapshotEnd);
        state.news.len()
    };
    watch.next = Some(next);
    if let Some(event) = watch.snapshot.pop_front() {
        return Some((event, watch));
    }
    loop {
        let seen = watch.platform.0.signal.version();
        let (ended, news) = {
            let state = watch.platform.0.state.lock();
            (state.watches != watch.number, state.news.get(next).cloned())
        };
        if ended {
            return None;
        }
        let Some((at, event)) = news else {
            watch.platform.0.signal.changed(seen).await;
            continue;
        };
        watch.platform.0.world.sleep_until(at).await;
        watch.next = Some(next + 1);
        return Some((event, watch));
    }
}
