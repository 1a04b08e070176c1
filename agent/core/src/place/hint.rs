//! Merges the NUMA hints of several providers as kubelet's topology manager does.
//!
//! A provider (CPUs, memory, a kind of device) says which sets of NUMA nodes could
//! serve a request, and which of them are as small as they can be ("preferred"). A
//! choice takes one hint of each provider and is the nodes common to all of them. Kubelet
//! looks at every choice, which is the product of all the numbers of hints; here only the
//! sets that *some* choice reaches are found, by an AND-convolution of one provider after
//! the other, and then the best of those. With `n` nodes and `p` providers that takes
//! O(p·n·2ⁿ) steps, whatever the hints.
//!
//! The rules of preference are those of `pkg/kubelet/cm/topologymanager/policy.go`
//! (Kubernetes 1.34): a preferred set before any other, then the narrowest. Among sets
//! that are not preferred, the largest that is no larger than what the neediest provider
//! needs. Kubelet's order of looking can't change any of this, since the rules are a total
//! order; with "prefer closest" they are none, and there we take ours (see [`best`]).

use alloc::{vec, vec::Vec};

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
    /// Every provider prefers it.
    pub preferred: bool,
}

/// Merges one list of hints for each provider. An empty list is a provider that can't
/// serve the request anywhere; one that doesn't care is to be left out.
///
/// `all` are the machine's nodes, at most [`MAX_NODES`] of them. With `distances` the
/// closest nodes are taken before the narrowest set ("prefer-closest-numa-nodes").
pub fn merge(all: Nodes, providers: &[Vec<Hint>], distances: Option<&Distances>) -> Merged {
    const NOWHERE: [Hint; 1] = [Hint { nodes: None, preferred: false }];
    let mut reached = Reached::new(all);
    for hints in providers {
        reached.and(if hints.is_empty() { &NOWHERE } else { hints });
    }
    let needed = needed(all, providers);
    let none = Merged { nodes: all, preferred: false };
    best(&reached, needed, distances).unwrap_or(none)
}

/// How many nodes the neediest provider needs at least.
fn needed(all: Nodes, providers: &[Vec<Hint>]) -> u32 {
    let least = |hints: &Vec<Hint>| {
        hints.iter().map(|hint| hint.nodes.unwrap_or(all).len()).min().unwrap_or(0)
    };
    providers.iter().map(least).max().unwrap_or(0)
}

/// The best of what can be reached. Sets that are not preferred are ranked by how many
/// nodes they have before how close those are; kubelet, asked for the closest, lets the
/// order of its own map decide there.
fn best(reached: &Reached, needed: u32, distances: Option<&Distances>) -> Option<Merged> {
    let fit = |nodes: &Nodes| (distances.map(|it| it.mean(*nodes)), nodes.len(), nodes.bits());
    let preferred = reached.sets(true).min_by(|one, other| order(fit(one), fit(other)));
    if let Some(nodes) = preferred {
        return Some(Merged { nodes, preferred: true });
    }
    // Too few nodes are better than too many, and the more of too few the better.
    let rank = |nodes: &Nodes| match nodes.len() {
        len if len <= needed => (0, needed - len),
        len => (1, len),
    };
    let by_rank =
        |one: &Nodes, other: &Nodes| rank(one).cmp(&rank(other)).then(order(fit(one), fit(other)));
    reached.sets(false).min_by(by_rank).map(|nodes| Merged { nodes, preferred: false })
}

fn order(one: (Option<f64>, u32, u32), other: (Option<f64>, u32, u32)) -> core::cmp::Ordering {
    let distance = match (one.0, other.0) {
        (Some(one), Some(other)) => one.total_cmp(&other),
        _ => core::cmp::Ordering::Equal,
    };
    distance.then((one.1, one.2).cmp(&(other.1, other.2)))
}

/// Which sets of nodes some choice of hints has in common, by bits: once for the choices
/// of preferred hints alone, once for those with any other among them.
struct Reached {
    bits: u32,
    preferred: Vec<bool>,
    other: Vec<bool>,
}

