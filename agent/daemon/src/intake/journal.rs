//! The journal's entries, by its own reader: `journalctl` knows every form that journal
//! files come in, and what is being written right now.
//!
//! Where reading goes on is kept in the file `journal-place`: the number of a record in
//! the spool's log and the journal's cursor behind it. It is written once that record is
//! durable, so nothing is lost; and what was durable and not yet noted down is known
//! again by the entries' sequence numbers in the spool, so nothing is read twice.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use prost::Message;
use purlin_core::{identity::Class, settings::Journal};
use purlin_proto::v1::{Line, Record, record::Body};
use serde_json::Value as Json;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{ChildStdout, Command},
    sync::{mpsc, oneshot},
    time::{self, Instant},
};

use super::{Answer, Offer, What, lines::Entry, source};
use crate::{spool::Spool, state};

/// Entries that are handed over at once, or what came in this time.
const MAX_ENTRIES: usize = 128;
const GATHER: Duration = Duration::from_millis(200);
/// The longest entry that is read, in bytes of JSON; what is left of it is passed over.
const MAX_ENTRY: u64 = 256 << 10;
/// What of an entry is read, beside what always comes.
const FIELDS: &str = "MESSAGE,PRIORITY,SYSLOG_IDENTIFIER,_SYSTEMD_UNIT,_PID,_COMM,\
                      CONTAINER_NAME,CONTAINER_ID_FULL";
/// An entry's number in its journal.
const SEQNUM: &str = "journal.seqnum";
/// How often it is looked whether a place can be noted down.
const NOTE_EVERY: Duration = Duration::from_secs(1);
/// For journalctl to say where the journal ends.
const BEGIN_DEADLINE: Duration = Duration::from_secs(20);
/// What is read at once of the spool's log.
const READ_BYTES: usize = 128 << 10;

/// Reads the journal.
#[derive(Debug)]
pub struct Reader {
    /// What of it.
    pub wanted: Journal,
    /// Its directory, if it isn't the system's.
    pub dir: Option<PathBuf>,
    /// The file that has where reading goes on.
    pub place: PathBuf,
    /// Where what was read is durable.
    pub spool: Spool,
    /// Who takes entries.
    pub offers: mpsc::Sender<Offer>,
}

/// An entry as it was read, and where.
struct Read {
    cursor: String,
    entry: Option<Entry>,
}

