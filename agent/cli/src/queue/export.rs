//! `purlin queue export`: what waits, in a file that another node can bring to the core.
//!
//! Nothing is removed from the spool: should the node reach the core after all, the
//! core knows each record by its identity. The file appears under its name only when
//! it is whole and synced. Until then it is FILE.part, synced now and then: whoever
//! pulls the stick out half way runs the same command again, and it goes on.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, BufReader, BufWriter, IsTerminal, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use purlin_core::identity::Class;
use purlin_daemon::wire;
use purlin_proto::v1::{self, ExportHead, ExportTail, exported::What};
use serde::Serialize;

use super::{
    file::{Reader, Writer},
    source::{Owner, Source},
};
use crate::{
    args::Global,
    exit::{Ended, Exit, Failure},
    output::{Output, Page, note},
    table::{self, Column::*, Width},
    units,
};

/// How often progress is drawn.
const DRAW: Duration = Duration::from_millis(200);
/// What is written between two syncs: what a stick that is pulled out may lose.
const SYNC_BYTES: u64 = 4 << 20;

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
    /// Bytes that were there of an export that was broken off.
    pub resumed_bytes: u64,
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
    let mut begun = begin(&part, &owner)?;
    let resumed_bytes = begun.resumed;
    if resumed_bytes > 0 {
        note(&format!("goes on with {}, {}", part.display(), units::size(resumed_bytes)));
    }
    let filled = fill(&mut source, &mut begun, &part).await;
    let (classes, nameless) = filled.inspect_err(|_| {
        note(&format!("{} is kept: the same command goes on with it", part.display()));
    })?;
    let bytes = begun.writer.bytes();
    put(begun.writer, &part, path).map_err(|error| at_file(&part, &error))?;
    let (file, node) = (path.to_owned(), owner.node);
    let export = Export { file, bytes, node, classes, nameless, resumed_bytes };
    output.show(&export, |width| export.page(width))?;
    if export.classes.is_empty() {
        note("nothing waits: the file has a head and a tail alone");
    }
    Ok(Exit::Ok)
}

fn at_file(path: &Path, error: &io::Error) -> Failure {
    let next = match error.kind() {
        io::ErrorKind::StorageFull => {
            "; make room there, and run it again: nothing was removed here"
        }
        _ => "",
    };
    Failure::Failed(format!("{}: {error}{next}", path.display()))
}

/// A file that is being written.
struct Begun {
    writer: Writer<BufWriter<File>>,
    /// Dictionaries that are in it.
    told: HashSet<u64>,
    /// What is in it of each class.
    classes: Vec<ExportClass>,
    batches: u64,
    records: u64,
    /// Bytes that were in it before.
    resumed: u64,
}

/// Begins a file, or goes on behind the last whole entry of one that was broken off.
fn begin(part: &Path, owner: &Owner) -> Result<Begun, Failure> {
    let at = |error: io::Error| at_file(part, &error);
    if let Some(begun) = take_up(part, owner)? {
        return Ok(begun);
    }
    let mut writer = Writer::new(BufWriter::new(File::create(part).map_err(at)?)).map_err(at)?;
    let head = ExportHead {
        fleet: owner.fleet.clone(),
        node: owner.node.clone(),
        incarnation: owner.incarnation,
        unix_ms: units::now_ms(),
    };
    writer.entry(What::Head(head)).map_err(at)?;
    let (told, classes) = (HashSet::new(), Vec::new());
    Ok(Begun { writer, told, classes, batches: 0, records: 0, resumed: 0 })
}

