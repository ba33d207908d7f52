//! Requests before an engine that fails or hangs: what programs get, and what is left behind. Method:
//! questions with attempts of the test's own, and the filesystem's, made to fail before or after they
//! were carried out below.

use std::ffi::OsString;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use super::*;
use crate::backing::{Attr, Time};
use crate::clock::boottime_ms;
use crate::config::Consistency;

const FOREVER_MS: u64 = 3_600_000;

fn elsewhere(patience_ms: u64) -> Fixture {
    let storage = MoodyStorage::new(Mood::Work);
    Fixture::on(Elsewhere(true), storage, |config| config.patience_ms = patience_ms)
}

/// Where other nodes change files, too.
fn shared() -> Fixture {
    Fixture::on(Elsewhere(true), MoodyStorage::new(Mood::Work), |config| {
        (config.patience_ms, config.consistency) = (FOREVER_MS, Consistency::CloseToOpen);
    })
}

/// A file that another node made longer, to five bytes: its own id, and the one that it has since.
fn changed_below(fixture: &Fixture) -> (u64, u64) {
    let look = || fixture.fs.lookup(caller(), ROOT_ID, OsStr::new("f")).unwrap().attr.id;
    std::fs::write(fixture.path("f"), "old").unwrap();
    let own = look();
    std::fs::write(fixture.path("f"), "newer").unwrap();
    let latest = look();
    assert_ne!(own, latest);
    (own, latest)
}

fn unreachable<T>() -> io::Result<T> {
    Err(errno(libc::ENOTCONN))
}

/// Asks; where the answer comes.
fn ask<T: Answer>(
    fixture: &Fixture,
    question: Question,
    attempt: impl Fn(&Filesystem, Caller) -> io::Result<T> + Send + Sync + 'static,
) -> Receiver<io::Result<T>> {
    let (reply, replied) = replies();
    let fs = fixture.fs.clone();
    fixture.fs.ask(question, move |caller, done| done(attempt(&fs, caller)), reply);
    replied
}

fn unique(unique: u64) -> Caller {
    Caller { unique, ..caller() }
}

/// Names and one at a time: the numbers of their threads grow no more than they are needed.
fn hanging_threads(fs: &Filesystem) -> u64 {
    fs.askers.older_than(u64::MAX).0
}

/// Goal: programs whose requests an engine cannot be asked see no error, hold no thread while they
/// wait, and are shown; when it is back they are answered.
#[test]
fn what_cannot_be_asked_waits_without_a_thread() {
    const PROGRAMS: usize = 300;
    let fixture = elsewhere(FOREVER_MS);
    let is_out = Arc::new(AtomicBool::new(true));
    let tries = Arc::new(AtomicUsize::new(0));
    let waiting: Vec<_> = (0..PROGRAMS)
        .map(|number| {
            let (is_out, tries) = (is_out.clone(), tries.clone());
            let question = Question::of("stat", ROOT_ID, unique(2 * number as u64));
            ask(&fixture, question, move |fs, _| {
                tries.fetch_add(1, Ordering::Relaxed);
                match is_out.load(Ordering::Relaxed) {
                    true => unreachable(),
                    false => fs.getattr(ROOT_ID),
                }
            })
        })
        .collect();
    fixture.wait_until("all to be tried", |_| tries.load(Ordering::Relaxed) > PROGRAMS);
    fixture.wait_until("them to be shown", |fs| {
        let status = fs.status();
        status.hanging_requests >= PROGRAMS as u64 - 1
            && status.waiting_requests.iter().all(|request| {
                request.what == "stat" && request.error.as_deref() == Some("ENOTCONN")
            })
    });
    fixture.wait_until("only one to be tried", |fs| hanging_threads(fs) <= 1);
    assert!(waiting.iter().all(|replied| replied.try_recv().is_err()));
    is_out.store(false, Ordering::Relaxed);
    for replied in waiting {
        replied.recv_timeout(LONG).unwrap().unwrap();
    }
    assert_eq!(fixture.fs.status().hanging_requests, 0);
}

