//! NVIDIA's GPUs, as far as the kernel driver's files tell.
//!
//! Source: `/proc/driver/nvidia` (the driver's README, "The /proc File System
//! Interface"; MIG user guide, "Device nodes and capabilities"). They are there
//! without the library and with a GPU that no longer answers, and in a dump.

use purlin_core::inventory::{ComputeInstance, Gpu, GpuInstance, Mig, Slice, SliceKind};

use crate::probe::{Depth, Probe, label};

/// The most GPU instances of a GPU, and compute instances of one: hardware has 7 and 8.
pub(super) const MAX_INSTANCES: usize = 16;

/// Device files that every NVIDIA GPU's user needs beside the GPU's own.
pub(super) const SHARED_NODES: [&str; 2] = ["/dev/nvidiactl", "/dev/nvidia-uvm"];

pub(super) fn read(probe: &mut Probe<'_>, gpu: &mut Gpu, depth: Depth) {
    let path = format!("/proc/driver/nvidia/gpus/{}/information", gpu.pci);
    let Some(text) = probe.text(&path) else { return };
    let value = |key| text.lines().find_map(|line| label(line.strip_prefix(key)?));
    // The driver prints question marks until the GPU was first opened.
    let known = |text: &String| !text.contains('?');
    gpu.name = value("Model:").filter(|name| name != "Unknown");
    if depth == Depth::Reading {
        return;
    }
    gpu.uuid = value("GPU UUID:").filter(known);
    gpu.vbios = value("Video BIOS:").filter(known);
    gpu.firmware = value("GPU Firmware:").filter(|version| version != "N/A");
    let minor: Option<u32> = value("Device Minor:").and_then(|minor| minor.parse().ok());
    if let Some(minor) = minor {
        gpu.device_nodes.insert(0, format!("/dev/nvidia{minor}"));
        gpu.device_nodes.extend(SHARED_NODES.map(str::to_owned));
        gpu.mig = mig(probe, minor);
    }
}

/// The tree of instances; `None` for a GPU that can't be partitioned.
fn mig(probe: &mut Probe<'_>, minor: u32) -> Option<Mig> {
    let dir = format!("/proc/driver/nvidia/capabilities/gpu{minor}/mig");
    let ids = probe.numbered(&dir, "gi")?;
    let instance = |id: u32| {
        let dir = format!("{dir}/gi{id}");
        let compute = probe.numbered(&dir, "ci").unwrap_or_default();
        GpuInstance {
            id,
            device_node: capability(probe, &dir),
            compute: compute
                .iter()
                .take(MAX_INSTANCES)
                .map(|id| ComputeInstance {
                    id,
                    device_node: capability(probe, &format!("{dir}/ci{id}")),
                    ..ComputeInstance::default()
                })
                .collect(),
            ..GpuInstance::default()
        }
    };
    let instances: Vec<GpuInstance> = ids.iter().take(MAX_INSTANCES).map(instance).collect();
    Some(Mig { enabled: !instances.is_empty(), pending: None, instances })
}

/// The device file that grants the use of an instance.
fn capability(probe: &mut Probe<'_>, dir: &str) -> Option<String> {
    let text = probe.text(&format!("{dir}/access"))?;
    let minor = text.lines().find_map(|line| line.strip_prefix("DeviceFileMinor:"))?;
    Some(format!("/dev/nvidia-caps/nvidia-cap{}", minor.trim().parse::<u32>().ok()?))
}

/// Compute instances with a UUID can be given away.
pub(super) fn slices(gpu: &mut Gpu) {
    for instance in gpu.mig.iter().flat_map(|mig| &mig.instances) {
        for compute in &instance.compute {
            let Some(uuid) = &compute.uuid else { continue };
            gpu.slices.push(Slice {
                id: uuid.clone(),
                profile: instance.profile.clone(),
                memory: instance.memory,
                ..super::slice(SliceKind::Mig, &gpu.pci)
            });
        }
    }
}
