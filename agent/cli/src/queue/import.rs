//! `purlin queue import`: another node's export, handed to this node's agent, which
//! sends it on under its own `relay/` topics. Each record once, however often.

use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
    time::Duration,
};

use prost::Message;
use purlin_proto::{
    api::Imported,
    v1::{Exported, Import, exported::What},
};
use serde::Serialize;

use super::{export::Progress, file::Reader};
use crate::{
    args::Global,
    client::{Body, Client},
    exit::{Ended, Exit, Failure},
    output::{Output, Page, note},
    table::{Width, pair},
    units,
};

/// What is handed over at once: under what the agent takes in one request.
const REQUEST_BYTES: usize = 256 << 10;
/// For one request, whose records the agent makes durable before it answers.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);

/// What became of a file.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The file.
    pub file: PathBuf,
    /// The node that it is of.
    pub node: String,
    /// When it was exported, by the clock of who did.
    pub exported_unix_ms: u64,
    /// Records that are to be sent on.
    pub taken: u64,
    /// Records that were brought before.
    pub known: u64,
    /// What is wrong with the file; what comes before it was imported.
    pub damage: Option<String>,
}

/// Imports `path`; with `partial` also what is whole of a damaged file.
pub async fn run(path: &Path, partial: bool, global: &Global, output: &Output) -> Ended {
    let client = Client::find(global)?;
    let refused = |why: String| Failure::Failed(format!("{}: {why}", path.display()));
    // Once through before anything is handed over.
    let (mut records, mut damage) = (0, None);
    let mut reader = open(path)?;
    loop {
        match reader.entry() {
            Ok(None) => break,
            Ok(Some(What::Tail(tail))) => records = tail.records,
            Ok(Some(_)) => {}
            Err(why) if partial => {
                damage = Some(why);
                break;
            }
            Err(why) => {
                let next = "nothing was imported; copy it again, or take what is whole of it with \
                            --partial";
                return Err(refused(format!("{why}; {next}")));
            }
        }
    }
    let mut report = Report {
        file: path.to_owned(),
        node: String::new(),
        exported_unix_ms: 0,
        taken: 0,
        known: 0,
        damage,
    };
    let mut reader = open(path)?;
    let mut progress = Progress { waiting: records, drawn: None };
    let (mut entries, mut bytes, mut sent) = (Vec::new(), 0, 0);
    loop {
        let what = match reader.entry() {
            Ok(what) => what,
            Err(_) if partial => None,
            Err(why) => return Err(refused(why)),
        };
        let ended = what.is_none();
        match what {
            Some(What::Head(head)) => {
                (report.node, report.exported_unix_ms) = (head.node, head.unix_ms);
            }
            Some(what @ (What::Dictionary(_) | What::Batch(_))) => {
                let entry = Exported { what: Some(what) };
                bytes += entry.encoded_len();
                entries.push(entry);
            }
            Some(What::Tail(_)) | None => {}
        }
        if bytes >= REQUEST_BYTES || (ended && !entries.is_empty()) {
            let import = Import { entries: std::mem::take(&mut entries) };
            let body =
                Body { content_type: Some("application/protobuf"), bytes: import.encode_to_vec() };
            let imported: Imported = client
                .post("/v1/queue/import", body, REQUEST_DEADLINE)
                .await
                .inspect_err(|_| {
                    progress.end();
                    if report.taken > 0 {
                        note(&format!("{} records were taken before that", report.taken));
                    }
                })?;
            sent += bytes as u64;
            bytes = 0;
            report.taken += imported.taken;
            report.known += imported.known;
            progress.draw(report.taken + report.known, sent);
        }
        if ended {
            break;
        }
    }
    progress.end();
    output.show(&report, |width| report.page(width))?;
    Ok(report.exit())
}

fn open(path: &Path) -> Result<Reader<BufReader<File>>, Failure> {
    let failed = |why: String| Failure::Failed(format!("{}: {why}", path.display()));
    let file = File::open(path).map_err(|error| failed(error.to_string()))?;
    Reader::new(BufReader::new(file)).map_err(failed)
}

impl Page for Report {
    fn page(&self, width: Width) -> String {
        let whose = format!("{}, exported {}", self.node, units::time(self.exported_unix_ms));
        let damage = self.damage.as_ref().map(|why| pair("damaged", why, width));
        let next = "purlin queue show: they wait in class relay until the broker has them";
        [
            pair("file", &self.file.display().to_string(), width),
            pair("node", &whose, width),
            pair("taken", &units::count(self.taken, "record", "records"), width),
            pair("known", &units::count(self.known, "record", "records"), width),
            damage.unwrap_or_default(),
            pair("next", next, width),
        ]
        .concat()
    }

    fn exit(&self) -> Exit {
        if self.damage.is_some() { Exit::Faults } else { Exit::Ok }
    }
}
