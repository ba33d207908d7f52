//! A program and its file: what it has written when, and what of that is settled.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

/// Bytes that were written evenly in a time.
#[derive(Clone, Copy, Debug)]
struct Mark {
    end: u64,
    from_us: u64,
    to_us: u64,
}

/// A program that appends records at a rate. One that had to wait does not catch up.
#[derive(Debug)]
pub struct Stream {
    record_bytes: u64,
    period_us: u64,
    end_us: u64,
    /// When it wants to write next.
    next_us: u64,
    head: u64,
    /// When which bytes were written: ascending, from `settled` on.
    marks: VecDeque<Mark>,
    /// Where the first mark begins.
    marks_from: u64,
    /// All before it is settled, and what of the rest.
    settled: u64,
    ahead: BTreeMap<u64, u64>,
}

impl Stream {
    pub fn new(record_bytes: u64, period_us: u64, start_us: u64, end_us: u64) -> Stream {
        Stream {
            record_bytes,
            period_us,
            end_us,
            next_us: start_us,
            head: 0,
            marks: VecDeque::new(),
            marks_from: 0,
            settled: 0,
            ahead: BTreeMap::new(),
        }
    }

    /// Bytes written so far.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// When it wants to write next, if it does.
    pub fn next_us(&self) -> Option<u64> {
        (self.next_us < self.end_us).then_some(self.next_us)
    }

    /// Writes the records that were due by `now_us`, as many as `room_bytes` holds. Those that do not
    /// fit are put off.
    pub fn write(&mut self, now_us: u64, room_bytes: u64) -> u64 {
        let last_us = now_us.min(self.end_us - 1);
        if self.next_us > last_us {
            return 0;
        }
        let due = (last_us - self.next_us) / self.period_us + 1;
        let records = due.min(room_bytes / self.record_bytes);
        let from_us = self.next_us;
        self.next_us = if records < due { now_us } else { from_us + records * self.period_us };
        if records > 0 {
            self.note_written(records, from_us);
        }
        records * self.record_bytes
    }

    /// Writes one record, which was due; the next one is due no sooner than a period later.
    pub fn write_one(&mut self, now_us: u64) -> Range<u64> {
        let from = self.head;
        self.note_written(1, now_us);
        self.next_us = now_us + self.period_us;
        from..self.head
    }

    /// The program cannot write before then.
    pub fn note_waited(&mut self, until_us: u64) {
        self.next_us = self.next_us.max(until_us);
    }

    fn note_written(&mut self, records: u64, from_us: u64) {
        let to_us = from_us + (records - 1) * self.period_us;
        self.head += records * self.record_bytes;
        match self.marks.back_mut() {
            Some(last) if last.to_us + self.period_us == from_us => {
                last.end = self.head;
                last.to_us = to_us;
            }
            _ => self.marks.push_back(Mark { end: self.head, from_us, to_us }),
        }
    }

    /// When the byte was written; of one that is not settled.
    pub fn written_us(&self, offset: u64) -> u64 {
        let i = self.marks.partition_point(|mark| mark.end <= offset);
        let mark = self.marks[i];
        let start = if i == 0 { self.marks_from } else { self.marks[i - 1].end };
        let records = (mark.end - start) / self.record_bytes;
        let record = (offset - start) / self.record_bytes;
        mark.from_us + (mark.to_us - mark.from_us) * record / records.saturating_sub(1).max(1)
    }

    /// The range is stored, or lost for good.
    ///
    /// # Panics
    /// When part of it was settled before, or was never written: the model is wrong.
    pub fn settle(&mut self, range: Range<u64>) {
        assert!(range.start >= self.settled && range.end <= self.head, "{range:?} of {self:?}");
        let before = self.ahead.range(..range.end).next_back();
        assert!(before.is_none_or(|(_, end)| *end <= range.start), "{range:?} twice");
        if range.start == self.settled {
            self.settled = range.end;
        } else {
            self.ahead.insert(range.start, range.end);
        }
        while let Some(end) = self.ahead.remove(&self.settled) {
            self.settled = end;
        }
        while self.marks.front().is_some_and(|mark| mark.end <= self.settled) {
            self.marks_from = self.marks.pop_front().map_or(0, |mark| mark.end);
        }
    }

    /// Whether all that was written is settled.
    pub fn is_settled(&self) -> bool {
        self.settled == self.head
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_written_when_they_are_due_and_those_put_off_are_not_made_up_for() {
        let mut stream = Stream::new(10, 100, 50, 10_000);
        assert_eq!(stream.write(49, 1000), 0);
        assert_eq!(stream.write(350, 1000), 40);
        assert_eq!((stream.written_us(0), stream.written_us(39)), (50, 350));
        assert_eq!(stream.write(1000, 25), 20, "whole records");
        assert_eq!(stream.write(1100, 1000), 20);
        assert_eq!(stream.written_us(60), 1000);
        assert_eq!(stream.write(20_000, u64::MAX), 880, "until the end");
        assert_eq!(stream.next_us(), None);
    }

    #[test]
    fn bytes_are_settled_in_any_order() {
        let mut stream = Stream::new(10, 100, 0, 10_000);
        stream.write(900, 1000);
        stream.settle(50..100);
        stream.settle(0..20);
        assert_eq!(stream.written_us(30), 300);
        assert!(!stream.is_settled());
        stream.settle(20..50);
        assert!(stream.is_settled());
    }

    #[test]
    #[should_panic(expected = "twice")]
    fn nothing_is_settled_twice() {
        let mut stream = Stream::new(10, 100, 0, 10_000);
        stream.write(900, 1000);
        stream.settle(50..100);
        stream.settle(40..60);
    }
}
