//! Which commands were begun, and what became of them: durable before they are, so that
//! none is carried out twice, whatever happens to the agent or to its power.
//!
//! A directory that knows of none takes none that was signed before it was opened: there
//! may have been some, and they are forgotten.

use std::path::Path;

use prost::Message;
use purlin_proto::v1::{CommandOutcome, CommandSeen, CommandsSeen};

use crate::two_files::{Kind, TwoFiles};

/// Commands within a day: far more than a fleet's operators give one node.
pub const MAX_SEEN: usize = 256;
/// Bytes that are kept of what became of one.
const MAX_TEXT: usize = 256;

const KIND: Kind = Kind {
    name: "commands",
    magic: *b"PURLCMD\x01",
    // MAX_SEEN commands with their texts, and where one's result goes.
    max_bytes: 512 << 10,
};

/// The commands, on disk.
#[derive(Debug)]
pub struct Seen {
    files: TwoFiles,
    content: CommandsSeen,
}

impl Seen {
    /// Finds them in `dir`, and what was found damaged. `now` is in seconds since 1970.
    pub fn open(dir: &Path, now: u64) -> (Self, Vec<String>) {
        let (files, content, problems) =
            TwoFiles::open(dir, KIND, |payload| CommandsSeen::decode(payload).ok());
        let none = || CommandsSeen { since_unix_s: now, ..CommandsSeen::default() };
        (Self { files, content: content.unwrap_or_else(none) }, problems)
    }

    /// A time that is surely past.
    pub fn trusted_unix_s(&self) -> u64 {
        self.content.trusted_unix_s
    }

    /// What was signed before may have been begun, and nobody knows.
    pub fn since_unix_s(&self) -> u64 {
        self.content.since_unix_s
    }

    /// The command of that id, if it was begun.
    pub fn find(&self, id: &[u8]) -> Option<&CommandSeen> {
        self.content.seen.iter().find(|it| it.id == id)
    }

    /// Those that the agent did not see the end of.
    pub fn unfinished(&self) -> Vec<CommandSeen> {
        let open = |it: &&CommandSeen| it.outcome() == CommandOutcome::Unspecified;
        self.content.seen.iter().filter(open).cloned().collect()
    }

    /// Makes it durable that this one is begun. What has expired by `now` is forgotten,
    /// and from then on that time is past, whatever the clock says later: no command is
    /// forgotten that could come again.
    pub fn begin(&mut self, seen: CommandSeen, issued_unix_s: u64, now: u64) -> Result<(), String> {
        let mut next = self.content.clone();
        let mut past = next.trusted_unix_s.max(issued_unix_s);
        next.seen.retain(|it| {
            let has_expired = it.expires_unix_s <= now;
            if has_expired {
                past = past.max(it.expires_unix_s);
            }
            !has_expired
        });
        if next.seen.len() >= MAX_SEEN {
            return Err(format!("{MAX_SEEN} commands of a day are known: let some of them expire"));
        }
        next.trusted_unix_s = past;
        next.seen.push(seen);
        self.store(next).map_err(|why| format!("it can't be kept that it was begun: {why}"))
    }

    /// Keeps what became of one. Where it can't be, it is told as unfinished after a start.
    pub fn finish(&mut self, id: &[u8], outcome: CommandOutcome, text: &str) -> Result<(), String> {
        let mut next = self.content.clone();
        let found = next.seen.iter_mut().find(|it| it.id == id).ok_or("it is not known")?;
        found.set_outcome(outcome);
        found.text = text[..text.floor_char_boundary(MAX_TEXT)].to_owned();
        (found.response_topic, found.correlation) = Default::default();
        self.store(next)
    }

    fn store(&mut self, next: CommandsSeen) -> Result<(), String> {
        self.files.store(&next.encode_to_vec()).map_err(|error| error.to_string())?;
        self.content = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(id: u64, expires_unix_s: u64) -> CommandSeen {
        let id = id.to_be_bytes().to_vec().into();
        CommandSeen { id, expires_unix_s, ..CommandSeen::default() }
    }

    #[test]
    fn what_was_begun_is_known_until_it_has_expired_whatever_the_clock_does() {
        let dir = tempfile::tempdir().expect("a directory");
        let open = || Seen::open(dir.path(), 1000).0;
        let has = |it: &Seen, id: u64| it.find(&id.to_be_bytes()).is_some();
        let mut now = open();
        now.begin(seen(1, 2000), 900, 1000).expect("begun");
        now.begin(seen(2, 3000), 950, 1000).expect("begun");
        let mut now = open();
        assert!(has(&now, 1) && has(&now, 2), "after a cut");
        assert_eq!(now.trusted_unix_s(), 950);
        now.begin(seen(3, 9000), 960, 2500).expect("begun");
        let now = open();
        assert!(!has(&now, 1) && has(&now, 2));
        assert_eq!(now.trusted_unix_s(), 2000, "the first stays expired by a clock set back");
    }

    #[test]
    fn there_are_only_so_many() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut now = Seen::open(dir.path(), 1000).0;
        now.content.seen = (0..MAX_SEEN as u64).map(|id| seen(id, 2000)).collect();
        assert!(now.begin(seen(9999, 2000), 0, 1000).expect_err("full").contains("256"));
        assert!(now.find(&9999_u64.to_be_bytes()).is_none());
        now.begin(seen(9999, 3000), 0, 2000).expect("they have expired");
    }

    #[test]
    fn what_the_agent_did_not_see_the_end_of_is_known_after_a_start() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut now = Seen::open(dir.path(), 1000).0;
        now.begin(seen(1, 2000), 900, 1000).expect("begun");
        now.begin(seen(2, 2000), 900, 1000).expect("begun");
        let long = "ä".repeat(MAX_TEXT);
        now.finish(&1_u64.to_be_bytes(), CommandOutcome::Done, &long).expect("kept");
        let now = Seen::open(dir.path(), 1500).0;
        let open: Vec<_> = now.unfinished().into_iter().map(|it| it.id).collect();
        assert_eq!(open, [2_u64.to_be_bytes().to_vec()]);
        let over = now.find(&1_u64.to_be_bytes()).expect("known");
        assert_eq!((over.outcome(), over.text.len()), (CommandOutcome::Done, MAX_TEXT));
        assert_eq!(now.since_unix_s(), 1000, "and nothing from before the first start");
    }

    #[test]
    fn the_largest_there_can_be_is_read_again() {
        let largest = CommandSeen {
            id: vec![1; 16].into(),
            expires_unix_s: u64::MAX,
            by: "k".repeat(256),
            what: "w".repeat(256),
            response_topic: "t".repeat(256),
            correlation: vec![1; 256].into(),
            text: "t".repeat(MAX_TEXT),
            boot: u32::MAX,
            ..CommandSeen::default()
        };
        let content = CommandsSeen { seen: vec![largest; MAX_SEEN], ..CommandsSeen::default() };
        assert!((content.encoded_len() as u64) < KIND.max_bytes);
    }
}
