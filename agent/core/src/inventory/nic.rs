//! Network interfaces, the transceivers plugged into them, and who is at the
//! other end of the cable.

use alloc::{string::String, vec::Vec};

use serde::{Deserialize, Serialize};

use crate::idset::IdSet;

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Nic {
    /// Interface name.
    pub name: String,
    /// Interface index, unique in its network namespace.
    pub ifindex: Option<u32>,
    /// True if it is a port or virtual function of hardware: `kind` is
    /// `physical`.
    pub physical: bool,
    /// `physical`, `representor`, `loopback`, or what the kernel calls it
    /// (`IFLA_INFO_KIND`, `DEVTYPE`): `bridge`, `bond`, `vlan`, `veth`,
    /// `macvlan`, `vxlan`, `tun`, `dummy` …; `virtual` where nothing tells more.
    pub kind: String,
    /// MAC address in use.
    pub mac: Option<String>,
    /// MAC address in the hardware (`IFLA_PERM_ADDRESS`).
    pub permanent_mac: Option<String>,
    /// Operational state (`up`, `down`, `dormant`, `unknown` …).
    pub state: Option<String>,
    /// True if a signal is there; `None` while the interface is shut.
    pub carrier: Option<bool>,
    /// Speed in Mbit/s; `None` while the link is down.
    pub speed_mbit: Option<u32>,
    /// `full` or `half`.
    pub duplex: Option<String>,
    /// True if the link's speed is negotiated.
    pub autoneg: Option<bool>,
    /// MTU in bytes.
    pub mtu: Option<u32>,
    /// Driver.
    pub driver: Option<String>,
    /// Version of the driver (`ETHTOOL_GDRVINFO`); the kernel's own for most.
    pub driver_version: Option<String>,
    /// Version of the NIC's firmware (`ETHTOOL_GDRVINFO`).
    pub firmware: Option<String>,
    /// PCI address of the function behind it.
    pub pci: Option<String>,
    /// NUMA node of that function.
    pub node: Option<u32>,
    /// Forward error correction (`ETHTOOL_MSG_FEC_GET`).
    pub fec: Option<Fec>,
    /// What the link could run at (`ETHTOOL_MSG_LINKMODES_GET`).
    pub link_modes: Option<LinkModes>,
    /// Queues (`ETHTOOL_MSG_CHANNELS_GET`, else `queues/` in sysfs).
    pub queues: Option<Queues>,
    /// Descriptor rings (`ETHTOOL_MSG_RINGS_GET`).
    pub rings: Option<Rings>,
    /// Receive side scaling (`ETHTOOL_GRSSH`).
    pub rss: Option<Rss>,
    /// Its interrupts (`device/msi_irqs`), by number.
    pub irqs: Vec<Irq>,
    /// How many of them are handled by a CPU that is not of the NIC's node;
    /// `None` if the node, its CPUs or an interrupt's CPUs are unknown.
    pub irqs_off_node: Option<u32>,
    /// Its virtual functions; `None` if it can have none.
    pub sriov: Option<NicSriov>,
    /// The physical function it is a virtual function of.
    pub vf_of: Option<VfOf>,
    /// Its port of an embedded switch (`phys_switch_id`, `phys_port_name`).
    pub port: Option<SwitchPort>,
    /// RDMA devices of the same function (`device/infiniband`).
    pub rdma: Vec<Rdma>,
    /// PTP hardware clock (`device/ptp`).
    pub ptp: Option<Ptp>,
    /// What it can timestamp (`ETHTOOL_MSG_TSINFO_GET`), e.g.
    /// `hardware-receive`.
    pub timestamping: Vec<String>,
    /// The module in its cage; `None` if there is none or it can't be read.
    pub transceiver: Option<Transceiver>,
    /// True if the kernel says that there is none (`ENODEV` to
    /// `ETHTOOL_MSG_MODULE_EEPROM_GET`); false: that is not known.
    pub cage_empty: bool,
    /// Who speaks LLDP at the other end.
    pub neighbours: Vec<Neighbour>,
    /// How often the link went down since it was made.
    pub carrier_down_count: Option<u64>,
    /// Frames received with a wrong checksum.
    pub rx_crc_errors: Option<u64>,
}

