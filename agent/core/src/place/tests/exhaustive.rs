//! The optimizer on every small machine, with every set of PUs free and every number of
//! them asked for: what it finds is the best of all sets of nodes and of PUs, what it
//! gives is worth what it says, and it refuses only where nothing fits.

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
            let beside = |it: &Place| list.iter().any(|pu| machine.pus[pu].l3 == it.l3);
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

#[test]
fn on_every_small_machine_the_best_is_found() {
    let (mut machines, mut asked, mut refused) = (0, 0, 0);
    for machine in small_machines() {
        let choices = Choices::of(&machine);
        let all = bits(&machine.pus.keys().copied().collect());
        let threads = machine.pus.values().filter(|place| place.core == 0).count();
        for free in 0..=all {
            let other = Placement { exclusive: Some(pus(all & !free)), ..Placement::default() };
            let placed = Placed::from([("other".into(), (Request::default(), other))]);
            let whole = in_whole_cores(&machine, free);
            for count in 1..=machine.pus.len() {
                for (smt, usable) in [(Smt::Any, free), (Smt::FullCores, whole)] {
                    let counts = smt == Smt::Any || count % threads == 0;
                    let wanted = |taken: u32| taken.count_ones() as usize == count;
                    let best = choices.best(usable, wanted).filter(|_| counts);
                    let cpus = Cpus::Exclusive { count, smt };
                    let ours = ask(&machine, &placed, &Request { cpus, ..Request::default() });
                    let ours = ours.ok();
                    let found = ours.as_ref().and_then(|it| it.why.score);
                    let what = || format!("{count} {smt:?} of {free:b} of {machine:?}");
                    assert_eq!(found, best, "{}", what());
                    (asked, refused) = (asked + 1, refused + u32::from(best.is_none()));
                    let Some(decision) = ours else { continue };
                    let given = bits(&decision.placement.exclusive.expect("PUs"));
                    let worth = choices.best(usable, |taken| taken == given);
                    assert_eq!(worth, best, "{given:b} is given: {}", what());
                    assert_eq!(given.count_ones() as usize, count, "{}", what());
                    assert_eq!(decision.why.gap, None, "{}", what());
                }
            }
        }
        machines += 1;
    }
    // So that nobody makes it a test of nothing unseen.
    assert_eq!((machines, asked, refused), (55, 84_804, 52_035));
}
