//! Runs one setup: nodes hear of what happens, one event after another.

use std::ops::Range;

use crate::cached::Cached;
use crate::coalesce::Coalesce;
use crate::direct::Direct;
use crate::figures::Figures;
use crate::setup::{self, Setup};
use crate::world::{Alarm, Event, Request, World};

/// What is not stored so long after the programs ended never will be: the model is wrong.
const PATIENCE_US: u64 = 3_600_000_000;

/// What stands between the programs of one node and the engine.
pub trait Client {
    /// A time has come that the client asked for.
    fn wake(&mut self, world: &mut World, alarm: Alarm);

    /// A request ended.
    fn answered(&mut self, world: &mut World, request: Request, is_taken: bool);
}

/// What came of a run.
pub struct Outcome {
    pub setup: Setup,
    pub figures: Figures,
    pub written_bytes: u64,
    /// When everything was stored or lost.
    pub settled_us: u64,
    /// Of each stream, whether its file has objects on the bad server.
    pub is_on_bad: Vec<bool>,
}

/// Runs until everything is stored or lost.
///
/// # Panics
/// When bytes are stored twice, or not at all, without being counted as lost.
pub fn run(setup: &Setup) -> Outcome {
    let mut world = World::new(setup);
    let mut clients: Vec<_> = (0..setup.nodes).map(|node| client(node, &mut world)).collect();
    while !world.is_done() {
        assert!(world.now_us() < setup.end_us + PATIENCE_US, "bytes are left that nobody stores");
        match world.next() {
            Event::Wake(node, alarm) => clients[node as usize].wake(&mut world, alarm),
            Event::Answer(number, is_taken) => {
                let request = world.take_request(number);
                clients[request.node].answered(&mut world, request, is_taken);
            }
            Event::Arrive(_) | Event::Sample => {}
        }
    }
    assert!(world.is_settled(), "the sum is right, and a file's own account is not");
    Outcome {
        setup: setup.clone(),
        written_bytes: world.written_bytes(),
        settled_us: world.now_us(),
        is_on_bad: (0..setup.all_streams()).map(|i| world.engine.is_on_bad(i)).collect(),
        figures: world.figures,
    }
}

fn client(node: usize, world: &mut World) -> Box<dyn Client> {
    match world.setup.client {
        setup::Client::Direct => Box::new(Direct::new(node, world)),
        setup::Client::Cache { age_us } => Box::new(Cached::new(node, age_us, world)),
        setup::Client::Coalesce { circuit } => Box::new(Coalesce::new(node, circuit, world)),
    }
}

impl Outcome {
    /// What a stream wants to write in a time.
    pub fn wanted_bytes(&self, times: &Range<u64>) -> f64 {
        let records = (times.end - times.start) as f64 / self.setup.period_us as f64;
        records * self.setup.record_bytes as f64
    }

    /// The time that is measured.
    pub fn measured(&self) -> Range<u64> {
        self.setup.warm_up_us..self.setup.end_us
    }

    /// The time in which a server is bad.
    pub fn trouble(&self) -> Option<Range<u64>> {
        self.setup.trouble.map(|trouble| trouble.from_us..trouble.to_us)
    }

    /// What each stream wrote in a time, of what it wanted.
    pub fn progress(&self, times: &Range<u64>) -> Vec<f64> {
        let wanted_bytes = self.wanted_bytes(times);
        let written = self.figures.progress(times.start, times.end);
        written.into_iter().map(|bytes| bytes as f64 / wanted_bytes).collect()
    }
}
