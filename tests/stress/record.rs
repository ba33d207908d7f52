//! What a slot of a file holds: a record that says whose it is, cut off somewhere, then zeros.

/// Bytes of a record; slots lie one after the other, so that neighbours share pages and segments.
pub const RECORD_BYTES: usize = 1000;

const WORDS: usize = RECORD_BYTES / 8;

/// Content of a slot: the record number `seq`, of which the first `len` bytes are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    pub seq: u64,
    pub len: u16,
}

impl Content {
    pub fn unpack(packed: u64) -> Content {
        Content { seq: packed >> 16, len: packed as u16 }
    }

    pub fn pack(self) -> u64 {
        self.seq << 16 | u64::from(self.len)
    }

    /// A whole record, newer than this.
    pub fn next(self) -> Content {
        Content { seq: self.seq + 1, len: RECORD_BYTES as u16 }
    }

    pub fn bytes(self, file: usize, slot: usize) -> [u8; RECORD_BYTES] {
        let mut bytes = record(file, slot, self.seq);
        bytes[usize::from(self.len)..].fill(0);
        bytes
    }
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// File, slot and number in the clear, a checksum of them, and filling that follows from it.
pub fn record(file: usize, slot: usize, seq: u64) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    let mut put = |word: usize, value: u64| {
        bytes[8 * word..8 * word + 8].copy_from_slice(&value.to_le_bytes());
    };
    let sum = checksum(file as u64, slot as u64, seq);
    for (word, value) in [file as u64, slot as u64, seq, sum].into_iter().enumerate() {
        put(word, value);
    }
    for word in 4..WORDS {
        // No byte is zero, so that zeros always tell of a hole.
        put(word, mix(sum ^ word as u64) | 0x0101_0101_0101_0101);
    }
    bytes
}

fn checksum(file: u64, slot: u64, seq: u64) -> u64 {
    mix(mix(mix(file + 1) ^ slot) ^ seq)
}

/// Says what bytes that should not be there are.
pub fn describe(bytes: &[u8]) -> String {
    let word = |at: usize| u64::from_le_bytes(bytes[8 * at..8 * at + 8].try_into().unwrap());
    let zeros = bytes.iter().filter(|byte| **byte == 0).count();
    let (file, slot, seq) = (word(0), word(1), word(2));
    if word(3) == checksum(file, slot, seq) {
        let whole = record(file as usize, slot as usize, seq);
        let same = bytes.iter().zip(whole).take_while(|(seen, wanted)| **seen == *wanted).count();
        format!("record {seq} of file {file} slot {slot}, {same} bytes of it, {zeros} zeros in all")
    } else {
        format!("no record, {zeros} zeros, it begins {:02x?}", &bytes[..16])
    }
}