/// Goal: each operation that makes, moves or removes is done once, whether its answer was lost or it
/// never came below, and counts for the kernel once.
#[test]
fn what_was_done_is_not_done_twice() {
    let fixture = elsewhere(FOREVER_MS);
    for (round, is_lost) in [true, false].into_iter().enumerate() {
        let name = |name: &str| OsString::from(format!("{name}{round}"));
        let mut number = 1000 * round as u64;
        // Done and then said to have failed the first time, or not even begun.
        let mut once = |question: fn(Caller) -> Question, act: Act| {
            number += 2;
            let tries = AtomicUsize::new(0);
            let replied = ask(&fixture, question(unique(number)), move |fs, caller| {
                match (tries.fetch_add(1, Ordering::Relaxed), is_lost) {
                    (0, true) => act(fs, caller).and_then(|()| unreachable()),
                    (0, false) => unreachable(),
                    _ => act(fs, caller),
                }
            });
            replied.recv_timeout(LONG).unwrap().unwrap();
        };
        let about = |caller| Question::of("change", ROOT_ID, caller);
        let [dir, file, link, moved] = ["dir", "file", "link", "moved"].map(name);
        let named = dir.clone();
        once(about, Box::new(move |fs, caller| fs.mkdir(caller, ROOT_ID, &named, MODE).map(drop)));
        let named = file.clone();
        once(
            about,
            Box::new(move |fs, caller| {
                fs.create(caller, ROOT_ID, &named, MODE, libc::O_EXCL).map(drop)
            }),
        );
        let id = fixture.fs.lookup(caller(), ROOT_ID, &file).unwrap().attr.id;
        let node = fixture.fs.node(id).unwrap();
        assert_eq!(fixture.fs.arena.nodes().lookups(node.slot), 2, "one is of this test");
        assert_eq!(fixture.fs.arena.nodes().open(node.slot), 1);
        let named = link.clone();
        once(about, Box::new(move |fs, caller| fs.link(caller, id, ROOT_ID, &named).map(drop)));
        let (from, to) = (link.clone(), moved.clone());
        once(
            about,
            Box::new(move |fs, caller| {
                fs.rename(caller, (ROOT_ID, &from), (ROOT_ID, &to), libc::RENAME_NOREPLACE)
            }),
        );
        assert_eq!(fixture.fs.path_of(&node), PathBuf::from(&moved), "it is known by its new name");
        once(about, Box::new(move |fs, caller| fs.unlink(caller, ROOT_ID, &moved)));
        once(about, Box::new(move |fs, caller| fs.unlink(caller, ROOT_ID, &file)));
        once(about, Box::new(move |fs, caller| fs.rmdir(caller, ROOT_ID, &dir)));
    }
    let left = std::fs::read_dir(fixture.dir.path()).unwrap().count();
    assert_eq!(left, 0, "everything was removed");
}

type Act = Box<dyn Fn(&Filesystem, Caller) -> io::Result<()> + Send + Sync>;

/// Goal: when patience is over the engine's error goes to the program, and the request is not tried
/// any more.
#[test]
fn the_error_comes_when_patience_is_over() {
    let fixture = elsewhere(1000);
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = tries.clone();
    let question = || Question::of("stat", ROOT_ID, caller());
    let replied = ask(&fixture, question(), move |_, _| {
        counted.fetch_add(1, Ordering::Relaxed);
        unreachable::<()>()
    });
    assert_eq!(code(replied.recv_timeout(LONG).unwrap()), Some(libc::ENOTCONN));
    assert!(tries.load(Ordering::Relaxed) >= 2);
    assert!(fixture.fs.unanswered(u64::MAX).is_empty());
    let replied = ask(&fixture, question(), |_, _| unreachable::<()>());
    assert_eq!(code(replied.recv_timeout(LONG).unwrap()), Some(libc::ENOTCONN), "and at once now");
}

