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
//! | [`pick`], [`hashed`], [`ewma`] | which endpoint it goes to, and how slow that was lately |
//! | [`locality`] | how far endpoints are, and when a request goes further than it must |
//! | [`canary`], [`spill`] | when a new backend gets nothing any more, and when the rack is full |
//! | [`health`] | whether an endpoint is well by its checks |
//! | [`spiffe`], [`credential`], [`authorize`] | who a node is, whether that is proved, and what it may |
//! | [`workload`] | which of a node's workloads somebody is |
//! | [`jwt`] | whose tokens are taken, by which keys, and until when |
//! | [`offer`] | which endpoints that nodes offer of themselves are added to a table |
//! | [`trace`] | which trace a request belongs to |
//! | [`outlier`], [`rate`] | which endpoint is left out for a while, and what is too much |

pub mod authorize;
pub mod canary;
pub mod choose;
pub mod credential;
pub mod dns;
pub mod ewma;
pub mod hashed;
pub mod health;
pub mod hello;
pub mod host;
pub mod intercept;
pub mod jwt;
pub mod locality;
pub mod model;
pub mod offer;
pub mod outlier;
pub mod path;
pub mod pick;
pub mod proxy;
pub mod rate;
#[cfg(test)]
mod simulation;
pub mod spiffe;
pub mod spill;
pub mod strict;
pub mod table;
pub mod trace;
pub mod workload;
