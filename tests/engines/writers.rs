//! Programs that append records to a file each, until they are told to end: threads of a process of
//! their own. A test starts other programs meanwhile, and each start closes copies of the files that
//! its own process has open, which waits for the engine as each close does.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::IntoRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{SOON, record, records};

/// Between so many records there is a pause: outages of half a minute are not to fill the memory.
const RECORDS_IN_A_ROW: usize = 50;
const PAUSE: Duration = Duration::from_millis(5);

/// Tells this program that it is to be the writers, and of what: how many, in which directory.
const COUNT_VARIABLE: &str = "COALESCEFS_WRITERS";
const DIR_VARIABLE: &str = "COALESCEFS_WRITERS_DIR";

/// Running ones. Killed by `Drop`.
pub struct Writers {
    dir: PathBuf,
    count: usize,
    process: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// What they wrote.
pub struct Outputs {
    counts: Vec<usize>,
}

/// If this process is to be the writers, is them: each line of standard input asks for how much they
/// have written; at its end they end, and say for each how much it was, or the error.
pub fn serve_if_told() -> bool {
    let Ok(count) = std::env::var(COUNT_VARIABLE) else { return false };
    let dir = PathBuf::from(std::env::var_os(DIR_VARIABLE).unwrap());
    let (is_over, written) = <(Arc<AtomicBool>, Arc<AtomicUsize>)>::default();
    let start = |number: usize| {
        let (is_over, written) = (is_over.clone(), written.clone());
        let path = output(&dir, number);
        std::thread::spawn(move || write(&path, number, &is_over, &written))
    };
    let threads: Vec<_> = (0..count.parse().unwrap()).map(start).collect();
    for order in io::stdin().lines() {
        if order.unwrap() == "end" {
            break;
        }
        println!("{}", written.load(Ordering::Relaxed));
    }
    is_over.store(true, Ordering::Relaxed);
    for thread in threads {
        match thread.join().unwrap() {
            Ok(count) => println!("{count}"),
            Err(error) => println!("{error}"),
        }
    }
    true
}

impl Writers {
    /// Starts `count` of them, in `dir`.
    pub fn start(dir: &Path, count: usize) -> Writers {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .env(COUNT_VARIABLE, count.to_string())
            .env(DIR_VARIABLE, dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (orders, answers) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let answers = BufReader::new(answers);
        Writers { dir: dir.to_owned(), count, process, orders, answers }
    }

    fn order(&mut self, order: &str) {
        writeln!(self.orders, "{order}").unwrap();
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        assert!(self.answers.read_line(&mut line).unwrap() > 0, "the writers died");
        line.trim().to_owned()
    }

    fn written(&mut self) -> usize {
        self.order("how many");
        self.answer().parse().unwrap()
    }

    /// Waits until they have written `count` records more: they are not blocked.
    pub fn wait_for_records(&mut self, count: usize) {
        let (from, until) = (self.written(), std::time::Instant::now() + SOON);
        while self.written() < from + count {
            assert!(std::time::Instant::now() < until, "the writers are blocked");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends them, whatever they were told.
    pub fn abandon(mut self) {
        self.order("end");
        self.process.wait().unwrap();
    }

    /// Ends them; no call of theirs may have failed, close(2) included. What they wrote is what is
    /// to be read in their directory.
    pub fn end(mut self) -> Outputs {
        self.order("end");
        let mut counts = Vec::new();
        let mut line = String::new();
        while self.answers.read_line(&mut line).unwrap() > 0 {
            let count = line.trim().parse();
            counts.push(count.unwrap_or_else(|_| panic!("a program saw an error: {line}")));
            line.clear();
        }
        assert_eq!(counts.len(), self.count, "the writers died");
        let outputs = Outputs { counts };
        outputs.assert_in(&self.dir);
        outputs
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        // Not waited for: it may hang until the mount is gone.
        let _ = self.process.kill();
    }
}

impl Outputs {
    /// Every record is in its file, and nothing else.
    pub fn assert_in(&self, dir: &Path) {
        for (number, count) in self.counts.iter().enumerate() {
            let path = output(dir, number);
            let (found, wanted) = (fs::read(&path).unwrap(), records(number, *count));
            assert_eq!(found.len(), wanted.len(), "length of {}", path.display());
            let at = found.iter().zip(&wanted).position(|(found, wanted)| found != wanted);
            assert_eq!(at, None, "first wrong byte of {}", path.display());
        }
    }
}

fn output(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("OUTPUT{number}"))
}

fn write(
    path: &Path,
    number: usize,
    is_over: &AtomicBool,
    written: &AtomicUsize,
) -> io::Result<usize> {
    let mut file = File::create(path)?;
    let mut count = 0;
    while !is_over.load(Ordering::Relaxed) {
        for _ in 0..RECORDS_IN_A_ROW {
            file.write_all(record(number, count).as_bytes())?;
            count += 1;
        }
        written.fetch_add(RECORDS_IN_A_ROW, Ordering::Relaxed);
        std::thread::sleep(PAUSE);
    }
    // SAFETY: the descriptor is ours and not used afterwards.
    if unsafe { libc::close(file.into_raw_fd()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(count)
}