/// Goal: errors that say nothing of the connection are told at once, and so is EIO of a disk of this
/// machine.
#[test]
fn answers_are_not_waited_for() {
    let fixture = elsewhere(FOREVER_MS);
    let question = || Question::of("stat", ROOT_ID, caller());
    for told in [libc::ENOENT, libc::EACCES, libc::ENOSPC, libc::ESTALE] {
        let replied = ask(&fixture, question(), move |_, _| Err::<(), _>(errno(told)));
        assert_eq!(code(replied.recv_timeout(LONG).unwrap()), Some(told));
    }
    let local = Fixture::new(Mood::Work);
    let replied = ask(&local, question(), |_, _| Err::<(), _>(errno(libc::EIO)));
    assert_eq!(code(replied.recv_timeout(LONG).unwrap()), Some(libc::EIO));
}

/// Lets requests go that hang.
struct Hang(Option<crossbeam_channel::Sender<()>>, crossbeam_channel::Receiver<()>);

impl Hang {
    fn new() -> Hang {
        let (let_go, hang) = crossbeam_channel::bounded(0);
        Hang(Some(let_go), hang)
    }

    fn wait(&self) -> impl Fn() + Send + Sync + 'static {
        let hang = self.1.clone();
        move || assert!(hang.recv().is_err())
    }
}

/// Goal: programs whose requests hang are answered when patience is over, also those for which there
/// is no thread left, which are then not carried out; what comes back later is taken back.
#[test]
fn what_hangs_is_answered_and_taken_back() {
    /// More than there are threads.
    const PROGRAMS: u64 = 200;
    let fixture = elsewhere(FOREVER_MS);
    let id = fixture.create("f").0;
    let node = fixture.fs.node(id).unwrap();
    let counts = || {
        let table = fixture.fs.arena.nodes();
        (table.lookups(node.slot), table.open(node.slot))
    };
    let before = counts();
    let mut hang = Hang::new();
    let tries = Arc::new(AtomicUsize::new(0));
    let (mut looks, mut opens) = (Vec::new(), Vec::new());
    for number in 0..PROGRAMS {
        let (wait, tries) = (hang.wait(), tries.clone());
        let begin = move || {
            tries.fetch_add(1, Ordering::Relaxed);
            wait();
        };
        let question = Question::of("open", ROOT_ID, unique(2 * number));
        if number % 2 == 0 {
            looks.push(ask(&fixture, question, move |fs, caller| {
                begin();
                fs.lookup(caller, ROOT_ID, OsStr::new("f"))
            }));
        } else {
            opens.push(ask(&fixture, question, move |fs, caller| {
                begin();
                fs.open(caller, id, libc::O_RDONLY)
            }));
        }
    }
    fixture.wait_until("all threads to hang", |_| tries.load(Ordering::Relaxed) >= 128);
    fixture.fs.see_to_questions(boottime_ms() + FOREVER_MS);
    for replied in looks {
        assert_eq!(code(replied.recv_timeout(LONG).unwrap()), Some(libc::ETIMEDOUT));
    }
    for replied in opens {
        assert_eq!(code(replied.recv_timeout(LONG).unwrap()), Some(libc::ETIMEDOUT));
    }
    drop(hang.0.take());
    fixture.wait_until("the threads to be back", |fs| hanging_threads(fs) == 0);
    assert_eq!(tries.load(Ordering::Relaxed), 128, "others are not begun");
    assert_eq!(counts(), before);
}

