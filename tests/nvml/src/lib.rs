//! A `libnvidia-ml.so.1` made up from a profile, for tests.
//!
//! `PURLIN_NVML_PROFILE` names the profile, YAML in the shape of
//! `tests/nvml/small.yaml`; without it the driver is "not loaded". A fact that
//! the profile lacks or calls `N/A` is "not supported". `PURLIN_NVML_CONTROL`
//! may name a file of what happens, read anew at each call, a line each:
//!
//! | line | from then on |
//! | --- | --- |
//! | `xid 0 79` | GPU 0 has told this Xid error |
//! | `ecc 0` | GPU 0 has told a double-bit memory error |
//! | `mig 0` | GPU 0 has told that its partitions changed |
//! | `lost 0`, `found 0` | GPU 0 is lost, is back |
//! | `limit 0 150000` | GPU 0's power limit is set to so many mW; whoever sets one adds such a line |
//! | `deny 0`, `allow 0` | nobody may set GPU 0's power limit, everybody may |
//!
//! `PURLIN_NVML_CALLS` may name a file that gets a line with its name at each call.
//!
//! It exports the symbols that nvml-wrapper calls for Purlin, and no others.
//! Handles are small numbers, never followed: a GPU's is its index + 1, a MIG
//! device's has its own index + 1 in the bits above.

#![allow(unsafe_code, non_snake_case)]

use std::{
    env,
    ffi::{CStr, c_char, c_int, c_uint, c_ulonglong},
    fs,
    io::Write as _,
    ptr,
    sync::Mutex,
};

use nvml_wrapper_sys::bindings::*;
use serde_json::{Map, Value};

const SUCCESS: nvmlReturn_t = nvmlReturn_enum_NVML_SUCCESS;
const UNINITIALIZED: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_UNINITIALIZED;
const INVALID: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT;
const UNSUPPORTED: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED;
const NOT_FOUND: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_NOT_FOUND;
const NOT_LOADED: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_DRIVER_NOT_LOADED;
const NO_PERMISSION: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_NO_PERMISSION;
const UNKNOWN: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_UNKNOWN;
const LOST: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST;
const TIMEOUT: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_TIMEOUT;
const TOO_SHORT: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE;

/// Bits of a handle that are the GPU's.
const GPU_BITS: u32 = 8;

/// NVML as it stands after `nvmlInit`; `None` before.
static LIBRARY: Mutex<Option<Library>> = Mutex::new(None);

struct Library {
    profile: Value,
    /// The defaults of the profile with each device's own facts on top.
    gpus: Vec<Value>,
    sets: Vec<Set>,
}

/// An event set: the GPUs it is for, and how much of the control file it told.
#[derive(Default)]
struct Set {
    gpus: Vec<usize>,
    told: usize,
}

type Answer<T> = Result<T, nvmlReturn_t>;

impl Library {
    fn load() -> Answer<Self> {
        let path = env::var_os("PURLIN_NVML_PROFILE").ok_or(NOT_LOADED)?;
        let text = fs::read_to_string(path).map_err(|_| NOT_LOADED)?;
        let profile: Value = serde_saphyr::from_str(&text).map_err(|_| NOT_LOADED)?;
        let devices = profile["devices"].as_array().cloned().unwrap_or_default();
        let whole = |own| {
            let mut device = profile["device_defaults"].clone();
            merge(&mut device, own);
            device
        };
        let gpus = devices.into_iter().map(whole).collect();
        Ok(Self { profile, gpus, sets: Vec::new() })
    }

    fn gpu(&self, index: usize) -> Answer<&Value> {
        let gpu = self.gpus.get(index).ok_or(INVALID)?;
        if is_lost(index) { Err(LOST) } else { Ok(gpu) }
    }

    /// A fact of a GPU by its path of names, `ecc/mode_current`.
    fn fact(&self, device: nvmlDevice_t, path: &str) -> Answer<&Value> {
        let (gpu, mig) = parts(device)?;
        if mig.is_some() {
            return Err(UNSUPPORTED);
        }
        known(self.gpu(gpu)?.pointer(&format!("/{path}")))
    }

    /// The GPU instance and the compute instance that a MIG device is.
    fn mig(&self, device: nvmlDevice_t) -> Answer<(&Value, &Value)> {
        let (gpu, mig) = parts(device)?;
        self.migs(gpu)?.get(mig.ok_or(INVALID)?).copied().ok_or(NOT_FOUND)
    }

