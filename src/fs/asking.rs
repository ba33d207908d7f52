//! Requests that ask what is below for names, attributes or bytes, where that may hang: tried again
//! while the engine cannot be reached, and answered in bounded time whatever it does.
//!
//! A request is a [`Question`] and an attempt that can be made again. It runs on a pool; when the
//! engine cannot be reached it leaves the thread, and `schedule::requests` says when it is tried
//! again and when its program has waited long enough. The thread `patience` sees to that. A thread
//! that hangs cannot be called back: its program is answered without it, and what it brings later is
//! taken back ([`Answer::take_back`]): the kernel has not heard of it.
//!
//! An attempt whose answer was lost may have been carried out below. The next one is told that the
//! request is repeated, as it is after a worker's death, and finds out (`repeated`).
//!
//! Locks: that of the requests is a leaf; nothing is asked, answered or logged under it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use super::attrs::{Capabilities, Looked, NodeAttr};
use super::caller::Caller;
use super::handles::{DirectoryEntry, Listed, OpenDirectory, OpenFile};
use super::names::Entry;
use super::nodes::ROOT_ID;
use super::{Filesystem, Reply, errno};
use crate::arena::Kept;
use crate::backing::{self, FsStats};
use crate::clock::boottime_ms;
use crate::drain::is_of_connection;
use crate::isolation::HandedOver;
use crate::schedule::requests::{Requests, Verdict, Waiting};

/// What a request needs of what is below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum About {
    /// Names and attributes.
    Names,
    /// Contents of files.
    Bytes,
}

/// A request, for those who try it and those who look.
#[derive(Clone, Debug)]
pub struct Question {
    /// In a word, for users.
    pub what: &'static str,
    /// Which threads wait for it.
    pub about: About,
    /// The node that it is about, or the directory of the name.
    pub id: u64,
    /// Who asks.
    pub caller: Caller,
    /// Names it is about, each in a directory.
    pub names: Vec<(u64, OsString)>,
}

impl Question {
    /// About a node.
    pub fn of(what: &'static str, id: u64, caller: Caller) -> Question {
        Question { what, about: About::Names, id, caller, names: Vec::new() }
    }

    /// About a name in a directory; more may follow.
    pub fn at(self, dir: u64, name: &OsStr) -> Question {
        let names = self.names.into_iter().chain([(dir, name.to_owned())]).collect();
        Question { names, ..self }
    }

    /// About contents.
    pub fn of_bytes(self) -> Question {
        Question { about: About::Bytes, ..self }
    }
}

/// What a question is answered with.
pub trait Answer: Sized + Send + 'static {
    /// The kernel was told an error, and the engine has done it all the same: what was counted for
    /// the kernel is given back, and what it believes is made invalid.
    fn take_back(self, filesystem: &Filesystem, question: &Question);

    /// What is known without asking.
    fn from_memory(_: &Filesystem, _: &Question) -> Option<io::Result<Self>> {
        None
    }

    /// Whether there may be such an answer.
    const MAY_BE_KNOWN: bool = false;
}

/// What lets the kernel's idea of things as it is.
macro_rules! nothing_to_take_back {
    ($($answer:ty),*) => {$(
        impl Answer for $answer {
            fn take_back(self, _: &Filesystem, _: &Question) {}
        }
    )*};
}

nothing_to_take_back!(Vec<u8>, OsString, FsStats, (Vec<u8>, usize), Vec<DirectoryEntry>);

impl Answer for () {
    fn take_back(self, filesystem: &Filesystem, question: &Question) {
        filesystem.forget_names(question);
    }
}

impl Answer for NodeAttr {
    fn take_back(self, filesystem: &Filesystem, question: &Question) {
        filesystem.look_anew(question.id);
    }
}

impl Answer for Looked {
    fn take_back(self, _: &Filesystem, _: &Question) {}

    fn from_memory(filesystem: &Filesystem, question: &Question) -> Option<io::Result<Self>> {
        filesystem.remembered_attr(question.id).map(|attr| Ok(Looked(attr)))
    }

    const MAY_BE_KNOWN: bool = true;
}

impl Answer for Capabilities {
    fn take_back(self, _: &Filesystem, _: &Question) {}

    fn from_memory(filesystem: &Filesystem, question: &Question) -> Option<io::Result<Self>> {
        filesystem.remembers_no_capabilities(question.id).then(|| Err(errno(libc::ENODATA)))
    }

