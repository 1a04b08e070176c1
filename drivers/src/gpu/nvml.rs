//! What NVIDIA's library (NVML) adds to what the bus and the driver's files told.
//!
//! Source: the NVML API reference. Each call is on its own: one that a GPU, a
//! driver or a library does not have leaves its fact unknown; one that says
//! that the GPU is lost ends the questions about it, and what the files told
//! stays. It must never take a GPU away, and nothing of it is kept between two
//! reads, so that a library that comes later is found.

use std::{
    collections::BTreeMap,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use nvml_wrapper::{
    Device, Nvml,
    bitmasks::device::ThrottleReasons,
    enum_wrappers::{
        device::{
            Clock, ComputeMode, EccCounter, MemoryError, PerformanceState, RetirementCause,
            TemperatureSensor, TopologyLevel,
        },
        nv_link::{ErrorCounter, IntDeviceType},
    },
    enums::device::SampleValue,
    error::NvmlError,
    structs::device::FieldId,
};
use nvml_wrapper_sys::bindings::field_id;
use purlin_core::inventory::{
    ComputeInstance, Ecc, Gpu, GpuInstance, GpuPeer, GpuVendor, Mig, NvLink, PciLink, PowerRange,
    RemappedRows, RetiredPages,
};

use super::nvidia::MAX_INSTANCES;
use crate::{
    probe::{Depth, Probe, label},
    sys,
};

/// The most NVLinks of a GPU (`NVML_NVLINK_MAX_LINKS` is 18 in NVML 12).
const MAX_LINKS: u32 = 36;

const DRIVER: &str = "nvidia";

/// Asks the library about the GPUs that its driver holds, if there are any.
pub(super) fn ask(probe: &mut Probe<'_>, library: &Path, gpus: &mut [Gpu], depth: Depth) {
    let held =
        |gpu: &&mut Gpu| gpu.vendor == GpuVendor::Nvidia && gpu.driver.as_deref() == Some(DRIVER);
    let mut gpus: Vec<&mut Gpu> = gpus.iter_mut().filter(held).collect();
    if gpus.is_empty() {
        return;
    }
    let nvml = match open(library) {
        Ok(nvml) => nvml,
        Err(what) => return probe.problem(&library.to_string_lossy(), what),
    };
    let asks_all = depth == Depth::All;
    let version = asks_all.then(|| Asked::default().get(|| nvml.sys_driver_version())).flatten();
    let mut devices = Vec::new();
    for gpu in &mut gpus {
        gpu.driver_version = version.clone().or(gpu.driver_version.take());
        let mut asked = Asked::default();
        let device = asked.get(|| nvml.device_by_pci_bus_id(gpu.pci.as_str()));
        if let Some(device) = &device {
            readings(gpu, device, &mut asked);
            if asks_all {
                facts(gpu, device, &mut asked);
            }
        }
        gpu.lost = asked.lost;
        if let Some(what) = asked.failed {
            probe.problem(&gpu.pci, format!("NVML can't tell all of it: {what}"));
        }
        devices.extend(device.filter(|_| !asked.lost).map(|device| (gpu.pci.clone(), device)));
    }
    for gpu in gpus.iter_mut().filter(|_| asks_all) {
        gpu.peers = peers(gpu, &devices);
    }
    drop(devices);
    close(nvml);
}

/// Loads the library; the error is for a person, with the next step.
pub(super) fn open(library: &Path) -> Result<Nvml, String> {
    let init = || Nvml::builder().lib_path(library.as_os_str()).init();
    match catch_unwind(AssertUnwindSafe(init)) {
        Ok(Ok(nvml)) => Ok(nvml),
        Ok(Err(error)) => Err(advice(&error)),
        Err(_) => Err("is incomplete (asking it panicked); install the one of the NVIDIA driver \
                       in use"
            .into()),
    }
}

/// Unloads the library. nvml-wrapper panics if it can't be shut down, and a
/// library that lacks the symbol is then left in memory.
pub(super) fn close(nvml: Nvml) {
    match nvml.lib().nvmlShutdown.is_ok() {
        true => drop(nvml),
        false => mem::forget(nvml),
    }
}

fn advice(error: &NvmlError) -> String {
    match error {
        NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound => {
            "can't be loaded; install the NVIDIA driver's libnvidia-ml to see memory, errors, \
             temperature and partitions of NVIDIA GPUs"
                .into()
        }
        NvmlError::FailedToLoadSymbol(_) | NvmlError::FunctionNotFound => {
            "is no NVML library; install the one of the NVIDIA driver in use".into()
        }
        NvmlError::DriverNotLoaded => {
            "does not reach the NVIDIA driver; load it (nvidia-modprobe) or look into the kernel \
             log for why it did not start"
                .into()
        }
        NvmlError::LibRmVersionMismatch => {
            "is of another version than the kernel driver; restart after the driver's upgrade"
                .into()
        }
        error => format!("can't be used: {error}"),
    }
}

/// The questions about one GPU: what went wrong so far.
#[derive(Default)]
struct Asked {
    lost: bool,
    failed: Option<String>,
}

impl Asked {
    fn get<T>(&mut self, call: impl FnOnce() -> Result<T, NvmlError>) -> Option<T> {
        if self.lost {
            return None;
        }
        match catch_unwind(AssertUnwindSafe(call)) {
            Ok(Ok(value)) => return Some(value),
            Ok(Err(NvmlError::GpuLost | NvmlError::ResetRequired)) => self.lost = true,
            Ok(Err(error)) if is_unsupported(&error) => {}
            Ok(Err(error)) => self.fail(error.to_string()),
            Err(_) => self.fail("a call panicked; the library may be incomplete".into()),
        }
        None
    }

    fn text(&mut self, call: impl FnOnce() -> Result<String, NvmlError>) -> Option<String> {
        label(&self.get(call)?)
    }

    /// The first fault is told: the others are mostly the same.
    fn fail(&mut self, what: String) {
        self.failed.get_or_insert(what);
    }
}

/// Errors that say that this GPU, driver, library or user has no answer. A
/// value that the wrapper has no word for is one too.
fn is_unsupported(error: &NvmlError) -> bool {
    matches!(
        error,
        NvmlError::NotSupported
            | NvmlError::FunctionNotFound
            | NvmlError::FailedToLoadSymbol(_)
            | NvmlError::NoPermission
            | NvmlError::InvalidArg
            | NvmlError::NotFound
            | NvmlError::NoData
            | NvmlError::VgpuEccNotSupported
            | NvmlError::UnexpectedVariant(_)
            | NvmlError::IncorrectBits(_)
    )
}

/// What changes while it works, and by which name: all that is sampled.
fn readings(gpu: &mut Gpu, device: &Device<'_>, asked: &mut Asked) {
    gpu.name = asked.text(|| device.name()).or(gpu.name.take());
    if let Some(memory) = asked.get(|| device.memory_info()) {
        (gpu.vram, gpu.vram_used) = (Some(memory.total), Some(memory.used));
    }
    if let Some(mode) = asked.get(|| device.is_ecc_enabled()) {
        let mut count = |kind| asked.get(|| device.total_ecc_errors(kind, EccCounter::Volatile));
        gpu.ecc = Some(Ecc {
            enabled: Some(mode.currently_enabled),
            pending: Some(mode.pending_enabled),
            corrected: count(MemoryError::Corrected),
            uncorrected: count(MemoryError::Uncorrected),
            ..Ecc::default()
        });
    }
    gpu.throttle = asked.get(|| device.current_throttle_reasons()).map(reasons);
    if let Some(degrees) = asked.get(|| device.temperature(TemperatureSensor::Gpu)) {
        gpu.temperatures.insert("gpu".into(), f64::from(degrees));
    }
    gpu.power = asked.get(|| device.power_usage()).map(watts);
    gpu.power_limit = asked.get(|| device.enforced_power_limit()).map(watts);
    gpu.clocks.core = asked.get(|| device.clock_info(Clock::SM));
    if let Some(share) = asked.get(|| device.utilization_rates()) {
        (gpu.busy, gpu.memory_busy) = (Some(share.gpu), Some(share.memory));
    }
}

/// All else that it is.
fn facts(gpu: &mut Gpu, device: &Device<'_>, asked: &mut Asked) {
    identity(gpu, device, asked);
    errors(gpu, device, asked);
    state(gpu, device, asked);
    link(gpu, device, asked);
    gpu.nvlinks = (0..MAX_LINKS).filter_map(|link| nvlink(device, link, asked)).collect();
    mig(gpu, device, asked);
}

fn identity(gpu: &mut Gpu, device: &Device<'_>, asked: &mut Asked) {
    gpu.uuid = asked.text(|| device.uuid()).or(gpu.uuid.take());
    gpu.serial = asked.text(|| device.serial());
    gpu.board_part = asked.text(|| device.board_part_number());
    gpu.vbios = asked.text(|| device.vbios_version()).or(gpu.vbios.take());
    gpu.firmware = asked.text(|| device.gsp_firmware_version()).or(gpu.firmware.take());
    let Some(minor) = asked.get(|| device.minor_number()) else { return };
    let node = format!("/dev/nvidia{minor}");
    if !gpu.device_nodes.contains(&node) {
        gpu.device_nodes.insert(0, node);
        gpu.device_nodes.extend(super::nvidia::SHARED_NODES.map(str::to_owned));
    }
}

/// Of its memory, since it was made.
fn errors(gpu: &mut Gpu, device: &Device<'_>, asked: &mut Asked) {
    if let Some(ecc) = &mut gpu.ecc {
        let mut count = |kind| asked.get(|| device.total_ecc_errors(kind, EccCounter::Aggregate));
        ecc.corrected_total = count(MemoryError::Corrected);
        ecc.uncorrected_total = count(MemoryError::Uncorrected);
    }
    gpu.retired = retired(device, asked);
    gpu.remapped = remapped(device, asked);
}

fn retired(device: &Device<'_>, asked: &mut Asked) -> Option<RetiredPages> {
    let mut pages = |cause| Some(asked.get(|| device.retired_pages(cause))?.len() as u64);
    let retired = RetiredPages {
        single_bit: pages(RetirementCause::MultipleSingleBitEccErrors),
        double_bit: pages(RetirementCause::DoubleBitEccError),
        pending: asked.get(|| device.are_pages_pending_retired()),
    };
    (retired != RetiredPages::default()).then_some(retired)
}

fn remapped(device: &Device<'_>, asked: &mut Asked) -> Option<RemappedRows> {
    const IDS: [FieldId; 4] = [
        FieldId(field_id::NVML_FI_DEV_REMAPPED_COR),
        FieldId(field_id::NVML_FI_DEV_REMAPPED_UNC),
        FieldId(field_id::NVML_FI_DEV_REMAPPED_PENDING),
        FieldId(field_id::NVML_FI_DEV_REMAPPED_FAILURE),
    ];
    let fields = asked.get(|| device.field_values_for(&IDS))?;
    let mut values = fields.into_iter().map(|field| match field.ok()?.value.ok()? {
        SampleValue::U32(value) => Some(u64::from(value)),
        SampleValue::U64(value) => Some(value),
        SampleValue::I64(value) => u64::try_from(value).ok(),
        SampleValue::F64(_) => None,
    });
    let mut next = || values.next().flatten();
    let rows = RemappedRows {
        correctable: next(),
        uncorrectable: next(),
        pending: next().map(|yes| yes != 0),
        failed: next().map(|yes| yes != 0),
    };
    (rows != RemappedRows::default()).then_some(rows)
}

fn state(gpu: &mut Gpu, device: &Device<'_>, asked: &mut Asked) {
    gpu.power_range = power_range(device, asked);
    gpu.clocks.core_max = asked.get(|| device.max_clock_info(Clock::SM));
    gpu.clocks.memory = asked.get(|| device.clock_info(Clock::Memory));
    gpu.clocks.memory_max = asked.get(|| device.max_clock_info(Clock::Memory));
    gpu.performance = asked.get(|| device.performance_state()).and_then(performance);
    gpu.persistence = asked.get(|| device.is_in_persistent_mode());
    gpu.compute_mode = asked.get(|| device.compute_mode()).map(|mode| compute_mode(mode).into());
    // The library's own "connected" is deprecated and says yes of boards without a connector.
    let active = asked.get(|| device.is_display_active());
    gpu.display = if active == Some(true) { active } else { gpu.display.or(active) };
}

fn power_range(device: &Device<'_>, asked: &mut Asked) -> Option<PowerRange> {
    let constraints = asked.get(|| device.power_management_limit_constraints())?;
    Some(PowerRange {
        set: asked.get(|| device.power_management_limit()).map(watts),
        default: asked.get(|| device.power_management_limit_default()).map(watts),
        min: Some(watts(constraints.min_limit)),
        max: Some(watts(constraints.max_limit)),
    })
}

fn watts(milliwatts: u32) -> f64 {
    f64::from(milliwatts) / 1000.0
}

/// NVIDIA's clock event reasons by name; "idle" is none that holds a clock down.
fn reasons(set: ThrottleReasons) -> Vec<String> {
    let names = [
        (ThrottleReasons::APPLICATIONS_CLOCKS_SETTING, "application clocks setting"),
        (ThrottleReasons::SW_POWER_CAP, "software power cap"),
        (ThrottleReasons::HW_SLOWDOWN, "hardware slowdown"),
        (ThrottleReasons::SYNC_BOOST, "sync boost"),
        (ThrottleReasons::SW_THERMAL_SLOWDOWN, "software thermal slowdown"),
        (ThrottleReasons::HW_THERMAL_SLOWDOWN, "hardware thermal slowdown"),
        (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, "hardware power brake slowdown"),
        (ThrottleReasons::DISPLAY_CLOCK_SETTING, "display clock setting"),
    ];
    let held = names.into_iter().filter(|(reason, _)| set.contains(*reason));
    held.map(|(_, name)| name.to_owned()).collect()
}

fn performance(state: PerformanceState) -> Option<String> {
    match state {
        PerformanceState::Unknown => None,
        state => Some(format!("P{}", state.as_c())),
    }
}

fn compute_mode(mode: ComputeMode) -> &'static str {
    match mode {
        ComputeMode::Default => "default",
        ComputeMode::ExclusiveThread => "exclusive thread",
        ComputeMode::Prohibited => "prohibited",
        ComputeMode::ExclusiveProcess => "exclusive process",
    }
}

