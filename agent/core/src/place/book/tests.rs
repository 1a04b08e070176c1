//! The book through what happens to containers.

use alloc::{collections::BTreeMap, format, vec};

use proptest::prelude::*;

use super::*;
use crate::{
    idset::IdSet,
    place::{
        container::{Pod, Resources},
        kubelet::Gave,
        machine::Device,
        repack::Plan,
        source::Profile,
        tests::machine,
        wishes::Wishes,
    },
};

/// Two nodes of four cores of two threads: CPUs 0-3 and 8-11 on the first, of which 0
/// and 8 are reserved, as 4 and 12 on the second are.
fn book() -> Book {
    let mut book = Book::default();
    book.replan(Some(machine(2, 1, 4, Vec::new())), Rules::default());
    book
}

fn ids(list: &str) -> IdSet {
    IdSet::parse(list).expect("a valid list")
}

/// A container of a Guaranteed pod with so many thousandths of a CPU.
fn pod(id: &str, milli: u64) -> Container {
    Container {
        id: id.into(),
        name: id.into(),
        cgroup: Some(alloc::format!("/kubepods/pod{id}/{id}")),
        resources: Resources {
            cpu_shares: Some(milli * 1024 / 1000),
            cpu_quota_us: i64::try_from(milli * 100).ok(),
            cpu_period_us: Some(100_000),
            ..Resources::default()
        },
        via: Via::Nri,
        ..Container::default()
    }
}

fn plain(id: &str) -> Container {
    Container { id: id.into(), ..Container::default() }
}

fn cpus(book: &Book, id: &str) -> String {
    book.targets().containers[id].cpus.to_string()
}

#[test]
fn whole_cpus_of_a_guaranteed_pod_are_its_own_and_the_others_give_them_up_first() {
    let mut book = book();
    let grant = book.admit(0, plain("web")).expect("it asks for nothing");
    assert_eq!(grant.target.expect("the shared ones").cpus, ids("0-15"));
    let before = book.targets().clone();
    let grant = book.admit(0, pod("db", 4000)).expect("room");
    assert_eq!(grant.by, Source::Kubernetes);
    assert_eq!(grant.target.expect("its own").cpus, ids("1-2,9-10"));
    let updates = book.targets().since(&before);
    let updates: Vec<_> = updates.iter().map(|it| (&*it.id, it.target.cpus.to_string())).collect();
    assert_eq!(updates, [("web", "0,3-8,11-15".into()), ("db", "1-2,9-10".into())]);
    // A part of a CPU is shared.
    book.admit(0, pod("log", 500)).expect("room");
    assert!(!book.targets().containers["log"].exclusive);
    book.remove("db");
    assert_eq!(cpus(&book, "web"), "0-15");
}

#[test]
fn a_refused_one_leaves_no_trace() {
    let mut book = book();
    let refusal = book.admit(0, pod("big", 16_000)).expect_err("12 are not reserved");
    assert_eq!(refusal.reason, "the whole machine has only 12 of 16 exclusive PUs left");
    assert!(book.entries().is_empty() && book.targets().containers.is_empty());
}

#[test]
fn one_that_runs_already_keeps_its_cpus_and_one_that_does_not_fit_is_told_of() {
    let mut book = book();
    let mut there = pod("a", 2000);
    there.resources.cpus = Some(ids("7,15"));
    book.adopt(0, Via::Nri, Vec::from([pod("b", 2000), there.clone(), pod("c", 12_000)]));
    assert_eq!((&*cpus(&book, "a"), &*cpus(&book, "b")), ("7,15", "5,13"));
    assert!(matches!(&book.entries()["c"].outcome, Outcome::Shared(Some(_))));
    // What the runtime does not name any more is gone.
    book.adopt(1, Via::Nri, Vec::from([there]));
    assert_eq!(book.entries().len(), 1);
}

#[test]
fn a_found_one_may_still_be_on_its_way() {
    let mut book = book();
    let made = Container { via: Via::Oci, ..pod("a", 2000) };
    book.admit(1000, made).expect("room");
    book.adopt(2000, Via::Found, Vec::from([plain("b")]));
    assert_eq!(book.entries().len(), 2);
    book.adopt(1000 + STARTING_MS, Via::Found, Vec::from([plain("b")]));
    assert_eq!(book.entries().keys().collect::<Vec<_>>(), ["b"]);
}

#[test]
fn what_somebody_else_bound_is_left_alone_until_it_is_in_the_way() {
    let mut book = book();
    let mut bound = plain("theirs");
    bound.resources.cpus = Some(ids("1-3"));
    assert_eq!(book.admit(0, bound).expect("theirs").target, None);
    book.admit(0, pod("db", 2000)).expect("room");
    assert_eq!(cpus(&book, "db"), "1,9");
    assert_eq!(cpus(&book, "theirs"), "2-3");
}

