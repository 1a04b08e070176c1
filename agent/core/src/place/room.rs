//! How much is left on each set of nodes.
//!
//! A workload bound to some nodes may use any of them, so what is left on a set is not the
//! sum of what is left on its nodes. All workloads fit exactly if for every set the ones
//! bound to nothing but it don't want more than it has (Hall's theorem); what a new one
//! may have on a set is the least slack of all sets that contain it. Tables over all sets
//! give that in O(n·2ⁿ).

use alloc::{vec, vec::Vec};

use super::nodes::{Nodes, for_each_pair};

/// What a new workload may still have of one resource, by the set of nodes it is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room(Vec<u64>);

impl Room {
    /// From what each node has, and what is bound to which nodes.
    pub fn new(has: &[u64], bound: impl IntoIterator<Item = (Nodes, u64)>) -> Self {
        let mut room = capacities(has);
        let mut wanted = vec![0u64; room.len()];
        let mut any = false;
        for (nodes, amount) in bound {
            let set = nodes.bits() as usize & (room.len() - 1);
            wanted[set] = wanted[set].saturating_add(amount);
            any |= amount > 0;
        }
        // Nobody wants anything: all there is, which is less on fewer nodes.
        if any {
            // Bound to nothing but the set: the sum over its subsets.
            for_each_pair(&mut wanted, |without, with| *with = with.saturating_add(*without));
            let left = room.iter_mut().zip(&wanted);
            left.for_each(|(room, wanted)| *room = room.saturating_sub(*wanted));
            // The least over the sets that contain it.
            for_each_pair(&mut room, |without, with| *without = (*without).min(*with));
        }
        Self(room)
    }

    /// With so much more that is on no node, and so on every set of them.
    pub fn and_anywhere(mut self, more: u64) -> Self {
        self.0.iter_mut().for_each(|room| *room = room.saturating_add(more));
        self
    }

    /// With no more on a set of nodes than some limit of it.
    pub fn limited(mut self, limit: impl Fn(Nodes) -> u64) -> Self {
        let sets = (0..).map(Nodes::of).zip(&mut self.0);
        sets.for_each(|(set, room)| *room = (*room).min(limit(set)));
        self
    }

    /// On these nodes.
    pub fn on(&self, nodes: Nodes) -> u64 {
        self.0.get(nodes.bits() as usize).copied().unwrap_or(0)
    }
}

/// What all nodes of each set have together.
fn capacities(has: &[u64]) -> Vec<u64> {
    let mut sums = vec![0u64; 1 << has.len()];
    for set in 1..sums.len() {
        let lowest = set.trailing_zeros() as usize;
        sums[set] = sums[set & (set - 1)].saturating_add(has[lowest]);
    }
    sums
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nodes(of: &[u32]) -> Nodes {
        of.iter().copied().collect()
    }

    #[test]
    fn what_is_bound_to_two_nodes_may_still_move_between_them() {
        let room = Room::new(&[10, 10], [(nodes(&[0, 1]), 12)]);
        assert_eq!(room.on(nodes(&[0])), 8);
        assert_eq!(room.on(nodes(&[0, 1])), 8);
        let room = Room::new(&[10, 10], [(nodes(&[0]), 10), (nodes(&[0, 1]), 4)]);
        assert_eq!((room.on(nodes(&[0])), room.on(nodes(&[1]))), (0, 6));
    }

    /// Can these amounts be dealt out, one unit after the other, by augmenting paths?
    fn fits(has: &[u64], bound: &[(Nodes, u64)]) -> bool {
        let mut left: Vec<u64> = has.to_vec();
        let mut given: Vec<(Nodes, usize)> = Vec::new();
        for (nodes, amount) in bound {
            for _ in 0..*amount {
                if !give(*nodes, &mut left, &mut given, &mut vec![false; has.len()]) {
                    return false;
                }
            }
        }
        true
    }

    fn give(
        to: Nodes,
        left: &mut [u64],
        given: &mut Vec<(Nodes, usize)>,
        seen: &mut [bool],
    ) -> bool {
        for node in to.iter().map(|node| node as usize) {
            if left[node] > 0 {
                left[node] -= 1;
                given.push((to, node));
                return true;
            }
        }
        for node in to.iter().map(|node| node as usize) {
            if core::mem::replace(&mut seen[node], true) {
                continue;
            }
            for index in 0..given.len() {
                let (other, at) = given[index];
                if at == node && give(other, left, given, seen) {
                    given[index] = (to, node);
                    return true;
                }
            }
        }
        false
    }

    proptest! {
        #[test]
        fn there_is_room_exactly_if_everything_can_be_dealt_out(
            has in prop::collection::vec(0u64..6, 1..4),
            bound in prop::collection::vec((1u32..8, 1u64..5), 0..4),
            new in (1u32..8, 1u64..6),
        ) {
            let all = (1u32 << has.len()) - 1;
            let set = |bits: u32| Nodes::of(if bits & all == 0 { all } else { bits & all });
            let bound: Vec<(Nodes, u64)> =
                bound.into_iter().map(|(bits, amount)| (set(bits), amount)).collect();
            prop_assume!(fits(&has, &bound));
            let room = Room::new(&has, bound.iter().copied());
            let mut more = bound.clone();
            more.push((set(new.0), new.1));
            prop_assert_eq!(room.on(set(new.0)) >= new.1, fits(&has, &more));
        }
    }
}