/// The most that the link can be counts the slot, which the files don't.
fn link(gpu: &mut Gpu, device: &Device<'_>, asked: &mut Asked) {
    let now = asked.get(|| device.current_pcie_link_gen()).and_then(rate);
    let most = asked.get(|| device.max_pcie_link_gen()).and_then(rate);
    let lanes = asked.get(|| device.current_pcie_link_width());
    let most_lanes = asked.get(|| device.max_pcie_link_width());
    let link = |rate: Option<f32>, lanes: Option<u32>| {
        Some(PciLink { gt_per_s: rate?, width: lanes.filter(|lanes| *lanes > 0)? })
    };
    gpu.link = link(now, lanes).or(gpu.link);
    gpu.link_max = link(most, most_lanes).or(gpu.link_max);
    gpu.replays = asked.get(|| device.pcie_replay_counter()).map(u64::from);
}

/// GT/s of a PCI Express generation.
fn rate(generation: u32) -> Option<f32> {
    [2.5, 5.0, 8.0, 16.0, 32.0, 64.0].get(generation.checked_sub(1)? as usize).copied()
}

/// `None` for a link that this GPU does not have.
fn nvlink(device: &Device<'_>, number: u32, asked: &mut Asked) -> Option<NvLink> {
    let link = device.link_wrapper_for(number);
    let active = asked.get(|| link.is_active())?;
    let counters = [
        (ErrorCounter::DlReplay, "replay"),
        (ErrorCounter::DlRecovery, "recovery"),
        (ErrorCounter::DlCrcFlit, "crc_flit"),
        (ErrorCounter::DlCrcData, "crc_data"),
    ];
    let mut errors = BTreeMap::new();
    for (counter, name) in counters {
        errors.extend(asked.get(|| link.error_counter(counter)).map(|count| (name.into(), count)));
    }
    let remote = asked.get(|| link.remote_pci_info());
    Some(NvLink {
        link: number,
        active,
        version: asked.get(|| link.version()),
        remote: remote.and_then(|info| address(&info.bus_id)),
        remote_kind: asked
            .get(|| sys::nvml::remote_device_type(device, number))
            .and_then(remote_kind),
        errors,
    })
}