#[test]
fn what_is_kept_is_taken_up_where_it_was() {
    let mut book = book();
    book.admit(0, pod("a", 2000)).expect("room");
    book.admit(0, pod("b", 2000)).expect("room");
    book.remove("a");
    let mut again = Book::restore(book.save());
    assert!(again.replan(Some(machine(2, 1, 4, Vec::new())), Rules::default()).len() == 1);
    assert_eq!(cpus(&again, "b"), cpus(&book, "b"));
    assert!(again.targets().generation > book.targets().generation);
}

#[test]
fn a_cpu_that_goes_takes_only_its_own_container_along() {
    let mut book = book();
    book.admit(0, pod("a", 2000)).expect("room");
    book.admit(0, pod("b", 2000)).expect("room");
    let mut smaller = machine(2, 1, 4, Vec::new());
    smaller.pus.remove(&1);
    book.replan(Some(smaller), Rules::default());
    // 9 has lost the other thread of its core: another core is whole.
    assert_eq!((&*cpus(&book, "a"), &*cpus(&book, "b")), ("3,11", "2,10"));
}

#[test]
fn paused_everything_is_everybodys() {
    let mut book = book();
    book.admit(0, plain("web")).expect("it asks for nothing");
    book.admit(0, pod("db", 4000)).expect("room");
    assert_eq!(book.pause(true).len(), 2);
    assert_eq!((&*cpus(&book, "web"), &*cpus(&book, "db")), ("0-15", "0-15"));
    // Those that give up come first.
    let updates = book.pause(false);
    assert_eq!(updates.iter().map(|it| &*it.id).collect::<Vec<_>>(), ["web", "db"]);
    assert_eq!(cpus(&book, "db"), "1-2,9-10");
}

fn annotated(id: &str, annotations: &[(&str, &str)]) -> Container {
    let text = |(key, value): &(&str, &str)| (String::from(*key), String::from(*value));
    Container { annotations: annotations.iter().map(text).collect(), ..plain(id) }
}

#[test]
fn annotations_ask_and_correct_what_kubernetes_asks() {
    let mut book = book();
    let grant = book.admit(0, annotated("a", &[("purlin.dev/exclusive-cpus", "2")]));
    assert_eq!(grant.expect("room").by, Source::Annotations);
    assert!(book.targets().containers["a"].exclusive);
    // On a pod, for one of its containers.
    let annotations = [("b.purlin.dev/exclusive-cpus".into(), "0".into())].into();
    let mut container = pod("b", 2000);
    container.pod = Some(Pod { annotations, ..Pod::default() });
    book.admit(0, container.clone()).expect("it shares");
    assert!(!book.targets().containers["b"].exclusive);
    container.id = "c".into();
    container.name = "c".into();
    book.admit(0, container).expect("the pod's other container");
    assert!(book.targets().containers["c"].exclusive);
    let wrong = [("purlin.dev/near", "by"), ("purlin.dev/cpu", "1"), ("other/near", "by")];
    let refusal = book.admit(0, annotated("d", &wrong)).expect_err("nothing of it is right");
    assert_eq!(
        refusal.reason,
        "annotation purlin.dev/cpu: there is no such wish; it may be one of exclusive-cpus, \
         full-cores, shared-millicpus, memory-mib, far-memory, hugepages-mib, devices, near, \
         policy, isolated, priority, services, identity; annotation purlin.dev/near: it may be switch, root or node"
    );
}

#[test]
fn an_annotation_says_who_a_container_is_and_asks_for_nothing() {
    let mut book = book();
    let mut container = annotated("a", &[("purlin.dev/identity", "checkout")]);
    container.cgroup = Some("/docker/a".into());
    assert_eq!(book.admit(0, container).expect("it shares").by, Source::Nobody);
    let who: Vec<_> = book.identities().iter().map(|it| it.workload.to_string()).collect();
    assert_eq!(who, ["container/checkout"]);
    let refusal = book.admit(0, annotated("b", &[("purlin.dev/identity", "../b")]));
    let limit = "annotation purlin.dev/identity: it may be letters, digits, '-', '_' and '.'";
    assert_eq!(refusal.expect_err("no name").reason, limit);
}

