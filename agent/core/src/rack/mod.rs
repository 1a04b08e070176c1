//! The rack's own buses: what is on them, when it is read, what the words mean.
//!
//! | module | what it decides |
//! | --- | --- |
//! | [`serial`] | how characters go over a line |

pub mod serial;