fn remote_kind(kind: u32) -> Option<String> {
    let name = match IntDeviceType::try_from(kind).ok()? {
        IntDeviceType::Gpu => "gpu",
        IntDeviceType::Ibmnpu => "npu",
        IntDeviceType::Switch => "switch",
        IntDeviceType::Unknown => return None,
    };
    Some(name.into())
}

/// A PCI address as sysfs writes it; NVML has eight digits of domain, in capitals.
pub(super) fn address(bus_id: &str) -> Option<String> {
    let (domain, rest) = bus_id.trim().split_once(':')?;
    let domain = u32::from_str_radix(domain, 16).ok()?;
    let address = format!("{domain:04x}:{}", rest.to_lowercase());
    crate::pci::is_address(&address).then_some(address)
}

fn mig(gpu: &mut Gpu, device: &Device<'_>, asked: &mut Asked) {
    let Some(mode) = asked.get(|| device.mig_mode()) else { return };
    let mig = gpu.mig.get_or_insert_default();
    (mig.enabled, mig.pending) = (mode.current == 1, Some(mode.pending == 1));
    if !mig.enabled {
        return;
    }
    let most = asked.get(|| device.mig_device_count()).unwrap_or_default();
    let most = most.min((MAX_INSTANCES * MAX_INSTANCES) as u32);
    for index in 0..most {
        // Indices may have gaps: `NotFound` is not the end.
        if let Some(part) = asked.get(|| device.mig_device_by_index(index)) {
            mig_device(mig, &part, asked);
        }
    }
    for instance in &mut mig.instances {
        let placement = asked.get(|| sys::nvml::placement(device, instance.id));
        instance.placement = placement;
    }
}