#[test]
fn profiles_ask_where_there_is_no_kubernetes() {
    let mut book = book();
    let profile = |image: &str, count| Profile {
        image: Some(image.into()),
        wishes: Wishes { exclusive_cpus: Some(count), ..Wishes::default() },
        ..Profile::default()
    };
    let label = Profile {
        labels: [("app".into(), "d*b".into())].into(),
        wishes: Wishes { isolated: Some(true), exclusive_cpus: Some(2), ..Wishes::default() },
        ..Profile::default()
    };
    let profiles = [("1-image".into(), profile("*/post*:*", 4)), ("2-label".into(), label)];
    let rules = Rules { profiles: profiles.into(), ..Rules::default() };
    book.replan(Some(machine(2, 1, 4, Vec::new())), rules);
    let image = |id: &str, name: &str| Container { image: Some(name.into()), ..plain(id) };
    let grant = book.admit(0, image("a", "docker.io/library/postgres:16")).expect("room");
    assert_eq!(grant.by, Source::Profile("1-image".into()));
    assert_eq!(book.admit(0, image("b", "postgres:16")).expect("none").by, Source::Nobody);
    let labelled = Container { labels: [("app".into(), "db".into())].into(), ..plain("c") };
    let target = book.admit(0, labelled).expect("room").target.expect("a cpuset");
    assert!(target.isolated && target.exclusive && target.cpus.len() == 2);
    // A profile that goes leaves its containers among those that share.
    book.replan(Some(machine(2, 1, 4, Vec::new())), Rules::default());
    assert!(book.targets().containers.values().all(|it| !it.exclusive));
    assert_eq!(book.targets().shared.len(), 16);
}

#[test]
fn one_that_was_given_a_device_goes_near_it() {
    let gpu = Device {
        name: "0000:81:00.0".into(),
        kind: "gpu".into(),
        node: Some(1),
        known_as: vec!["/dev/nvidia0".into()],
        cdi: vec!["purlin.io/gpu=0000:81:00.0".into(), "nvidia.com/gpu=0".into()],
        ..Device::default()
    };
    let mut book = Book::default();
    book.replan(Some(machine(2, 1, 4, vec![gpu])), Rules::default());
    let container = Container { devices: vec!["/dev/nvidia0".into()], ..plain("a") };
    let grant = book.admit(0, container).expect("room");
    assert_eq!((grant.by, grant.devices.len()), (Source::Devices, 0));
    assert_eq!(cpus(&book, "a"), "4-7,12-15");
    // It is taken, for those who ask for one.
    let refusal = book.admit(0, annotated("b", &[("purlin.dev/devices", "gpu=1")]));
    assert_eq!(
        refusal.expect_err("it is taken").reason,
        "the whole machine has only 0 of 1 gpu left"
    );
    book.remove("a");
    let grant = book.admit(0, annotated("b", &[("purlin.dev/devices", "gpu=1")])).expect("free");
    assert_eq!(grant.devices, ["purlin.io/gpu=0000:81:00.0"]);
    // By a name of another's, which the runtime is told then.
    for asked in ["nvidia.com/gpu=1", "nvidia.com/gpu=0=1"] {
        book.remove("b");
        let grant = book.admit(0, annotated("b", &[("purlin.dev/devices", asked)]));
        assert_eq!(grant.expect("free").devices, ["nvidia.com/gpu=0"], "{asked}");
    }
    book.remove("b");
    let refusal = book.admit(0, annotated("b", &[("purlin.dev/devices", "acme.com/npu=1")]));
    assert_eq!(
        refusal.expect_err("nobody has one").reason,
        "no CDI specification on this node names acme.com/npu; `purlin numa map` lists what \
         there is"
    );
}

#[test]
fn where_kubelet_gives_cpus_out_nobody_else_does() {
    let mut book = book();
    book.admit(0, plain("web")).expect("it asks for nothing");
    book.admit(0, annotated("ours", &[("purlin.dev/exclusive-cpus", "2")])).expect("room");
    assert_eq!(cpus(&book, "ours"), "1,9");
    let gave = Gave { cpus: ids("1,9"), ..Gave::default() };
    let kubelet = Kubelet {
        shared: ids("0,2-8,10-11"),
        given: [("uid".into(), [("db".into(), gave)].into())].into(),
        ..Kubelet::default()
    };
    let rules = Rules { kubelet: Some(kubelet), ..Rules::default() };
    book.replan(Some(machine(2, 1, 4, Vec::new())), rules);
    assert_eq!(cpus(&book, "ours"), "13-14", "of those that kubelet does not manage");
    let mut db = pod("db", 2000);
    db.pod = Some(Pod { uid: "uid".into(), ..Pod::default() });
    let grant = book.admit(0, db).expect("kubelet's");
    assert_eq!(grant.target, None, "not ours to write");
    assert_eq!(cpus(&book, "web"), "0,2-8,10-11", "what kubelet's own share");
    let refusal = book.admit(0, annotated("more", &[("purlin.dev/exclusive-cpus", "2")]));
    assert!(refusal.expect_err("one is left").reason.contains("1 of 2"));
}

