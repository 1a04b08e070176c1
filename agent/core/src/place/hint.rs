//! Merges the NUMA hints of several providers as kubelet's topology manager does.
//!
//! A provider (CPUs, memory, a kind of device) says which sets of NUMA nodes could
//! serve a request, and which of them are as small as they can be ("preferred"). A
//! choice takes one hint of each provider and is the nodes common to all of them; it is
//! preferred itself if all of its hints are, and name the same nodes. Kubelet looks at
//! every choice, which is the product of all the numbers of hints. Here the preferred ones
//! are what the providers' preferred sets have in common, and of the others only the sets
//! that *some* choice reaches are found, by an AND-convolution of one provider after the
//! other: with `n` nodes and `p` providers that is O(p·n·2ⁿ), whatever the hints.
//!
//! The rules are those of `pkg/kubelet/cm/topologymanager/policy.go` (Kubernetes 1.34): a
//! preferred set before any other, then the narrowest. Among sets that are not preferred,
//! the largest that is no larger than what the neediest provider needs. These are a total
//! order, so kubelet's order of looking changes nothing; with "prefer closest" they are
//! none, and there we take ours (see [`best_of_the_rest`]).

use alloc::{vec, vec::Vec};
use core::cmp::Ordering;

use super::nodes::{Distances, MAX_NODES, Nodes, for_each_pair};

/// What one provider says of one set of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint {
    /// The nodes it would take from; `None` if any will do.
    pub nodes: Option<Nodes>,
    /// As few nodes as this provider could ever do with.
    pub preferred: bool,
}

/// The best that all providers agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merged {
    /// The nodes; all of the machine's if nothing is common to all providers.
    pub nodes: Nodes,
    /// Every provider prefers just these.
    pub preferred: bool,
}

/// Merges one list of hints for each provider. An empty list is a provider that can't
/// serve the request anywhere; one that doesn't care is to be left out.
///
/// `all` are the machine's nodes, of the first [`MAX_NODES`] there can be. With `distances`
/// the closest nodes are taken before the narrowest set ("prefer-closest-numa-nodes").
pub fn merge(all: Nodes, providers: &[Vec<Hint>], distances: Option<&Distances>) -> Merged {
    let fit = |nodes: &Nodes| (distances.map(|it| it.mean(*nodes)), nodes.len(), nodes.bits());
    let nearer = |one: &Nodes, other: &Nodes| order(fit(one), fit(other));
    if let Some(nodes) = preferred(all, providers).into_iter().min_by(nearer) {
        return Merged { nodes, preferred: true };
    }
    let nodes = best_of_the_rest(all, providers, nearer).unwrap_or(all);
    Merged { nodes, preferred: false }
}

/// Leaves those that the policy "single-numa-node" merges.
pub(super) fn keep_single(hints: &mut Vec<Hint>) {
    hints.retain(|hint| hint.preferred && hint.nodes.is_none_or(|it| it.len() == 1));
}

/// The sets that one provider prefers, and each other prefers too or prefers any.
fn preferred(all: Nodes, providers: &[Vec<Hint>]) -> Vec<Nodes> {
    let preferred = |hints: &Vec<Hint>| Preferred::new(all, hints);
    let providers: Vec<Preferred> = providers.iter().map(preferred).collect();
    let agreed = |set: &Nodes| providers.iter().all(|it| it.any || it.named[set.bits() as usize]);
    let named = |set: &Nodes| providers.iter().any(|it| it.named[set.bits() as usize]);
    let any = providers.iter().all(|provider| provider.any).then_some(all);
    all.subsets().filter(|set| agreed(set) && named(set)).chain(any).collect()
}

struct Preferred {
    any: bool,
    /// By the bits of the set.
    named: Vec<bool>,
}

impl Preferred {
    fn new(all: Nodes, hints: &[Hint]) -> Self {
        let mut it = Self { any: false, named: vec![false; table(all)] };
        for hint in hints.iter().filter(|hint| hint.preferred) {
            match hint.nodes {
                None => it.any = true,
                Some(nodes) => it.named[nodes.and(all).bits() as usize] = true,
            }
        }
        it
    }
}

/// Entries of a table with one for every set of nodes.
fn table(all: Nodes) -> usize {
    1 << (32 - all.bits().leading_zeros()).min(MAX_NODES)
}

/// The best set that some choice reaches at all. Sets are ranked by how many nodes they
/// have before how close those are; kubelet, asked for the closest, lets its order of
/// looking decide there.
fn best_of_the_rest(
    all: Nodes,
    providers: &[Vec<Hint>],
    nearer: impl Fn(&Nodes, &Nodes) -> Ordering,
) -> Option<Nodes> {
    let mut reached = vec![false; table(all)];
    reached[all.bits() as usize] = true;
    for hints in providers {
        let mut given = vec![false; reached.len()];
        for hint in hints {
            given[hint.nodes.unwrap_or(all).and(all).bits() as usize] = true;
        }
        reached = and(&reached, &given);
    }
    let needed = needed(all, providers);
    let rank = |nodes: &Nodes| rank(*nodes, needed);
    let reached = all.subsets().filter(|set| reached[set.bits() as usize]);
    reached.min_by(|one, other| rank(one).cmp(&rank(other)).then_with(|| nearer(one, other)))
}