impl Reader {
    /// Runs until journalctl ends or can't be started, which is what is returned.
    pub async fn run(self) -> String {
        let from = match place(&self.place) {
            Some(from) => Some(from),
            // Who turns it on wants what comes, and not last year's.
            None => self.begin().await,
        };
        let after = match &from {
            Some((seq, cursor)) => self.last_in_spool(*seq, cursor).await,
            None => None,
        };
        let mut command = self.command(&["--follow", "--no-tail"]);
        command.arg(format!("--priority={}", self.wanted.priority.name()));
        command.args(self.wanted.units.iter().map(|unit| format!("--unit={unit}")));
        // A journal without an entry has no place yet: all that comes is new.
        command.args(from.iter().map(|it| format!("--after-cursor={}", it.1)));
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => return format!("journalctl can't be started: {error}"),
        };
        let Some(output) = child.stdout.take() else { return "journalctl has no output".into() };
        let why = self.read(output, after).await;
        _ = child.kill().await;
        format!("journalctl ended: {why}")
    }

    /// The end of the journal as it is now, noted down.
    async fn begin(&self) -> Option<(u64, String)> {
        let last = time::timeout(BEGIN_DEADLINE, self.command(&["--lines=1"]).output()).await;
        let last = last.ok()?.ok()?.stdout;
        let Read { cursor, .. } = parse(last.trim_ascii_end())?;
        let seq = self.spool.durable().borrow()[Class::Log as usize];
        let mut noted = Some((seq, cursor.clone()));
        self.note(&mut noted).await;
        Some((seq, cursor))
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("journalctl");
        command.args(["--output=json", "--all", "--quiet", "--no-pager"]).args(words);
        command.arg(format!("--output-fields={FIELDS}"));
        command.args(self.dir.iter().map(|dir| format!("--directory={}", dir.display())));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        command.kill_on_drop(true);
        command
    }

    async fn read(&self, output: ChildStdout, mut after: Option<(String, u64)>) -> String {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        // What was handed over and is not noted down yet: the last record's number.
        let mut noted: Option<(u64, String)> = None;
        let mut ticks = time::interval(NOTE_EVERY);
        loop {
            // Reading a part of a line and being dropped loses none: it is in `line`.
            let read = tokio::select! {
                read = next(&mut output, &mut line) => read,
                _ = ticks.tick() => {
                    self.note(&mut noted).await;
                    continue;
                }
            };
            let mut gathered = match read {
                Ok(Some(read)) => vec![read],
                Ok(None) => return "without a word".into(),
                Err(error) => return error.to_string(),
            };
            let until = Instant::now() + GATHER;
            while gathered.len() < MAX_ENTRIES {
                match time::timeout_at(until, next(&mut output, &mut line)).await {
                    Ok(Ok(Some(read))) => gathered.push(read),
                    _ => break,
                }
            }
            let Some(last) = gathered.last().map(|it| it.cursor.clone()) else { continue };
            let fresh = |it: &Read| match (&after, seqnum(&it.cursor)) {
                (Some(after), Some((journal, seqnum))) => after.0 != journal || seqnum > after.1,
                _ => true,
            };
            let entries: Vec<Entry> =
                gathered.into_iter().filter(fresh).filter_map(|it| it.entry).collect();
            if !entries.is_empty() {
                after = None;
            }
            match self.offer(entries).await {
                Some(seq) => noted = Some((seq, last)),
                None => return "nobody takes what it says".into(),
            }
            self.note(&mut noted).await;
        }
    }

    /// Hands entries over, until they are taken: the record's number that is the last.
    async fn offer(&self, entries: Vec<Entry>) -> Option<u64> {
        loop {
            let (reply, answer) = oneshot::channel();
            let what = What::Journal(entries.clone());
            let offer = Offer { source: source::JOURNAL.into(), what, reply };
            self.offers.send(offer).await.ok()?;
            match answer.await.ok()? {
                Answer::Taken { last_seq, .. } => return Some(last_seq),
                Answer::Over(wait) | Answer::Busy(wait) => time::sleep(wait).await,
            }
        }
    }

    /// Notes down where reading goes on, once all before is durable.
    async fn note(&self, noted: &mut Option<(u64, String)>) {
        let durable = self.spool.durable().borrow()[Class::Log as usize];
        if let Some((seq, cursor)) = noted.take_if(|it| it.0 <= durable) {
            let (path, text) = (self.place.clone(), format!("{seq} {cursor}\n"));
            let written =
                tokio::task::spawn_blocking(move || state::replace(&path, 0o600, text.as_bytes()));
            if let Err(error) = written.await.map_err(std::io::Error::other).flatten() {
                tracing::warn!(%error, "after a restart some of the journal is read again");
            }
        }
    }

    /// The last entry of the journal that is durable behind what was noted down.
    async fn last_in_spool(&self, seq: u64, cursor: &str) -> Option<(String, u64)> {
        let (journal, mut last) = seqnum(cursor)?;
        let mut from = seq + 1;
        while let Some(frame) = self.spool.read(Class::Log, from, READ_BYTES).await {
            let records = frame.records.iter().filter_map(|it| Record::decode(&*it.1).ok());
            for record in records {
                if let Some(Body::Line(line)) = record.body
                    && let Some(seqnum) = line.attributes.get(SEQNUM)
                {
                    last = last.max(u64::from_str_radix(seqnum, 16).unwrap_or(0));
                }
            }
            from = frame.last_seq + 1;
        }
        Some((journal.to_owned(), last))
    }
}

/// The next entry; none at the end. `line` has what was read of it before.
async fn next(
    output: &mut BufReader<ChildStdout>,
    line: &mut Vec<u8>,
) -> std::io::Result<Option<Read>> {
    loop {
        let room = MAX_ENTRY.saturating_sub(line.len() as u64);
        if room == 0 {
            // Too long to be kept: what is left of it is read and forgotten.
            line.truncate(0);
            loop {
                let bytes = output.fill_buf().await?;
                if bytes.is_empty() {
                    return Ok(None);
                }
                let end = bytes.iter().position(|byte| *byte == b'\n');
                let used = end.map_or(bytes.len(), |end| end + 1);
                output.consume(used);
                if end.is_some() {
                    break;
                }
            }
            tracing::warn!(most = MAX_ENTRY, "an entry of the journal is too long: passed over");
            continue;
        }
        let read = (&mut *output).take(room).read_until(b'\n', line).await?;
        if read == 0 {
            return Ok(None);
        }
        if line.last() == Some(&b'\n') {
            let read = parse(line);
            line.clear();
            match read {
                Some(read) => return Ok(Some(read)),
                None => tracing::debug!("journalctl says something that is no entry"),
            }
        }
    }
}

