//! Sets of NUMA nodes as bits, and how far nodes are from each other.
//!
//! Nodes are counted here from 0 without gaps, in the order of their kernel ids: the ids
//! themselves can have gaps, and a table of every set of nodes must not.

use alloc::vec::Vec;

/// The most nodes a placement is computed over: every set of 16 fits a table of 65,536.
pub const MAX_NODES: u32 = 16;

/// A set of nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nodes(u32);

impl Nodes {
    /// The set with these bits.
    pub fn of(bits: u32) -> Self {
        Self(bits)
    }

    /// One bit for each node.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// How many there are.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// The nodes in both.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Every set of some of them, the empty one left out.
    pub fn subsets(self) -> impl Iterator<Item = Self> {
        (1..=self.0).filter(move |bits| bits & !self.0 == 0).map(Self)
    }

    /// True if it has this one.
    pub fn has(self, node: u32) -> bool {
        node < 32 && self.0 >> node & 1 == 1
    }

    /// The nodes, ascending.
    pub fn iter(self) -> impl Iterator<Item = u32> {
        let mut left = self.0;
        core::iter::from_fn(move || {
            let node = (left != 0).then(|| left.trailing_zeros())?;
            left &= left - 1;
            Some(node)
        })
    }
}

impl FromIterator<u32> for Nodes {
    fn from_iter<I: IntoIterator<Item = u32>>(nodes: I) -> Self {
        Self(nodes.into_iter().fold(0, |bits, node| bits | 1 << node))
    }
}

/// Each pair of sets that differ in one node alone, one node after the other, of a table
/// with an entry for every set: `step(without, with)`.
pub(super) fn for_each_pair<T>(table: &mut [T], step: impl Fn(&mut T, &mut T)) {
    let mut half = 1;
    while half < table.len() {
        for block in table.chunks_exact_mut(2 * half) {
            let (without, with) = block.split_at_mut(half);
            without.iter_mut().zip(with.iter_mut()).for_each(|(one, other)| step(one, other));
        }
        half *= 2;
    }
}

/// Distances between nodes in the ACPI SLIT's unit, 10 = local.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distances {
    nodes: u32,
    table: Vec<u32>,
}

impl Distances {
    /// A table of `nodes` by `nodes`, filled by `far`.
    pub fn new(nodes: u32, far: impl Fn(u32, u32) -> u32) -> Self {
        let far = &far;
        let table = (0..nodes).flat_map(|from| (0..nodes).map(move |to| far(from, to))).collect();
        Self { nodes, table }
    }

    /// From one node to another.
    pub fn between(&self, from: u32, to: u32) -> u32 {
        self.table[(from * self.nodes + to) as usize]
    }

    /// The mean over all ordered pairs of a set, each node with itself among them.
    pub fn mean(&self, nodes: Nodes) -> f64 {
        let pairs = nodes.iter().flat_map(|from| nodes.iter().map(move |to| (from, to)));
        let sum: u64 = pairs.map(|(from, to)| u64::from(self.between(from, to))).sum();
        sum as f64 / f64::from((nodes.len() * nodes.len()).max(1))
    }
}
