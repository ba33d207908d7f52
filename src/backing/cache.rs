//! Open descriptors, as many as the process may have; and how many that is.

use std::io;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard};

use lru::LruCache;

/// Most descriptors we ask for; the kernel's own table for more would cost more than it gives.
const DESCRIPTORS_MAX: u64 = 1 << 20;

/// What was opened last, by id. Values are dropped (closed) outside the lock, and not before the
/// last user lets go of them.
#[derive(Debug)]
pub struct DescriptorCache<V> {
    values: Mutex<LruCache<u64, Arc<V>>>,
}

impl<V> DescriptorCache<V> {
    /// Keeps `capacity` values, at least one.
    pub fn new(capacity: usize) -> DescriptorCache<V> {
        let capacity = NonZeroUsize::new(capacity).unwrap_or(NonZeroUsize::MIN);
        // Unbounded at first: LruCache::new would take memory for the whole capacity at once.
        let mut values = LruCache::unbounded();
        values.resize(capacity);
        DescriptorCache { values: Mutex::new(values) }
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<u64, Arc<V>>> {
        self.values.lock().expect("no panics under this lock")
    }

    /// The value of an id, which counts as used now.
    pub fn get(&self, id: u64) -> Option<Arc<V>> {
        self.lock().get(&id).cloned()
    }

    /// Puts a value in; if another thread was faster, its value is returned and this one dropped.
    pub fn insert(&self, id: u64, value: V) -> Arc<V> {
        let value = Arc::new(value);
        let evicted;
        {
            let mut values = self.lock();
            if let Some(there) = values.get(&id) {
                return there.clone();
            }
            evicted = values.push(id, value.clone());
        }
        drop(evicted);
        value
    }

    /// Takes a value out.
    pub fn remove(&self, id: u64) {
        let removed = self.lock().pop(&id);
        drop(removed);
    }

    /// Takes all values out.
    pub fn clear(&self) {
        let mut values = self.lock();
        let removed: Vec<Arc<V>> =
            std::iter::from_fn(|| values.pop_lru()).map(|(_, value)| value).collect();
        drop(values);
        drop(removed);
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Raises the limit of open descriptors as far as allowed; returns what it is then.
pub fn raise_descriptor_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes one rlimit.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } < 0 {
        return 1024;
    }
    let nr_open = std::fs::read_to_string("/proc/sys/fs/nr_open").unwrap_or_default();
    let possible = nr_open.trim().parse().unwrap_or(limit.rlim_max).min(DESCRIPTORS_MAX);
    // Above the hard limit only with CAP_SYS_RESOURCE; up to it in any case.
    for wanted in [possible.max(limit.rlim_max), limit.rlim_max] {
        let raised = libc::rlimit { rlim_cur: wanted, rlim_max: wanted.max(limit.rlim_max) };
        // SAFETY: reads one rlimit.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raised) } == 0 {
            return wanted;
        }
    }
    limit.rlim_cur
}

/// Lets this process, and the worker that it may become, lock its memory without CAP_IPC_LOCK.
/// The arena is all that it locks, and that has its size from `--memory`.
pub fn raise_locked_memory_limit() {
    let unlimited = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: reads one rlimit.
    if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &unlimited) } < 0 {
        log::debug!("the limit of locked memory stays: {}", io::Error::last_os_error());
    }
}

/// Frees the process from `ulimit -f` where that is allowed, and from being killed by it anyway:
/// the files are others', and the limit of those who write them was checked before.
pub fn raise_file_size_limit() {
    let unlimited = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: reads one rlimit; ignoring a signal is safe.
    let result = unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        libc::setrlimit(libc::RLIMIT_FSIZE, &unlimited)
    };
    if result < 0 {
        log::debug!("the file size limit stays: {}", io::Error::last_os_error());
    }
}