    fn migs(&self, gpu: usize) -> Answer<Vec<(&Value, &Value)>> {
        let instances = list(&self.gpu(gpu)?["mig"]["instances"]);
        Ok(instances
            .iter()
            .flat_map(|instance| list(&instance["compute"]).iter().map(move |it| (instance, it)))
            .collect())
    }

    /// A link of a GPU: named in the profile, or one of as many as a GPU has,
    /// to each switch in turn.
    fn link(&self, device: nvmlDevice_t, link: c_uint) -> Answer<Value> {
        let (gpu, _) = parts(device)?;
        self.gpu(gpu)?;
        let all = &self.profile["nvlink"];
        let named = list(&all["links"]).iter().find(|it| {
            it["gpu"].as_u64() == Some(gpu as u64) && it["link"].as_u64() == Some(link.into())
        });
        if let Some(named) = named {
            return Ok(named.clone());
        }
        let switches = list(&all["switches"]);
        let per_gpu = all["links_per_gpu"].as_u64().unwrap_or_default();
        if u64::from(link) >= per_gpu || switches.is_empty() {
            return Err(UNSUPPORTED);
        }
        let remote = switches[link as usize % switches.len()]["bdf"].clone();
        let facts = [("active", Value::Bool(true)), ("remote", remote), ("kind", "switch".into())];
        Ok(Value::Object(facts.map(|(name, value)| (name.to_owned(), value)).into_iter().collect()))
    }
}

