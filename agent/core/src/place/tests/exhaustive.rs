//! The optimizer on every small machine, with every set of PUs free and every number of
//! them asked for: what it finds is the best of all sets of nodes and of PUs, what it
//! gives is worth what it says, and it refuses only where nothing fits. Also where cores
//! have different numbers of threads: a hybrid CPU, or threads that are offline.

use super::*;

/// The most PUs of a machine: with more, there are too many sets of sets of them.
const MAX_PUS: u32 = 8;

/// Nodes, caches each, cores each, threads each.
fn small_machines() -> impl Iterator<Item = Machine> {
    let shapes = (1..=3).flat_map(|nodes| {
        (1..=MAX_PUS).flat_map(move |caches| {
            (1..=MAX_PUS).flat_map(move |cores| {
                (1..=MAX_PUS).map(move |threads| (nodes, caches, cores, threads))
            })
        })
    });
    shapes
        .filter(|(nodes, caches, cores, threads)| nodes * caches * cores * threads <= MAX_PUS)
        .map(|(nodes, caches, cores, threads)| machine_of(nodes, caches, cores, threads))
}

/// Cores of so many threads, the first of them the fastest kind if they are of several …
const MIXED: [&[u32]; 15] = [
    &[2, 1],
    &[2, 1, 1],
    &[2, 2, 1],
    &[4, 1],
    &[4, 2],
    &[3, 2, 2],
    &[4, 1, 1],
    &[4, 2, 1],
    &[2, 1, 1, 1],
    &[2, 2, 2, 1],
    &[2, 2, 1, 1],
    &[4, 1, 1, 1],
    &[2, 2, 1, 1, 1],
    &[2, 1, 1, 1, 1],
    &[2, 2, 1, 1, 1, 1],
];

/// … that take turns on so many caches and nodes.
const DEALT: [(u32, u32); 3] = [(1, 1), (2, 1), (2, 2)];

fn mixed_machines() -> impl Iterator<Item = Machine> {
    let shapes = MIXED.into_iter().flat_map(|sizes| DEALT.map(|dealt| (sizes, dealt)));
    shapes.flat_map(|(sizes, dealt)| [true, false].map(|alike| mixed(sizes, dealt, alike)))
}

fn mixed(sizes: &[u32], (caches, nodes): (u32, u32), alike: bool) -> Machine {
    let mut pus = Vec::new();
    for (core, size) in (0..).zip(sizes) {
        let node = core % nodes;
        let kind = u32::from(!alike && *size == sizes[0]);
        let place = Place { node, package: node, l3: core % caches, core, kind };
        pus.extend((0..*size).map(|_| place));
    }
    Machine { pus: (0..).zip(pus).collect(), ..machine_of(nodes, 1, 1, 1) }
}

fn bits(set: &IdSet) -> u32 {
    set.iter().fold(0, |bits, pu| bits | 1 << pu)
}

fn pus(bits: u32) -> IdSet {
    (0..MAX_PUS).filter(|pu| bits >> pu & 1 == 1).collect()
}

/// Every choice of nodes and of PUs on them, and what it is worth where all is free; then
/// the PUs behind its caches, of which what is free counts as left over.
struct Choices(Vec<(u32, Score, u32)>);

impl Choices {
    fn of(machine: &Machine) -> Self {
        let all: IdSet = machine.pus.keys().copied().collect();
        let mut choices = Vec::new();
        for taken in 1..=bits(&all) {
            let list: Vec<u32> = pus(taken).iter().collect();
            let there: Nodes = list.iter().map(|pu| machine.pus[pu].node).collect();
            let of = |is: fn(&Place) -> u32| list.iter().map(|pu| is(&machine.pus[pu])).collect();
            let (caches, kinds): (BTreeSet<u32>, BTreeSet<u32>) =
                (of(|it| it.l3), of(|it| it.kind));
            let beside = |it: &Place| caches.contains(&it.l3) && kinds.contains(&it.kind);
            for nodes in machine.all().subsets().filter(|nodes| nodes.and(there) == there) {
                let behind = machine.pus.iter().filter(|(_, it)| beside(it) && nodes.has(it.node));
                let behind = behind.map(|(pu, _)| *pu).collect();
                choices.push((taken, score(machine, nodes, &all, &list, 0), bits(&behind)));
            }
        }
        Self(choices)
    }

    /// What a set of PUs is worth at best, or the best of so many.
    fn best(&self, free: u32, wanted: impl Fn(u32) -> bool) -> Option<Score> {
        let fits = |taken: u32| taken & !free == 0 && wanted(taken);
        let left = |(taken, score, behind): &(u32, Score, u32)| Score {
            left_over: (behind & free & !taken).count_ones(),
            ..*score
        };
        let scores = self.0.iter().filter(|(taken, ..)| fits(*taken)).map(left);
        scores.min_by(|one, other| one.partial_cmp(other).expect("distances are numbers"))
    }
}

/// The PUs of cores that are free as a whole.
fn in_whole_cores(machine: &Machine, free: u32) -> u32 {
    let busy =
        |core: u32| machine.pus.iter().any(|(pu, place)| place.core == core && free >> pu & 1 == 0);
    let whole = machine.pus.iter().filter(|(_, place)| !busy(place.core));
    bits(&whole.map(|(pu, _)| *pu).collect())
}