/// Goal: attributes that are known are told while the engine hangs, with what is buffered; those of a
/// file that was changed and not looked at since are not.
#[test]
fn what_is_known_is_told() {
    let fixture = elsewhere(FOREVER_MS);
    let (id, _) = fixture.create("f");
    fixture.storage.set(Mood::Wait);
    fixture.write(id, 0, &[1; 5000]).recv().unwrap().unwrap();
    let look = |wait: Box<dyn Fn() + Send + Sync>| {
        ask(&fixture, Question::of("stat", id, caller()), move |fs, _| {
            wait();
            fs.getattr(id).map(Looked)
        })
    };
    let mut hang = Hang::new();
    let replied = look(Box::new(hang.wait()));
    fixture.fs.see_to_questions(boottime_ms() + 2500);
    let Looked(found) = replied.recv_timeout(LONG).unwrap().unwrap();
    assert_eq!((found.id, found.attr.size), (id, 5000));
    fixture.fs.note_changed(&fixture.fs.node(id).unwrap(), super::super::stable::Unsynced::Data);
    let replied = look(Box::new(hang.wait()));
    fixture.fs.see_to_questions(boottime_ms() + 2500);
    assert!(matches!(replied.try_recv(), Err(TryRecvError::Empty)), "not known any more");
    drop(hang.0.take());
    assert_eq!(replied.recv_timeout(LONG).unwrap().unwrap().0.attr.size, 5000);
    fixture.storage.set(Mood::Work);
}

/// Goal: that a file has no capabilities is told from memory, so that a program's write, before which the
/// kernel asks for them, need not wait for an engine that does not answer; while that is known not to
/// answer, at once, and it is not asked. What is not known is waited for.
#[test]
fn a_write_does_not_wait_for_capabilities() {
    let fixture = shared();
    let (made, _) = fixture.create("made");
    std::fs::write(fixture.path("found"), "x").unwrap();
    let found = fixture.fs.lookup(caller(), ROOT_ID, OsStr::new("found")).unwrap().attr.id;
    let opened = fixture.fs.open(caller(), found, libc::O_RDWR).unwrap();
    let look = |id| {
        let count = Arc::new(AtomicUsize::new(0));
        let asked = count.clone();
        let replied = ask(&fixture, Question::of("getxattr", id, caller()), move |_, _| {
            asked.fetch_add(1, Ordering::Relaxed);
            unreachable::<Capabilities>()
        });
        (replied, count)
    };
    let (parked, _) = look(found);
    // After some failures it is known that the engine does not answer.
    for tries in 0.. {
        let (replied, asked) = look(made);
        let is_told_at_once = replied.try_recv().map(code) == Ok(Some(libc::ENODATA));
        if is_told_at_once && asked.load(Ordering::Relaxed) == 0 {
            break;
        }
        assert!(tries < 20, "it is asked again and again");
        fixture.wait_until("it to have failed", |_| asked.load(Ordering::Relaxed) > 0);
        if !is_told_at_once {
            fixture.fs.see_to_questions(boottime_ms() + 2_500);
            assert_eq!(code(replied.recv_timeout(LONG).unwrap()), Some(libc::ENODATA));
        }
    }
    assert!(matches!(parked.try_recv(), Err(TryRecvError::Empty)), "nobody has looked at it yet");
    fixture.fs.release(caller(), found, opened.handle);
}

/// Goal: a time that is only noted, since bytes of the file wait, is not a matter of the engine: the
/// kernel's writeback, which sends it, goes on with other files.
#[test]
fn a_noted_time_does_not_wait() {
    let fixture = shared();
    let (id, _) = fixture.create("f");
    fixture.storage.set(Mood::Wait);
    fixture.write(id, 0, b"waits").recv().unwrap().unwrap();
    let node = fixture.fs.node(id).unwrap();
    let found = node.seen().unwrap();
    // As nothing below has it.
    node.note_seen(Some(Attr { nlink: 77, ..found }));
    let (reply, replied) = replies();
    let mtime = SetTime::At(Time { secs: 1_000_000, nanos: 5 });
    let change =
        Change { mode: None, uid: None, gid: None, size: None, atime: SetTime::Omit, mtime };
    fixture.fs.setattr(caller(), id, change, reply);
    let told = replied.recv_timeout(LONG).unwrap().unwrap().attr;
    assert_eq!((told.nlink, told.size, told.mtime.secs), (77, 5, 1_000_000), "from memory");
    fixture.storage.set(Mood::Work);
}