/// Too few nodes are better than too many, and the more of too few the better.
pub(super) fn rank(nodes: Nodes, needed: u32) -> (u32, u32) {
    match nodes.len() {
        len if len <= needed => (0, needed - len),
        len => (1, len),
    }
}

/// How many nodes the neediest provider needs at least.
pub(super) fn needed(all: Nodes, providers: &[Vec<Hint>]) -> u32 {
    let least = |hints: &Vec<Hint>| {
        hints.iter().map(|hint| hint.nodes.unwrap_or(all).len()).min().unwrap_or(0)
    };
    providers.iter().map(least).max().unwrap_or(0)
}

fn order(one: (Option<f64>, u32, u32), other: (Option<f64>, u32, u32)) -> Ordering {
    let distance = match (one.0, other.0) {
        (Some(one), Some(other)) => one.total_cmp(&other),
        _ => Ordering::Equal,
    };
    distance.then((one.1, one.2).cmp(&(other.1, other.2)))
}

/// The sets that are what a set of the one and a set of the other have in common.
fn and(one: &[bool], other: &[bool]) -> Vec<bool> {
    let pairs = zeta(one).into_iter().zip(zeta(other));
    // At most 2¹⁶ · 2¹⁶ pairs, and never less than none once inverted.
    let mut pairs: Vec<u64> = pairs.map(|(one, other)| one * other).collect();
    for_each_pair(&mut pairs, |without, with| *without -= *with);
    pairs.into_iter().map(|pairs| pairs > 0).collect()
}

/// How many of the given sets contain each set.
fn zeta(given: &[bool]) -> Vec<u64> {
    let mut counts: Vec<u64> = given.iter().map(|given| u64::from(*given)).collect();
    for_each_pair(&mut counts, |without, with| *without += *with);
    counts
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn hint(nodes: &[u32], preferred: bool) -> Hint {
        Hint { nodes: Some(nodes.iter().copied().collect()), preferred }
    }

    /// Every choice, one after the other, by kubelet's own comparison.
    fn brute_force(all: Nodes, providers: &[Vec<Hint>]) -> Merged {
        let needed = needed(all, providers);
        let mut choices = Vec::from([Vec::new()]);
        for hints in providers {
            let with = |choice: &Vec<Hint>| {
                let choice = choice.clone();
                hints.iter().map(move |hint| [&choice[..], &[*hint]].concat())
            };
            choices = choices.iter().flat_map(with).collect();
        }
        let mut best: Option<Merged> = None;
        for candidate in choices.into_iter().map(|choice| choose(all, &choice)) {
            best = match best {
                _ if candidate.nodes.len() == 0 => best,
                None => Some(candidate),
                Some(current) => Some(better(current, candidate, needed)),
            };
        }
        best.unwrap_or(Merged { nodes: all, preferred: false })
    }

    fn choose(all: Nodes, choice: &[Hint]) -> Merged {
        let named = || choice.iter().filter_map(|hint| hint.nodes);
        let equal = named().all(|nodes| Some(nodes) == named().next());
        Merged {
            nodes: named().fold(all, Nodes::and),
            preferred: equal && choice.iter().all(|hint| hint.preferred),
        }
    }

    fn better(current: Merged, candidate: Merged, needed: u32) -> Merged {
        let narrower = || {
            let key = |it: Merged| (it.nodes.len(), it.nodes.bits());
            if key(candidate) < key(current) { candidate } else { current }
        };
        match (current.preferred, candidate.preferred) {
            (false, true) => candidate,
            (true, false) => current,
            (true, true) => narrower(),
            (false, false) => {
                let (now, then) = (current.nodes.len(), candidate.nodes.len());
                if now > needed {
                    narrower()
                } else if now == needed {
                    if then == needed { narrower() } else { current }
                } else if then > needed || then < now {
                    current
                } else if then > now {
                    candidate
                } else {
                    narrower()
                }
            }
        }
    }

    #[test]
    fn the_closest_of_two_pairs_is_taken_where_asked() {
        let all: Nodes = (0..4).collect();
        let providers = [Vec::from([hint(&[0, 1], true), hint(&[2, 3], true)])];
        let far = |one: u32, other: u32| match (one, other) {
            (0, 1) | (1, 0) => 31,
            (one, other) if one == other => 10,
            _ => 21,
        };
        let distances = Distances::new(4, far);
        assert_eq!(merge(all, &providers, None).nodes, (0..2).collect());
        assert_eq!(merge(all, &providers, Some(&distances)).nodes, (2..4).collect());
    }

    proptest! {
        #[test]
        fn the_convolution_chooses_what_looking_at_every_choice_chooses(
            nodes in 1u32..=6,
            lists in prop::collection::vec(
                prop::collection::vec((prop::option::weighted(0.9, 0u32..64), any::<bool>()), 1..8),
                1..5,
            ),
        ) {
            let all: Nodes = (0..nodes).collect();
            let hint = |(bits, preferred): &(Option<u32>, bool)| Hint {
                nodes: bits.map(|bits| Nodes::of(bits & all.bits())),
                preferred: *preferred,
            };
            let providers: Vec<Vec<Hint>> =
                lists.iter().map(|list| list.iter().map(hint).collect()).collect();
            prop_assert_eq!(merge(all, &providers, None), brute_force(all, &providers));
        }
    }
}