#[test]
fn fail_open_shares_and_says_why() {
    let mut book = book();
    let rules = Rules { fail_open: true, ..Rules::default() };
    book.replan(Some(machine(2, 1, 4, Vec::new())), rules);
    book.admit(0, pod("big", 16_000)).expect("it shares");
    let Outcome::Shared(Some(refusal)) = &book.entries()["big"].outcome else { panic!("shared") };
    assert!(refusal.reason.contains("12 of 16"));
}

#[test]
fn switched_off_nothing_is_decided_or_refused() {
    let mut book = book();
    book.admit(0, pod("a", 2000)).expect("room");
    let rules = Rules { enabled: false, ..Rules::default() };
    book.replan(Some(machine(2, 1, 4, Vec::new())), rules);
    assert_eq!(cpus(&book, "a"), "0-15");
    assert_eq!(book.admit(0, pod("big", 16_000)).expect("no matter").target, None);
}

#[test]
fn what_asked_for_more_gets_it_once_there_is_room() {
    let mut book = book();
    book.adopt(0, Via::Nri, vec![pod("a", 10_000), pod("b", 4000)]);
    assert!(!book.targets().containers["b"].exclusive);
    book.remove("a");
    assert!(book.targets().containers["b"].exclusive);
}

#[test]
fn an_update_that_asks_for_the_same_changes_nothing() {
    let mut book = book();
    book.admit(0, pod("a", 2000)).expect("room");
    let generation = book.targets().generation;
    let mut same = pod("a", 2000);
    same.resources.memory_limit = None;
    let grant = book.update(1, same.clone()).expect("the same");
    assert_eq!(grant.target.expect("a cpuset").cpus, ids("1,9"));
    assert_eq!(book.targets().generation, generation);
    let refused = book.update(1, pod("a", 16_000));
    refused.expect_err("12 are not reserved");
    assert_eq!(cpus(&book, "a"), "1,9", "it keeps what it had");
    book.update(1, pod("a", 4000)).expect("room");
    assert_eq!(book.targets().containers["a"].cpus.len(), 4);
}

#[test]
fn room_is_made_by_moving_the_cheapest() {
    let mut book = book();
    let on_one = |id: &str, count: &str, mib: &str| {
        annotated(
            id,
            &[
                ("purlin.dev/exclusive-cpus", count),
                ("purlin.dev/memory-mib", mib),
                ("purlin.dev/policy", "single-numa-node"),
            ],
        )
    };
    book.admit(0, on_one("large", "2", "2048")).expect("room");
    book.admit(0, on_one("small", "2", "1024")).expect("room");
    assert_eq!((&*cpus(&book, "large"), &*cpus(&book, "small")), ("1,9", "2,10"));
    book.admit(0, on_one("other", "4", "1024")).expect("room");
    // Two CPUs are left on each node; four fit on none.
    let wanted = on_one("new", "4", "0");
    book.admit(0, wanted.clone()).expect_err("no node has four");
    let request = book.asked(&wanted).expect("it asks well").request;
    let plan = book.repack(&request, 4 << 30, &Resident::new()).expect("a plan");
    let moved = |plan: &Plan| -> Vec<_> {
        plan.moves.iter().map(|it| (it.id.clone(), it.bytes, it.measured)).collect()
    };
    assert_eq!(moved(&plan), [("small".into(), 1 << 30, false)]);
    // What is in use counts, where it is known, and of that what is elsewhere.
    let in_use = [("large".into(), [(0, 5 << 20), (1, 9 << 30)].into())].into();
    let cheaper = book.repack(&request, 6 << 20, &in_use).expect("it uses little");
    assert_eq!(moved(&cheaper), [("large".into(), 5 << 20, true)]);
    let unknown = [("large".into(), [(u32::MAX, 7 << 20)].into())].into();
    book.repack(&request, 6 << 20, &unknown).expect_err("nobody knows where it is");
    book.repack(&request, 1 << 20, &Resident::new()).expect_err("a MiB is not enough");
    book.apply(&plan).expect("nothing has changed");
    assert_eq!(book.apply(&plan).expect_err("it has now").split(':').count(), 2);
    book.admit(0, wanted).expect("room was made");
    // Where the rules allow it, it is made at once.
    let mut allowed = self::book();
    let rules = Rules { repack: 4 << 30, ..Rules::default() };
    allowed.replan(Some(machine(2, 1, 4, Vec::new())), rules);
    for it in
        [on_one("large", "2", "2048"), on_one("small", "2", "1024"), on_one("other", "4", "9")]
    {
        allowed.admit(0, it).expect("room");
    }
    let before = allowed.targets().clone();
    allowed.admit(0, on_one("new", "4", "0")).expect("room is made");
    let moved = allowed.targets().since(&before);
    assert_eq!(moved.iter().map(|it| &*it.id).filter(|id| *id != "new").count(), 1);
}

