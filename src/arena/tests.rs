use std::ffi::{OsStr, OsString};
use std::path::Path;

use super::*;

fn config(memory_bytes: u64) -> MountConfig {
    MountConfig::for_tests(Path::new("/b"), memory_bytes)
}

/// Goal: what was published is found again by a pool rebuilt from the table, and the rest is free.
#[test]
fn a_new_worker_finds_what_was_published() {
    let arena = Arena::create(&config(8 << 20)).unwrap();
    let (pool, held) = SlotPool::rebuild(&arena);
    assert!(held.is_empty());
    let total = arena.segments() as usize;
    let slots = pool.try_take(3).unwrap();
    for (n, slot) in slots.iter().enumerate() {
        arena.copy_in(*slot, 10, &[n as u8; 20]);
        let published =
            Published { slot: *slot, index: n as u64, start: 10, end: 30, seq: 7, born_ms: 9 };
        arena.publish(42, &published);
    }
    arena.unpublish(slots[2]);
    let (pool, held) = SlotPool::rebuild(&arena);
    assert_eq!(held.len(), 1);
    let mut indexes: Vec<u64> = held[&42].iter().map(|published| published.index).collect();
    indexes.sort_unstable();
    assert_eq!(indexes, [0, 1]);
    assert_eq!(pool.held(), 2);
    assert!(pool.try_take(total - 1).is_none());
    assert_eq!(pool.try_take(total - 2).unwrap().len(), total - 2);
    let mut bytes = [0; 20];
    arena.copy_out(slots[1], 10, &mut bytes);
    assert_eq!(bytes, [1; 20]);
}

/// Goal: the slot given back last is taken first.
#[test]
fn slots_are_reused_while_warm() {
    let arena = Arena::create(&config(8 << 20)).unwrap();
    let (pool, _) = SlotPool::rebuild(&arena);
    let taken = pool.try_take(2).unwrap();
    pool.give_back([taken[0]]);
    assert_eq!(pool.try_take(1).unwrap(), [taken[0]]);
}

/// Goal: nodes keep identity, place and counts, and the table grows past its first size.
#[test]
fn the_node_table_grows_and_remembers() {
    let arena = Arena::create(&config(8 << 20)).unwrap();
    let nodes = arena.nodes();
    for n in 0..10_000u32 {
        let slot = nodes.extend().unwrap();
        assert_eq!(slot, NodeSlot(n));
        let id = u64::from(n) + 100;
        let identity = Identity { id, generation: 1, dev: 5, ino: id, kind: libc::S_IFREG };
        nodes.fill(slot, &identity, 1, OsStr::new(&format!("name{n}")));
        nodes.add_lookups(slot, 2);
    }
    let slot = NodeSlot(9_999);
    assert_eq!(nodes.identity(slot).unwrap().id, 10_099);
    assert_eq!(nodes.place(slot), (1, "name9999".into()));
    assert_eq!(nodes.sub_lookups(slot, 1), 1);
    assert_eq!(nodes.sub_lookups(slot, 5), 0);
    nodes.set_kept_fd(slot, Some(0));
    assert_eq!(nodes.kept_fd(slot), Some(0));
    nodes.set_mtime(slot, Some((-5, 7)));
    assert_eq!(nodes.mtime(slot), Some((-5, 7)));
    nodes.clear(slot);
    assert!(nodes.identity(slot).is_none());
}

/// Goal: a move that was not ended is reported to the next worker, once.
#[test]
fn unfinished_moves_are_found() {
    let arena = Arena::create(&config(8 << 20)).unwrap();
    let nodes = arena.nodes();
    let ended = nodes.begin_move(7, 1, OsStr::new("a"));
    nodes.begin_move(8, 2, OsStr::new("b"));
    nodes.end_move(ended);
    assert_eq!(nodes.take_unfinished_moves(), [(8, 2, OsString::from("b"))]);
    assert!(nodes.take_unfinished_moves().is_empty());
}

/// Goal: no holder of a descriptor can take memory away from under the mapping, nor keep the node
/// table from growing.
#[test]
fn the_memory_is_sealed() {
    let arena = Arena::create(&config(8 << 20)).unwrap();
    let [data, nodes] = arena.descriptors();
    // SAFETY: both are open as long as the arena, which is never unmapped.
    let resize = |fd, bytes| unsafe {
        match libc::ftruncate(fd, bytes) {
            0 => None,
            _ => io::Error::last_os_error().raw_os_error(),
        }
    };
    assert_eq!(resize(data, 4096), Some(libc::EPERM));
    assert_eq!(resize(data, 1 << 30), Some(libc::EPERM));
    assert_eq!(resize(nodes, 4096), Some(libc::EPERM));
    for fd in [data, nodes] {
        // SAFETY: as above.
        let sealed = unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, libc::F_SEAL_FUTURE_WRITE) };
        assert_eq!(sealed, -1, "no seal can be added");
    }
    for _ in 0..10_000 {
        arena.nodes().extend().unwrap();
    }
}