/// Adds what one MIG device tells to the instances that it is of.
fn mig_device(mig: &mut Mig, device: &Device<'_>, asked: &mut Asked) {
    let Some(id) = asked.get(|| sys::nvml::gpu_instance_id(device)) else { return };
    let Some(compute_id) = asked.get(|| sys::nvml::compute_instance_id(device)) else { return };
    let attributes = asked.get(|| device.attributes());
    let instance =
        entry(&mut mig.instances, |it| it.id, id, GpuInstance { id, ..Default::default() });
    if let Some(attributes) = &attributes {
        instance.slices = Some(attributes.gpu_instance_slice_count);
        instance.memory = attributes.memory_size_mb.checked_mul(1 << 20);
    }
    instance.profile = asked.text(|| device.name()).and_then(|name| profile(&name));
    let new = ComputeInstance { id: compute_id, ..Default::default() };
    let compute = entry(&mut instance.compute, |it| it.id, compute_id, new);
    compute.uuid = asked.text(|| device.uuid());
    compute.slices = attributes.map(|it| it.compute_instance_slice_count);
}

/// The one with this id, put in its place if there is none.
fn entry<T>(all: &mut Vec<T>, id_of: impl Fn(&T) -> u32, id: u32, new: T) -> &mut T {
    let at = all.binary_search_by_key(&id, id_of).unwrap_or_else(|at| {
        all.insert(at, new);
        at
    });
    &mut all[at]
}