    const MAY_BE_KNOWN: bool = true;
}

impl Answer for Entry {
    fn take_back(self, filesystem: &Filesystem, question: &Question) {
        filesystem.forget(self.attr.id, 1);
        filesystem.forget_names(question);
    }
}

impl Answer for OpenFile {
    fn take_back(self, filesystem: &Filesystem, question: &Question) {
        // A new one to those who note what requests did.
        let caller = Caller { is_repeated: false, ..question.caller };
        filesystem.release(caller, self.id, self.handle);
    }
}

impl Answer for (Entry, OpenFile) {
    fn take_back(self, filesystem: &Filesystem, question: &Question) {
        self.1.take_back(filesystem, question);
        self.0.take_back(filesystem, question);
    }
}

impl Answer for OpenDirectory {
    fn take_back(self, filesystem: &Filesystem, _: &Question) {
        filesystem.release_directory(self.0);
    }
}

impl Answer for Vec<Listed> {
    fn take_back(self, filesystem: &Filesystem, _: &Question) {
        self.into_iter().for_each(|listed| filesystem.forget_listed(&listed));
    }
}

/// Makes an attempt, once for each call.
type Attempt<T> = Box<dyn Fn(Caller, Reply<T>) + Send + Sync>;

/// A question on its way to an answer.
struct Asked<T> {
    question: Question,
    attempt: Attempt<T>,
    /// `None` once the program is answered.
    reply: Mutex<Option<Reply<T>>>,
}

/// The same, whatever the answer is.
trait Pending: Send + Sync {
    fn try_now(self: Arc<Self>, filesystem: &Arc<Filesystem>, number: u64, is_again: bool);
    fn give_up(&self, code: i32);
    /// Whether there was an answer in memory.
    fn answer_from_memory(&self, filesystem: &Filesystem) -> bool;
    fn question(&self) -> &Question;
}

impl<T: Answer> Asked<T> {
    fn take_reply(&self) -> Option<Reply<T>> {
        self.reply.lock().expect("no panics under this lock").take()
    }
}

impl<T: Answer> Pending for Asked<T> {
    fn try_now(self: Arc<Self>, filesystem: &Arc<Filesystem>, number: u64, is_again: bool) {
        let caller = self.question.caller;
        let caller = Caller { is_repeated: caller.is_repeated || is_again, ..caller };
        let (me, fs) = (self.clone(), filesystem.clone());
        let end = move |result: io::Result<T>| {
            let code = result.as_ref().err().map(backing::errno);
            if fs.end_try(number, &me.question, code) == Verdict::Parked {
                return;
            }
            match (me.take_reply(), result) {
                (Some(reply), result) => reply(result),
                (None, Ok(answer)) => answer.take_back(&fs, &me.question),
                (None, Err(_)) => {}
            }
        };
        (self.attempt)(caller, Box::new(end));
    }

    fn give_up(&self, code: i32) {
        if let Some(reply) = self.take_reply() {
            reply(Err(errno(code)));
        }
    }

    fn answer_from_memory(&self, filesystem: &Filesystem) -> bool {
        let Some(answer) = T::from_memory(filesystem, &self.question) else { return false };
        if let Some(reply) = self.take_reply() {
            reply(answer);
        }
        true
    }

    fn question(&self) -> &Question {
        &self.question
    }
}

/// What fails together.
type Line = (u64, About);

struct Known {
    pending: Arc<dyn Pending>,
    /// Between two tries.
    handed: HandedOver,
    kept: Option<Kept>,
}

struct State {
    requests: Requests<Line>,
    known: std::collections::BTreeMap<u64, Known>,
    /// For when the thread waits.
    wakes_at_ms: Option<u64>,
}

/// All questions that are not answered.
pub(super) struct Asking {
    state: Mutex<State>,
    changed: Condvar,
}