/// What was broken off; `None` if there is nothing to go on with. One of another node is
/// nobody's to write over.
fn take_up(part: &Path, owner: &Owner) -> Result<Option<Begun>, Failure> {
    let Ok(file) = File::options().read(true).write(true).open(part) else { return Ok(None) };
    let at = |error: io::Error| at_file(part, &error);
    let copy = file.try_clone().map_err(at)?;
    let Ok(mut reader) = Reader::new(BufReader::new(copy)) else { return Ok(None) };
    match reader.entry() {
        Ok(Some(What::Head(head)))
            if (&head.node, head.incarnation) == (&owner.node, owner.incarnation) => {}
        Ok(Some(What::Head(head))) => {
            let what = format!(
                "{} is a broken off export of node {}: name another file, or remove it",
                part.display(),
                head.node
            );
            return Err(Failure::Failed(what));
        }
        _ => return Ok(None),
    }
    let (mut told, mut classes) = (HashSet::new(), Vec::new());
    let (mut batches, mut records, mut end) = (0, 0, reader.read());
    while let Ok(Some(what)) = reader.entry() {
        match what {
            What::Dictionary(packed) => {
                told.extend(wire::unpack(&packed).ok().map(|plain| wire::hash_of(&plain)));
            }
            What::Batch(packed) => {
                let Ok(batch) = wire::decode(&packed) else { break };
                batches += 1;
                records += note_batch(&mut classes, &batch);
            }
            What::Head(_) | What::Tail(_) => break,
        }
        end = reader.read();
    }
    let (next, bytes) = end;
    file.set_len(bytes).map_err(at)?;
    let mut file = file;
    io::Seek::seek(&mut file, io::SeekFrom::Start(bytes)).map_err(at)?;
    let writer = Writer::go_on(BufWriter::new(file), next, bytes);
    Ok(Some(Begun { writer, told, classes, batches, records, resumed: bytes }))
}

/// Counts a batch in its class; how many records it has.
fn note_batch(classes: &mut Vec<ExportClass>, batch: &v1::Batch) -> u64 {
    let samples: usize = batch.blocks.iter().map(|block| block.offsets.len()).sum();
    let records = (batch.records.len() + samples) as u64;
    let lost: u64 = batch.gaps.iter().map(|gap| gap.lost).sum();
    let name =
        Class::OWN[(batch.class as usize).saturating_sub(1).min(Class::OWN.len() - 1)].name();
    let at = classes.iter().position(|it| it.class == name).unwrap_or_else(|| {
        let (first_seq, last_seq, class) = (batch.first_seq, batch.last_seq, name.to_owned());
        classes.push(ExportClass { class, first_seq, last_seq, records: 0, lost: 0 });
        classes.len() - 1
    });
    let it = &mut classes[at];
    (it.last_seq, it.records, it.lost) = (batch.last_seq, it.records + records, it.lost + lost);
    records
}

/// Writes what is not in it yet of all classes, most urgent first: what of each, and how
/// many dictionaries are lost.
async fn fill(
    source: &mut Source,
    begun: &mut Begun,
    part: &Path,
) -> Result<(Vec<ExportClass>, usize), Failure> {
    let at = |error: io::Error| at_file(part, &error);
    let waiting: u64 = source.figures().await?.classes.iter().map(|it| it.pending).sum();
    let mut progress = Progress { waiting, drawn: None };
    let (mut nameless, mut synced) = (0, begun.writer.bytes());
    for class in Class::OWN {
        let there = begun.classes.iter().find(|it| it.class == class.name());
        let mut from = there.map_or(0, |it| it.last_seq + 1);
        if from > 0 {
            // What is in memory is made durable by asking from the first.
            source.batch(class, 0).await?;
        }
        while let Some(batch) = source.batch(class, from).await? {
            for block in batch.blocks.iter().filter(|it| begun.told.insert(it.dictionary)) {
                match source.dictionary(block.dictionary).await? {
                    Some(it) => {
                        let packed = What::Dictionary(wire::pack_bytes(it));
                        begun.writer.entry(packed).map_err(at)?;
                    }
                    None => nameless += 1,
                }
            }
            begun.writer.entry(What::Batch(wire::pack(&batch))).map_err(at)?;
            begun.batches += 1;
            begun.records += note_batch(&mut begun.classes, &batch);
            from = batch.last_seq + 1;
            if begun.writer.bytes() >= synced + SYNC_BYTES {
                synced = begun.writer.bytes();
                begun.writer.get_mut().flush().map_err(at)?;
                begun.writer.get_ref().get_ref().sync_data().map_err(at)?;
            }
            progress.draw(begun.records, begun.writer.bytes());
        }
    }
    let (batches, records) = (begun.batches, begun.records);
    begun.writer.entry(What::Tail(ExportTail { batches, records })).map_err(at)?;
    progress.end();
    Ok((std::mem::take(&mut begun.classes), nameless))
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
        let resumed = match self.resumed_bytes {
            0 => String::new(),
            bytes => format!(", {} of it from before it was broken off", units::size(bytes)),
        };
        let size = units::size(self.bytes);
        let file = format!("{}, {size}, synced{resumed}", self.file.display());
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