impl Reached {
    fn new(all: Nodes) -> Self {
        let bits = (32 - all.bits().leading_zeros()).min(MAX_NODES);
        let mut preferred = vec![false; 1 << bits];
        preferred[all.bits() as usize] = true;
        Self { bits, preferred, other: vec![false; 1 << bits] }
    }

    /// The sets but the empty one.
    fn sets(&self, preferred: bool) -> impl Iterator<Item = Nodes> + '_ {
        let reached = if preferred { &self.preferred } else { &self.other };
        (1..).zip(&reached[1..]).filter(|(_, reached)| **reached).map(|(set, _)| Nodes::of(set))
    }

    /// One provider more.
    fn and(&mut self, hints: &[Hint]) {
        let everywhere = (1 << self.bits) - 1;
        let (mut preferred, mut other) = (vec![false; 1 << self.bits], vec![false; 1 << self.bits]);
        for hint in hints {
            let set = hint.nodes.map_or(everywhere, |nodes| nodes.bits() & everywhere) as usize;
            if hint.preferred { preferred[set] = true } else { other[set] = true }
        }
        let [mine_preferred, mine_other] = [&self.preferred, &self.other].map(|it| zeta(it));
        let [their_preferred, their_other] = [&preferred, &other].map(|it| zeta(it));
        let both = |mine: u64, their: u64| mine * their;
        let all_preferred =
            mine_preferred.iter().zip(&their_preferred).map(|(mine, their)| both(*mine, *their));
        let mixed = (0..1 << self.bits).map(|set: usize| {
            both(mine_other[set], their_preferred[set] + their_other[set])
                + both(mine_preferred[set], their_other[set])
        });
        let mixed = mixed.collect();
        self.preferred = reached(all_preferred.collect());
        self.other = reached(mixed);
    }
}

/// How many of the given sets contain each set.
fn zeta(given: &[bool]) -> Vec<u64> {
    let mut counts: Vec<u64> = given.iter().map(|given| u64::from(*given)).collect();
    for_each_pair(&mut counts, |without, with| *without += *with);
    counts
}

/// The inverse: which sets have a count of their own. Counts are those of pairs, at most
/// 2 · 2¹⁶ · 2¹⁶, and never negative once inverted.
fn reached(mut counts: Vec<u64>) -> Vec<bool> {
    for_each_pair(&mut counts, |without, with| *without -= *with);
    counts.into_iter().map(|count| count > 0).collect()
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
        let mut best: Option<Merged> = None;
        let mut choices = alloc::vec![Merged { nodes: all, preferred: true }];
        for hints in providers {
            choices = choices
                .iter()
                .flat_map(|choice| {
                    hints.iter().map(move |hint| Merged {
                        nodes: choice.nodes.and(hint.nodes.unwrap_or(choice.nodes)),
                        preferred: choice.preferred && hint.preferred,
                    })
                })
                .collect();
        }
        for candidate in choices.into_iter().filter(|choice| choice.nodes.len() > 0) {
            best = Some(match best {
                None => candidate,
                Some(current) => better(current, candidate, needed),
            });
        }
        best.unwrap_or(Merged { nodes: all, preferred: false })
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
    fn a_preferred_set_wins_over_a_narrower_one() {
        let providers = [
            Vec::from([hint(&[1], true), hint(&[0, 1], false)]),
            Vec::from([hint(&[0], true), hint(&[1], true), hint(&[0, 1], false)]),
        ];
        let merged = merge([0, 1].into_iter().collect(), &providers, None);
        assert_eq!(merged, Merged { nodes: [1].into_iter().collect(), preferred: true });
    }

    #[test]
    fn nothing_in_common_is_the_whole_machine_and_not_preferred() {
        let all: Nodes = (0..4).collect();
        let providers = [Vec::from([hint(&[0], true)]), Vec::from([hint(&[1], true)])];
        assert_eq!(merge(all, &providers, None), Merged { nodes: all, preferred: false });
        assert_eq!(merge(all, &[Vec::new()], None), Merged { nodes: all, preferred: false });
        assert_eq!(merge(all, &[], None), Merged { nodes: all, preferred: true });
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
