//! GPUs and accelerators on the PCI bus.
//!
//! Page: `hw-docs/gpu.md`. A GPU is listed because the bus shows it, class
//! 03xxxx (display) or 12xxxx (processing accelerator): no driver and no
//! library is needed for that, and none may take it away. This file reads what
//! every vendor's has in sysfs: identity, link, device files, and what of it
//! can be given away; [`amd`], [`intel`] and [`nvidia`] add what their drivers
//! tell, and [`nvml`] what NVIDIA's library does, on the live machine alone.
//!
//! It must never wake a GPU that sleeps: what is measured is then unknown.
//! NVML can hang on a broken GPU, so a careful caller reads this part in a
//! process it can lose.

use std::path::{Path, PathBuf};

use purlin_core::inventory::{Gpu, GpuKind, GpuVendor, Part, PciLink, Problem, Slice, SliceKind};

use crate::{
    Root, pci,
    pci_ids::{self, Wanted},
    probe::{Depth, Probe, label},
};

mod amd;
mod events;
mod hwmon;
mod intel;
mod limit;
mod nvidia;
mod nvidia_files;
mod nvml;
mod points;
mod vgpu;
mod xid;

pub use events::{Events, GpuEvent, GpuEventKind};
pub use limit::{Cap, Limit, limit_to, limit_with, limits, limits_with};
pub use nvidia_files::nvidia_files;
pub use points::points;
pub use xid::xid_text;

/// Base class of display controllers, and of processing accelerators
/// (PCI Code and ID Assignment, sections D.4 and D.19).
const DISPLAY: u32 = 0x03;
const ACCELERATOR: u32 = 0x12;

/// The most GPUs read; the largest machines have 16 to 32.
pub const MAX_GPUS: usize = 128;

/// The most slices of one GPU: PCI allows 256 functions of a kind on a bus, and
/// vendors stay at 64 VFs and some dozens of vGPU types.
const MAX_SLICES: usize = 512;

/// Vendors of screens without a GPU behind them: guests' virtual ones (QEMU's
/// bochs, Red Hat's qxl and virtio, VMware, Cirrus, Hyper-V, VirtualBox) and
/// those of BMCs (ASPEED, Matrox, Silicon Motion, HiSilicon).
const PLAIN_DISPLAYS: [u32; 11] =
    [0x1234, 0x1b36, 0x1af4, 0x15ad, 0x1013, 0x1414, 0x80ee, 0x1a03, 0x102b, 0x126f, 0x19e5];

/// Names the NVML library to load in place of the driver's: for this project's
/// own tests.
const NVML_VARIABLE: &str = "PURLIN_NVML_LIBRARY";

/// NVML as the driver's packages install it; some have no `libnvidia-ml.so`.
const NVML_LIBRARY: &str = "libnvidia-ml.so.1";

/// Reads the GPUs; `None` if the PCI bus could not be listed.
pub fn read(root: &Root) -> (Option<Vec<Gpu>>, Vec<Problem>) {
    let library = root.is_live().then(nvml_library);
    read_with(root, library.as_deref())
}

/// [`read`], asking the given NVML library, or none.
pub fn read_with(root: &Root, nvml_library: Option<&Path>) -> (Option<Vec<Gpu>>, Vec<Problem>) {
    read_to(root, nvml_library, Depth::All)
}

/// The GPUs with what [`points`] tells of them, and little else of what they are.
pub(crate) fn readings(root: &Root) -> (Option<Vec<Gpu>>, Vec<Problem>) {
    let library = root.is_live().then(nvml_library);
    readings_with(root, library.as_deref())
}

/// The same, asking the given NVML library, or none.
pub fn readings_with(root: &Root, nvml_library: Option<&Path>) -> (Option<Vec<Gpu>>, Vec<Problem>) {
    read_to(root, nvml_library, Depth::Reading)
}

fn read_to(
    root: &Root,
    nvml_library: Option<&Path>,
    depth: Depth,
) -> (Option<Vec<Gpu>>, Vec<Problem>) {
    let mut probe = Probe::new(Part::Gpu, root);
    let gpus = read_gpus(&mut probe, nvml_library, depth);
    (gpus, probe.finish())
}

