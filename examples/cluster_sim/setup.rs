//! What is simulated. Times are microseconds, rates bytes per second, the bad server is the first.

/// How programs' bytes get to the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// No cache: each write() is a request, and waits for its answer.
    Direct,
    /// A page cache that writes back what is older than `age_us`, or more than half of the memory.
    Cache { age_us: u64 },
    /// coalescefs over a client without a cache of its own; `circuit`: with deadlines, lanes that
    /// stand in for those that hang, and a circuit.
    Coalesce { circuit: bool },
}

/// What the bad server does while it is bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Serves at a tenth of the speed.
    Slow,
    /// Takes requests, and answers when it is back.
    Hangs,
    /// Answers with an error; what waited in its queue, too.
    Refuses,
}

/// When it is bad.
#[derive(Clone, Copy, Debug)]
pub struct Trouble {
    pub fault: Fault,
    pub from_us: u64,
    pub to_us: u64,
}

impl Trouble {
    /// Seconds of service in a second.
    pub fn speed(&self) -> f64 {
        match self.fault {
            Fault::Slow => 0.1,
            Fault::Hangs | Fault::Refuses => 0.0,
        }
    }
}

/// Everything that decides the outcome: the same setup gives the same figures.
#[derive(Clone, Debug)]
pub struct Setup {
    pub client: Client,
    pub trouble: Option<Trouble>,
    pub seed: u64,
    pub nodes: usize,
    /// On each node, each with a file of its own.
    pub streams: usize,
    /// One write().
    pub record_bytes: u64,
    /// Between two of them, at least.
    pub period_us: u64,
    /// Programs begin within this time.
    pub spread_us: u64,
    /// Files have objects of this size, in turn on `width` servers.
    pub object_bytes: u64,
    pub width: usize,
    pub servers: usize,
    /// What each request costs a server, beside its bytes.
    pub request_us: u64,
    pub server_bytes_per_s: u64,
    /// One way, without the bytes; the jitter is added, evenly from nothing to all of it.
    pub delay_us: u64,
    pub jitter_us: u64,
    /// Of a node's network.
    pub node_bytes_per_s: u64,
    /// Largest request of the client, which never crosses objects.
    pub request_bytes: u64,
    /// Requests of a page cache that one node has out to one server.
    pub window: usize,
    /// Of a node, for what is not stored.
    pub memory_bytes: u64,
    pub chunk_bytes: u64,
    pub max_age_us: u64,
    /// Figures are taken from here ...
    pub warm_up_us: u64,
    /// ... to when the programs end.
    pub end_us: u64,
}

impl Setup {
    /// Number of streams on all nodes.
    pub fn all_streams(&self) -> usize {
        self.nodes * self.streams
    }

    /// Cuts a range at the ends of objects, and to what a request may have.
    pub fn cut(&self, range: std::ops::Range<u64>) -> impl Iterator<Item = std::ops::Range<u64>> {
        let (object_bytes, request_bytes) = (self.object_bytes, self.request_bytes);
        let mut from = range.start;
        std::iter::from_fn(move || {
            let object_end = (from / object_bytes + 1) * object_bytes;
            let piece = from..range.end.min(object_end).min(from + request_bytes);
            from = piece.end;
            (!piece.is_empty()).then_some(piece)
        })
    }
}