/// Forward error correction: the kernel's names (`RS`, `BASER`, `LLRS`, `None`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fec {
    /// True if the NIC chooses.
    pub auto: Option<bool>,
    /// What is allowed by configuration.
    pub configured: Vec<String>,
    /// What the link uses; `None` while it is down.
    pub active: Option<String>,
}

/// Link modes by the kernel's names, e.g. `25000baseCR/Full`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkModes {
    /// What the NIC and its module can do.
    pub supported: Vec<String>,
    /// What the NIC offers the link partner.
    pub advertised: Vec<String>,
}

/// Queues in use and possible. A combined queue receives and sends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queues {
    /// Receive queues.
    pub rx: Option<u32>,
    /// Send queues.
    pub tx: Option<u32>,
    /// Combined queues; `None` if the driver doesn't count them.
    pub combined: Option<u32>,
    /// The most receive-only queues that can be set.
    pub rx_max: Option<u32>,
    /// The most send-only queues that can be set.
    pub tx_max: Option<u32>,
    /// The most combined queues that can be set.
    pub combined_max: Option<u32>,
}

/// Ring sizes, in descriptors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rings {
    /// Receive ring.
    pub rx: Option<u32>,
    /// Send ring.
    pub tx: Option<u32>,
    /// The largest receive ring.
    pub rx_max: Option<u32>,
    /// The largest send ring.
    pub tx_max: Option<u32>,
}

/// Receive side scaling.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rss {
    /// Entries of the indirection table.
    pub table: u32,
    /// Bytes of the hash key; 0 if it has none.
    pub key: u32,
    /// Hash function: `toeplitz`, `xor`, `crc32`.
    pub function: Option<String>,
}

/// An interrupt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Irq {
    /// Its number.
    pub irq: u32,
    /// The CPUs that handle it (`effective_affinity_list`, else
    /// `smp_affinity_list`).
    pub cpus: Option<IdSet>,
    /// The node that its descriptor was made for (`/proc/irq/N/node`).
    pub node: Option<u32>,
}

/// Virtual functions of a physical one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicSriov {
    /// The most it can have.
    pub total: u32,
    /// How many it has.
    pub enabled: Option<u32>,
    /// Each of them, by index.
    pub vfs: Vec<Vf>,
}

/// A virtual function, as its physical one sees it. All but index and address
/// come from `IFLA_VFINFO_LIST`, on the live machine alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vf {
    /// Its index.
    pub index: u32,
    /// PCI address.
    pub pci: Option<String>,
    /// MAC address set for it; `None` if none is.
    pub mac: Option<String>,
    /// VLAN set for it; 0 means none.
    pub vlan: Option<u32>,
    /// True if it may change its address and listen to everything.
    pub trust: Option<bool>,
    /// True if it may send from its own address alone.
    pub spoof_check: Option<bool>,
}

/// The physical function of a virtual one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VfOf {
    /// PCI address of the physical function.
    pub pci: String,
    /// Index among its virtual functions.
    pub index: Option<u32>,
}

/// A port of a switch inside a NIC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchPort {
    /// Which switch.
    pub switch: String,
    /// Its name there: `p0` is the way out, `pf0vf3` stands for a VF.
    pub name: Option<String>,
    /// The physical function it stands for.
    pub pf: Option<u32>,
    /// The virtual function of it.
    pub vf: Option<u32>,
    /// The subfunction of it.
    pub sf: Option<u32>,
}

/// An RDMA device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rdma {
    /// Its name, e.g. `mlx5_0`.
    pub name: String,
    /// Its character device under `/dev/infiniband`, e.g. `uverbs0`.
    pub uverbs: Option<String>,
    /// `Ethernet` or `InfiniBand`, of its first port.
    pub link_layer: Option<String>,
    /// State of its first port, e.g. `ACTIVE`.
    pub state: Option<String>,
}

/// A PTP hardware clock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ptp {
    /// Its device, e.g. `ptp0`.
    pub device: String,
    /// What it calls itself.
    pub clock: Option<String>,
}

