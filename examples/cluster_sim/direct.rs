//! No cache: each write() of a program is a request, and the program waits for its answer.

use crate::sim::Client;
use crate::world::{Alarm, Request, World};

/// What a program does about an error is not the engine's: it is not to flood it with the next ones.
const AFTER_ERROR_US: u64 = 1_000_000;

pub struct Direct {
    node: usize,
}

impl Direct {
    pub fn new(node: usize, world: &mut World) -> Direct {
        for file in 0..world.setup.streams {
            wake_at_next(node, file, world);
        }
        Direct { node }
    }
}

fn wake_at_next(node: usize, file: usize, world: &mut World) {
    if let Some(at_us) = world.stream(node, file).next_us() {
        world.wake(node, at_us, Alarm::Record(file as u32));
    }
}

impl Client for Direct {
    fn wake(&mut self, world: &mut World, alarm: Alarm) {
        let Alarm::Record(file) = alarm else { unreachable!("no other is set") };
        let range = world.write_one(self.node, file as usize);
        world.send(self.node, file as usize, range, 0);
    }

    /// A program that hears of an error goes on with its next record after a while.
    fn answered(&mut self, world: &mut World, request: Request, is_taken: bool) {
        let (file, now_us) = (request.file, world.now_us());
        let waits_us = if is_taken {
            world.note_stored(self.node, file, request.range);
            0
        } else {
            world.note_lost(self.node, file, request.range);
            AFTER_ERROR_US
        };
        world.stream_mut(self.node, file).note_waited(now_us + waits_us);
        wake_at_next(self.node, file, world);
    }
}
