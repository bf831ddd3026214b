//! How many bytes a request may have for a slow way to the collector to take them within the deadline. Pure.
//!
//! Without this a batch that does not get through in time would be sent again for ever. A request that was late is tried with a
//! quarter of its size; where one comes through in a quarter of the time, the next may be twice as large. In between nothing
//! changes, so that it does not swing.

use std::time::Duration;

/// A request is never made smaller for want of time: its own headers weigh a third of this.
const ROOM_MIN: usize = 1 << 10;
/// With room for this there is room for any request.
const ROOM_MAX: usize = 8 << 20;
/// The longest wait for a record that cannot be made smaller.
const PATIENCE_MAX: Duration = Duration::from_mins(5);

/// Bytes of a request, before compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room(usize);

impl Default for Room {
    fn default() -> Self {
        Self(usize::MAX)
    }
}

impl Room {
    /// Bytes that a request of more than one record may have.
    pub(crate) fn bytes(self) -> usize {
        self.0
    }

    /// No answer came in time to a request of so many bytes. Those that were under way together teach it once.
    pub(crate) fn late(&mut self, sent: usize) {
        self.0 = self.0.min((sent / 4).max(ROOM_MIN));
    }

    /// A request of so many bytes was taken.
    pub(crate) fn taken(&mut self, sent: usize, took: Duration, deadline: Duration) {
        // A small one says nothing of large ones.
        if self.0 == usize::MAX || took > deadline / 4 || sent < self.0 / 4 {
            return;
        }
        self.0 = self.0.saturating_mul(2);
        if self.0 > ROOM_MAX {
            *self = Self::default();
        }
    }
}

/// How long to wait next time for a single record that has waited this long for its answer.
pub(crate) fn more_patience(waited: Duration) -> Duration {
    waited.saturating_mul(2).min(PATIENCE_MAX.max(waited))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    /// Sends to a collector that takes so many bytes a second; how many requests it took, and how many were late.
    fn through(mut bytes: usize, rate: usize, room: &mut Room) -> (u32, u32) {
        let (mut taken, mut late) = (0, 0);
        while bytes > 0 {
            let sent = bytes.min(room.bytes());
            let took = Duration::from_millis((1_000 * sent / rate) as u64);
            if took > DEADLINE {
                late += 1;
                room.late(sent);
            } else {
                taken += 1;
                bytes -= sent;
                room.taken(sent, took, DEADLINE);
            }
            assert!(taken + late < 10_000, "it does not end");
        }
        (taken, late)
    }

    #[test]
    fn requests_shrink_until_they_pass_and_do_not_swing() {
        let mut room = Room::default();
        assert_eq!(through(1 << 20, 1 << 10, &mut room), (256, 4));
        assert_eq!(room.bytes(), 4 << 10);
        assert_eq!(through(1 << 20, 1 << 10, &mut room).1, 0, "it has learnt");
        // The slowest: 1 KiB in ten seconds.
        assert_eq!(through(1 << 14, 103, &mut room).1, 1);
        assert_eq!(room.bytes(), 1 << 10);
    }

    #[test]
    fn once_the_way_is_wide_again_requests_grow_to_any_size() {
        let mut room = Room::default();
        room.late(1 << 20);
        room.late(1 << 20);
        assert_eq!(room.bytes(), 256 << 10, "four that were late together");
        room.late(1);
        assert_eq!(room.bytes(), ROOM_MIN);
        room.taken(1, Duration::ZERO, DEADLINE);
        assert_eq!(room.bytes(), ROOM_MIN, "one byte proves nothing");
        assert_eq!(through(64 << 20, 1 << 30, &mut room).1, 0);
        assert_eq!(room, Room::default());
    }

    #[test]
    fn patience_has_an_end() {
        let mut waited = DEADLINE;
        for _ in 0..10 {
            waited = more_patience(waited);
        }
        assert_eq!(waited, PATIENCE_MAX);
        let longer = 2 * PATIENCE_MAX;
        assert_eq!(more_patience(longer), longer, "asked for by the operator");
    }
}