/// A pluggable module, or a cable with one at each end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Transceiver {
    /// Form factor (SFF-8024 table 4-1), e.g. `QSFP28`.
    pub form: String,
    /// The memory map it was read by: `SFF-8472`, `SFF-8636` or `CMIS`.
    pub map: String,
    /// Vendor's name.
    pub vendor: Option<String>,
    /// Vendor's IEEE company id.
    pub oui: Option<String>,
    /// Part number.
    pub part: Option<String>,
    /// Revision of the part.
    pub revision: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// Date of making, `YYYY-MM-DD`, with the lot after it if there is one.
    pub date: Option<String>,
    /// Connector (SFF-8024 table 4-3), e.g. `LC`.
    pub connector: Option<String>,
    /// What carries the signal.
    pub media: Option<Media>,
    /// What it complies with, e.g. `25GBASE-SR`.
    pub compliance: Vec<String>,
    /// How long its cable is, or how far it reaches over which fibre.
    pub lengths: Vec<Length>,
    /// Wavelength in nm.
    pub wavelength_nm: Option<f64>,
    /// Nominal signalling rate in MBd, of one lane for SFP and QSFP.
    pub rate_mbd: Option<u32>,
    /// Checksums that don't fit what they cover: the memory may be wrong
    /// anywhere in there.
    pub wrong_checksums: Vec<String>,
    /// Temperature in °C.
    pub temperature_c: Option<f64>,
    /// Supply voltage in V.
    pub supply_v: Option<f64>,
    /// Each lane's optics; empty for copper and for modules that don't measure.
    pub lanes: Vec<Lane>,
    /// Where alarms and warnings begin.
    pub thresholds: Option<Thresholds>,
    /// Alarms and warnings that the module raises, e.g.
    /// `rx power low alarm, lane 1`.
    pub flags: Vec<String>,
    /// True if its readings were calibrated by constants in its memory, false
    /// if it does so itself (SFF-8472).
    pub externally_calibrated: Option<bool>,
}

/// What carries the signal between two modules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Media {
    /// Light.
    Optical,
    /// A copper cable without electronics.
    PassiveCopper,
    /// A copper cable with electronics.
    ActiveCopper,
    /// Twisted pairs in an RJ45.
    TwistedPair,
}

/// A length of cable or a reach.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Length {
    /// `cable`, `single-mode`, `OM1` … `OM5`.
    pub over: String,
    /// Metres.
    pub metres: f64,
}

/// One lane of a module.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lane {
    /// Power sent.
    pub tx_power: Option<Power>,
    /// Power received.
    pub rx_power: Option<Power>,
    /// Current through the laser in mA.
    pub bias_ma: Option<f64>,
}

/// Optical power.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Power {
    /// In mW.
    pub mw: f64,
    /// In dBm; `None` for no light at all.
    pub dbm: Option<f64>,
}

/// AlarmLimits of each reading.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Thresholds {
    /// Of the temperature in °C.
    pub temperature_c: AlarmLimits,
    /// Of the supply voltage in V.
    pub supply_v: AlarmLimits,
    /// Of the power sent in mW.
    pub tx_power_mw: AlarmLimits,
    /// Of the power received in mW.
    pub rx_power_mw: AlarmLimits,
    /// Of the laser's current in mA.
    pub bias_ma: AlarmLimits,
}

/// Where a reading is out of bounds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AlarmLimits {
    /// Above it, an alarm.
    pub high_alarm: f64,
    /// Below it, an alarm.
    pub low_alarm: f64,
    /// Above it, a warning.
    pub high_warning: f64,
    /// Below it, a warning.
    pub low_warning: f64,
}

/// A neighbour that speaks LLDP (IEEE 802.1AB).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Chassis id: a MAC address, a name or an address.
    pub chassis: String,
    /// Port id.
    pub port: String,
    /// Port description.
    pub port_description: Option<String>,
    /// System name.
    pub system_name: Option<String>,
    /// System description.
    pub system_description: Option<String>,
    /// Management addresses.
    pub addresses: Vec<String>,
    /// VLAN of untagged frames (802.1 port VLAN id).
    pub vlan: Option<u16>,
    /// Seconds that this holds from when it was received; 0 takes it back.
    pub ttl_s: u16,
}
