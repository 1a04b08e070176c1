//! What is handed to the spool, for whoever shows or hands on what happens now. It waits
//! for nobody: whoever is late misses the oldest, and is told how many.

use prost::{Message, bytes::Bytes};
use purlin_proto::v1::Record;
use tokio::sync::broadcast::{
    Receiver, Sender,
    error::{RecvError, TryRecvError},
};

/// Records that a listener may be behind: minutes at the usual intervals.
const BEHIND: usize = 1024;

/// Where listeners come from; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Hall(Sender<(Bytes, bool)>);

impl Hall {
    pub(super) fn new() -> Self {
        Self(Sender::new(BEHIND))
    }

    /// Costs nothing while nobody listens.
    pub(super) fn say(&self, record: &[u8], is_own: bool) {
        if self.0.receiver_count() > 0 {
            _ = self.0.send((Bytes::copy_from_slice(record), is_own));
        }
    }

    pub(super) fn listen(&self) -> Listener {
        Listener { records: self.0.subscribe(), missed: 0 }
    }
}

/// Hears records from when it was made.
#[derive(Debug)]
pub struct Listener {
    records: Receiver<(Bytes, bool)>,
    missed: u64,
}

/// A record that was handed over.
#[derive(Debug)]
pub struct Heard {
    /// As it will be sent to the core.
    pub record: Record,
    /// It is the agent's own, and of no workload.
    pub is_own: bool,
    /// Records that were missed before it.
    pub missed: u64,
}

impl Listener {
    /// The next one; `None` once the spool is gone. Nothing is lost when it is not waited
    /// for to the end.
    pub async fn next(&mut self) -> Option<Heard> {
        loop {
            match self.records.recv().await {
                Ok(it) => match self.read(it) {
                    Some(heard) => return Some(heard),
                    None => continue,
                },
                Err(RecvError::Lagged(missed)) => self.missed += missed,
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// The next one that is there already.
    pub fn at_hand(&mut self) -> Option<Heard> {
        loop {
            match self.records.try_recv() {
                Ok(it) => match self.read(it) {
                    Some(heard) => return Some(heard),
                    None => continue,
                },
                Err(TryRecvError::Lagged(missed)) => self.missed += missed,
                Err(TryRecvError::Empty | TryRecvError::Closed) => return None,
            }
        }
    }

    fn read(&mut self, (record, is_own): (Bytes, bool)) -> Option<Heard> {
        let record = Record::decode(record).ok()?;
        Some(Heard { record, is_own, missed: std::mem::take(&mut self.missed) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_is_late_is_told_what_it_missed() {
        let hall = Hall::new();
        let mut listener = hall.listen();
        let record = |unix_ms| Record { unix_ms, ..Record::default() }.encode_to_vec();
        for n in 1..=BEHIND as u64 + 10 {
            hall.say(&record(n), n % 2 == 0);
        }
        let first = listener.next().await.expect("a record");
        assert_eq!((first.missed, first.record.unix_ms, first.is_own), (10, 11, false));
        let second = listener.at_hand().expect("a record");
        assert_eq!((second.missed, second.record.unix_ms, second.is_own), (0, 12, true));
        while listener.at_hand().is_some() {}
        drop(hall);
        assert!(listener.next().await.is_none());
    }
}