/// On each of two nodes two fast cores of two threads and four slow ones of one.
fn hybrid() -> Machine {
    let mut machine = machine(2, 1, 4, Vec::new());
    for (cpu, place) in &mut machine.pus {
        place.kind = u32::from(cpu % 4 < 2);
        // The second threads of those that are slow are cores of their own.
        place.core += if place.kind == 0 && *cpu >= 8 { 8 } else { 0 };
    }
    machine
}

/// What may happen to a book.
#[derive(Clone, Debug)]
enum Step {
    Admit(usize, u64),
    Ask(usize, usize, usize, bool),
    Remove(usize),
    Adopt(Vec<(usize, u64)>),
    Found(Vec<(usize, u32)>),
    Offline(u32),
    Kubelet(Option<u32>),
    Repack(usize, bool),
    Pause(bool),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let milli = prop::sample::select(vec![500u64, 1000, 2000, 3000, 6000]);
    prop_oneof![
        3 => (0usize..9, milli.clone()).prop_map(|(id, milli)| Step::Admit(id, milli)),
        3 => (0usize..9, 1usize..6, 0usize..5, any::<bool>())
            .prop_map(|(id, count, policy, whole)| Step::Ask(id, count, policy, whole)),
        3 => (0usize..9).prop_map(Step::Remove),
        1 => prop::collection::vec((0usize..9, milli), 0..6).prop_map(Step::Adopt),
        1 => prop::collection::vec((0usize..4, 0u32..14), 0..4).prop_map(Step::Found),
        1 => (0u32..16).prop_map(Step::Offline),
        1 => prop::option::of(0u32..14).prop_map(Step::Kubelet),
        2 => (2usize..6, any::<bool>()).prop_map(|(count, whole)| Step::Repack(count, whole)),
        1 => any::<bool>().prop_map(Step::Pause),
        1 => Just(Step::Restart),
    ]
}

const POLICIES: [&str; 5] = ["none", "best-effort", "restricted", "single-numa-node", "optimal"];

fn asking(id: usize, count: usize, policy: usize, whole: bool) -> Container {
    annotated(
        &format!("c{id}"),
        &[
            ("purlin.dev/exclusive-cpus", &*format!("{count}")),
            ("purlin.dev/policy", POLICIES[policy]),
            ("purlin.dev/memory-mib", "1024"),
            ("purlin.dev/full-cores", if whole { "true" } else { "false" }),
        ],
    )
}

/// What has whole cores to itself has no other, and nobody else has a thread of them.
fn is_whole(book: &Book, machine: &Machine) -> Result<(), TestCaseError> {
    for (request, placement) in book.placed.values() {
        let Cpus::Exclusive { count, smt: Smt::FullCores } = request.cpus else { continue };
        let cpus = placement.exclusive.as_ref().expect("it has some");
        let cores: BTreeSet<u32> = cpus.iter().map(|cpu| machine.pus[&cpu].core).collect();
        let threads = machine.pus.iter().filter(|(_, place)| cores.contains(&place.core));
        let threads: IdSet = threads.map(|(cpu, _)| *cpu).collect();
        prop_assert_eq!(&threads, cpus, "half a core");
        prop_assert_eq!(cpus.len(), count);
    }
    Ok(())
}

/// No CPU is in an exclusive cpuset and in another one, and none is empty.
fn is_sound(targets: &Targets, online: &IdSet) -> Result<(), TestCaseError> {
    let mut taken = IdSet::default();
    for (id, target) in &targets.containers {
        prop_assert!(!target.cpus.is_empty() && !target.mems.is_empty(), "{} has nothing", id);
        prop_assert!(target.cpus.is_subset(online), "{} has an offline CPU", id);
        if target.exclusive {
            prop_assert!(target.cpus.intersection(&taken).is_empty(), "{} has another's", id);
            taken = taken.union(&target.cpus);
        }
    }
    prop_assert!(targets.shared.intersection(&taken).is_empty());
    let shared = targets.containers.values().filter(|target| !target.exclusive);
    for target in shared {
        prop_assert!(target.cpus.intersection(&taken).is_empty(), "shared and exclusive");
    }
    Ok(())
}

/// Whoever keeps what somebody else gave has no CPU that is another's alone.
fn is_left_alone_soundly(book: &Book) -> Result<(), TestCaseError> {
    let targets = &book.targets().containers;
    let exclusive = targets.values().filter(|target| target.exclusive);
    let taken = exclusive.fold(IdSet::default(), |taken, it| taken.union(&it.cpus));
    for (id, entry) in book.entries().iter().filter(|(id, _)| !targets.contains_key(*id)) {
        let Outcome::Given(given) = &entry.outcome else { continue };
        prop_assert!(given.cpus.intersection(&taken).is_empty(), "{} is on {}", id, given.cpus);
    }
    Ok(())
}

