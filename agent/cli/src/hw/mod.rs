//! `purlin hw`: the hardware, read here and now, with the agent or without.
//!
//! Each part is read under a deadline, as the agent's is, so that a device that hangs
//! costs its own line and not the whole answer. Only [`diff`]
//! asks the agent, which alone keeps what was accepted.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

use anstyle::Style;
use purlin_core::{
    counts::counts,
    inventory::{Inventory, Part, Problem},
};
use purlin_daemon::helper;
use purlin_proto::api::Happened;
use serde_json::{Map, Value};

mod cdi;
mod diff;
mod draw_svg;
mod gather;
mod hwloc_xml;
mod topology;
mod view;

pub use hwloc_xml::Escaped;
use view::{Row, Section};

use crate::{
    args::{Global, HwArgs, HwCommand, ToFile},
    client::Client,
    exit::{Ended, Exit, Failure},
    happened,
    output::{Output, note},
    table::{self, Column::*, Width, paint, plain},
};

/// `purlin hw …`
pub async fn run(args: &HwArgs, global: &Global, output: &Output) -> Ended {
    match &args.command {
        HwCommand::Gather { file, force } => {
            return gather::run(args.root.as_deref(), file.as_deref(), *force);
        }
        HwCommand::Diff(between) => return diff::diff(between, global, output).await,
        HwCommand::Accept => return diff::accept(global, output).await,
        HwCommand::Changes { since } => {
            return happened::show(&Client::find(global)?, Happened::Hardware, *since, output)
                .await;
        }
        HwCommand::Cdi { write: Some(_) } if args.root.is_some() => {
            let what = "what --root names has no devices to give to a container here";
            return Err(Failure::Usage(what.into()));
        }
        _ => {}
    }
    let inventory = read(args.root.as_deref())?;
    show(args, &inventory, output)?;
    match &args.root {
        Some(root) if is_no_machine(&inventory) => note(&plain(&format!(
            "{}: has no proc and no sys of a machine in it; give the directory that has them, \
             or a tar of it",
            root.display()
        ))),
        _ => say(&args.command, &inventory.problems),
    }
    Ok(Exit::Ok)
}

/// Reads this machine or a dump, which must be one that can be read.
fn read(root: Option<&Path>) -> Result<Inventory, Failure> {
    let inventory = helper::inventory(root);
    match unusable(&inventory.problems) {
        Some(why) => Err(Failure::Failed(plain(why))),
        None => Ok(inventory),
    }
}

/// Why no part could be read at all, where that is one and the same: the root.
fn unusable(problems: &[Problem]) -> Option<&str> {
    let why = &problems.first()?.what;
    let all = |part: Part| {
        problems.iter().any(|it| it.part == part && it.at == part.name() && it.what == *why)
    };
    Part::ALL.into_iter().all(all).then_some(why)
}

/// True of a root that has neither `proc` nor `sys`.
fn is_no_machine(inventory: &Inventory) -> bool {
    let Inventory { platform, cpu, memory, pci, .. } = inventory;
    platform.is_none() && cpu.is_none() && memory.is_none() && pci.is_none()
}

fn show(args: &HwArgs, inventory: &Inventory, output: &Output) -> Result<(), Failure> {
    let root = args.root.as_deref().unwrap_or(Path::new("/"));
    match &args.command {
        HwCommand::List => output.show(inventory, |width| list(inventory, width))?,
        HwCommand::Counts => output.show(&counts(inventory), |_| counted(inventory))?,
        HwCommand::Tree => output.show(inventory, |_| tree(inventory))?,
        HwCommand::Cdi { write: Some(dir) } => cdi::write(dir, inventory)?,
        HwCommand::Cdi { write: None } => {
            let specs = cdi::Specs { specs: purlin_daemon::cdi::specs(root, inventory) };
            output.show(&specs, |width| specs.page(width))?;
        }
        HwCommand::Draw(to) => save(to, draw_svg::svg(inventory))?,
        HwCommand::Xml(to) => save(to, hwloc_xml::xml(inventory))?,
        // Have inventories of their own.
        HwCommand::Gather { .. }
        | HwCommand::Diff(_)
        | HwCommand::Accept
        | HwCommand::Changes { .. } => {}
        HwCommand::Show { part: None } => output.show(inventory, |width| all(inventory, width))?,
        HwCommand::Show { part: Some(part) } => {
            output.show(&only(*part, inventory)?, |width| one(*part, inventory, width))?;
        }
    }
    Ok(())
}

/// Writes what was made of the machine's CPUs, if any are known.
fn save(to: &ToFile, document: Option<String>) -> Result<(), Failure> {
    let none = || Failure::Failed("no CPU is known, and so there is nothing to show".into());
    let document = document.ok_or_else(none)?;
    match to.file.as_deref().filter(|file| *file != Path::new("-")) {
        None => Ok(io::stdout().write_all(document.as_bytes())?),
        Some(file) => fs::write(file, document)
            .map_err(|error| Failure::Failed(format!("{}: {error}", file.display()))),
    }
}

fn list(inventory: &Inventory, width: Width) -> String {
    let header = [Whole("PART"), Left("NAME"), Right("NODE"), Left("WHAT")];
    let row = |row: Row| {
        let node = row.node.map_or_else(|| "-".into(), |node| node.to_string());
        let mark = if row.problem { " (problem)" } else { "" };
        vec![row.part.name().into(), row.name, node, row.what + mark]
    };
    table::columns(&header, view::list(inventory).into_iter().map(row), width)
}

