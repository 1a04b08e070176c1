//! What `purlin numa` prints for people.

use purlin_core::place::{
    decide::{Answer, Asked, Decision, Placement, Refusal, Rejected, Score, Why},
    repack::{Move, Plan},
};

use super::{Map, MapDevice, MapNode};
use crate::{
    table::{self, Column::*, Width, pair, plain},
    units::{count, size},
};

pub fn map(map: &Map, width: Width) -> String {
    let header = [
        Right("NODE"),
        Left("CPUS"),
        Left("TAKEN"),
        Right("CORES"),
        Right("CACHES"),
        Right("MEMORY"),
        Left("DISTANCES"),
        Left("DEVICES"),
    ];
    let row = |node: &MapNode| {
        vec![
            node.id.to_string(),
            if node.cpus.is_empty() { "none".into() } else { node.cpus.to_string() },
            if node.taken.is_empty() { "none".into() } else { node.taken.to_string() },
            node.cores.to_string(),
            node.last_level_caches.to_string(),
            memory(node),
            node.distances.iter().map(u32::to_string).collect::<Vec<_>>().join(" "),
            devices(&node.devices),
        ]
    };
    let mut page = table::columns(&header, map.nodes.iter().map(row), width);
    if !map.elsewhere.is_empty() {
        page += "\n";
        page += &pair("no node", &devices(&map.elsewhere), width);
    }
    let all = map.nodes.iter().flat_map(|node| &node.devices).chain(&map.elsewhere);
    let also: Vec<_> =
        all.map(|it| (it, others(it))).filter(|(_, names)| !names.is_empty()).collect();
    if !also.is_empty() {
        let row = |(it, names): &(&MapDevice, String)| vec![plain(&it.name), plain(names)];
        page += "\n";
        page += &table::columns(
            &[Left("DEVICE"), Left("ALSO ASKED FOR AS")],
            also.iter().map(row),
            width,
        );
    }
    page
}

/// Its CDI names but those that our own specifications give it.
fn others(it: &MapDevice) -> String {
    let own = |name: &&String| **name != it.name && !name.starts_with("purlin.io/");
    it.cdi.iter().filter(own).cloned().collect::<Vec<_>>().join(", ")
}

fn memory(node: &MapNode) -> String {
    let pools = node.hugepages.iter().filter(|(_, bytes)| **bytes > 0);
    let pools = pools.map(|(page, bytes)| format!(", {} in {} pages", size(*bytes), size(*page)));
    size(node.memory) + &pools.collect::<String>()
}

fn devices(devices: &[MapDevice]) -> String {
    let of = |it: &MapDevice| it.of.as_ref().map(|of| format!(" ({of})")).unwrap_or_default();
    // What is called by its CDI name says its kind by that.
    let name = |it: &MapDevice| match it.name.strip_prefix(&it.kind) {
        Some(_) => it.name.clone(),
        None => format!("{} {}", it.kind, it.name),
    };
    let names = devices.iter().map(|it| plain(&format!("{}{}", name(it), of(it))));
    match devices.is_empty() {
        true => "none".into(),
        false => names.collect::<Vec<_>>().join(", "),
    }
}

pub fn answer(answer: &Answer, width: Width) -> String {
    match answer {
        Answer::Fits(decision) => fits(decision, width),
        Answer::DoesNotFit(refusal) => does_not_fit(refusal, width),
    }
}

pub fn fits(Decision { placement, why }: &Decision, width: Width) -> String {
    let mut page = pair("NUMA nodes", &placement.nodes.to_string(), width);
    let cpus = match &placement.exclusive {
        Some(cpus) => format!("{cpus} for itself alone"),
        None => "those that all share on these nodes".into(),
    };
    page += &pair("CPUs", &cpus, width);
    if !placement.devices.is_empty() {
        page += &pair("devices", &plain(&placement.devices.join(", ")), width);
    }
    if let Some(score) = &why.score {
        page += &pair("because", &chosen(score), width);
    }
    if let Some(gap) = &why.gap {
        let found = format!("{} is {}; not everything was tried", gap.of, gap.found);
        page += &pair("at best", &found, width);
    }
    page + "\n" + &reasons(why, width)
}

/// The parts of the score that say anything.
fn chosen(score: &Score) -> String {
    let mut words = vec![count(score.nodes.into(), "NUMA node", "NUMA nodes")];
    if score.nodes > 1 {
        words.push(format!("{:.1} from each other", score.distance));
    }
    if score.kinds > 1 {
        words.push(format!("{} kinds of cores", score.kinds));
    } else if score.slower > 0 {
        words.push("slower cores".into());
    }
    if score.caches > 0 {
        words.push(count(score.caches.into(), "last-level cache", "last-level caches"));
    }
    if score.shared_cores > 0 {
        words.push(count(score.shared_cores.into(), "CPU beside others", "CPUs beside others"));
    }
    match score.crossings {
        0 => {}
        crossings => words.push(format!("devices {crossings} crossings apart")),
    }
    words.join(", ")
}

pub fn does_not_fit(refusal: &Refusal, width: Width) -> String {
    let page = pair("no place", &plain(&refusal.reason), width);
    page + "\n" + &reasons(&refusal.why, width)
}

fn reasons(why: &Why, width: Width) -> String {
    let mut pages = Vec::new();
    if !why.resources.is_empty() {
        let header = [Left("ASKED FOR"), Right("HOW MUCH"), Left("LEFT ON EACH NODE")];
        let row = |asked: &Asked| {
            let left =
                asked.left.iter().map(|(node, left)| format!("{node}: {}", much(asked, *left)));
            vec![
                plain(&asked.resource),
                much(asked, asked.asked),
                left.collect::<Vec<_>>().join(", "),
            ]
        };
        pages.push(table::columns(&header, why.resources.iter().map(row), width));
    }
    if !why.rejected.is_empty() {
        let header = [Left("NODES"), Left("WHY NOT")];
        let rejected = why.rejected.iter();
        let row = |it: &Rejected| vec![it.nodes.to_string(), plain(&it.why)];
        pages.push(table::columns(&header, rejected.map(row), width));
    }
    table::sections(pages)
}

fn much(asked: &Asked, amount: u64) -> String {
    match &*asked.unit {
        "By" => size(amount),
        "m{CPU}" => format!("{amount} m"),
        _ => amount.to_string(),
    }
}

/// Who has to go where.
pub fn plan(plan: &Plan, applied: bool, width: Width) -> String {
    let mut page = match (plan.moves.is_empty(), applied) {
        (true, _) => pair("moves", "none: it fits as it is", width),
        (false, true) => pair("moved", &size(plan.bytes), width),
        (false, false) => pair("to move", &size(plan.bytes), width),
    };
    if !plan.moves.is_empty() {
        let header = [Left("CONTAINER"), Left("FROM"), Left("TO"), Right("MEMORY")];
        let at = |it: &Placement| match &it.exclusive {
            Some(cpus) => format!("node {}, CPUs {cpus}", it.nodes),
            None => format!("node {}", it.nodes),
        };
        let memory = |it: &Move| match (it.bytes, it.measured) {
            (0, _) => "none".into(),
            (bytes, true) => format!("{} in use", size(bytes)),
            (bytes, false) => format!("{} at most", size(bytes)),
        };
        let row = |it: &Move| vec![plain(&it.title), at(&it.from), at(&it.to), memory(it)];
        page += "\n";
        page += &table::columns(&header, plan.moves.iter().map(row), width);
    }
    page + "\nThen it goes to:\n\n" + &fits(&plan.decision, width)
}