/// Once all that comes before a new container is written, nobody has any of its CPUs.
fn comes_last(
    before: &Targets,
    book: &Book,
    id: &str,
    grant: Option<Grant>,
) -> Result<(), TestCaseError> {
    let Some(Grant { target: Some(target), .. }) = grant else { return Ok(()) };
    let mut at = before.containers.clone();
    let updates = book.targets().since(before).into_iter();
    at.extend(updates.map(|update| (update.id, update.target)));
    at.remove(id);
    let clash = at.iter().find(|(_, it)| !it.cpus.intersection(&target.cpus).is_empty());
    prop_assert!(!target.exclusive || clash.is_none(), "{id} {clash:?}");
    Ok(())
}

proptest! {
    #[test]
    fn no_exclusive_cpu_is_ever_given_twice(
        steps in prop::collection::vec(step(), 1..40),
        mixed in any::<bool>(),
    ) {
        let whole = if mixed { hybrid() } else { machine(2, 1, 4, Vec::new()) };
        let mut machine = whole.clone();
        let mut rules = Rules::default();
        let mut book = Book::default();
        book.replan(Some(machine.clone()), rules.clone());
        let mut now = 0;
        for step in steps {
            now += 1000;
            let id = |id: usize| format!("c{id}");
            let before = book.targets().clone();
            match step {
                Step::Admit(number, milli) => {
                    let grant = book.admit(now, pod(&id(number), milli));
                    comes_last(&before, &book, &id(number), grant.ok())?;
                }
                Step::Ask(number, count, policy, whole) => {
                    let grant = book.admit(now, asking(number, count, policy, whole)).ok();
                    comes_last(&before, &book, &id(number), grant.clone())?;
                    if let (Some(grant), false) = (grant, book.paused()) {
                        let target = grant.target.expect("it is switched on");
                        prop_assert_eq!(target.cpus.len(), count);
                        let online: IdSet = machine.pus.keys().copied().collect();
                        prop_assert!(target.cpus.is_subset(&online.difference(&book.reserved)));
                    }
                }
                Step::Remove(number) => _ = book.remove(&id(number)),
                Step::Adopt(all) => {
                    let all = all.into_iter().map(|(number, milli)| pod(&id(number), milli));
                    let all: BTreeMap<String, Container> =
                        all.map(|it| (it.id.clone(), it)).collect();
                    book.adopt(now, Via::Nri, all.into_values().collect());
                }
                Step::Found(all) => {
                    let cpus = |cpu: u32| (cpu..cpu + 3).collect::<IdSet>().to_string();
                    let all = all.into_iter().map(|(number, cpu)| found(&format!("f{number}"), &cpus(cpu)));
                    let all: BTreeMap<String, Container> =
                        all.map(|it| (it.id.clone(), it)).collect();
                    book.adopt(now, Via::Found, all.into_values().collect());
                }
                Step::Offline(cpu) => {
                    machine = whole.clone();
                    machine.pus.remove(&cpu);
                    book.replan(Some(machine.clone()), rules.clone());
                }
                Step::Kubelet(cpu) => {
                    // Two to share, and two that belong to a container or to one to come.
                    let gave = Gave { cpus: (cpu.unwrap_or(0)..).take(2).collect(), ..Gave::default() };
                    rules.kubelet = cpu.map(|cpu| Kubelet {
                        shared: (cpu + 2..cpu + 4).collect(),
                        given: [("c1".into(), [("c1".into(), gave)].into())].into(),
                        ..Kubelet::default()
                    });
                    book.replan(Some(machine.clone()), rules.clone());
                }
                Step::Repack(count, whole) => {
                    let asking = asking(99, count, 3, whole);
                    let request = book.asked(&asking).expect("a request").request;
                    if let Ok(plan) = book.repack(&request, 8 << 30, &Resident::new()) {
                        let applied = book.apply(&plan);
                        applied.expect("it is of now");
                        let decision = book.what_if(&request).expect("there is room now");
                        prop_assert_eq!(decision.placement.exclusive.map(|it| it.len()), Some(count));
                    }
                }
                Step::Pause(paused) => _ = book.pause(paused),
                Step::Restart => {
                    book = Book::restore(book.save());
                    book.replan(Some(machine.clone()), rules.clone());
                }
            }
            let online: IdSet = machine.pus.keys().copied().collect();
            is_sound(book.targets(), &online)?;
            is_left_alone_soundly(&book)?;
            is_whole(&book, &machine)?;
        }
    }
}

#[test]
fn the_last_core_is_never_given_away() {
    let mut book = Book::default();
    let rules = Rules { reserved: Some(IdSet::default()), ..Rules::default() };
    book.replan(Some(machine(2, 1, 4, Vec::new())), rules);
    book.admit(0, plain("web")).expect("it asks for nothing");
    let refusal = book.admit(0, pod("all", 16_000)).expect_err("somebody has to share");
    assert!(refusal.reason.contains("14 of 16"), "{}", refusal.reason);
    book.admit(0, pod("most", 14_000)).expect("room");
    assert_eq!(cpus(&book, "web"), "0,8");
}

