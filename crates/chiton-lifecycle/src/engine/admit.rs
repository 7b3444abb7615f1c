//! Who may run now: at most one operation per subject, and the conflict table (design, rule 9).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use async_lock::Mutex as AsyncMutex;
use chiton_driver::Observed;
use chiton_model::{DriverId, Error, OperationId, OperationKind};
use futures::channel::mpsc;
use parking_lot::Mutex;

use super::mailbox::Mailbox;
use crate::journal::Subject;
use crate::runtime::CancelToken;

/// Why a running operation is to end early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelCause {
    /// The sandbox is to be deleted.
    Deleted,
    /// The sandbox is to be stopped.
    Stopped,
    /// Something with precedence is to run.
    GiveWay,
}

impl CancelCause {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::Stopped => "stopped",
            Self::GiveWay => "gave way",
        }
    }
}

/// An operation's cancellation: accepted until the operation has decided how it ends.
#[derive(Default)]
pub(super) struct OpCancel {
    state: Mutex<(Option<CancelCause>, bool)>,
    pub(super) token: CancelToken,
    /// Held while the operation's record is written: whoever adds to an open operation must not write over its outcome.
    pub(super) record: AsyncMutex<()>,
}

impl OpCancel {
    /// Asks the operation to end. False when it has decided already.
    fn cancel(&self, cause: CancelCause) -> bool {
        let mut state = self.state.lock();
        if state.1 {
            return false;
        }
        // A delete outranks whatever was asked before.
        if state.0.is_none() || cause == CancelCause::Deleted {
            state.0 = Some(cause);
        }
        drop(state);
        self.token.cancel();
        true
    }

    /// Why it is to end, if it is.
    pub(super) fn cause(&self) -> Option<CancelCause> {
        self.state.lock().0
    }

    /// Decides: from now on nothing is accepted. Returns what was accepted before.
    pub(super) fn seal(&self) -> Option<CancelCause> {
        let mut state = self.state.lock();
        state.1 = true;
        state.0
    }
}

struct Busy {
    kind: OperationKind,
    operation: OperationId,
    cancel: Arc<OpCancel>,
    /// Set once the operation is durable: from then on it can be named to others.
    intended: CancelToken,
    news: Mailbox,
}

/// News that an operation was handed and did not use.
type Leftover = mpsc::UnboundedSender<(DriverId, Observed)>;

/// What is running.
pub(super) struct Table {
    busy: Arc<Mutex<Tables>>,
    leftover: Leftover,
    unread: Mutex<Option<mpsc::UnboundedReceiver<(DriverId, Observed)>>>,
}

impl Default for Table {
    fn default() -> Self {
        let (leftover, unread) = mpsc::unbounded();
        Self { busy: Arc::default(), leftover, unread: Mutex::new(Some(unread)) }
    }
}

#[derive(Default)]
struct Tables {
    // These two in an order of their own: a shutdown goes through them, and is to be the same in every run of a seed.
    subjects: BTreeMap<Subject, Busy>,
    operations: BTreeMap<OperationId, CancelToken>,
    /// Who waits for a subject, in the order in which they came.
    lines: HashMap<Subject, Line>,
}

/// One of those who wait for a subject.
struct Waiter {
    number: u64,
    kind: OperationKind,
    /// The operation that is what it wants, once that is durable. Kept here: it may have ended when the waiter looks.
    joined: Option<OperationId>,
}

#[derive(Default)]
struct Line {
    waiting: VecDeque<Waiter>,
    next: u64,
    /// Set, and replaced, whenever those who wait must look again.
    moved: CancelToken,
}

impl Tables {
    fn moved(&mut self, subject: &Subject) {
        if let Some(line) = self.lines.get_mut(subject) {
            std::mem::take(&mut line.moved).cancel();
        }
    }

    /// Whether somebody came earlier than this one; a newcomer without a place is the last.
    fn is_first(&self, subject: &Subject, place: Option<u64>) -> bool {
        let first = self.lines.get(subject).and_then(|line| line.waiting.front());
        first.is_none() || first.map(|waiter| waiter.number) == place
    }

    /// What runs here is durable. Whoever waits gets its due now, and not when it looks again: who wants the same has it,
    /// though it end at once, and an operation that is not wanted any more calls no hook.
    fn intended(&mut self, subject: &Subject) {
        let (Some(busy), Some(line)) = (self.subjects.get(subject), self.lines.get_mut(subject)) else { return };
        for waiter in &mut line.waiting {
            match verdict(waiter.kind, busy.kind) {
                Verdict::Join => waiter.joined = Some(busy.operation.clone()),
                Verdict::Cancel(cause) => drop(busy.cancel.cancel(cause)),
                _ => {}
            }
        }
        self.moved(subject);
    }

