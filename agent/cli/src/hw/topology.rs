//! The machine as boxes in boxes, for what draws or exports it.
//!
//! Owns the nesting alone: what contains what follows from the sets of PUs, as the
//! ids of packages and cores are not unique on all machines. What crosses another
//! thing (firmware that contradicts itself) is left out, and never forced in.

use std::cmp::Reverse;

use purlin_core::{
    idset::IdSet,
    inventory::{Cache, CacheKind, Cpu, Group, GroupKind, Inventory, NumaNode},
};

/// A thing with PUs in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object<'a> {
    pub kind: Kind<'a>,
    /// The kernel's id, where it has one.
    pub id: Option<i32>,
    /// Its online PUs.
    pub pus: IdSet,
    /// What is in it, by first PU.
    pub children: Vec<Object<'a>>,
}

/// What an object is. Of two with the same PUs the first one here is outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    Machine,
    /// Something with a name and no rank of its own: a drawer, a book, a cluster.
    Group(&'static str),
    Package,
    Die,
    /// NUMA nodes with the same CPUs, by id.
    Nodes(Vec<u32>),
    Cache(&'a Cache),
    Core,
    Pu,
}

impl Kind<'_> {
    /// From the outside in; caches by level, and an instruction cache within
    /// that of its level.
    fn rank(&self) -> (u32, u32, bool) {
        match self {
            Kind::Machine => (0, 0, false),
            Kind::Group("Cluster") => (4, 0, false),
            Kind::Group(_) => (1, 0, false),
            Kind::Package => (1, 1, false),
            Kind::Die => (2, 0, false),
            Kind::Nodes(_) => (3, 0, false),
            Kind::Cache(it) => (5, u32::MAX - it.level, it.kind == CacheKind::Instruction),
            Kind::Core => (6, 0, false),
            Kind::Pu => (7, 0, false),
        }
    }
}

/// The machine with all that is in it; `None` if no PU is known.
pub fn topology(inventory: &Inventory) -> Option<Object<'_>> {
    let cpu = inventory.cpu.as_ref().filter(|cpu| !cpu.pus.is_empty())?;
    let pus: IdSet = cpu.pus.iter().map(|pu| pu.id).collect();
    let mut objects = groups(cpu);
    objects.extend(nodes(inventory));
    objects.extend(cpu.caches.iter().map(|it| object(Kind::Cache(it), None, it.shared_by.clone())));
    objects.extend(
        cpu.pus
            .iter()
            .map(|pu| object(Kind::Pu, i32::try_from(pu.id).ok(), [pu.id].into_iter().collect())),
    );
    for object in &mut objects {
        object.pus = object.pus.intersection(&pus);
    }
    objects.retain(|object| !object.pus.is_empty());
    objects.sort_by_key(|it| (Reverse(it.pus.len()), it.kind.rank(), it.pus.first()));
    let mut machine = object(Kind::Machine, None, pus);
    objects.into_iter().for_each(|object| machine.insert(object));
    machine.sort();
    Some(machine)
}

fn object(kind: Kind<'_>, id: Option<i32>, pus: IdSet) -> Object<'_> {
    Object { kind, id, pus, children: Vec::new() }
}

/// True for a node of which no CPU runs, as far as is told.
pub fn has_no_cpus(node: &NumaNode, online: &IdSet) -> bool {
    node.cpus.as_ref().is_none_or(|cpus| cpus.intersection(online).is_empty())
}

/// Nodes with CPUs; those with the same ones together.
fn nodes(inventory: &Inventory) -> Vec<Object<'_>> {
    let mut objects: Vec<Object<'_>> = Vec::new();
    for node in inventory.numa.iter().flatten() {
        let Some(cpus) = &node.cpus else { continue };
        match objects.iter_mut().find(|object| object.pus == *cpus) {
            Some(Object { kind: Kind::Nodes(ids), .. }) => ids.push(node.id),
            _ => objects.push(object(Kind::Nodes(vec![node.id]), None, cpus.clone())),
        }
    }
    objects
}

impl Object<'_> {
    /// How many of one kind are in it.
    pub fn count(&self, is: &impl Fn(&Kind<'_>) -> bool) -> usize {
        let within: usize = self.children.iter().map(|child| child.count(is)).sum();
        within + usize::from(is(&self.kind))
    }

    /// True if it or something in it is such a thing.
    pub fn holds(&self, is: &impl Fn(&Object<'_>) -> bool) -> bool {
        is(self) || self.children.iter().any(|child| child.holds(is))
    }
}

impl<'a> Object<'a> {
    /// Puts an object into the smallest one that contains it. Larger ones come first.
    fn insert(&mut self, object: Object<'a>) {
        for child in &mut self.children {
            let common = child.pus.intersection(&object.pus).len();
            if common == object.pus.len() {
                return child.insert(object);
            }
            if common > 0 {
                return;
            }
        }
        self.children.push(object);
    }

    fn sort(&mut self) {
        self.children.sort_by_key(|child| child.pus.first());
        self.children.iter_mut().for_each(Object::sort);
    }
}

fn groups(cpu: &Cpu) -> Vec<Object<'_>> {
    let kind = |group: &Group| match group.kind {
        GroupKind::Drawer => Kind::Group("Drawer"),
        GroupKind::Book => Kind::Group("Book"),
        GroupKind::Package => Kind::Package,
        GroupKind::Die => Kind::Die,
        GroupKind::Cluster => Kind::Group("Cluster"),
        GroupKind::Core => Kind::Core,
    };
    cpu.groups.iter().map(|group| object(kind(group), group.id, group.pus.clone())).collect()
}