#[test]
fn what_is_left_alone_is_still_looked_for() {
    let mut book = book();
    let mut bound = Container { cgroup: Some("/box/theirs".into()), ..plain("theirs") };
    bound.resources.cpus = Some(ids("1-3"));
    book.admit(0, bound).expect("theirs");
    assert_eq!(book.targets().left["theirs"], "/box/theirs");
    // Now it is in the way, and has a target.
    book.admit(0, pod("db", 2000)).expect("room");
    assert!(book.targets().left.is_empty());
    let cgroups: Vec<_> = book.targets().cgroups().map(|(id, _)| id.as_str()).collect();
    assert_eq!(cgroups, ["db", "theirs"]);
}

/// One that a scan of cgroups finds.
fn found(id: &str, cpus: &str) -> Container {
    let resources = Resources { cpus: Some(ids(cpus)), ..Resources::default() };
    Container { resources, ..plain(id) }
}

/// Its target, `-` for none, and whether it is given.
fn outcome(book: &Book, id: &str) -> String {
    let target = book.targets().containers.get(id);
    let what = match &book.entries()[id].outcome {
        Outcome::Given(given) => format!("given {}", given.cpus),
        Outcome::Placed(..) => "placed".into(),
        Outcome::Shared(_) => "shared".into(),
    };
    target.map_or(format!("{what}, left alone"), |it| format!("{what}, {}", it.cpus))
}

#[test]
fn a_cpuset_that_somebody_else_gave_is_kept() {
    let mut book = book();
    book.adopt(0, Via::Found, vec![found("typed", "2-5"), found("all", "0-15"), plain("web")]);
    assert_eq!(outcome(&book, "typed"), "given 2-5, left alone");
    assert_eq!(outcome(&book, "all"), "shared, 0-15", "that is no cpuset of its own");
    // It gives up what somebody gets for itself alone, and gets it back.
    book.admit(0, annotated("own", &[("purlin.dev/exclusive-cpus", "4")])).expect("room");
    assert_eq!(outcome(&book, "own"), "placed, 1-2,9-10");
    assert_eq!(outcome(&book, "typed"), "given 2-5, 3-5");
    book.remove("own");
    assert_eq!(outcome(&book, "typed"), "given 2-5, 2-5");
    book.pause(true);
    assert_eq!(outcome(&book, "typed"), "given 2-5, 2-5");
}

#[test]
fn who_bound_it_may_bind_it_elsewhere() {
    let mut book = book();
    book.adopt(0, Via::Found, vec![found("typed", "2-3")]);
    book.adopt(1, Via::Found, vec![found("typed", "5-6")]);
    assert_eq!(outcome(&book, "typed"), "given 5-6, left alone");
    book.replan(Some(machine(2, 1, 4, Vec::new())), Rules::default());
    assert_eq!(outcome(&book, "typed"), "given 5-6, left alone");
}

#[test]
fn a_cpuset_that_we_gave_is_not_somebody_elses() {
    let mut book = book();
    book.admit(0, annotated("own", &[("purlin.dev/exclusive-cpus", "2")])).expect("room");
    // While we were away the wrapper made one by the last plan, and the other one ended.
    book.adopt(0, Via::Nri, Vec::new());
    let mut away = self::book();
    away.admit(0, annotated("own", &[("purlin.dev/exclusive-cpus", "2")])).expect("room");
    away.adopt(0, Via::Found, vec![found("late", "0,2-8,10-15")]);
    assert_eq!(outcome(&away, "late"), "shared, 0,2-8,10-15");
    // With the book lost, what all share is still what is left of what runs.
    let mut lost = self::book();
    let mut own = pod("own", 2000);
    own.resources.cpus = Some(ids("1,9"));
    lost.adopt(0, Via::Found, vec![own, found("web", "0,2-8,10-15")]);
    assert_eq!(outcome(&lost, "own"), "placed, 1,9");
    assert_eq!(outcome(&lost, "web"), "shared, 0,2-8,10-15");
}

/// A container of a pod `uid`, for which kubelet takes the quota off.
fn of_kubelet(name: &str, memory: Option<u64>) -> Container {
    let mut it = pod(name, 2000);
    it.pod = Some(Pod { uid: "uid".into(), ..Pod::default() });
    it.resources.cpu_quota_us = None;
    it.resources.cpu_shares = None;
    it.resources.memory_limit = memory;
    it
}

