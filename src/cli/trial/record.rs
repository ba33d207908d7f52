//! The records that trials write: what a stream must contain, and where a file differs from it.
//!
//! A record is 10 bytes: two base-36 digits for the stream, seven decimal digits for the number
//! of the record, a newline. So a byte in the wrong file or at the wrong place is seen; numbers
//! repeat after 100 MB of one stream. No threads; reads only in [`first_difference`].

use std::io::{self, Read};

/// Bytes of one record.
pub const RECORD_BYTES: usize = 10;

/// Records made at a time when a file is compared.
const COMPARE_RECORDS: usize = 8192;

/// Fills `block`, a whole number of records, with the records of `stream` from number `first` on.
pub fn fill_records(block: &mut [u8], stream: u32, first: u64) {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    debug_assert!(block.len().is_multiple_of(RECORD_BYTES));
    let high = DIGITS[(stream / 36 % 36) as usize];
    let low = DIGITS[(stream % 36) as usize];
    for (record, index) in block.chunks_exact_mut(RECORD_BYTES).zip(0..) {
        record[0] = high;
        record[1] = low;
        let mut number = (first + index) % 10_000_000;
        for digit in record[2..9].iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
        record[9] = b'\n';
    }
}

/// Compares all that `file` gives with the first `records` records of `stream`.
///
/// `None` when they are the same to the last byte, else the offset of the first byte that is
/// wrong, missing or too much. An error is one of reading.
pub fn first_difference(
    file: &mut impl Read,
    stream: u32,
    records: u64,
) -> io::Result<Option<u64>> {
    let mut expected = vec![0; COMPARE_RECORDS * RECORD_BYTES];
    // One byte more than expected shows a file that goes on after its last record.
    let mut found = Vec::with_capacity(expected.len() + 1);
    let mut done = 0;
    loop {
        let count = (records - done).min(COMPARE_RECORDS as u64);
        let expected = &mut expected[..count as usize * RECORD_BYTES];
        fill_records(expected, stream, done);
        let last = done + count == records;
        found.clear();
        file.by_ref().take(expected.len() as u64 + u64::from(last)).read_to_end(&mut found)?;
        if found != expected {
            let same = found.iter().zip(expected.iter()).take_while(|(a, b)| a == b).count();
            return Ok(Some(done * RECORD_BYTES as u64 + same as u64));
        }
        done += count;
        if last {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream_of(stream: u32, records: u64) -> Vec<u8> {
        let mut bytes = vec![0; records as usize * RECORD_BYTES];
        fill_records(&mut bytes, stream, 0);
        bytes
    }

    #[test]
    fn records_name_stream_and_number() {
        let mut block = [0; 20];
        fill_records(&mut block, 41, 123_456);
        assert_eq!(&block, b"150123456\n150123457\n");
        fill_records(&mut block, 1, 9_999_999);
        assert_eq!(&block, b"019999999\n010000000\n");
    }

    #[test]
    fn a_block_in_pieces_is_the_block() {
        let whole = stream_of(7, 1000);
        let mut pieces = vec![0; whole.len()];
        let (head, tail) = pieces.split_at_mut(371 * RECORD_BYTES);
        fill_records(head, 7, 0);
        fill_records(tail, 7, 371);
        assert!(pieces == whole);
    }

    /// Goal: every kind of damage is found at its offset. Method: damage a copy in one way each,
    /// at and around the edges of the blocks in which the comparison works.
    #[test]
    fn each_kind_of_damage_is_found_where_it_is() {
        for records in [1, COMPARE_RECORDS as u64, 3 * COMPARE_RECORDS as u64 + 17] {
            let good = stream_of(3, records);
            assert_eq!(first_difference(&mut &good[..], 3, records).unwrap(), None);
            assert_eq!(first_difference(&mut &good[..], 4, records).unwrap(), Some(1));
            let edge = COMPARE_RECORDS * RECORD_BYTES;
            for at in [0, 5, edge - 1, edge, edge + 1, good.len() - 1] {
                if at >= good.len() {
                    continue;
                }
                let mut flipped = good.clone();
                flipped[at] ^= 1;
                let found = first_difference(&mut &flipped[..], 3, records).unwrap();
                assert_eq!(found, Some(at as u64), "flipped byte of {records} records");
                let found = first_difference(&mut &good[..at], 3, records).unwrap();
                assert_eq!(found, Some(at as u64), "cut file of {records} records");
            }
            let longer = [&good[..], b"\n"].concat();
            let found = first_difference(&mut &longer[..], 3, records).unwrap();
            assert_eq!(found, Some(good.len() as u64), "a byte too much");
        }
    }
}