    fn joined(&self, subject: &Subject, place: Option<u64>) -> Option<OperationId> {
        let mut waiting = self.lines.get(subject)?.waiting.iter();
        waiting.find(|waiter| Some(waiter.number) == place)?.joined.clone()
    }
}

/// A place in the line for a subject. Given up on drop, and everybody behind it looks again.
struct Place<'a> {
    tables: &'a Mutex<Tables>,
    subject: &'a Subject,
    kind: OperationKind,
    number: Option<u64>,
}

impl Place<'_> {
    /// Waits until the line has moved. The first time, this is where the caller lines up.
    fn wait(&mut self, tables: &mut Tables) -> CancelToken {
        let line = tables.lines.entry(self.subject.clone()).or_default();
        if self.number.is_none() {
            line.next += 1;
            line.waiting.push_back(Waiter { number: line.next, kind: self.kind, joined: None });
            self.number = Some(line.next);
        }
        line.moved.clone()
    }

    fn leave(&mut self, tables: &mut Tables) {
        let Some(number) = self.number.take() else { return };
        let Some(line) = tables.lines.get_mut(self.subject) else { return };
        line.waiting.retain(|waiter| waiter.number != number);
        if line.waiting.is_empty() {
            tables.lines.remove(self.subject);
        } else {
            tables.moved(self.subject);
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.number.is_some() {
            let tables = self.tables;
            self.leave(&mut tables.lock());
        }
    }
}

/// The right to run on a subject. Given back on drop.
pub(super) struct Ticket {
    pub(super) subject: Subject,
    pub(super) operation: OperationId,
    pub(super) cancel: Arc<OpCancel>,
    /// What the driver reports about the subject meanwhile.
    pub(super) news: Mailbox,
    leftover: Leftover,
    table: Arc<Mutex<Tables>>,
    intended: CancelToken,
    done: CancelToken,
}

impl Ticket {
    /// The operation is durable: whoever asks for the same from now on is answered with it.
    pub(super) fn intended(&self) {
        self.intended.cancel();
        self.table.lock().intended(&self.subject);
    }

    /// Gives the right back. News that came before can still be read.
    pub(super) fn release(&mut self) {
        if self.done.is_cancelled() {
            return;
        }
        let mut tables = self.table.lock();
        tables.subjects.remove(&self.subject);
        tables.operations.remove(&self.operation);
        tables.moved(&self.subject);
        drop(tables);
        self.done.cancel();
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.release();
        // An operation that ends without an outcome of its own (nothing to do, refused, a look) has not used what it was
        // told meanwhile.
        while let Some(news) = self.news.take() {
            drop(self.leftover.unbounded_send(news));
        }
    }
}

/// What an attempt to run came to.
pub(super) enum Admission {
    /// Run.
    Go(Ticket),
    /// The same is being done already.
    Joined(OperationId),
    /// A create is being undone and its row will go: that is the delete.
    Unwinding(OperationId, Arc<OpCancel>),
}

/// What happens to a newcomer while another operation runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Join,
    Wait,
    Cancel(CancelCause),
    Undo,
    Conflict,
}

#[expect(clippy::match_same_arms, reason = "each arm is a row of the table")]
fn verdict(newcomer: OperationKind, running: OperationKind) -> Verdict {
    use OperationKind as K;
    match (newcomer, running) {
        // These two begin inside the engine and give way to everybody.
        (K::Reconcile | K::Cleanup, _) => Verdict::Conflict,
        // Told twice: the one start that can have ended is being seen to.
        (K::Exit, K::Exit) => Verdict::Join,
        // Told while something else began: it looks again whether the exit is still news.
        (K::Exit, _) => Verdict::Wait,
        (_, K::Reconcile | K::Cleanup) => Verdict::Cancel(CancelCause::GiveWay),
        (K::Delete, K::Create) => Verdict::Undo,
        (K::Delete, K::Start) => Verdict::Cancel(CancelCause::Deleted),
        (K::Stop, K::Start) => Verdict::Cancel(CancelCause::Stopped),
        // An exit is a stop that nobody asked for.
        (K::Delete | K::Start, K::Stop | K::Exit) | (K::Stop, K::Exit) => Verdict::Wait,
        (newcomer, running) if newcomer == running => Verdict::Join,
        // The workspace is made ready, or gone, soon; whoever needs it looks again then.
        (K::EnsureWorkspace | K::ReleaseWorkspace, K::EnsureWorkspace | K::ReleaseWorkspace) => Verdict::Wait,
        _ => Verdict::Conflict,
    }
}