fn nvml_library() -> PathBuf {
    std::env::var_os(NVML_VARIABLE).map_or_else(|| NVML_LIBRARY.into(), PathBuf::from)
}

fn read_gpus(probe: &mut Probe<'_>, nvml_library: Option<&Path>, depth: Depth) -> Option<Vec<Gpu>> {
    let mut found: Vec<(String, u32)> = pci::classes(probe)?;
    found.retain(|(address, class)| is_gpu(*class) && !is_vf(probe.root, address));
    if found.len() > MAX_GPUS {
        probe
            .problem("/sys/bus/pci/devices", format!("over {MAX_GPUS} GPUs; the rest is left out"));
        found.truncate(MAX_GPUS);
    }
    let mut gpus: Vec<Gpu> =
        found.into_iter().map(|(address, class)| gpu(probe, address, class, depth)).collect();
    if let Some(library) = nvml_library {
        nvml::ask(probe, library, &mut gpus, depth);
    }
    for gpu in &mut gpus {
        nvidia::slices(gpu);
    }
    name(probe, &mut gpus);
    Some(gpus)
}

/// Names GPUs whose driver tells none, or that have no driver, as `pci.ids` does.
fn name(probe: &mut Probe<'_>, gpus: &mut [Gpu]) {
    let nameless = gpus.iter_mut().filter(|gpu| gpu.name.is_none());
    let nameless: Vec<(pci_ids::Id, &mut Gpu)> =
        nameless.filter_map(|gpu| Some(((gpu.vendor_id?, gpu.device_id?), gpu))).collect();
    if nameless.is_empty() {
        return;
    }
    let devices = nameless.iter().map(|(id, _)| *id).collect();
    let names = pci::names(probe.root, &Wanted { devices, ..Wanted::default() });
    for (id, gpu) in nameless {
        gpu.name = names.devices.get(&id).and_then(|name| label(name));
    }
}

fn is_gpu(class: u32) -> bool {
    matches!(class >> 16, DISPLAY | ACCELERATOR)
}

/// A virtual function is a slice of the GPU above it. In a guest it has none
/// above, and is a GPU.
fn is_vf(root: &Root, address: &str) -> bool {
    root.exists(&pci::file(address, "physfn"))
}

fn gpu(probe: &mut Probe<'_>, address: String, class: u32, depth: Depth) -> Gpu {
    let at = |file: &str| pci::file(&address, file);
    let vendor_id = probe.hex(&at("vendor"));
    let mut gpu = Gpu {
        kind: kind(class, vendor_id),
        vendor: vendor(vendor_id),
        vendor_id: vendor_id.and_then(|id| u16::try_from(id).ok()),
        device_id: probe.hex(&at("device")).and_then(|id| u16::try_from(id).ok()),
        driver: probe.link_name(&at("driver")),
        pci: address,
        ..Gpu::default()
    };
    let drm = Drm::read(probe, &gpu.pci);
    if depth == Depth::All {
        place(probe, &mut gpu, &drm);
    }
    match (gpu.vendor, gpu.driver.as_deref()) {
        (GpuVendor::Nvidia, _) => nvidia::read(probe, &mut gpu, depth),
        (GpuVendor::Amd, _) => amd::read(probe, &mut gpu),
        (GpuVendor::Intel, Some("i915" | "xe")) => {
            intel::read(probe, &mut gpu, drm.card.as_deref())
        }
        _ => {}
    }
    gpu
}

/// Where it sits, and what of it can be given away.
fn place(probe: &mut Probe<'_>, gpu: &mut Gpu, drm: &Drm) {
    let at = |file: &str| pci::file(&gpu.pci, file);
    let (node, driver) = (probe.told(&at("numa_node")), gpu.driver.as_deref());
    let now = link(probe, &at("current_link_speed"), &at("current_link_width"));
    let most = link(probe, &at("max_link_speed"), &at("max_link_width"));
    let version = driver.and_then(|it| probe.label(&format!("/sys/module/{it}/version")));
    let slices = slices(probe, &gpu.pci);
    (gpu.node, gpu.link, gpu.link_max) = (node, now, most);
    (gpu.driver_version, gpu.slices) = (version, slices);
    gpu.display = drm.card.as_deref().and_then(|card| connected(probe, card));
    gpu.device_nodes.clone_from(&drm.device_nodes);
}

