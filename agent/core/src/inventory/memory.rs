//! Memory: what the kernel manages, the slots it is plugged into, and their errors.

use alloc::{collections::BTreeMap, string::String, vec::Vec};

use serde::{Deserialize, Serialize};

/// Memory of the whole machine, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// `MemTotal`.
    pub total: Option<u64>,
    /// `MemAvailable`, on kernels that have it.
    pub available: Option<u64>,
    /// `SwapTotal`.
    pub swap: Option<u64>,
    /// Hugepages: page size in bytes → number of pages.
    pub hugepages: BTreeMap<u64, u64>,
    /// Every slot, empty ones too, in the firmware's order (SMBIOS type 17 of
    /// the arrays used as system memory). `None` if the firmware's table was
    /// not readable or lists none.
    pub dimms: Option<Vec<Dimm>>,
    /// Bytes that the slots can take together (SMBIOS type 16).
    pub max_capacity: Option<u64>,
    /// The memory arrays correct errors (SMBIOS type 16); `None` if they
    /// differ or do not say.
    pub ecc: Option<bool>,
    /// Memory controllers that count errors (EDAC).
    pub controllers: Vec<MemoryController>,
    /// Error counts that could not be joined to a slot, so that none is lost.
    pub unjoined: Vec<UnjoinedErrors>,
}

/// A memory slot and the module in it (SMBIOS type 17).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dimm {
    /// SMBIOS handle, unique within one boot's table.
    pub handle: u16,
    /// Device locator, as printed on the board: `DIMM_A1`.
    pub slot: Option<String>,
    /// Bank locator: `NODE 1`, `P0 CHANNEL A`.
    pub bank: Option<String>,
    /// Bytes; 0 is an empty slot, `None` a module of unknown size.
    pub size: Option<u64>,
    /// `DIMM`, `SODIMM`.
    pub form_factor: Option<String>,
    /// `DDR4`, `DDR5`. Some firmware tells what an empty slot would take.
    pub kind: Option<String>,
    /// Type detail: `synchronous`, `registered`.
    pub detail: Vec<String>,
    /// What the module can do, in MT/s.
    pub speed_rated: Option<u32>,
    /// What it runs at, in MT/s.
    pub speed_configured: Option<u32>,
    /// Manufacturer; some firmware writes the JEDEC code here.
    pub manufacturer: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// Part number.
    pub part: Option<String>,
    /// Asset tag.
    pub asset_tag: Option<String>,
    /// Ranks.
    pub rank: Option<u8>,
    /// Data bits.
    pub data_width: Option<u16>,
    /// Data and check bits.
    pub total_width: Option<u16>,
    /// Has check bits, by its widths.
    pub ecc: Option<bool>,
    /// Configured voltage, in millivolts.
    pub voltage_mv: Option<u16>,
    /// `DRAM`, `NVDIMM-N`.
    pub technology: Option<String>,
    /// Firmware of the module.
    pub firmware: Option<String>,
    /// Bytes that are lost without power.
    pub volatile: Option<u64>,
    /// Bytes that are kept without power.
    pub non_volatile: Option<u64>,
    /// Bytes used as a cache.
    pub cache: Option<u64>,
    /// Errors counted by EDAC; `None` if nothing there could be joined to this slot.
    pub errors: Option<MemoryErrors>,
}

impl Dimm {
    /// False for an empty slot.
    pub fn is_populated(&self) -> bool {
        self.size != Some(0)
    }
}

/// Memory errors since the EDAC driver was loaded or its counters were reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryErrors {
    /// Correctable errors.
    pub corrected: Option<u64>,
    /// Uncorrectable errors: data was lost.
    pub uncorrected: Option<u64>,
}

/// A memory controller with error counters (`/sys/devices/system/edac/mc/mc0`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryController {
    /// `mc0`
    pub name: String,
    /// The driver's name for it: `Skylake Socket#0 IMC#0`.
    pub kind: Option<String>,
    /// All of its errors.
    pub errors: MemoryErrors,
    /// Those among them that the hardware could assign to no DIMM.
    pub noinfo: MemoryErrors,
}

/// Counters of EDAC that belong to a slot we can't tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnjoinedErrors {
    /// `mc0/dimm3`, `mc0/csrow1`.
    pub at: String,
    /// The label that the driver or a technician gave it.
    pub label: Option<String>,
    /// Place on the controller: `channel 0 slot 1`.
    pub location: Option<String>,
    /// Bytes.
    pub size: Option<u64>,
    /// The counts.
    pub errors: MemoryErrors,
    /// Why no slot could be told, for a person.
    pub why: String,
}
