//! What runs on this node and where: as the agent says it, or, if it is dead, as it left it
//! on disk.

use purlin_core::place::{
    book::{Entry, Outcome, Overview},
    container::Container,
    decide::{Decision, Refusal},
    source::Source,
    targets::Update,
};
use purlin_daemon::offline;
use purlin_proto::api::{EnforcedContainer, Enforcement};
use serde::Serialize;

use super::page;
use crate::{
    args::Global,
    client::{Answer, Body, Client, DEADLINE},
    exit::{Ended, Exit, Failure},
    output::{Output, Page, note},
    table::{self, Column::*, Width, pair, plain},
    units,
};

/// Who is where.
pub async fn overview(global: &Global) -> Result<Overview, Failure> {
    let Answer { document, note: told } =
        Client::find(global)?.get_or_read("/v1/placement", offline::placement).await?;
    told.iter().for_each(|told| note(told));
    Ok(document)
}

/// `purlin numa explain`
pub async fn explain(workload: Option<&str>, global: &Global, output: &Output) -> Ended {
    let overview = overview(global).await?;
    let Some(workload) = workload else {
        output.show(&overview, |width| overview.page(width))?;
        return Ok(Exit::Ok);
    };
    // Nobody reads cpusets back when the agent is dead.
    let enforced = Client::find(global)?.get("/v1/placement/enforcement").await;
    let enforced: Enforcement = enforced.map(|it| it.document).unwrap_or_default();
    let containers: Vec<Explained> = (overview.containers.iter())
        .filter(|entry| is(&entry.container, workload))
        .map(|entry| Explained::new(&overview, entry, &enforced))
        .collect();
    if containers.is_empty() {
        let what = "no container has this id or name; purlin numa explain lists all that are known";
        return Err(Failure::Failed(format!("{}: {what}", plain(workload))));
    }
    let page = |width| table::sections(containers.iter().map(|it| it.page(width)));
    output.show(&Meant { containers: &containers }, page)?;
    Ok(Exit::Ok)
}

/// `purlin numa pause`, `purlin numa resume`
pub async fn pause(paused: bool, global: &Global, output: &Output) -> Ended {
    let path = if paused { "/v1/placement/pause" } else { "/v1/placement/resume" };
    let updates: Vec<Update> = Client::find(global)?.post(path, Body::default(), DEADLINE).await?;
    let changed = units::count(updates.len() as u64, "cpuset", "cpusets");
    let text = match paused {
        true => format!("paused: {changed} given back; purlin numa resume takes them again\n"),
        false => format!("resumed: {changed} taken again\n"),
    };
    output.show(&Changed { updates }, |_| text)?;
    Ok(Exit::Ok)
}

/// True if a person may mean this container: its name, its pod, or its id's beginning.
fn is(container: &Container, workload: &str) -> bool {
    let pod = container.pod.as_ref();
    let names = [Some(&container.name), pod.map(|pod| &pod.name)];
    names.into_iter().flatten().any(|name| name == workload)
        || container.title() == workload
        || (!workload.is_empty() && container.id.starts_with(workload))
}

fn cpus(overview: &Overview, entry: &Entry) -> String {
    let target = overview.targets.containers.get(&entry.container.id);
    match (&entry.outcome, target) {
        (_, Some(target)) => target.cpus.to_string(),
        (Outcome::Given(given), None) => given.cpus.to_string(),
        (Outcome::Placed(placement, _), None) => {
            placement.exclusive.as_ref().map_or_else(|| "shared".into(), ToString::to_string)
        }
        (Outcome::Shared(_), None) => "shared".into(),
    }
}

/// Who asked, in words.
fn by(source: &Source) -> String {
    match source {
        Source::Nobody => "nobody".into(),
        Source::Devices => "its devices".into(),
        Source::Kubernetes => "Kubernetes (Guaranteed)".into(),
        Source::Profile(name) => format!("profile {}", plain(name)),
        Source::Annotations => "its annotations".into(),
    }
}