fn with_kubelet(shared: &str, given: &[(&str, &str, &str)]) -> Rules {
    let gave = |(name, cpus, mems): &(&str, &str, &str)| {
        let gave = Gave { cpus: ids(cpus), mems: IdSet::parse(mems).unwrap_or_default() };
        (String::from(*name), gave)
    };
    let given = given.iter().map(gave).collect();
    let kubelet = Kubelet {
        shared: ids(shared),
        given: [("uid".into(), given)].into(),
        ..Kubelet::default()
    };
    Rules { kubelet: Some(kubelet), ..Rules::default() }
}

#[test]
fn memory_goes_near_the_cpus_that_kubelet_gave() {
    let mut book = book();
    let rules =
        with_kubelet("0-3,8-15", &[("db", "4-5", ""), ("bound", "6", "0"), ("big", "7", "")]);
    book.replan(Some(machine(2, 1, 4, Vec::new())), rules);
    let grant = book.admit(0, of_kubelet("db", Some(1 << 30))).expect("kubelet's");
    let target = grant.target.expect("its memory is ours");
    assert_eq!((target.cpus, target.mems, target.exclusive), (ids("4-5"), ids("1"), true));
    // Kubelet's memory manager has said where, or there is no room for it there.
    let grant = book.admit(0, of_kubelet("bound", Some(1 << 30))).expect("kubelet's");
    assert_eq!(grant.target, None);
    let grant = book.admit(0, of_kubelet("big", Some(1 << 50))).expect("kubelet's");
    assert_eq!(grant.target, None);
    // What is bound there is not given to the next.
    let room = book.room();
    assert_eq!(room.exclusive, 0, "kubelet gives CPUs out");
    book.pause(true);
    assert_eq!(book.targets().containers["db"].mems, ids("0-1"), "given back");
}

#[test]
fn kubelets_own_word_is_followed_when_it_changes() {
    let mut book = book();
    book.adopt(
        0,
        Via::Found,
        vec![Container { cgroup: Some("/kubepods/poduid/c".into()), ..found("c", "4-5") }],
    );
    assert_eq!(outcome(&book, "c"), "given 4-5, left alone");
    book.replan(Some(machine(2, 1, 4, Vec::new())), with_kubelet("0-3,6-15", &[("db", "4-5", "")]));
    let Outcome::Given(given) = &book.entries()["c"].outcome else { panic!("given") };
    assert!(given.exclusive, "whose CPUs it has tells which of the pod's it is");
    // A container that shares gives up at once what kubelet gives away.
    let mut web = of_kubelet("web", None);
    web.resources.cpus = Some(ids("0-3,6-15"));
    book.admit(0, web).expect("kubelet's");
    assert_eq!(outcome(&book, "web"), "given 0-3,6-15, left alone");
    let rules = with_kubelet("0-3,8-15", &[("db", "4-5", ""), ("new", "6-7", "")]);
    book.replan(Some(machine(2, 1, 4, Vec::new())), rules);
    assert_eq!(outcome(&book, "web"), "given 0-3,6-15, 0-3,8-15");
}

#[test]
fn what_kubelet_gave_to_a_pod_is_its_containers_together() {
    let mut book = book();
    let pods = [("uid".into(), ids("4-7"))].into();
    let kubelet = Kubelet { shared: ids("0-3,8-15"), pods, ..Kubelet::default() };
    let rules = Rules { kubelet: Some(kubelet), ..Rules::default() };
    book.replan(Some(machine(2, 1, 4, Vec::new())), rules);
    for name in ["one", "other"] {
        let mut it = of_kubelet(name, Some(1 << 30));
        it.resources.cpus = Some(ids("4-7"));
        assert_eq!(book.admit(0, it).expect("kubelet's").target, None, "not ours to write");
    }
    book.admit(0, plain("web")).expect("it asks for nothing");
    assert_eq!(cpus(&book, "web"), "0-3,8-15");
}

#[test]
fn a_priority_is_no_wish_for_a_place_and_who_says_none_is_never_below_another() {
    let mut book = book();
    for (id, priority) in [("batch", "10"), ("serves", "900")] {
        let grant = book.admit(0, annotated(id, &[("purlin.dev/priority", priority)]));
        let target = grant.expect("room").target.expect("a cpuset");
        assert!(!target.exclusive, "it shares");
        assert!(
            matches!(book.entries()[id].outcome, Outcome::Shared(None)),
            "it asked for nothing"
        );
    }
    book.admit(0, annotated("silent", &[])).expect("room");
    assert_eq!(book.below(10), [""; 0]);
    assert_eq!(book.below(11), ["batch"]);
    assert_eq!(book.below(1000), ["batch", "serves"]);
    let refused = book.admit(0, annotated("wrong", &[("purlin.dev/priority", "1001")]));
    let why = refused.expect_err("too high").reason;
    assert_eq!(why, "annotation purlin.dev/priority: \"1001\" may be 0 to 1000");
}
