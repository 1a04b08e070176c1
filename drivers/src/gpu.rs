//! GPUs and accelerators on the PCI bus.
//!
//! Page: `hw-docs/gpu.md`. Sources: class codes 03xxxx (display) and 1200xx
//! (processing accelerator) in sysfs; amdgpu's `mem_info_vram_total`,
//! `unique_id` and `product_name` (Documentation/gpu/amdgpu/driver-misc.rst);
//! the NVIDIA driver's `/proc/driver/nvidia/gpus`; and NVML, on the live
//! machine alone. A GPU is listed because the bus shows it: no driver and no
//! library is needed for that, and none may take it away.
//!
//! NVML can hang on a broken GPU, so a careful caller reads this part in a
//! process it can lose.

use std::panic::{AssertUnwindSafe, catch_unwind};

use nvml_wrapper::{Nvml, error::NvmlError};
use purlin_core::inventory::{Gpu, Part, Problem};

use crate::{
    Root, pci,
    probe::{Probe, label},
};

/// Base class of display controllers, and base class and subclass of
/// processing accelerators (PCI Code and ID Assignment, sections D.4 and D.19).
const DISPLAY: u32 = 0x03;
const ACCELERATOR: u32 = 0x1200;

const NVIDIA: u32 = 0x10de;

/// Where a library that can't be loaded is named.
const NVML_LIBRARY: &str = "libnvidia-ml.so.1";

/// Reads the GPUs; `None` if the PCI bus could not be listed.
pub fn read(root: &Root) -> (Option<Vec<Gpu>>, Vec<Problem>) {
    let mut probe = Probe::new(Part::Gpu, root);
    let gpus = read_gpus(&mut probe);
    (gpus, probe.finish())
}

fn read_gpus(probe: &mut Probe<'_>) -> Option<Vec<Gpu>> {
    let found = pci::classes(probe)?.into_iter().filter(|(_, class)| is_gpu(*class));
    let mut gpus: Vec<Gpu> = found.map(|(address, _)| gpu(probe, address)).collect();
    if probe.root.is_live() {
        ask_nvml(probe, &mut gpus);
    }
    Some(gpus)
}

fn is_gpu(class: u32) -> bool {
    class >> 16 == DISPLAY || class >> 8 == ACCELERATOR
}

fn gpu(probe: &mut Probe<'_>, address: String) -> Gpu {
    let at = |file: &str| pci::file(&address, file);
    let nvidia = NvidiaProc::read(probe, &address);
    Gpu {
        name: nvidia.model.or_else(|| probe.label(&at("product_name"))),
        driver: probe.link_name(&at("driver")),
        uuid: nvidia.uuid.or_else(|| probe.label(&at("unique_id"))),
        vram: probe.number(&at("mem_info_vram_total")),
        node: probe.told(&at("numa_node")),
        pci: address,
    }
}

/// What the NVIDIA kernel driver says without its library.
#[derive(Default)]
struct NvidiaProc {
    model: Option<String>,
    uuid: Option<String>,
}

impl NvidiaProc {
    fn read(probe: &mut Probe<'_>, address: &str) -> Self {
        let path = format!("/proc/driver/nvidia/gpus/{address}/information");
        let Some(text) = probe.text(&path) else { return Self::default() };
        let value = |key| text.lines().find_map(|line| label(line.strip_prefix(key)?));
        // The driver prints question marks until the GPU was first opened.
        let uuid = value("GPU UUID:").filter(|uuid| !uuid.contains('?'));
        Self { model: value("Model:"), uuid }
    }
}

fn ask_nvml(probe: &mut Probe<'_>, gpus: &mut [Gpu]) {
    let mut ours = Vec::new();
    for gpu in gpus.iter_mut() {
        if probe.hex(&pci::file(&gpu.pci, "vendor")) == Some(NVIDIA) {
            ours.push(gpu);
        }
    }
    if ours.is_empty() {
        return;
    }
    // nvml-wrapper panics on a library that lacks a symbol it takes for granted.
    let asked = catch_unwind(AssertUnwindSafe(|| enrich(probe, &mut ours)));
    match asked {
        Ok(Ok(())) => {}
        Ok(Err(error)) => probe.problem(NVML_LIBRARY, advice(&error)),
        Err(_) => probe.problem(
            NVML_LIBRARY,
            "is incomplete (asking it panicked); install the one of the NVIDIA driver in use",
        ),
    }
}

fn enrich(probe: &mut Probe<'_>, gpus: &mut [&mut Gpu]) -> Result<(), NvmlError> {
    let nvml = Nvml::init()?;
    for gpu in gpus {
        let device = match nvml.device_by_pci_bus_id(gpu.pci.as_str()) {
            Ok(device) => device,
            Err(error) => {
                probe.problem(&gpu.pci, format!("NVML does not know this GPU: {error}"));
                continue;
            }
        };
        // A figure that a GPU doesn't support stays as sysfs told it.
        gpu.name = device.name().ok().and_then(|name| label(&name)).or(gpu.name.take());
        gpu.uuid = device.uuid().ok().and_then(|uuid| label(&uuid)).or(gpu.uuid.take());
        gpu.vram = device.memory_info().ok().map(|memory| memory.total).or(gpu.vram);
    }
    Ok(())
}

fn advice(error: &NvmlError) -> String {
    match error {
        NvmlError::LibloadingError(_) => {
            "can't be loaded; install the NVIDIA driver's libnvidia-ml to see name, UUID and \
             memory of NVIDIA GPUs"
                .into()
        }
        NvmlError::DriverNotLoaded => "no NVIDIA kernel driver is loaded".into(),
        error => format!("NVML can't be used: {error}"),
    }
}