impl Table {
    /// Takes the subject, or says what stands in the way. May wait for another operation's end; those who wait are served
    /// in the order in which they came, and nobody overtakes them.
    pub(super) async fn admit(
        &self,
        subject: &Subject,
        kind: OperationKind,
        operation: OperationId,
    ) -> Result<Admission, Error> {
        let mut place = Place { tables: &self.busy, subject, kind, number: None };
        loop {
            let moved = {
                let mut tables = self.busy.lock();
                match self.look(&mut tables, subject, kind, &operation, place.number) {
                    Some(answer) => {
                        place.leave(&mut tables);
                        return answer;
                    }
                    None => place.wait(&mut tables),
                }
            };
            moved.cancelled().await;
        }
    }

    /// One look; none when the newcomer has to wait.
    fn look(
        &self,
        tables: &mut Tables,
        subject: &Subject,
        kind: OperationKind,
        operation: &OperationId,
        place: Option<u64>,
    ) -> Option<Result<Admission, Error>> {
        if let Some(operation) = tables.joined(subject, place) {
            return Some(Ok(Admission::Joined(operation)));
        }
        let first = tables.is_first(subject, place);
        let Some(busy) = tables.subjects.get(subject) else {
            return if first {
                Some(Ok(Admission::Go(self.take(tables, subject, kind, operation.clone()))))
            } else if matches!(kind, OperationKind::Reconcile | OperationKind::Cleanup) {
                Some(Err(Error::conflict(format!("others wait for {subject}")).cure("try again later")))
            } else {
                None
            };
        };
        match verdict(kind, busy.kind) {
            // What is not durable yet may still be refused, and then this one is asked for itself.
            Verdict::Join if busy.intended.is_cancelled() => Some(Ok(Admission::Joined(busy.operation.clone()))),
            Verdict::Conflict => {
                Some(Err(Error::conflict(format!("a {} is running on {subject} ({})", busy.kind, busy.operation))
                    .cure("wait for it to end, then try again")))
            }
            Verdict::Undo if busy.cancel.cancel(CancelCause::Deleted) => {
                Some(Ok(Admission::Unwinding(busy.operation.clone(), Arc::clone(&busy.cancel))))
            }
            Verdict::Cancel(cause) => {
                busy.cancel.cancel(cause);
                None
            }
            Verdict::Join | Verdict::Wait | Verdict::Undo => None,
        }
    }

    fn take(&self, tables: &mut Tables, subject: &Subject, kind: OperationKind, operation: OperationId) -> Ticket {
        let cancel = Arc::new(OpCancel::default());
        let (intended, done) = (CancelToken::new(), CancelToken::new());
        let news = Mailbox::default();
        tables.operations.insert(operation.clone(), done.clone());
        tables.subjects.insert(
            subject.clone(),
            Busy {
                kind,
                operation: operation.clone(),
                cancel: Arc::clone(&cancel),
                intended: intended.clone(),
                news: news.clone(),
            },
        );
        let (leftover, table) = (self.leftover.clone(), Arc::clone(&self.busy));
        Ticket { subject: subject.clone(), operation, cancel, news, leftover, table, intended, done }
    }

    /// The operation that runs on a subject.
    pub(super) fn running(&self, subject: &Subject) -> Option<(OperationKind, OperationId)> {
        self.busy.lock().subjects.get(subject).map(|busy| (busy.kind, busy.operation.clone()))
    }

    /// Set when the operation has ended; none when it is not running.
    pub(super) fn done(&self, operation: &OperationId) -> Option<CancelToken> {
        self.busy.lock().operations.get(operation).cloned()
    }

    /// Hands news to the operation that runs on a subject. Gives it back when none does.
    pub(super) fn deliver(&self, subject: &Subject, driver: &DriverId, observed: Observed) -> Option<Observed> {
        match self.busy.lock().subjects.get(subject) {
            Some(busy) => {
                busy.news.put(driver, observed);
                None
            }
            None => Some(observed),
        }
    }

    /// What operations were handed and did not use. Taken once.
    pub(super) fn leftovers(&self) -> Option<mpsc::UnboundedReceiver<(DriverId, Observed)>> {
        self.unread.lock().take()
    }

    /// Asks background operations to give way; returns what must end before a shutdown is complete.
    pub(super) fn drain(&self) -> Vec<CancelToken> {
        let tables = self.busy.lock();
        for busy in tables.subjects.values() {
            if matches!(busy.kind, OperationKind::Reconcile | OperationKind::Cleanup) {
                busy.cancel.cancel(CancelCause::GiveWay);
            }
        }
        tables.operations.values().cloned().collect()
    }
}