fn kind(class: u32, vendor: Option<u32>) -> GpuKind {
    let plain = vendor.is_some_and(|vendor| PLAIN_DISPLAYS.contains(&vendor));
    if class >> 16 == DISPLAY && plain { GpuKind::Display } else { GpuKind::Compute }
}

fn vendor(id: Option<u32>) -> GpuVendor {
    match id {
        Some(0x10de) => GpuVendor::Nvidia,
        Some(0x1002 | 0x1022) => GpuVendor::Amd,
        Some(0x8086) => GpuVendor::Intel,
        _ => GpuVendor::Other,
    }
}

/// `8.0 GT/s PCIe` or `Unknown`, and a width that is 0 without a link.
fn link(probe: &mut Probe<'_>, speed: &str, width: &str) -> Option<PciLink> {
    let speed = probe.text(speed)?;
    let gt_per_s: f32 = speed.split_whitespace().next()?.parse().ok()?;
    let width = probe.told(width).filter(|lanes| (1..=32).contains(lanes))?;
    (gt_per_s.is_finite() && gt_per_s > 0.0).then_some(PciLink { gt_per_s, width })
}

/// Whether the GPU sleeps (Documentation/power/runtime_pm.rst).
fn asleep(probe: &mut Probe<'_>, address: &str) -> bool {
    let status = probe.text(&pci::file(address, "power/runtime_status"));
    status.is_some_and(|status| status == "suspended")
}

/// What the kernel's graphics subsystem shows of it.
#[derive(Default)]
struct Drm {
    /// Directory of its `cardN`.
    card: Option<String>,
    device_nodes: Vec<String>,
}

impl Drm {
    fn read(probe: &mut Probe<'_>, address: &str) -> Self {
        let mut drm = Self::default();
        for name in probe.names(&pci::file(address, "drm")).unwrap_or_default() {
            if is_numbered(&name, "card") {
                drm.card.get_or_insert_with(|| pci::file(address, &format!("drm/{name}")));
                drm.device_nodes.push(format!("/dev/dri/{name}"));
            } else if is_numbered(&name, "renderD") {
                drm.device_nodes.push(format!("/dev/dri/{name}"));
            }
        }
        drm
    }
}

fn is_numbered(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|id| id.parse::<u32>().is_ok())
}

/// Whether one of a card's connectors (`card0-HDMI-A-1`) has a display; `None` without any.
fn connected(probe: &mut Probe<'_>, card: &str) -> Option<bool> {
    let prefix = format!("{}-", card.rsplit('/').next()?);
    let mut connectors = probe.names(card)?;
    connectors.retain(|name| name.starts_with(&prefix));
    let status = |probe: &mut Probe<'_>, name| probe.text(&format!("{card}/{name}/status"));
    let states: Vec<String> = connectors.iter().filter_map(|name| status(probe, name)).collect();
    (!states.is_empty()).then(|| states.iter().any(|state| state == "connected"))
}

/// What of a GPU can be given away: its VFs, and the mediated devices of it
/// and of them (Documentation/ABI/testing/sysfs-bus-vfio-mdev).
fn slices(probe: &mut Probe<'_>, address: &str) -> Vec<Slice> {
    let vfs = virtual_functions(probe, address);
    let mut slices = mediated(probe, address, address);
    let vgpus = vgpu::read(probe, &vfs);
    for vf in vfs {
        let more = mediated(probe, address, &vf);
        // A VF that carries vGPU types is not given away itself.
        if more.is_empty() {
            let profile = vgpus.profiles.get(&vf).cloned();
            slices.push(Slice { profile, ..virtual_function(probe, address, vf) });
        }
        slices.extend(more);
    }
    slices.extend(vgpus.types.into_iter().map(|(id, kind)| Slice {
        id: format!("nvidia-{id}"),
        profile: Some(kind.name),
        available: Some(kind.vfs),
        ..slice(SliceKind::VgpuType, address)
    }));
    slices.truncate(MAX_SLICES);
    slices
}