impl Asking {
    pub(super) fn new(patience_ms: u64) -> Asking {
        let (known, wakes_at_ms) = Default::default();
        let state = State { requests: Requests::new(patience_ms), known, wakes_at_ms };
        Asking { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panics under this lock")
    }

    /// Has the thread look, if it would look too late.
    fn wake(&self, state: &State) {
        let next_ms = state.requests.next_ms();
        if next_ms.is_some_and(|next_ms| state.wakes_at_ms.is_none_or(|at_ms| next_ms < at_ms)) {
            self.changed.notify_one();
        }
    }
}

impl Filesystem {
    /// Answers a question about what may hang: by `attempt`, on a pool, made again with a caller that
    /// is marked as repeated while the engine cannot be reached. In bounded time: `ETIMEDOUT`, or the
    /// engine's error, when `--patience` is over. While the engine is known not to answer, from memory
    /// where that will do. `attempt` may wait for what is below.
    pub fn ask<T: Answer>(
        &self,
        question: Question,
        attempt: impl Fn(Caller, Reply<T>) + Send + Sync + 'static,
        reply: impl FnOnce(io::Result<T>) + Send + 'static,
    ) {
        let dev = self.node(question.id).map_or(0, |node| node.identity.dev);
        let line = (dev, question.about);
        let (attempt, reply) = (Box::new(attempt), Mutex::new(Some(Box::new(reply) as Reply<T>)));
        let pending: Arc<dyn Pending> = Arc::new(Asked { question, attempt, reply });
        let mut state = self.asking.lock();
        let number = state.requests.begin(line, T::MAY_BE_KNOWN, boottime_ms());
        if T::MAY_BE_KNOWN && state.requests.is_held_back(number) {
            drop(state);
            if pending.answer_from_memory(self) {
                return self.drop_question(number);
            }
            state = self.asking.lock();
        }
        let handed = HandedOver::default();
        state.known.insert(number, Known { pending: pending.clone(), handed, kept: None });
        self.asking.wake(&state);
        drop(state);
        let me = self.arc();
        self.threads_for(line.1).run(move || me.try_question(number, &pending, None));
    }

    /// Asks what hangs is not called back from, so what waits in a queue behind it may be over when
    /// its turn comes: it is not begun then.
    fn try_question(&self, number: u64, pending: &Arc<dyn Pending>, again: Option<Option<Kept>>) {
        let is_wanted = self.asking.lock().requests.is_wanted(number);
        if !is_wanted {
            again.flatten().into_iter().for_each(|kept| self.arena.attempts().let_go(kept));
            return self.drop_question(number);
        }
        let is_again = again.is_some();
        if let Some(kept) = again.flatten() {
            self.arena.attempts().go_on(kept);
        }
        pending.clone().try_now(&self.arc(), number, is_again);
    }

    fn drop_question(&self, number: u64) {
        let mut state = self.asking.lock();
        state.requests.dropped(number, boottime_ms());
        state.known.remove(&number);
    }

    /// A try came back, on the thread that made it.
    fn end_try(&self, number: u64, question: &Question, code: Option<i32>) -> Verdict {
        let now_ms = boottime_ms();
        let unreachable = code.filter(|code| self.is_unreachable(question, *code));
        if let Some(code) = unreachable {
            self.forget_dead_descriptors(question);
            self.look_again_after(code);
        }
        let mut state = self.asking.lock();
        let verdict = match unreachable {
            Some(code) => state.requests.failed(number, code, now_ms),
            None => {
                state.requests.answered(number, now_ms);
                Verdict::Over
            }
        };
        match state.known.get_mut(&number) {
            Some(known) if verdict == Verdict::Parked => {
                known.handed = self.isolation.hand_over();
                known.kept = self.arena.attempts().keep(question.caller.unique);
            }
            _ => drop(state.known.remove(&number)),
        }
        self.asking.wake(&state);
        verdict
    }

    /// Whether an error says that the engine cannot be reached, and nothing of what was asked.
    fn is_unreachable(&self, question: &Question, code: i32) -> bool {
        let Ok(node) = self.node(question.id) else { return false };
        is_of_connection(code) && self.engines.is_elsewhere(node.identity.dev)
    }

    /// What was opened before may be useless for ever; see `reopen`.
    fn forget_dead_descriptors(&self, question: &Question) {
        let dirs = question.names.iter().map(|(dir, _)| *dir);
        let ids = dirs.chain([question.id]).map(|id| self.own_id(id));
        for id in ids.filter(|id| *id != ROOT_ID) {
            self.paths.remove(id);
        }
    }

    fn threads_for(&self, about: About) -> &super::pool::Pool {
        match about {
            About::Names => &self.askers,
            About::Bytes => &self.pool,
        }
    }