/// What was looked at: machines, requests, those of them that were refused.
type Seen = (u32, u32, u32);

fn check(machine: &Machine, (machines, asked, refused): &mut Seen) {
    let choices = Choices::of(machine);
    let all = bits(&machine.pus.keys().copied().collect());
    for free in 0..=all {
        let other = Placement { exclusive: Some(pus(all & !free)), ..Placement::default() };
        let placed = Placed::from([("other".into(), (Request::default(), other))]);
        for count in 1..=machine.pus.len() {
            for smt in [Smt::Any, Smt::FullCores] {
                let usable = match smt {
                    Smt::Any => free,
                    Smt::FullCores => in_whole_cores(machine, free),
                };
                let is_whole = |taken| in_whole_cores(machine, taken) == taken;
                let wanted = |taken: u32| {
                    taken.count_ones() as usize == count && (smt == Smt::Any || is_whole(taken))
                };
                let best = choices.best(usable, wanted);
                let cpus = Cpus::Exclusive { count, smt };
                let ours = ask(machine, &placed, &Request { cpus, ..Request::default() });
                let ours = ours.ok();
                let found = ours.as_ref().and_then(|it| it.why.score);
                let what = || format!("{count} {smt:?} of {free:b} of {machine:?}");
                assert_eq!(found, best, "{}", what());
                (*asked, *refused) = (*asked + 1, *refused + u32::from(best.is_none()));
                let Some(decision) = ours else { continue };
                let given = bits(&decision.placement.exclusive.expect("PUs"));
                let worth = choices.best(usable, |taken| taken == given);
                assert_eq!(worth, best, "{given:b} is given: {}", what());
                assert!(wanted(given), "{given:b} is given: {}", what());
                assert_eq!(decision.why.gap, None, "{}", what());
            }
        }
    }
    *machines += 1;
}

#[test]
fn on_every_small_machine_the_best_is_found() {
    let mut seen = Seen::default();
    small_machines().for_each(|machine| check(&machine, &mut seen));
    // So that nobody makes it a test of nothing unseen.
    assert_eq!(seen, (55, 84_804, 52_035));
}

#[test]
fn where_cores_differ_the_best_is_found_and_no_half_of_one_is_given_for_a_whole() {
    let mut seen = Seen::default();
    mixed_machines().for_each(|machine| check(&machine, &mut seen));
    assert_eq!(seen, (90, 103_584, 64_302));
}

/// Kubelet's policies give whole cores too, and of one kind if that has enough.
#[test]
fn whole_cores_are_whole_by_every_policy() {
    let (mut given, mut refused) = (0, 0);
    for machine in mixed_machines() {
        let all = bits(&machine.pus.keys().copied().collect());
        let of = |is: &dyn Fn(&Place) -> bool| {
            bits(&machine.pus.iter().filter(|(_, place)| is(place)).map(|(pu, _)| *pu).collect())
        };
        let is_whole = |taken: &u32| in_whole_cores(&machine, *taken) == *taken;
        let sets: Vec<u32> = (1..=all).filter(is_whole).collect();
        for (free, count) in
            (0..=all).flat_map(|free| (1..=machine.pus.len()).map(move |it| (free, it)))
        {
            let other = Placement { exclusive: Some(pus(all & !free)), ..Placement::default() };
            let placed = Placed::from([("other".into(), (Request::default(), other))]);
            let fits = |taken: &u32| taken & !free == 0 && taken.count_ones() as usize == count;
            let whole = |of: u32| sets.iter().filter(|taken| *taken & !of == 0).any(fits);
            let on_one = (0..2).any(|node| whole(of(&|place| place.node == node)));
            let of_one = (0..2).any(|kind| whole(of(&|place| place.kind == kind)));
            for (policy, fits) in [
                (Policy::None, whole(all)),
                (Policy::BestEffort, whole(all)),
                (Policy::SingleNumaNode, on_one),
            ] {
                let cpus = Cpus::Exclusive { count, smt: Smt::FullCores };
                let what = || format!("{policy:?}, {count} of {free:b} of {machine:?}");
                let ours = ask(&machine, &placed, &Request { cpus, policy, ..Request::default() });
                assert_eq!(ours.is_ok(), fits, "{}: {ours:?}", what());
                let Ok(decision) = ours else {
                    refused += 1;
                    continue;
                };
                given += 1;
                let cpus = bits(&decision.placement.exclusive.expect("PUs"));
                assert_eq!(in_whole_cores(&machine, cpus), cpus, "{cpus:b}: {}", what());
                assert_eq!(cpus & !free, 0, "{cpus:b}: {}", what());
                let kinds: BTreeSet<u32> =
                    pus(cpus).iter().map(|pu| machine.pus[&pu].kind).collect();
                assert!(
                    !of_one || policy != Policy::None || kinds.len() == 1,
                    "{cpus:b}: {}",
                    what()
                );
            }
        }
    }
    assert_eq!((given, refused), (39_028, 116_348));
}