/// One line for each count, by the name it has in JSON.
fn counted(inventory: &Inventory) -> String {
    let counts = serde_json::to_value(counts(inventory)).unwrap_or_default();
    let rows = counts.as_object().into_iter().flatten().map(|(name, value)| {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        vec![name.clone(), value]
    });
    table::columns(&[Whole("COUNT"), Left("VALUE")], rows, None)
}

fn tree(inventory: &Inventory) -> String {
    view::tree(inventory).lines().map(|line| plain(line) + "\n").collect()
}

fn all(inventory: &Inventory, width: Width) -> String {
    table::sections(Part::ALL.map(|part| one(part, inventory, width)))
}

fn one(part: Part, inventory: &Inventory, width: Width) -> String {
    let sections = view::show(inventory, part);
    match sections.is_empty() {
        true => nothing(part, inventory),
        false => table::sections(sections.into_iter().map(|it| section(it, width))),
    }
}

fn section(section: Section, width: Width) -> String {
    let facts = section.facts.into_iter().map(|(name, value)| vec![name, value]);
    let title = paint(Style::new().bold(), &plain(&section.title));
    title + "\n" + &table::rows(facts, width)
}

/// None is not the same as unknown.
fn nothing(part: Part, inventory: &Inventory) -> String {
    let known = only(part, inventory).is_ok_and(|it| !it[field(part)].is_null());
    format!("{}: {}\n", part.name(), if known { "none" } else { "unknown" })
}

/// The inventory without what was not asked for: a field that is `null` would say that
/// it could not be read.
fn only(part: Part, inventory: &Inventory) -> Result<Map<String, Value>, Failure> {
    let failed = |error| Failure::Failed(format!("the inventory has no JSON form: {error}"));
    let problems: Vec<_> = inventory.problems.iter().filter(|it| it.part == part).collect();
    let mut whole = serde_json::to_value(inventory).map_err(failed)?;
    let kept = whole.get_mut(field(part)).map(Value::take).unwrap_or_default();
    let problems = serde_json::to_value(problems).map_err(failed)?;
    Ok([(field(part).to_owned(), kept), ("problems".to_owned(), problems)].into_iter().collect())
}

/// The field of [`Inventory`] that has the part.
fn field(part: Part) -> &'static str {
    match part {
        Part::Platform => "platform",
        Part::Cpu => "cpu",
        Part::Numa => "numa",
        Part::Memory => "memory",
        Part::Pci => "pci",
        Part::Nic => "nics",
        Part::Storage => "storage",
        Part::Gpu => "gpus",
        Part::Sensor => "sensors",
    }
}

/// What could not be read of that which was asked for.
fn say(command: &HwCommand, problems: &[Problem]) {
    let asked = |problem: &&Problem| match command {
        HwCommand::Show { part: Some(part) } => problem.part == *part,
        _ => true,
    };
    problems.iter().filter(asked).for_each(|it| note(&plain(&told(it))));
}

/// A part that could not be read at all is its own place.
fn told(Problem { part, at, what }: &Problem) -> String {
    match part.name() {
        name if name == at => format!("{at}: {what}"),
        name => format!("{name}: {at}: {what}"),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use purlin_core::inventory::{Disk, Memory, Storage};

    use super::*;
    use crate::sample;

    #[test]
    fn every_part_has_its_field() {
        let inventory = serde_json::to_value(Inventory::default()).unwrap();
        for part in Part::ALL {
            assert!(inventory.get(field(part)).is_some(), "{part:?}");
        }
    }

    #[test]
    fn none_is_not_unknown() {
        let mut inventory = Inventory::default();
        assert_eq!(one(Part::Gpu, &inventory, Some(80)), "gpu: unknown\n");
        inventory.gpus = Some(Vec::new());
        assert_eq!(one(Part::Gpu, &inventory, Some(80)), "gpu: none\n");
    }

    #[test]
    fn a_list_marks_problems() {
        let disk = |name: &str| Disk { name: name.into(), size: Some(1 << 40), ..Disk::default() };
        let problem = Problem {
            part: Part::Storage,
            at: "/sys/block/sdb/size".into(),
            what: "is a fish".into(),
        };
        let inventory = Inventory {
            storage: Some(Storage { disks: vec![disk("sda"), disk("sdb")], ..Storage::default() }),
            problems: vec![problem],
            ..Inventory::default()
        };
        expect![[r#"
            PART     NAME  NODE  WHAT
            storage  sda      -  1 TiB
            storage  sdb      -  1 TiB (problem)
        "#]]
        .assert_eq(&sample::strip(&list(&inventory, Some(80))));
    }

    #[test]
    fn one_part_comes_with_its_own_problems_only() {
        let problem = |part| Problem { part, at: "/sys".into(), what: "is a fish".into() };
        let inventory = Inventory {
            memory: Some(Memory { total: Some(1 << 30), ..Memory::default() }),
            problems: vec![problem(Part::Memory), problem(Part::Storage)],
            ..Inventory::default()
        };
        let document = only(Part::Memory, &inventory).unwrap();
        assert_eq!(document.keys().collect::<Vec<_>>(), ["memory", "problems"]);
        assert_eq!(document["memory"]["total"], 1 << 30);
        assert_eq!(document["problems"].as_array().map(Vec::len), Some(1));
    }
}
