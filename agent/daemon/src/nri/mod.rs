//! The NRI plugin: asked by containerd or CRI-O about every container before it is
//! created, and able to change it then and later.

pub mod codec;
