//! A network filesystem's client with a page cache, and nothing between it and the programs.
//!
//! Bytes whose write-back is refused are lost, as on Linux, where the pages become clean and fsync
//! tells.

use crate::page_cache::{Limits, PageCache, Part};
use crate::sim::Client;
use crate::world::{Alarm, Request, TICK_US, World};

pub struct Cached {
    node: usize,
    cache: PageCache,
}

impl Cached {
    /// Bytes are written back when they are so old; it is looked for six times in that time.
    pub fn new(node: usize, age_us: u64, world: &mut World) -> Cached {
        let setup = &world.setup;
        let look_us = age_us / 6;
        let (bytes, window) = (setup.memory_bytes, setup.window);
        let limits = Limits { bytes, age_us, look_us, window };
        let (files, servers) = (setup.streams, setup.servers);
        let first_us = world.below(look_us);
        let cache = PageCache::new(limits, files, servers, first_us);
        let tick_us = world.below(TICK_US);
        world.wake(node, tick_us, Alarm::Tick);
        Cached { node, cache }
    }

    fn send(&mut self, world: &mut World) {
        let (node, streams) = (self.node, world.setup.streams);
        loop {
            let (engine, setup) = (&world.engine, &world.setup);
            let part = self.cache.next_part(|file, range, parts| {
                let place = |from| engine.server_of(node * streams + file, from);
                let part =
                    |range: std::ops::Range<u64>| Part { file, place: place(range.start), range };
                parts.extend(setup.cut(range).map(part));
            });
            let Some(part) = part else { return };
            world.send(node, part.file, part.range, 0);
        }
    }
}

impl Client for Cached {
    fn wake(&mut self, world: &mut World, _: Alarm) {
        let (node, now_us) = (self.node, world.now_us());
        let room_bytes = self.cache.room_bytes();
        world.write(node, room_bytes, |file, bytes| self.cache.note_written(file, bytes));
        if world.is_over() {
            self.cache.write_all();
        }
        self.cache.look(now_us, |file, offset| world.stream(node, file).written_us(offset));
        world.figures.note_held(self.cache.held_bytes());
        self.send(world);
        if !world.is_done() {
            world.wake(node, now_us + TICK_US, Alarm::Tick);
        }
    }

    fn answered(&mut self, world: &mut World, request: Request, is_taken: bool) {
        let Request { node, file, range, server, .. } = request;
        self.cache.note_done(&Part { file, range: range.clone(), place: server });
        if is_taken {
            world.note_stored(node, file, range);
        } else {
            world.note_lost(node, file, range);
        }
        self.send(world);
    }
}