fn merge(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (name, value) in over {
                merge(under.entry(name).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over,
    }
}

fn known(fact: Option<&Value>) -> Answer<&Value> {
    fact.filter(|fact| !fact.is_null() && *fact != "N/A").ok_or(UNSUPPORTED)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn handle(gpu: usize, mig: Option<usize>) -> nvmlDevice_t {
    ptr::without_provenance_mut((mig.map_or(0, |mig| mig + 1) << GPU_BITS) + gpu + 1)
}

fn parts(device: nvmlDevice_t) -> Answer<(usize, Option<usize>)> {
    let number = device.addr();
    let gpu = (number & ((1 << GPU_BITS) - 1)).checked_sub(1).ok_or(INVALID)?;
    Ok((gpu, (number >> GPU_BITS).checked_sub(1)))
}

/// What has happened so far: word, GPU, number.
fn happened() -> Vec<(String, usize, u64)> {
    let text = env::var_os("PURLIN_NVML_CONTROL").and_then(|path| fs::read_to_string(path).ok());
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let (word, gpu) = (words.next()?.to_owned(), words.next()?.parse().ok()?);
        Some((word, gpu, words.next().and_then(|code| code.parse().ok()).unwrap_or_default()))
    };
    text.unwrap_or_default().lines().filter_map(line).collect()
}

fn last_of(gpu: usize, words: &[&str]) -> Option<(String, u64)> {
    let is = |(word, on, _): &(String, usize, u64)| *on == gpu && words.contains(&word.as_str());
    happened().into_iter().rfind(is).map(|(word, _, number)| (word, number))
}

fn is_lost(gpu: usize) -> bool {
    last_of(gpu, &["lost", "found"]).is_some_and(|(word, _)| word == "lost")
}

/// What was set last, else what the profile says.
fn power_limit(library: &Library, device: nvmlDevice_t) -> Answer<u64> {
    let profile = number(library.fact(device, "power/requested_limit_mw")?)?;
    Ok(last_of(parts(device)?.0, &["limit"]).map_or(profile, |(_, set)| set))
}

fn set_power_limit(library: &Library, device: nvmlDevice_t, wanted: u64) -> Answer<()> {
    let bound = |name: &str| number(library.fact(device, &format!("power/{name}_limit_mw"))?);
    let (gpu, _) = parts(device)?;
    if !(bound("min")?..=bound("max")?).contains(&wanted) {
        return Err(INVALID);
    }
    if last_of(gpu, &["deny", "allow"]).is_some_and(|(word, _)| word == "deny") {
        return Err(NO_PERMISSION);
    }
    let path = env::var_os("PURLIN_NVML_CONTROL").ok_or(UNSUPPORTED)?;
    let control = fs::OpenOptions::new().append(true).create(true).open(path);
    let written = control.and_then(|mut file| writeln!(file, "limit {gpu} {wanted}"));
    written.map_err(|_| UNKNOWN)
}

/// Asks the library, and says how it went as NVML does.
fn with(ask: impl FnOnce(&mut Library) -> Answer<()>) -> nvmlReturn_t {
    let mut library = LIBRARY.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    match library.as_mut().map(ask) {
        None => UNINITIALIZED,
        Some(Ok(())) => SUCCESS,
        Some(Err(code)) => code,
    }
}

fn number(value: &Value) -> Answer<u64> {
    match value {
        Value::Bool(yes) => Ok(u64::from(*yes)),
        Value::String(word) if word == "enabled" => Ok(1),
        Value::String(word) if word == "disabled" => Ok(0),
        value => value.as_u64().ok_or(UNSUPPORTED),
    }
}

/// Writes one value where the caller of NVML wants it.
///
/// # Safety
/// `at` is null or may be written, as NVML demands of its caller.
unsafe fn put<T>(at: *mut T, value: T) -> Answer<()> {
    if at.is_null() {
        return Err(INVALID);
    }
    // SAFETY: as promised by the caller, and not null.
    unsafe { at.write(value) };
    Ok(())
}

/// Writes a text with its NUL.
///
/// # Safety
/// `at` is null or has room for `room` bytes.
unsafe fn put_text(at: *mut c_char, room: usize, text: &str) -> Answer<()> {
    if at.is_null() {
        return Err(INVALID);
    }
    if text.len() >= room {
        return Err(TOO_SHORT);
    }
    // SAFETY: there is room for the text and its NUL.
    unsafe {
        ptr::copy_nonoverlapping(text.as_ptr().cast(), at, text.len());
        at.add(text.len()).write(0);
    }
    Ok(())
}

/// A text as a fixed array of C characters.
fn chars<const N: usize>(text: &str) -> [c_char; N] {
    let mut chars = [0; N];
    for (to, from) in chars.iter_mut().take(N - 1).zip(text.bytes()) {
        *to = from as c_char;
    }
    chars
}

fn pci_info(bus_id: &str, ids: u64) -> Answer<nvmlPciInfo_t> {
    let (domain, rest) = bus_id.split_once(':').ok_or(INVALID)?;
    let domain = u32::from_str_radix(domain, 16).map_err(|_| INVALID)?;
    let field = |range| rest.get(range).and_then(|hex| u32::from_str_radix(hex, 16).ok());
    Ok(nvmlPciInfo_t {
        busIdLegacy: chars(bus_id),
        domain,
        bus: field(0..2).ok_or(INVALID)?,
        device: field(3..5).ok_or(INVALID)?,
        pciDeviceId: ids as u32,
        pciSubSystemId: 0,
        busId: chars(&format!("{domain:08X}:{rest}")),
    })
}

/// `nvmlInit_v2`
#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> nvmlReturn_t {
    match Library::load() {
        Err(code) => code,
        Ok(loaded) => {
            // Counted in the real library; one more start leaves it as it is.
            let mut library = LIBRARY.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            library.get_or_insert(loaded);
            SUCCESS
        }
    }
}

/// `nvmlShutdown`
#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> nvmlReturn_t {
    SUCCESS
}

/// Notes it where somebody counts.
fn is_called(name: &str) {
    let Some(path) = env::var_os("PURLIN_NVML_CALLS") else { return };
    let file = fs::File::options().create(true).append(true).open(path);
    let _ = file.and_then(|mut file| writeln!(file, "{name}"));
}

/// Each exports one NVML function: its parameters, and the answer's making.
/// Every pointer is one that NVML's caller lets it write.
macro_rules! export {
    ($($name:ident($($arg:ident: $type:ty),*) |$library:ident| $body:expr;)*) => {$(
        #[doc = concat!("`", stringify!($name), "`")]
        ///
        /// # Safety
        /// The pointers may be written, as NVML demands of its caller.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $type),*) -> nvmlReturn_t {
            is_called(stringify!($name));
            // A body that writes nothing itself needs no `unsafe`.
            #[allow(unused_unsafe)]
            with(|$library| {
                // SAFETY: as promised by the caller.
                unsafe { $body }
            })
        }
    )*};
}