/// PCI addresses of the VFs, in the order of their numbers.
fn virtual_functions(probe: &mut Probe<'_>, address: &str) -> Vec<String> {
    let count: u32 = match probe.root.exists(&pci::file(address, "sriov_numvfs")) {
        true => probe.told(&pci::file(address, "sriov_numvfs")).unwrap_or_default(),
        false => 0,
    };
    let link = |number| probe.link_name(&pci::file(address, &format!("virtfn{number}")));
    (0..count.min(MAX_SLICES as u32)).filter_map(link).collect()
}

fn virtual_function(probe: &mut Probe<'_>, parent: &str, address: String) -> Slice {
    Slice {
        driver: probe.link_name(&pci::file(&address, "driver")),
        iommu_group: iommu_group(probe, &pci::file(&address, "iommu_group")),
        id: address,
        ..slice(SliceKind::Vf, parent)
    }
}

/// The mediated devices of one function: the types that can be created, and
/// those that were.
fn mediated(probe: &mut Probe<'_>, parent: &str, function: &str) -> Vec<Slice> {
    let types = format!("/sys/class/mdev_bus/{function}/mdev_supported_types");
    let mut slices = Vec::new();
    for id in probe.names(&types).unwrap_or_default() {
        let at = |file: &str| format!("{types}/{id}/{file}");
        let profile = probe.label(&at("name")).or_else(|| Some(id.clone()));
        let memory = probe.text(&at("description")).as_deref().and_then(framebuffer);
        for uuid in probe.names(&at("devices")).unwrap_or_default() {
            slices.push(Slice {
                profile: profile.clone(),
                memory,
                iommu_group: iommu_group(
                    probe,
                    &format!("/sys/bus/mdev/devices/{uuid}/iommu_group"),
                ),
                id: uuid,
                ..slice(SliceKind::Mdev, parent)
            });
        }
        let available = probe.told(&at("available_instances"));
        slices.push(Slice { id, profile, memory, available, ..slice(SliceKind::MdevType, parent) });
    }
    slices
}

fn slice(kind: SliceKind, parent: &str) -> Slice {
    Slice {
        kind,
        id: String::new(),
        parent: parent.into(),
        profile: None,
        memory: None,
        available: None,
        driver: None,
        iommu_group: None,
    }
}

fn iommu_group(probe: &mut Probe<'_>, path: &str) -> Option<u32> {
    probe.link_name(path)?.parse().ok()
}

/// Bytes, from NVIDIA's `num_heads=4, frl_config=60, framebuffer=1024M, …`.
fn framebuffer(description: &str) -> Option<u64> {
    let value = description.split([',', ' ']).find_map(|word| word.strip_prefix("framebuffer="))?;
    value.strip_suffix('M')?.parse::<u64>().ok()?.checked_mul(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_without_a_gpu_is_a_plain_display() {
        assert_eq!(kind(0x030000, Some(0x1a03)), GpuKind::Display);
        assert_eq!(kind(0x038000, Some(0x1af4)), GpuKind::Display);
        assert_eq!(kind(0x030000, Some(0x10de)), GpuKind::Compute);
        // HiSilicon makes BMC screens and accelerators alike.
        assert_eq!(kind(0x120000, Some(0x19e5)), GpuKind::Compute);
    }

    #[test]
    fn the_memory_of_a_vgpu_type_is_in_its_description() {
        let text = "num_heads=4, frl_config=60, framebuffer=4096M, max_resolution=5120x2880";
        assert_eq!(framebuffer(text), Some(4096 << 20));
        assert_eq!(framebuffer("framebuffer=lots"), None);
        assert_eq!(framebuffer("framebuffer=99999999999999999999M"), None);
    }
}
