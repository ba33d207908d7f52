//! Numbers that look random, and where their seed comes from.

const SEED_VARIABLE: &str = "COALESCEFS_TEST_SEED";

/// SplitMix64: the same numbers for the same seed on every machine.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// The seed that is given, else `usual`. Prints it.
pub fn seed(usual: u64) -> u64 {
    let given = std::env::var(SEED_VARIABLE).ok();
    let seed = given.map_or(usual, |seed| seed.parse().expect("a seed is a number"));
    println!("{SEED_VARIABLE}={seed}");
    seed
}