/// Exports functions that give one number of a device.
macro_rules! export_numbers {
    ($($name:ident $type:ty, $path:literal;)*) => {export! {$(
        $name(device: nvmlDevice_t, to: *mut $type) |library| {
            put(to, number(library.fact(device, $path)?)? as $type)
        };
    )*}};
}

/// Exports functions that give one text of a device.
macro_rules! export_texts {
    ($($name:ident $path:literal;)*) => {export! {$(
        $name(device: nvmlDevice_t, to: *mut c_char, room: c_uint) |library| {
            let text = library.fact(device, $path)?.as_str().ok_or(UNSUPPORTED)?;
            put_text(to, room as usize, text)
        };
    )*}};
}

export_numbers! {
    nvmlDeviceGetMinorNumber c_uint, "minor_number";
    nvmlDeviceGetRetiredPagesPendingStatus nvmlEnableState_t, "retired_pages/pending_retirement";
    nvmlDeviceGetPowerUsage c_uint, "power/current_draw_mw";
    nvmlDeviceGetPowerManagementDefaultLimit c_uint, "power/default_limit_mw";
    nvmlDeviceGetPersistenceMode nvmlEnableState_t, "persistence_mode";
    nvmlDeviceGetDisplayMode nvmlEnableState_t, "display/mode";
    nvmlDeviceGetDisplayActive nvmlEnableState_t, "display/active";
    nvmlDeviceGetCurrPcieLinkGeneration c_uint, "pcie/current_link_gen";
    nvmlDeviceGetCurrPcieLinkWidth c_uint, "pcie/current_link_width";
    nvmlDeviceGetMaxPcieLinkGeneration c_uint, "pcie/max_link_gen";
    nvmlDeviceGetMaxPcieLinkWidth c_uint, "pcie/max_link_width";
    nvmlDeviceGetPcieReplayCounter c_uint, "pcie/replay_counter";
}

export_texts! {
    nvmlDeviceGetSerial "serial";
    nvmlDeviceGetBoardPartNumber "board_part_number";
    nvmlDeviceGetVbiosVersion "vbios_version";
}