/// What it has, in a word or two.
fn state(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Placed(placement, _) if placement.exclusive.is_some() => "its own",
        Outcome::Placed(..) => "shared, near",
        Outcome::Given(given) if given.exclusive => "given, its own",
        Outcome::Given(_) => "given",
        Outcome::Shared(None) => "shared",
        Outcome::Shared(Some(_)) => "misplaced",
    }
}

impl Page for Overview {
    fn page(&self, width: Width) -> String {
        let header =
            [Left("CONTAINER"), Left("CPUS"), Left("NODES"), Left("HAS"), Left("ASKED BY")];
        let nodes = |entry: &Entry| match &entry.outcome {
            Outcome::Placed(placement, _) => placement.nodes.to_string(),
            _ => "any".into(),
        };
        let row = |entry: &Entry| {
            vec![
                plain(&entry.container.title()),
                cpus(self, entry),
                nodes(entry),
                state(&entry.outcome).into(),
                by(&entry.asked.by),
            ]
        };
        let mut page = pair("shared", &self.targets.shared.to_string(), width);
        page += &pair("reserved", &self.reserved.to_string(), width);
        if self.paused {
            page += &pair("paused", "every cpuset is given back: purlin numa resume", width);
        }
        let containers = match self.containers.is_empty() {
            true => "no container is known\n".into(),
            false => table::columns(&header, self.containers.iter().map(row), width),
        };
        table::sections([page, containers])
    }
}

/// What the cpusets of others are from now on.
#[derive(Debug, Serialize)]
struct Changed {
    updates: Vec<Update>,
}

/// All that a person may have meant.
#[derive(Debug, Serialize)]
struct Meant<'a> {
    containers: &'a [Explained],
}

/// One container, and why it is where it is.
#[derive(Debug, Serialize)]
struct Explained {
    #[serde(flatten)]
    entry: Entry,
    cpus: String,
    /// What the kernel grants it, as the agent last read it.
    read_back: Option<EnforcedContainer>,
}

impl Explained {
    fn new(overview: &Overview, entry: &Entry, enforced: &Enforcement) -> Self {
        let read_back = enforced.containers.iter().find(|it| it.id == entry.container.id);
        let cpus = cpus(overview, entry);
        Self { entry: entry.clone(), cpus, read_back: read_back.cloned() }
    }
}

fn read_back(it: &EnforcedContainer) -> String {
    let has = format!("CPUs {}, memory of node {}", plain(&it.cpus), plain(&it.mems));
    let state = match (&it.why, it.in_place) {
        (Some(why), _) => format!(": {}", plain(why)),
        (None, true) => ", as planned".into(),
        (None, false) => ", not as planned: it is being set right".into(),
    };
    let repaired = match it.repaired {
        0 => String::new(),
        times => {
            format!("; repaired {} since the agent's start", units::count(times, "time", "times"))
        }
    };
    has + &state + &repaired
}

