//! Network interfaces.

use alloc::string::String;

use serde::{Deserialize, Serialize};

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// Interface name.
    pub name: String,
    /// True if hardware stands behind it: bridges, bonds and veths have none.
    pub physical: bool,
    /// MAC address.
    pub mac: Option<String>,
    /// Operational state (`up`, `down`, `dormant`, `unknown` …).
    pub state: Option<String>,
    /// Speed in Mbit/s; `None` while the link is down.
    pub speed_mbit: Option<u32>,
    /// MTU in bytes.
    pub mtu: Option<u32>,
    /// Driver.
    pub driver: Option<String>,
    /// PCI address of the function behind it.
    pub pci: Option<String>,
    /// NUMA node of that function.
    pub node: Option<u32>,
}