export! {
    nvmlSystemGetDriverVersion(to: *mut c_char, room: c_uint) |library| {
        let version = known(library.profile.pointer("/system/driver_version"))?;
        put_text(to, room as usize, version.as_str().ok_or(UNSUPPORTED)?)
    };
    nvmlDeviceGetCount_v2(to: *mut c_uint) |library| put(to, library.gpus.len() as c_uint);
    nvmlDeviceGetHandleByIndex_v2(index: c_uint, to: *mut nvmlDevice_t) |library| {
        library.gpu(index as usize)?;
        put(to, handle(index as usize, None))
    };
    nvmlDeviceGetHandleByPciBusId_v2(address: *const c_char, to: *mut nvmlDevice_t) |library| {
        let address = CStr::from_ptr(address).to_str().map_err(|_| INVALID)?;
        let is = |gpu: &Value| {
            gpu["pci"]["bus_id"].as_str().is_some_and(|id| id.eq_ignore_ascii_case(address))
        };
        let index = library.gpus.iter().position(is).ok_or(NOT_FOUND)?;
        library.gpu(index)?;
        put(to, handle(index, None))
    };
    nvmlDeviceGetHandleByUUID(uuid: *const c_char, to: *mut nvmlDevice_t) |library| {
        let uuid = CStr::from_ptr(uuid).to_str().map_err(|_| INVALID)?;
        let index = library.gpus.iter().position(|gpu| gpu["uuid"] == uuid).ok_or(NOT_FOUND)?;
        library.gpu(index)?;
        put(to, handle(index, None))
    };
    nvmlDeviceGetPciInfo_v3(device: nvmlDevice_t, to: *mut nvmlPciInfo_t) |library| {
        let ids = number(library.fact(device, "pci/device_id")?).unwrap_or_default();
        put(to, pci_info(library.fact(device, "pci/bus_id")?.as_str().ok_or(INVALID)?, ids)?)
    };
    nvmlDeviceGetName(device: nvmlDevice_t, to: *mut c_char, room: c_uint) |library| {
        let (gpu, mig) = parts(device)?;
        let mut name = library.gpu(gpu)?["name"].as_str().ok_or(UNSUPPORTED)?.to_owned();
        if mig.is_some() {
            name += &format!(" MIG {}", library.mig(device)?.0["profile"].as_str().unwrap_or("?"));
        }
        put_text(to, room as usize, &name)
    };
    nvmlDeviceGetUUID(device: nvmlDevice_t, to: *mut c_char, room: c_uint) |library| {
        let uuid = match parts(device)?.1 {
            Some(_) => known(library.mig(device)?.1.get("uuid"))?,
            None => library.fact(device, "uuid")?,
        };
        put_text(to, room as usize, uuid.as_str().ok_or(UNSUPPORTED)?)
    };
    nvmlDeviceGetGspFirmwareVersion(device: nvmlDevice_t, to: *mut c_char) |library| {
        let version = library.fact(device, "gsp_firmware/version")?.as_str().ok_or(UNSUPPORTED)?;
        put_text(to, 80, version)
    };
    nvmlDeviceGetMemoryInfo_v2(device: nvmlDevice_t, to: *mut nvmlMemory_v2_t) |library| {
        let bytes = |name: &str| number(library.fact(device, &format!("memory/{name}"))?);
        put(to, nvmlMemory_v2_t {
            version: 0,
            total: bytes("total_bytes")?,
            reserved: bytes("reserved_bytes")?,
            free: bytes("free_bytes")?,
            used: bytes("used_bytes")?,
        })
    };
    nvmlDeviceGetPowerManagementLimit(device: nvmlDevice_t, to: *mut c_uint) |library| {
        put(to, power_limit(library, device)? as c_uint)
    };
    nvmlDeviceGetEnforcedPowerLimit(device: nvmlDevice_t, to: *mut c_uint) |library| {
        let enforced = number(library.fact(device, "power/enforced_limit_mw")?)?;
        // A profile may tell the one without the other.
        put(to, enforced.min(power_limit(library, device).unwrap_or(enforced)) as c_uint)
    };
    nvmlDeviceSetPowerManagementLimit(device: nvmlDevice_t, limit: c_uint) |library| {
        set_power_limit(library, device, limit.into())
    };
    nvmlDeviceGetPowerManagementLimitConstraints(
        device: nvmlDevice_t, min: *mut c_uint, max: *mut c_uint
    ) |library| {
        put(min, number(library.fact(device, "power/min_limit_mw")?)? as c_uint)?;
        put(max, number(library.fact(device, "power/max_limit_mw")?)? as c_uint)
    };
    nvmlDeviceGetEccMode(
        device: nvmlDevice_t, current: *mut nvmlEnableState_t, pending: *mut nvmlEnableState_t
    ) |library| {
        put(current, number(library.fact(device, "ecc/mode_current")?)? as nvmlEnableState_t)?;
        put(pending, number(library.fact(device, "ecc/mode_pending")?)? as nvmlEnableState_t)
    };
    nvmlDeviceGetTotalEccErrors(
        device: nvmlDevice_t, kind: nvmlMemoryErrorType_t, since: nvmlEccCounterType_t, to: *mut c_ulonglong
    ) |library| {
        let since = if since == 0 { "volatile" } else { "aggregate" };
        let kind = if kind == 0 { "single_bit" } else { "double_bit" };
        put(to, number(library.fact(device, &format!("ecc/errors/{since}/{kind}/total"))?)?)
    };
    nvmlDeviceGetRetiredPages(
        device: nvmlDevice_t, cause: nvmlPageRetirementCause_t, count: *mut c_uint, _addresses: *mut c_ulonglong
    ) |library| {
        let pages = number(library.fact(device, &retirement(cause))?)?;
        put(count, pages as c_uint)?;
        if pages > 0 { Err(TOO_SHORT) } else { Ok(()) }
    };
    nvmlDeviceGetRetiredPages_v2(
        device: nvmlDevice_t, cause: nvmlPageRetirementCause_t, count: *mut c_uint,
        addresses: *mut c_ulonglong, timestamps: *mut c_ulonglong
    ) |library| {
        let pages = number(library.fact(device, &retirement(cause))?)?.min(count.read().into());
        for page in 0..pages as usize {
            put(addresses.add(page), (page as u64) << 12)?;
            put(timestamps.add(page), 0)?;
        }
        put(count, pages as c_uint)
    };
    nvmlDeviceGetFieldValues(
        device: nvmlDevice_t, count: c_int, values: *mut nvmlFieldValue_t
    ) |library| {
        for index in 0..usize::try_from(count).map_err(|_| INVALID)? {
            let field = &mut *values.add(index);
            let name = match field.fieldId {
                field_id::NVML_FI_DEV_REMAPPED_COR => "correctable",
                field_id::NVML_FI_DEV_REMAPPED_UNC => "uncorrectable",
                field_id::NVML_FI_DEV_REMAPPED_PENDING => "pending",
                field_id::NVML_FI_DEV_REMAPPED_FAILURE => "failure_occurred",
                _ => "none",
            };
            let value = library.fact(device, &format!("remapped_rows/{name}")).and_then(number);
            field.valueType = nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_INT;
            field.nvmlReturn = value.err().unwrap_or(SUCCESS);
            field.value = nvmlValue_t { uiVal: value.unwrap_or_default() as c_uint };
        }
        Ok(())
    };
    nvmlDeviceGetCurrentClocksThrottleReasons(device: nvmlDevice_t, to: *mut c_ulonglong) |library| {
        let facts = library.fact(device, "clocks_throttle_reasons")?;
        put(to, throttle(facts.as_object().ok_or(UNSUPPORTED)?))
    };
    nvmlDeviceGetTemperature(
        device: nvmlDevice_t, _sensor: nvmlTemperatureSensors_t, to: *mut c_uint
    ) |library| put(to, number(library.fact(device, "thermal/temperature_gpu_c")?)? as c_uint);
    nvmlDeviceGetClockInfo(device: nvmlDevice_t, clock: nvmlClockType_t, to: *mut c_uint) |library| {
        put(to, number(library.fact(device, &format!("clocks/{}_current", clock_name(clock)))?)? as c_uint)
    };
    nvmlDeviceGetMaxClockInfo(device: nvmlDevice_t, clock: nvmlClockType_t, to: *mut c_uint) |library| {
        put(to, number(library.fact(device, &format!("clocks/{}_max", clock_name(clock)))?)? as c_uint)
    };
    nvmlDeviceGetUtilizationRates(device: nvmlDevice_t, to: *mut nvmlUtilization_t) |library| {
        let share = |name: &str| number(library.fact(device, &format!("utilization/{name}"))?);
        put(to, nvmlUtilization_t { gpu: share("gpu")? as c_uint, memory: share("memory")? as c_uint })
    };
    nvmlDeviceGetPerformanceState(device: nvmlDevice_t, to: *mut nvmlPstates_t) |library| {
        let state = library.fact(device, "performance_state")?.as_str().ok_or(UNSUPPORTED)?;
        let number = state.strip_prefix('P').and_then(|number| number.parse().ok());
        put(to, number.ok_or(UNSUPPORTED)?)
    };
    nvmlDeviceGetComputeMode(device: nvmlDevice_t, to: *mut nvmlComputeMode_t) |library| {
        put(to, match library.fact(device, "compute_mode")?.as_str() {
            Some("exclusive_thread") => nvmlComputeMode_enum_NVML_COMPUTEMODE_EXCLUSIVE_THREAD,
            Some("prohibited") => nvmlComputeMode_enum_NVML_COMPUTEMODE_PROHIBITED,
            Some("exclusive_process") => nvmlComputeMode_enum_NVML_COMPUTEMODE_EXCLUSIVE_PROCESS,
            _ => nvmlComputeMode_enum_NVML_COMPUTEMODE_DEFAULT,
        })
    };
    nvmlDeviceGetNvLinkState(device: nvmlDevice_t, link: c_uint, to: *mut nvmlEnableState_t) |library| {
        put(to, number(&library.link(device, link)?["active"])? as nvmlEnableState_t)
    };
    nvmlDeviceGetNvLinkVersion(device: nvmlDevice_t, link: c_uint, to: *mut c_uint) |library| {
        library.link(device, link)?;
        put(to, number(&library.profile["nvlink"]["version"])? as c_uint)
    };
    nvmlDeviceGetNvLinkRemotePciInfo_v2(device: nvmlDevice_t, link: c_uint, to: *mut nvmlPciInfo_t) |library| {
        let link = library.link(device, link)?;
        put(to, pci_info(link["remote"].as_str().ok_or(UNSUPPORTED)?, 0)?)
    };
    nvmlDeviceGetNvLinkRemoteDeviceType(
        device: nvmlDevice_t, link: c_uint, to: *mut nvmlIntNvLinkDeviceType_t
    ) |library| {
        put(to, match library.link(device, link)?["kind"].as_str() {
            Some("gpu") => nvmlIntNvLinkDeviceType_enum_NVML_NVLINK_DEVICE_TYPE_GPU,
            Some("switch") => nvmlIntNvLinkDeviceType_enum_NVML_NVLINK_DEVICE_TYPE_SWITCH,
            _ => nvmlIntNvLinkDeviceType_enum_NVML_NVLINK_DEVICE_TYPE_UNKNOWN,
        })
    };
    nvmlDeviceGetNvLinkErrorCounter(
        device: nvmlDevice_t, link: c_uint, counter: nvmlNvLinkErrorCounter_t, to: *mut c_ulonglong
    ) |library| {
        let name = ["replay", "recovery", "crc_flit", "crc_data"].get(counter as usize).ok_or(INVALID)?;
        put(to, library.link(device, link)?["errors"][*name].as_u64().unwrap_or_default())
    };
    nvmlDeviceGetTopologyCommonAncestor(
        one: nvmlDevice_t, other: nvmlDevice_t, to: *mut nvmlGpuTopologyLevel_t
    ) |library| {
        let (one, other) = (library.fact(one, "pci/bus_id")?, library.fact(other, "pci/bus_id")?);
        let roots = list(&library.profile["pcie_topology"]["root_complexes"]);
        let both = |root: &&Value| {
            let has = |address| list(&root["devices"]).contains(address);
            has(one) && has(other)
        };
        // NVML_TOPOLOGY_HOSTBRIDGE, NVML_TOPOLOGY_SYSTEM
        put(to, if roots.iter().any(|root| both(&root)) { 30 } else { 50 })
    };
    nvmlDeviceGetMigMode(device: nvmlDevice_t, current: *mut c_uint, pending: *mut c_uint) |library| {
        put(current, number(library.fact(device, "mig/mode_current")?)? as c_uint)?;
        put(pending, number(library.fact(device, "mig/mode_pending")?)? as c_uint)
    };
    nvmlDeviceGetMaxMigDeviceCount(device: nvmlDevice_t, to: *mut c_uint) |library| {
        put(to, number(library.fact(device, "mig/max_gpu_instances")?)? as c_uint)
    };
    nvmlDeviceGetMigDeviceHandleByIndex(device: nvmlDevice_t, index: c_uint, to: *mut nvmlDevice_t) |library| {
        let (gpu, _) = parts(device)?;
        library.migs(gpu)?.get(index as usize).ok_or(NOT_FOUND)?;
        put(to, handle(gpu, Some(index as usize)))
    };
    nvmlDeviceGetGpuInstanceId(device: nvmlDevice_t, to: *mut c_uint) |library| {
        put(to, number(&library.mig(device)?.0["id"])? as c_uint)
    };
    nvmlDeviceGetComputeInstanceId(device: nvmlDevice_t, to: *mut c_uint) |library| {
        put(to, number(&library.mig(device)?.1["id"])? as c_uint)
    };
    nvmlDeviceGetAttributes_v2(device: nvmlDevice_t, to: *mut nvmlDeviceAttributes_t) |library| {
        let (instance, compute) = library.mig(device)?;
        put(to, nvmlDeviceAttributes_t {
            multiprocessorCount: 0,
            sharedCopyEngineCount: 0,
            sharedDecoderCount: 0,
            sharedEncoderCount: 0,
            sharedJpegCount: 0,
            sharedOfaCount: 0,
            gpuInstanceSliceCount: number(&instance["slices"])? as c_uint,
            computeInstanceSliceCount: number(&compute["slices"])? as c_uint,
            memorySizeMB: number(&instance["memory_mb"])?,
        })
    };
    nvmlDeviceGetGpuInstanceById(device: nvmlDevice_t, id: c_uint, to: *mut nvmlGpuInstance_t) |library| {
        let (gpu, _) = parts(device)?;
        let instances = list(&library.gpu(gpu)?["mig"]["instances"]);
        let at = instances.iter().position(|it| it["id"].as_u64() == Some(id.into()));
        put(to, handle(gpu, Some(at.ok_or(NOT_FOUND)?)).cast())
    };
    nvmlGpuInstanceGetInfo(instance: nvmlGpuInstance_t, to: *mut nvmlGpuInstanceInfo_t) |library| {
        let (gpu, at) = parts(instance.cast())?;
        let instance = &library.gpu(gpu)?["mig"]["instances"][at.ok_or(INVALID)?];
        put(to, nvmlGpuInstanceInfo_t {
            device: handle(gpu, None),
            id: number(&instance["id"])? as c_uint,
            profileId: 0,
            placement: nvmlGpuInstancePlacement_t {
                start: number(&instance["placement"][0])? as c_uint,
                size: number(&instance["placement"][1])? as c_uint,
            },
        })
    };
    nvmlDeviceGetSupportedEventTypes(device: nvmlDevice_t, to: *mut c_ulonglong) |library| {
        library.gpu(parts(device)?.0)?;
        put(to, u64::from(nvmlEventTypeXidCriticalError | nvmlEventTypeDoubleBitEccError | nvmlEventMigConfigChange))
    };
    nvmlEventSetCreate(to: *mut nvmlEventSet_t) |library| {
        library.sets.push(Set::default());
        put(to, ptr::without_provenance_mut(library.sets.len()))
    };
    nvmlDeviceRegisterEvents(device: nvmlDevice_t, _events: c_ulonglong, set: nvmlEventSet_t) |library| {
        let (gpu, _) = parts(device)?;
        library.gpu(gpu)?;
        let set = set_of(library, set)?;
        set.gpus.push(gpu);
        // What happened before is not told.
        set.told = happened().len();
        Ok(())
    };
    nvmlEventSetWait_v2(set: nvmlEventSet_t, to: *mut nvmlEventData_t, _timeout: c_uint) |library| {
        put(to, next_event(set_of(library, set)?)?)
    };
    nvmlEventSetFree(set: nvmlEventSet_t) |library| {
        *set_of(library, set)? = Set::default();
        Ok(())
    };
}