    /// Starts the thread that sees to patience. It lives as long as the process.
    pub(super) fn start_patience(&self) -> io::Result<()> {
        let me = self.me.clone();
        std::thread::Builder::new().name("patience".into()).spawn(move || {
            while let Some(filesystem) = me.upgrade() {
                filesystem.see_to_questions(boottime_ms());
                filesystem.wait_for_questions();
            }
        })?;
        Ok(())
    }

    fn wait_for_questions(&self) {
        /// So that the thread sees the end of the filesystem.
        const LONGEST: Duration = Duration::from_secs(1);
        let mut state = self.asking.lock();
        let next_ms = state.requests.next_ms();
        let left = |at_ms: u64| Duration::from_millis(at_ms.saturating_sub(boottime_ms()));
        let wait = next_ms.map_or(LONGEST, left).min(LONGEST);
        if wait.is_zero() {
            return;
        }
        state.wakes_at_ms = next_ms;
        let waited = self.asking.changed.wait_timeout(state, wait);
        waited.expect("no panics under this lock").0.wakes_at_ms = Some(0);
    }

    /// Does what is due by then. Waits for no engine.
    pub(super) fn see_to_questions(&self, now_ms: u64) {
        let mut state = self.asking.lock();
        let due = state.requests.due(now_ms);
        let find = |state: &State, number: &u64| {
            state.known.get(number).map(|known| known.pending.clone())
        };
        let mut over = Vec::new();
        for (number, code) in &due.over {
            over.extend(
                find(&state, number).map(|pending| (pending, code.unwrap_or(libc::ETIMEDOUT))),
            );
            if let Some(kept) = state.known.get_mut(number).and_then(|known| known.kept.take()) {
                self.arena.attempts().let_go(kept);
            }
            // One that hangs is known until its thread is back.
            if !state.requests.is_known(*number) {
                state.known.remove(number);
            }
        }
        let slow: Vec<_> =
            due.slow.iter().filter_map(|number| Some((*number, find(&state, number)?))).collect();
        let mut retries = Vec::new();
        for number in due.retries {
            let Some(known) = state.known.get_mut(&number) else { continue };
            retries.push((number, known.pending.clone(), known.handed, known.kept.take()));
        }
        drop(state);
        for (number, pending, handed, kept) in retries {
            let me = self.arc();
            let about = pending.question().about;
            let again = move || me.try_question(number, &pending, Some(kept));
            self.threads_for(about).run_handed(handed, again);
        }
        for (pending, code) in over {
            let Question { what, id, .. } = pending.question();
            log::debug!("{what} of {}: {}", self.path_of_id(*id), errno(code));
            pending.give_up(code);
        }
        for (number, pending) in slow {
            if pending.answer_from_memory(self) {
                self.leave_question(number);
            }
        }
    }

    fn leave_question(&self, number: u64) {
        let mut state = self.asking.lock();
        state.requests.leave(number);
        let kept = state.known.get_mut(&number).and_then(|known| known.kept.take());
        if !state.requests.is_known(number) {
            state.known.remove(&number);
        }
        drop(state);
        kept.into_iter().for_each(|kept| self.arena.attempts().let_go(kept));
    }

    /// Questions of programs that have waited since then or longer, the oldest first.
    pub(super) fn unanswered(&self, since_ms: u64) -> Vec<(Waiting, Question)> {
        let state = self.asking.lock();
        let old = state.requests.waiting().filter(|waiting| waiting.since_ms <= since_ms);
        let question = |waiting: Waiting| {
            Some((waiting, state.known.get(&waiting.number)?.pending.question().clone()))
        };
        old.filter_map(question).collect()
    }

    /// Whether the program of a request has been told that there is no answer.
    pub(super) fn is_given_up(&self, caller: Caller) -> bool {
        if !self.may_hang() {
            return false;
        }
        let state = self.asking.lock();
        let is_its = |known: &Known| known.pending.question().caller.unique == caller.unique;
        let mut known = state.known.iter().filter(|(_, known)| is_its(known));
        known.any(|(number, _)| !state.requests.is_wanted(*number))
    }

    /// The kernel may believe in names that a late answer has changed.
    fn forget_names(&self, question: &Question) {
        for (dir, name) in &question.names {
            self.look_anew_at(*dir, name.clone());
        }
    }
}
