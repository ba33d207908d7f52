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
/// An arena with something of everything in it, and the options it was made for.
fn filled() -> (Arena, MountConfig) {
    let config = config(4 << 20);
    let arena = Arena::create(&config).unwrap();
    arena.record_init(&[7; 104]).unwrap();
    arena.set_init_done();
    for n in 0..40u32 {
        let slot = arena.nodes().extend().unwrap();
        let id = u64::from(n) + 1;
        let identity = Identity { id, generation: 1, dev: 5, ino: id, kind: libc::S_IFREG };
        arena.nodes().fill(slot, &identity, 1, OsStr::new("name"));
        let seq = arena.next_seq();
        let (start, end) = (n, n + 50);
        let published = Published { slot: Slot(n * 3), index: id, start, end, seq, born_ms: 9 };
        arena.publish(id, &published);
    }
    (arena, config)
}

fn attach_again(arena: &Arena, config: &MountConfig) -> Result<Arena, AttachError> {
    let [arena_fd, nodes_fd] = arena.descriptors();
    Arena::attach(config, arena_fd, nodes_fd)
}

/// Closes and unmaps what a test has used up; mounts never do.
fn discard(arena: Arena) {
    let (_, total) = attach::extent(arena.segments, arena.segment_bytes);
    for fd in arena.descriptors() {
        // SAFETY: the test's own, and not used any more.
        unsafe { libc::close(fd) };
    }
    // SAFETY: as above.
    unsafe { libc::munmap(arena.base.as_ptr().cast(), total) };
}

/// Goal: mapped anew, an arena is the same one: both see what either changes.
#[test]
fn an_arena_is_mapped_again() {
    let (arena, config) = filled();
    let again = attach_again(&arena, &config).unwrap();
    assert_ne!(arena.base, again.base);
    let (_, held) = SlotPool::rebuild(&again);
    assert_eq!(held.len(), 40);
    again.unpublish(Slot(3));
    assert!(arena.published(Slot(3)).is_none());
    arena.nodes().set_kept_fd(NodeSlot(2), Some(9));
    assert_eq!(again.nodes().kept_fd(NodeSlot(2)), Some(9));
    discard(arena);
}

/// Goal: what cannot be is refused, with words that say what it is.
#[test]
fn impossible_arenas_are_refused() {
    type Damage<'a> = &'a dyn Fn(&Arena, &mut MountConfig);
    let refusal = |damage: Damage| {
        let (arena, mut config) = filled();
        damage(&arena, &mut config);
        let error = attach_again(&arena, &config).unwrap_err().to_string();
        discard(arena);
        error
    };
    let write = |arena: &Arena, offset: usize, bytes: &[u8]| {
        // SAFETY: within the mapping, which only this test uses.
        let to = unsafe { arena.base.add(offset) };
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.as_ptr(), bytes.len()) };
    };
    // Ours are sealed against it; what is attached need not be ours.
    let cut = |fd: RawFd| {
        let mut start = [0u8; 8192];
        // SAFETY: a new file of the test's own, with the start of the arena's, takes the place of
        // that, which stays mapped.
        unsafe {
            let short = libc::memfd_create(c"short".as_ptr(), 0);
            assert_eq!(libc::pread(fd, start.as_mut_ptr().cast(), start.len(), 0), 8192);
            assert_eq!(libc::write(short, start.as_ptr().cast(), start.len()), 8192);
            assert_eq!(libc::dup2(short, fd), fd);
            libc::close(short);
        }
    };
    let at = |slot: u32, published: Published| Published { slot: Slot(slot), ..published };
    let entry = Published { slot: Slot(0), index: 0, start: 0, end: 9, seq: 1, born_ms: 0 };
    let cases: [(&str, Damage); 9] = [
        ("is no arena", &|arena, _| write(arena, 0, b"C")),
        ("layout 99, this program knows", &|arena, _| write(arena, 8, &99u32.to_ne_bytes())),
        ("bytes and not", &|_, config| config.memory_bytes *= 2),
        ("bytes and not", &|arena, _| cut(arena.descriptors()[0])),
        ("too short", &|arena, _| cut(arena.descriptors()[1])),
        ("segment 1 of node 5", &|arena, _| {
            arena.publish(5, &at(1, Published { end: 0, ..entry }))
        }),
        ("segment 1", &|arena, _| arena.publish(5, &at(1, Published { end: 1 << 20, ..entry }))),
        ("segment 1", &|arena, _| arena.publish(5, &at(1, Published { seq: 1 << 40, ..entry }))),
        ("segment 1", &|arena, _| {
            arena.publish(5, &at(1, Published { index: u64::MAX / 2, ..entry }));
        }),
    ];
    for (words, damage) in cases {
        let said = refusal(damage);
        assert!(said.contains(words), "'{said}' does not say '{words}'");
    }
}

/// Goal: whatever bytes are wrong, attaching refuses or gives an arena that can be read whole.
/// Method: random bytes over tables and headers, then everything that a new worker reads.
#[test]
fn random_damage_is_survived() {
    use proptest::prelude::*;
    let tables = attach::extent(1024, 4096).0;
    let place = (any::<bool>(), 0..tables, proptest::collection::vec(any::<u8>(), 1..16));
    let damages = proptest::collection::vec(place, 1..6);
    let mut runner =
        proptest::test_runner::TestRunner::new(ProptestConfig { cases: 300, ..Default::default() });
    let run = runner.run(&damages, |damages| {
        let (arena, config) = filled();
        for (in_nodes, offset, bytes) in damages {
            let fd = arena.descriptors()[usize::from(in_nodes)];
            // Near the start, where there is something.
            let offset = if in_nodes { offset % 60_000 } else { offset };
            // SAFETY: writes a buffer of the given length to the test's own file.
            unsafe { libc::pwrite(fd, bytes.as_ptr().cast(), bytes.len(), offset as i64) };
        }
        if let Ok(again) = attach_again(&arena, &config) {
            let (pool, held) = SlotPool::rebuild(&again);
            assert!(pool.held() <= again.segments() as usize);
            for published in held.values().flatten() {
                let len = published.end - published.start;
                assert_eq!(
                    again.in_flight(published.slot, published.start, len).len(),
                    len as usize
                );
            }
            again.attempts().forget_old();
            again.nodes().take_unfinished_moves();
            assert!(again.recorded_init().len() <= INIT_BYTES_MAX);
            for slot in (0..again.nodes().high_water()).map(NodeSlot) {
                let _ = (again.nodes().identity(slot), again.nodes().place(slot));
                let _ = (again.nodes().kept_fd(slot), again.nodes().mtime(slot));
            }
            let _ = (again.control().phase(), again.control().take_unmount_request());
        }
        discard(arena);
        Ok(())
    });
    run.unwrap();
}