/// `1g.5gb` of `NVIDIA A100-SXM4-40GB MIG 1g.5gb`, where a part of an
/// instance's cores is `1c.3g.20gb`.
fn profile(name: &str) -> Option<String> {
    let profile = name.rsplit_once("MIG ")?.1;
    let whole = profile.split_once("c.").map_or(profile, |(_, whole)| whole);
    label(whole)
}

fn peers(gpu: &Gpu, devices: &[(String, Device<'_>)]) -> Vec<GpuPeer> {
    let Some((_, device)) = devices.iter().find(|(pci, _)| *pci == gpu.pci) else {
        return Vec::new();
    };
    let peer = |(pci, other): &(String, Device<'_>)| {
        let level = Asked::default().get(|| device.nvml().topology_common_ancestor(device, other));
        let leads = |link: &&NvLink| link.active && link.remote.as_ref() == Some(pci);
        GpuPeer {
            pci: pci.clone(),
            path: level.map(|level| path(level).into()),
            nvlinks: gpu.nvlinks.iter().filter(leads).count() as u32,
        }
    };
    devices.iter().filter(|(pci, _)| *pci != gpu.pci).map(peer).collect()
}

fn path(level: TopologyLevel) -> &'static str {
    match level {
        TopologyLevel::Internal => "board",
        TopologyLevel::Single => "switch",
        TopologyLevel::Multiple => "switches",
        TopologyLevel::HostBridge => "host bridge",
        TopologyLevel::Node => "NUMA node",
        TopologyLevel::System => "system",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_nvml_is_written_as_sysfs_does() {
        assert_eq!(address("00000000:0F:00.0").as_deref(), Some("0000:0f:00.0"));
        assert_eq!(address("00010000:E1:00.0").as_deref(), Some("10000:e1:00.0"));
        assert_eq!(address("nonsense"), None);
    }

    #[test]
    fn a_profile_is_that_of_the_whole_instance() {
        assert_eq!(profile("NVIDIA H100 MIG 1c.3g.40gb").as_deref(), Some("3g.40gb"));
        assert_eq!(profile("NVIDIA A100-SXM4-40GB MIG 1g.5gb+me").as_deref(), Some("1g.5gb+me"));
        assert_eq!(profile("NVIDIA A100-SXM4-40GB"), None);
    }
}
