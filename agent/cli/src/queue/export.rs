//! `purlin queue export`: what waits, in a file that another node can bring to the core.
//!
//! Nothing is removed from the spool: should the node reach the core after all, the
//! core knows each record by its identity. The file appears under its name only when
//! it is whole and synced.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, BufWriter, IsTerminal, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use purlin_core::identity::Class;
use purlin_daemon::wire;
use purlin_proto::v1::{ExportHead, ExportTail, exported::What};
use serde::Serialize;

use super::{file::Writer, source::Source};
use crate::{
    args::Global,
    exit::{Ended, Exit, Failure},
    output::{Output, Page, note},
    table::{self, Column::*, Width},
    units,
};

/// How often progress is drawn.
const DRAW: Duration = Duration::from_millis(200);

/// What was exported.
#[derive(Debug, Serialize)]
pub struct Export {
    /// The file.
    pub file: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// The node that it is of.
    pub node: String,
    /// What of each class.
    pub classes: Vec<ExportClass>,
    /// Dictionaries that are lost: their samples have no names.
    pub nameless: usize,
}

/// What was exported of one class.
#[derive(Debug, Serialize)]
pub struct ExportClass {
    /// The class.
    pub class: String,
    /// The first number in the file.
    pub first_seq: u64,
    /// The last number.
    pub last_seq: u64,
    /// Records.
    pub records: u64,
    /// Records that are told to be lost.
    pub lost: u64,
}

/// Exports to `path`.
pub async fn run(path: &Path, global: &Global, output: &Output) -> Ended {
    if path.exists() {
        let what = format!("{} exists: name another file, or remove it", path.display());
        return Err(Failure::Failed(what));
    }
    let part = PathBuf::from(format!("{}.part", path.display()));
    let (mut source, owner) = Source::open(global).await?;
    let at = |error: io::Error| at_file(&part, &error);
    let file = File::create(&part).map_err(at)?;
    let mut writer = Writer::new(BufWriter::new(file)).map_err(at)?;
    let head = ExportHead {
        fleet: owner.fleet,
        node: owner.node.clone(),
        incarnation: owner.incarnation,
        unix_ms: units::now_ms(),
    };
    let filled = async {
        writer.entry(What::Head(head)).map_err(at)?;
        fill(&mut source, &mut writer, &part).await
    };
    let filled = filled.await.and_then(|filled| {
        let bytes = writer.bytes();
        put(writer, &part, path).map_err(at)?;
        Ok((filled, bytes))
    });
    let ((classes, nameless), bytes) = filled.inspect_err(|_| {
        // Half a file helps nobody, and its space may be what is missing.
        _ = fs::remove_file(&part);
    })?;
    let export = Export { file: path.to_owned(), bytes, node: owner.node, classes, nameless };
    output.show(&export, |width| export.page(width))?;
    if export.classes.is_empty() {
        note("nothing waits: the file has a head and a tail alone");
    }
    Ok(Exit::Ok)
}

fn at_file(path: &Path, error: &io::Error) -> Failure {
    let next = match error.kind() {
        io::ErrorKind::StorageFull => {
            "; make room there, and begin again: nothing was removed here"
        }
        _ => "",
    };
    Failure::Failed(format!("{}: {error}{next}", path.display()))
}

/// Writes all classes, most urgent first: what of each, and how many dictionaries are
/// lost.
async fn fill(
    source: &mut Source,
    writer: &mut Writer<BufWriter<File>>,
    part: &Path,
) -> Result<(Vec<ExportClass>, usize), Failure> {
    let at = |error: io::Error| at_file(part, &error);
    let waiting: u64 = source.figures().await?.classes.iter().map(|it| it.pending).sum();
    let mut progress = Progress { waiting, drawn: None };
    let (mut told, mut nameless) = (HashSet::new(), 0);
    let (mut classes, mut batches, mut records) = (Vec::new(), 0, 0);
    for class in Class::OWN {
        let mut of: Option<ExportClass> = None;
        let mut from = 0;
        while let Some(batch) = source.batch(class, from).await? {
            for block in batch.blocks.iter().filter(|it| told.insert(it.dictionary)) {
                match source.dictionary(block.dictionary).await? {
                    Some(it) => {
                        writer.entry(What::Dictionary(wire::pack_bytes(it))).map_err(at)?;
                    }
                    None => nameless += 1,
                }
            }
            let samples: usize = batch.blocks.iter().map(|block| block.offsets.len()).sum();
            let count = (batch.records.len() + samples) as u64;
            let lost: u64 = batch.gaps.iter().map(|gap| gap.lost).sum();
            writer.entry(What::Batch(wire::pack(&batch))).map_err(at)?;
            let it = of.get_or_insert_with(|| ExportClass {
                class: class.name().into(),
                first_seq: batch.first_seq,
                last_seq: batch.last_seq,
                records: 0,
                lost: 0,
            });
            (it.last_seq, it.records, it.lost) =
                (batch.last_seq, it.records + count, it.lost + lost);
            (batches, records) = (batches + 1, records + count);
            from = batch.last_seq + 1;
            progress.draw(records, writer.bytes());
        }
        classes.extend(of);
    }
    writer.entry(What::Tail(ExportTail { batches, records })).map_err(at)?;
    progress.end();
    Ok((classes, nameless))
}

/// Makes the file durable and gives it its name.
fn put(writer: Writer<BufWriter<File>>, part: &Path, path: &Path) -> io::Result<()> {
    let file = writer.into_inner().into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    fs::rename(part, path)?;
    let dir = path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}

/// A line on a terminal that is drawn over and over.
pub struct Progress {
    /// Records in all, as far as is known.
    pub waiting: u64,
    /// When it was drawn last.
    pub drawn: Option<Instant>,
}

impl Progress {
    /// Draws it, not too often.
    pub fn draw(&mut self, records: u64, bytes: u64) {
        let due = self.drawn.is_none_or(|drawn| drawn.elapsed() >= DRAW);
        if due && io::stderr().is_terminal() {
            self.drawn = Some(Instant::now());
            let of = self.waiting.max(records);
            anstream::eprint!("\r{records} of {of} records, {}   ", units::size(bytes));
            _ = io::stderr().flush();
        }
    }

    /// Ends its line.
    pub fn end(&self) {
        if self.drawn.is_some() {
            anstream::eprintln!();
        }
    }
}

impl Page for Export {
    fn page(&self, width: Width) -> String {
        let header =
            [Left("EXPORTED"), Right("RECORDS"), Right("FIRST"), Right("LAST"), Right("LOST")];
        let row = |it: &ExportClass| {
            let numbers = [it.records, it.first_seq, it.last_seq, it.lost];
            let mut row = vec![it.class.clone()];
            row.extend(numbers.map(|it| it.to_string()));
            row
        };
        let file = format!("{}, {}, synced", self.file.display(), units::size(self.bytes));
        let nameless = match self.nameless {
            0 => String::new(),
            n => table::pair("nameless", &format!("{n} dictionaries are lost"), width),
        };
        let next = format!("on any node: purlin queue import {}", self.file.display());
        table::sections([
            table::pair("file", &file, width) + &table::pair("node", &self.node, width) + &nameless,
            table::columns(&header, self.classes.iter().map(row), width),
            table::pair("next", &next, width),
        ])
    }
}