/// Goal: a truncation that comes below after its program was told that there is no answer takes
/// nothing away that was written since.
#[test]
fn a_late_truncation_cuts_nothing_newer() {
    let fixture = elsewhere(FOREVER_MS);
    let (id, _) = fixture.create("f");
    fixture.storage.set(Mood::Wait);
    fixture.write(id, 0, b"old").recv().unwrap().unwrap();
    fixture.wait_until("it to be on its way", |fs| {
        fs.retry_now();
        let node = fs.node(id).unwrap();
        let in_flight = node.data_if_any().unwrap().lock().buffer.in_flight_bytes();
        if in_flight == 0 {
            let (reply, _) = replies();
            fs.fsync(id, SyncKind::Data, reply);
        }
        in_flight > 0
    });
    let change = Change {
        mode: None,
        uid: None,
        gid: None,
        size: Some(0),
        atime: SetTime::Omit,
        mtime: SetTime::Omit,
    };
    let (reply, replied) = replies();
    let fs = fixture.fs.clone();
    let question = Question::of("change of attributes", id, unique(77));
    let set = move |caller, done| fs.setattr(caller, id, change, done);
    fixture.fs.ask(question, set, reply);
    fixture.wait_until("it to wait", |fs| {
        let node = fs.node(id).unwrap();
        node.data_if_any().unwrap().lock().barriers > 0
    });
    fixture.fs.see_to_questions(boottime_ms() + 2 * FOREVER_MS);
    assert_eq!(code(replied.recv_timeout(LONG).unwrap()), Some(libc::ETIMEDOUT));
    fixture.write(id, 0, b"newer").recv().unwrap().unwrap();
    fixture.storage.set(Mood::Work);
    fixture.wait_until("all to be stored", |fs| fs.backlog_bytes() == 0);
    assert_eq!(std::fs::read(fixture.path("f")).unwrap(), b"newer");
}

/// Goal: an id that the kernel is to look up again is no matter of the engine: it is told so at once.
/// What is opened by the id that it has now is released by the node's own.
#[test]
fn an_outdated_id_is_not_asked_for_again() {
    let fixture = shared();
    let (own, latest) = changed_below(&fixture);
    let tries = Arc::new(AtomicUsize::new(0));
    let open = |id| {
        let tries = tries.clone();
        let replied = ask(&fixture, Question::of("open", id, unique(id)), move |fs, caller| {
            tries.fetch_add(1, Ordering::Relaxed);
            fs.open(caller, id, libc::O_RDONLY)
        });
        replied.recv_timeout(LONG).unwrap()
    };
    assert_eq!(code(open(own)), Some(libc::ESTALE));
    assert_eq!(tries.load(Ordering::Relaxed), 1);
    let opened = open(latest).unwrap();
    assert_eq!(opened.id, own);
    let node = fixture.fs.node(latest).unwrap();
    assert_eq!(fixture.fs.arena.nodes().open(node.slot), 1);
    fixture.fs.release(caller(), opened.id, opened.handle);
    assert_eq!(fixture.fs.arena.nodes().open(node.slot), 0);
}

/// Goal: a file that another node changed is told from memory as it was found last, with the inode
/// number that it always had, and not for long.
#[test]
fn what_others_changed_is_remembered() {
    let fixture = shared();
    let (own, latest) = changed_below(&fixture);
    let (reply, replied) = replies();
    let question = Question::of("stat", latest, unique(2));
    fixture.fs.ask(question, |_, never: Reply<Looked>| std::mem::forget(never), reply);
    fixture.fs.see_to_questions(boottime_ms() + 2_000);
    let Looked(found) = replied.recv_timeout(LONG).unwrap().unwrap();
    assert_eq!((found.id, found.attr.size, found.lasts), (own, 5, Lasts::SOON));
}
