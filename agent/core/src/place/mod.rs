//! Where a workload goes: pure decisions over the inventory.

pub mod cpus;
pub mod decide;
pub mod hint;
pub mod machine;
pub mod nodes;
mod optimize;
pub mod request;
pub mod room;
mod survey;
#[cfg(test)]
mod tests;
