//! Is the emulation good enough here? One sequential writer must come within a few percent of the
//! disk's nominal rate: what it loses is lost by the host, and would be blamed on who is measured.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::model::{Counters, Drive};
use super::scatter::scatter;
use super::{Disk, Pace};
use crate::common::interrupt::go_on;

/// Of the nominal rate, for one sequential writer.
const LEAST: f64 = 0.97;
/// Long enough that starting and ending do not count.
const SEQUENTIAL_BYTES: u64 = 400 << 20;
/// Many requests, so that the disk has the next one when it ends one, and the writer's own turn on a
/// busy machine counts for little.
const SEQUENTIAL_WRITE: usize = 16 << 20;
const RANDOM_WRITE: usize = 4096;
const RANDOM_TIME: Duration = Duration::from_secs(4);

/// What one kind of writer got.
pub struct Figures {
    /// Who it was.
    pub name: String,
    /// How long it took.
    pub took: Duration,
    /// What the disk did meanwhile.
    pub counters: Counters,
}

impl Figures {
    /// Bytes a second that reached the disk.
    pub fn rate(&self) -> f64 {
        self.counters.written_bytes as f64 / self.took.as_secs_f64()
    }

    /// One line for a terminal.
    pub fn line(&self) -> String {
        let Counters { requests, seeks, seek_time, transfer_time, rewrites, .. } = self.counters;
        format!(
            "{:<22} {:>8.2} MB/s {:>7.0} requests/s {requests:>8} requests {seeks:>6} seeks, \
             {:>6.2} s, {:>6.2} s of transfer, {rewrites} stripes rewritten",
            self.name,
            self.rate() / 1e6,
            requests as f64 / self.took.as_secs_f64(),
            seek_time.as_secs_f64(),
            transfer_time.as_secs_f64(),
        )
    }
}

/// What the sequential writer got. Prints all figures.
pub fn check(disk: &mut Disk, drive: &Drive) -> Result<Figures, String> {
    let path = disk.path().join("check");
    disk.set_pace(Pace::Instant)?;
    let bytes = drive.capacity_bytes / 2;
    lay_out(&path, bytes).map_err(|error| format!("{}: {error}", path.display()))?;
    disk.set_pace(Pace::Modelled)?;
    let failed = |error: std::io::Error| error.to_string();
    let in_order = || write_in_order(&path).map_err(failed);
    let ((), sequential) = measure(disk, "1 sequential writer", in_order)?;
    for writers in [1, drive.queue] {
        let name = format!("{writers} random of 4 KiB");
        let at_random = || write_at_random(&path, writers as u64, bytes).map_err(failed);
        measure(disk, &name, at_random)?;
    }
    disk.set_pace(Pace::Instant)?;
    std::fs::remove_file(&path).map_err(failed)?;
    sync(disk.path())?;
    disk.set_pace(Pace::Modelled)?;
    Ok(sequential)
}

/// `Err` when the machine is too slow or too busy to be the disk.
pub fn accept(sequential: &Figures, drive: &Drive) -> Result<(), String> {
    let part = sequential.rate() / drive.rate as f64;
    println!("sequential: {:.1}% of the nominal rate", part * 100.0);
    if part >= LEAST {
        return Ok(());
    }
    Err(format!(
        "this machine is too slow or too busy to be a disk: a sequential writer needs {:.0}% of \
         the nominal rate (--busy: measure all the same, to try something out)",
        LEAST * 100.0
    ))
}

/// Runs `work`; what it returned, and what it got, which is printed. `Err` also when the benchmark
/// is to stop.
pub fn measure<T>(
    disk: &mut Disk,
    name: &str,
    work: impl FnOnce() -> Result<T, String>,
) -> Result<(T, Figures), String> {
    let earlier = disk.counters()?;
    let begun = Instant::now();
    let result = work();
    let took = begun.elapsed();
    go_on()?;
    let result = result.map_err(|error| format!("{name}: {error}"))?;
    let counters = disk.counters()?.since(&earlier);
    let figures = Figures { name: name.to_owned(), took, counters };
    println!("{}", figures.line());
    Ok((result, figures))
}

/// Everything the filesystem holds is on the disk then.
pub fn sync(path: &Path) -> Result<(), String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    // SAFETY: a descriptor that lives as long as the call.
    match unsafe { libc::syncfs(std::os::fd::AsRawFd::as_raw_fd(&file)) } {
        0 => Ok(()),
        _ => Err(format!("syncfs: {}", std::io::Error::last_os_error())),
    }
}

/// Written and not only reserved: otherwise the filesystem notes what was written, elsewhere.
pub fn lay_out(path: &Path, bytes: u64) -> std::io::Result<()> {
    let file = direct(path)?;
    let buffer = Aligned::new(SEQUENTIAL_WRITE);
    for offset in (0..bytes).step_by(SEQUENTIAL_WRITE) {
        file.write_all_at(buffer.bytes(), offset)?;
    }
    file.sync_all()
}

fn write_in_order(path: &Path) -> std::io::Result<()> {
    let file = direct(path)?;
    let buffer = Aligned::new(SEQUENTIAL_WRITE);
    for offset in (0..SEQUENTIAL_BYTES).step_by(SEQUENTIAL_WRITE) {
        file.write_all_at(buffer.bytes(), offset)?;
    }
    Ok(())
}

fn write_at_random(path: &Path, writers: u64, bytes: u64) -> std::io::Result<()> {
    let until = Instant::now() + RANDOM_TIME;
    let next = AtomicU64::new(1);
    let write = || {
        let file = direct(path)?;
        let buffer = Aligned::new(RANDOM_WRITE);
        while Instant::now() < until {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let place = scatter(number) % (bytes / RANDOM_WRITE as u64);
            file.write_all_at(buffer.bytes(), place * RANDOM_WRITE as u64)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..writers).map(|_| scope.spawn(write)).collect();
        writers.into_iter().try_for_each(|writer| writer.join().expect("it does not panic"))
    })
}

fn direct(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).custom_flags(libc::O_DIRECT).open(path)
}

/// As direct I/O needs it.
struct Aligned(Vec<Page>);

#[repr(C, align(4096))]
#[derive(Clone, Copy)]
struct Page([u8; 4096]);

impl Aligned {
    fn new(bytes: usize) -> Aligned {
        Aligned(vec![Page([b'x'; 4096]); bytes / 4096])
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: pages are bytes, without gaps.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * 4096) }
    }
}
