//! Where a workload goes: pure decisions over the inventory.

pub mod cpus;
pub mod hint;
pub mod nodes;
