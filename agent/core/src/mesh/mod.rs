//! The mesh's tables, and every decision of its data plane that can be made
//! without a socket.
//!
//! | module | what it decides |
//! | --- | --- |
//! | [`model`] | what listeners, services and routes are |
//! | [`table`] | whether they fit together, with every reason why not |
//! | [`host`], [`path`] | what a host name or a path pattern matches |
//! | [`strict`], [`hello`], [`proxy`] | what a connection's bytes are, and which are refused |
//! | [`choose`] | which rule a request meets first, and why |
//! | [`pick`], [`ewma`] | which endpoint it goes to, and how slow that was lately |

pub mod choose;
pub mod ewma;
pub mod hello;
pub mod host;
pub mod model;
pub mod path;
pub mod pick;
pub mod proxy;
pub mod strict;
pub mod table;