fn retirement(cause: nvmlPageRetirementCause_t) -> String {
    let cause = if cause == 0 { "single" } else { "double" };
    format!("retired_pages/{cause}_bit_retirement/count")
}

fn clock_name(clock: nvmlClockType_t) -> &'static str {
    ["graphics", "sm", "memory", "video"].get(clock as usize).copied().unwrap_or("none")
}

fn throttle(facts: &Map<String, Value>) -> u64 {
    let bits = [
        ("gpu_idle", nvmlClocksEventReasonGpuIdle),
        ("applications_clocks_setting", nvmlClocksEventReasonApplicationsClocksSetting),
        ("sw_power_cap", nvmlClocksEventReasonSwPowerCap),
        ("hw_slowdown", nvmlClocksThrottleReasonHwSlowdown),
        ("sync_boost", nvmlClocksEventReasonSyncBoost),
        ("sw_thermal_slowdown", nvmlClocksEventReasonSwThermalSlowdown),
        ("hw_thermal_slowdown", nvmlClocksThrottleReasonHwThermalSlowdown),
        ("hw_power_brake_slowdown", nvmlClocksThrottleReasonHwPowerBrakeSlowdown),
        ("display_clocks_setting", nvmlClocksEventReasonDisplayClockSetting),
    ];
    let holds = |name: &str| facts.get(name).is_some_and(|fact| *fact == true);
    bits.into_iter().filter(|(name, _)| holds(name)).map(|(_, bit)| u64::from(bit)).sum()
}

fn set_of(library: &mut Library, set: nvmlEventSet_t) -> Answer<&mut Set> {
    let index = set.addr().checked_sub(1).ok_or(INVALID)?;
    library.sets.get_mut(index).ok_or(INVALID)
}

fn next_event(set: &mut Set) -> Answer<nvmlEventData_t> {
    for (word, gpu, code) in happened().into_iter().skip(set.told) {
        set.told += 1;
        let kind = match word.as_str() {
            "xid" => nvmlEventTypeXidCriticalError,
            "ecc" => nvmlEventTypeDoubleBitEccError,
            "mig" => nvmlEventMigConfigChange,
            _ => continue,
        };
        if set.gpus.contains(&gpu) {
            return Ok(nvmlEventData_t {
                device: handle(gpu, None),
                eventType: kind.into(),
                eventData: code,
                gpuInstanceId: u32::MAX,
                computeInstanceId: u32::MAX,
            });
        }
    }
    Err(if set.gpus.iter().any(|gpu| is_lost(*gpu)) { LOST } else { TIMEOUT })
}