impl Page for Explained {
    fn page(&self, width: Width) -> String {
        let Entry { container, since_ms, asked, outcome } = &self.entry;
        let mut page = pair("container", &plain(&container.title()), width);
        page += &pair("id", &plain(&container.id), width);
        page += &pair("known since", &units::time(*since_ms), width);
        page += &pair("asked by", &by(&asked.by), width);
        page += &pair("cpuset", &self.cpus, width);
        if let Some(it) = &self.read_back {
            page += &pair("read back", &read_back(it), width);
        }
        page += "\n";
        page += &match outcome {
            Outcome::Placed(placement, why) => {
                page::fits(&Decision { placement: placement.clone(), why: why.clone() }, width)
            }
            Outcome::Given(given) => {
                let what = match given.exclusive {
                    true => "somebody else bound it, to CPUs that nobody else is given",
                    false => "somebody else bound it: it keeps what of that is not another's alone",
                };
                let near = match given.near.is_empty() {
                    true => String::new(),
                    false => format!("; its memory goes to their node, {}", given.near),
                };
                pair("because", &format!("{what}{near}"), width)
            }
            Outcome::Shared(None) => {
                pair("because", "it asks for nothing, and shares what nobody has alone", width)
            }
            Outcome::Shared(Some(refusal)) => {
                let Refusal { reason, why } = refusal.as_ref();
                page::does_not_fit(&Refusal { reason: reason.clone(), why: why.clone() }, width)
            }
        };
        page
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use purlin_core::{
        idset::IdSet,
        place::{
            book::{Book, Rules},
            container::{Pod, Resources, Via},
        },
    };

    use super::*;
    use crate::{numa::tests::machine, sample};

    /// A Guaranteed pod's container on its own CPUs, one that wants too much, one that
    /// wants nothing.
    fn overview() -> Overview {
        let mut book = Book::default();
        let rules = Rules { reserved: Some(IdSet::default()), ..Rules::default() };
        book.replan(Some(machine()), rules);
        let pod = |name: &str, shares| Container {
            id: format!("{name}0123456789abcdef"),
            via: Via::Nri,
            name: "app".into(),
            pod: Some(Pod { name: name.into(), namespace: "shop".into(), ..Pod::default() }),
            cgroup: Some(format!("/kubepods/pod{name}/{name}")),
            resources: Resources { cpu_shares: Some(shares), ..Resources::default() },
            ..Container::default()
        };
        let plain = Container { id: "c0ffee".into(), name: "web".into(), ..Container::default() };
        let all = vec![pod("db", 2048), pod("big", 8192), plain];
        book.adopt(0, Via::Nri, all);
        book.overview()
    }

    #[test]
    fn all_that_are_known_are_listed() {
        expect![[r#"
            shared       0,2-4,6-7
            reserved     0,4

            CONTAINER     CPUS       NODES  HAS        ASKED BY
            shop/big/app  0,2-4,6-7  any    misplaced  Kubernetes (Guaranteed)
            web           0,2-4,6-7  any    shared     nobody
            shop/db/app   1,5        0      its own    Kubernetes (Guaranteed)
        "#]]
        .assert_eq(&sample::strip(&overview().page(Some(90))));
    }

    #[test]
    fn one_comes_with_its_reasons() {
        let overview = overview();
        let enforced = |id: &str, why: Option<&str>, repaired| EnforcedContainer {
            id: id.into(),
            cpus: "1,5".into(),
            mems: "0".into(),
            in_place: why.is_none(),
            why: why.map(str::to_owned),
            repaired,
            ..EnforcedContainer::default()
        };
        let enforced = Enforcement {
            containers: vec![
                enforced("db0123456789abcdef", None, 2),
                enforced("big0123456789abcdef", Some("no right to write it"), 0),
            ],
            ..Enforcement::default()
        };
        let one = |name: &str| {
            let entry = overview.containers.iter().find(|it| is(&it.container, name));
            let entry = entry.expect("it is known");
            sample::strip(&Explained::new(&overview, entry, &enforced).page(Some(90)))
        };
        expect![[r#"
            container    shop/db/app
            id           db0123456789abcdef
            known since  1970-01-01T00:00:00Z
            asked by     Kubernetes (Guaranteed)
            cpuset       1,5
            read back    CPUs 1,5, memory of node 0, as planned; repaired 2 times since the agent's
                         start

            NUMA nodes   0
            CPUs         1,5 for itself alone
            because      1 NUMA node, 1 last-level cache

            ASKED FOR      HOW MUCH  LEFT ON EACH NODE
            exclusive PUs         2  0: 2, 1: 4
        "#]]
        .assert_eq(&one("shop/db/app"));
        expect![[r#"
            container    shop/big/app
            id           big0123456789abcdef
            known since  1970-01-01T00:00:00Z
            asked by     Kubernetes (Guaranteed)
            cpuset       0,2-4,6-7
            read back    CPUs 1,5, memory of node 0: no right to write it

            no place     the whole machine has only 6 of 8 exclusive PUs left

            ASKED FOR      HOW MUCH  LEFT ON EACH NODE
            exclusive PUs         8  0: 2, 1: 4

            NODES  WHY NOT
            0      2 of 8 exclusive PUs
            1      4 of 8 exclusive PUs
        "#]]
        .assert_eq(&one("big"));
        expect![[r#"
            container    web
            id           c0ffee
            known since  1970-01-01T00:00:00Z
            asked by     nobody
            cpuset       0,2-4,6-7

            because      it asks for nothing, and shares what nobody has alone
        "#]]
        .assert_eq(&one("c0f"));
    }
}
