//! Where a workload goes: pure decisions over the inventory.

pub mod book;
pub mod container;
pub mod cpus;
pub mod decide;
pub mod door;
pub mod hint;
pub mod kubelet;
pub mod machine;
mod named;
pub mod nodes;
mod optimize;
pub mod repack;
pub mod request;
pub mod room;
pub mod source;
mod survey;
pub mod targets;
#[cfg(test)]
mod tests;
pub mod wishes;