fn parse(line: &[u8]) -> Option<Read> {
    let json: Json = serde_json::from_slice(line).ok()?;
    let text = |key: &str| match &json[key] {
        Json::String(text) => text.clone(),
        // What is no UTF-8 comes as numbers.
        Json::Array(bytes) => {
            let bytes: Vec<u8> =
                bytes.iter().filter_map(|it| u8::try_from(it.as_u64()?).ok()).collect();
            String::from_utf8_lossy(&bytes).into_owned()
        }
        _ => String::new(),
    };
    let cursor = text("__CURSOR");
    let (_, seqnum) = seqnum(&cursor)?;
    let own = text("_PID") == std::process::id().to_string();
    let named = ["_SYSTEMD_UNIT", "SYSLOG_IDENTIFIER", "_COMM"];
    let source = named.into_iter().map(text).find(|it| !it.is_empty()).unwrap_or_default();
    let others = [
        ("SYSLOG_IDENTIFIER", "syslog.identifier"),
        ("_PID", "process.pid"),
        ("CONTAINER_NAME", "container.name"),
        ("CONTAINER_ID_FULL", "container.id"),
    ];
    let others = others.into_iter().map(|(field, key)| (key.to_owned(), text(field)));
    let mut attributes: std::collections::BTreeMap<_, _> =
        others.filter(|it| !it.1.is_empty()).collect();
    attributes.insert(SEQNUM.into(), format!("{seqnum:x}"));
    let priority = text("PRIORITY").parse().ok().and_then(|it: usize| {
        purlin_core::settings::Priority::ALL.get(it).map(|it| it.name().to_owned())
    });
    let line =
        Line { source, severity: priority.unwrap_or_default(), text: text("MESSAGE"), attributes };
    let unix_ms = text("__REALTIME_TIMESTAMP").parse::<u64>().ok()? / 1000;
    // What the agent says of the journal would be in the journal.
    Some(Read { cursor, entry: (!own).then_some(Entry { unix_ms, line }) })
}

/// A journal and an entry's number in it, of its cursor (`s=JOURNAL;i=NUMBER;…`).
fn seqnum(cursor: &str) -> Option<(&str, u64)> {
    let part = |name: &str| cursor.split(';').find_map(|part| part.strip_prefix(name));
    Some((part("s=")?, u64::from_str_radix(part("i=")?, 16).ok()?))
}

/// Where reading goes on.
fn place(path: &Path) -> Option<(u64, String)> {
    let text = std::fs::read_to_string(path).ok()?;
    let (seq, cursor) = text.trim().split_once(' ')?;
    // It becomes a word of journalctl's command line.
    let is_cursor = cursor.bytes().all(|b| b.is_ascii_alphanumeric() || b"=;".contains(&b));
    Some((seq.parse().ok()?, cursor.to_owned())).filter(|_| is_cursor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"__CURSOR":"s=ab;i=1f;b=cd;m=1;t=2;x=3","__REALTIME_TIMESTAMP":"1767323045000123","MESSAGE":[104,105,255],"PRIORITY":"4","_SYSTEMD_UNIT":"web.service","_PID":"1"}"#;

    #[test]
    fn an_entry_is_a_line_with_its_number() {
        let read = parse(LINE.as_bytes()).expect("an entry");
        let entry = read.entry.expect("another's");
        assert_eq!(entry.unix_ms, 1_767_323_045_000);
        assert_eq!((&entry.line.source[..], &entry.line.severity[..]), ("web.service", "warning"));
        assert_eq!(
            (&entry.line.text[..], &entry.line.attributes[SEQNUM][..]),
            ("hi\u{fffd}", "1f")
        );
        let own = LINE.replace(r#""_PID":"1""#, &format!(r#""_PID":"{}""#, std::process::id()));
        assert!(parse(own.as_bytes()).expect("an entry").entry.is_none());
        assert!(parse(b"{}").is_none() && parse(b"no").is_none());
    }

    #[test]
    fn a_place_that_is_no_place_is_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("place");
        let told = |text: &str| {
            std::fs::write(&path, text).expect("a write");
            place(&path)
        };
        assert_eq!(told("7 s=ab;i=1f\n"), Some((7, "s=ab;i=1f".into())));
        assert_eq!(told("7 --vacuum-size=1"), None);
        assert_eq!(told("x"), None);
    }
}
