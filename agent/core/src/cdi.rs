//! What of the hardware a container may be given, in the form that container
//! runtimes read: the Container Device Interface.
//!
//! Source: the CDI specification (github.com/cncf-tags/container-device-interface,
//! `SPEC.md`), versions 0.5 to 1.1; each [`Spec`] names the lowest version that
//! has all it uses, since a runtime refuses one that it does not know. The
//! kinds are our own, so that they never collide with those that a vendor's
//! tool writes. It must never name a device that does not answer, and never a hook:
//! what it brings into a container are device files, interfaces, and files that the
//! host has (`hw-docs/gpu.md`).

use alloc::{
    borrow::ToOwned,
    collections::BTreeSet,
    format,
    string::{String, ToString},
    vec,
    vec::Vec,
};

use serde::Serialize;

use crate::inventory::{Gpu, GpuKind, Inventory, Mig, Nic, SliceKind};

/// Where runtimes look for specifications that are made while the machine runs.
pub const DIRECTORY: &str = "/run/cdi";

/// Kind of whole GPUs and of what they are partitioned into.
pub const GPU_KIND: &str = "purlin.io/gpu";

/// Kind of virtual functions of NICs.
pub const NIC_VF_KIND: &str = "purlin.io/nic-vf";

/// Has device names that start with a digit.
const BASE_VERSION: &str = "0.5.0";

/// Has network devices.
const NET_VERSION: &str = "1.1.0";

/// Keeps NVIDIA's own container hook from adding its GPUs to ours.
const NO_NVIDIA_HOOK: &str = "NVIDIA_VISIBLE_DEVICES=void";

/// Driver that hands a function to a program or a guest, and the device file
/// that its users open beside the group's own.
const VFIO: &str = "vfio-pci";
const VFIO_NODE: &str = "/dev/vfio/vfio";

/// One specification: the content of one file in [`DIRECTORY`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// Version of the CDI specification.
    pub cdi_version: &'static str,
    /// Vendor and class: a device is asked for as `kind=name`.
    pub kind: &'static str,
    /// The devices; at least one.
    pub devices: Vec<Device>,
    /// What the runtime does to a container that has any of them.
    #[serde(skip_serializing_if = "ContainerEdits::is_nothing")]
    pub container_edits: ContainerEdits,
}

/// A device that can be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// Its name within the kind.
    pub name: String,
    /// What the runtime does to a container that has it.
    pub container_edits: ContainerEdits,
}

/// What a runtime does to a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerEdits {
    /// Environment, `NAME=value`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Device files.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub device_nodes: Vec<DeviceNode>,
    /// Network interfaces that move into the container.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub net_devices: Vec<NetDevice>,
    /// Files of the host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
}

impl ContainerEdits {
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// A file of the host in the container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// Where it is.
    pub host_path: String,
    /// Where it will be.
    pub container_path: String,
    /// Options of the mount.
    pub options: [&'static str; 5],
}

impl Mount {
    /// A file that the container may read and run, and not change.
    pub fn read_only(host: impl Into<String>, container: impl Into<String>) -> Self {
        let options = ["ro", "nosuid", "nodev", "rbind", "rprivate"];
        Self { host_path: host.into(), container_path: container.into(), options }
    }
}

/// A device file; the runtime finds its numbers on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceNode {
    /// Path, on the host and in the container.
    pub path: String,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NetDevice {
    /// Its name on the host.
    pub host_interface_name: String,
    /// Its name in the container.
    pub name: String,
}

/// Name of the file of a kind, as the specification advises: vendor and class.
pub fn file_name(kind: &str) -> String {
    format!("{}.json", kind.replace('/', "-"))
}

/// The specifications of a machine, one a kind that it has any device of.
pub fn specs(inventory: &Inventory) -> Vec<Spec> {
    specs_with(inventory, &[])
}

/// The same with `files`: those that programs on NVIDIA's GPUs need, which come with
/// all GPUs if there is one that its driver serves.
pub fn specs_with(inventory: &Inventory, files: &[Mount]) -> Vec<Spec> {
    let mut gpus = spec(BASE_VERSION, GPU_KIND, gpu_devices(inventory));
    if let Some(spec) = gpus.as_mut().filter(|spec| spec.devices.iter().any(is_nvidia)) {
        spec.container_edits.mounts = files.to_vec();
    }
    let vfs = nic_vf_devices(inventory);
    let has_net = vfs.iter().any(|vf| !vf.container_edits.net_devices.is_empty());
    let version = if has_net { NET_VERSION } else { BASE_VERSION };
    [gpus, spec(version, NIC_VF_KIND, vfs)].into_iter().flatten().collect()
}

/// A name asked for twice would make the runtime refuse the whole file: the
/// first device keeps it.
fn spec(cdi_version: &'static str, kind: &'static str, mut devices: Vec<Device>) -> Option<Spec> {
    let mut names = BTreeSet::new();
    devices.retain(|device| is_name(&device.name) && names.insert(device.name.clone()));
    let container_edits = ContainerEdits::default();
    (!devices.is_empty()).then_some(Spec { cdi_version, kind, devices, container_edits })
}

/// Whether the specification lets a device be called so.
pub fn is_name(name: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':');
    ends(name.chars().next()) && ends(name.chars().last()) && name.chars().all(fits)
}

/// Whole GPUs by number, address and UUID, then what they are cut into. One
/// that is partitioned can't be used as a whole.
fn gpu_devices(inventory: &Inventory) -> Vec<Device> {
    let all = inventory.gpus.iter().flatten().filter(|gpu| gpu.kind == GpuKind::Compute);
    // A lost GPU keeps its number, lest it become that of the next one.
    let gpus = all.enumerate().filter(|(_, gpu)| !gpu.lost);
    let mut devices = Vec::new();
    for (number, gpu) in gpus.clone() {
        let partitioned = gpu.mig.as_ref().is_some_and(|mig| mig.enabled);
        let nodes = match gpu.driver.as_deref() {
            Some(VFIO) => vfio(group_of(inventory, &gpu.pci)),
            _ => gpu.device_nodes.clone(),
        };
        if partitioned || nodes.is_empty() {
            continue;
        }
        let names = [Some(number.to_string()), Some(gpu.pci.clone()), gpu.uuid.clone()];
        let device = |name| gpu_device(name, nodes.clone());
        devices.extend(names.into_iter().flatten().map(device));
    }
    gpus.for_each(|(_, gpu)| devices.extend(slices(gpu)));
    devices
}

fn gpu_device(name: String, nodes: Vec<String>) -> Device {
    let device_nodes = nodes.into_iter().map(|path| DeviceNode { path }).collect();
    let container_edits = ContainerEdits { device_nodes, ..ContainerEdits::default() };
    let mut device = Device { name, container_edits };
    if is_nvidia(&device) {
        device.container_edits.env.push(NO_NVIDIA_HOOK.to_owned());
    }
    device
}

fn is_nvidia(device: &Device) -> bool {
    device.container_edits.device_nodes.iter().any(|node| node.path.starts_with("/dev/nvidia"))
}

/// Compute instances, and the VFs and mediated devices that are ready to be
/// handed on.
fn slices(gpu: &Gpu) -> Vec<Device> {
    let instances = gpu.mig.iter().flat_map(|mig| compute_instances(gpu, mig));
    let handed = gpu.slices.iter().filter_map(|slice| {
        let ready = match slice.kind {
            SliceKind::Vf => slice.driver.as_deref() == Some(VFIO),
            SliceKind::Mdev => true,
            SliceKind::Mig | SliceKind::MdevType | SliceKind::VgpuType => false,
        };
        let nodes = vfio(slice.iommu_group.filter(|_| ready));
        (!nodes.is_empty()).then(|| gpu_device(slice.id.clone(), nodes))
    });
    instances.chain(handed).collect()
}

/// An instance's user needs the GPU's own files and the two that grant it.
fn compute_instances(gpu: &Gpu, mig: &Mig) -> Vec<Device> {
    let mut devices = Vec::new();
    for instance in &mig.instances {
        for compute in &instance.compute {
            let (Some(uuid), Some(whole), Some(own)) =
                (&compute.uuid, &instance.device_node, &compute.device_node)
            else {
                continue;
            };
            let nodes = gpu.device_nodes.iter().chain([whole, own]).cloned().collect();
            devices.push(gpu_device(uuid.clone(), nodes));
        }
    }
    devices
}

/// Virtual functions of NICs by address: with the driver of a guest their
/// group, else their interface and what RDMA needs.
fn nic_vf_devices(inventory: &Inventory) -> Vec<Device> {
    let nics = || inventory.nics.iter().flatten();
    let of_physical = nics().filter_map(|nic| nic.sriov.as_ref()).flat_map(|sriov| &sriov.vfs);
    let listed = of_physical.filter_map(|vf| vf.pci.as_deref());
    let virtual_ones = nics().filter(|nic| nic.vf_of.is_some());
    let addresses: BTreeSet<&str> =
        listed.chain(virtual_ones.filter_map(|nic| nic.pci.as_deref())).collect();
    let device = |address: &str| {
        let interfaces = nics().filter(|nic| nic.pci.as_deref() == Some(address)).collect();
        nic_vf(inventory, address, interfaces)
    };
    addresses.into_iter().filter_map(device).collect()
}

fn nic_vf(inventory: &Inventory, address: &str, interfaces: Vec<&Nic>) -> Option<Device> {
    let mut edits = ContainerEdits::default();
    let mut nodes = match driver_of(inventory, address) {
        Some(VFIO) => vfio(group_of(inventory, address)),
        _ => Vec::new(),
    };
    for nic in interfaces {
        edits
            .net_devices
            .push(NetDevice { host_interface_name: nic.name.clone(), name: nic.name.clone() });
        let verbs = nic.rdma.iter().filter_map(|rdma| rdma.uverbs.as_ref());
        nodes.extend(verbs.map(|name| format!("/dev/infiniband/{name}")));
    }
    if nodes.iter().any(|node| node.starts_with("/dev/infiniband/")) {
        nodes.push("/dev/infiniband/rdma_cm".into());
    }
    edits.device_nodes = nodes.into_iter().map(|path| DeviceNode { path }).collect();
    let device = Device { name: address.to_owned(), container_edits: edits };
    (device.container_edits != ContainerEdits::default()).then_some(device)
}

fn vfio(group: Option<u32>) -> Vec<String> {
    let nodes = |group| vec![VFIO_NODE.to_owned(), format!("/dev/vfio/{group}")];
    group.map(nodes).unwrap_or_default()
}

fn driver_of<'a>(inventory: &'a Inventory, address: &str) -> Option<&'a str> {
    let mut devices = inventory.pci.iter().flatten();
    devices.find(|device| device.address == address)?.driver.as_deref()
}

fn group_of(inventory: &Inventory, address: &str) -> Option<u32> {
    let mut devices = inventory.pci.iter().flatten();
    devices.find(|device| device.address == address)?.iommu_group
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::{
        ComputeInstance, GpuInstance, GpuVendor, NicSriov, PciDevice, Rdma, Slice, Vf, VfOf,
    };
    use expect_test::{Expect, expect};

    fn check(inventory: &Inventory, expected: Expect) {
        let mut text = String::new();
        for spec in specs(inventory) {
            is_valid(&spec);
            text += &format!("{} {} {}\n", file_name(spec.kind), spec.kind, spec.cdi_version);
            for Device { name, container_edits: edits } in &spec.devices {
                let nodes: Vec<&str> = edits.device_nodes.iter().map(|it| &*it.path).collect();
                let nets: Vec<&str> =
                    edits.net_devices.iter().map(|it| &*it.host_interface_name).collect();
                text += &format!("  {name}: {nodes:?} {nets:?} {:?}\n", edits.env);
            }
        }
        expected.assert_eq(&text);
    }

    /// The rules of the specification's `schema.json` and of its validator.
    fn is_valid(spec: &Spec) {
        let (vendor, class) = spec.kind.split_once('/').expect("vendor and class");
        for (part, also) in [(vendor, "_-."), (class, "_-")] {
            assert!(part.starts_with(|c: char| c.is_ascii_alphabetic()), "{part}");
            assert!(part.ends_with(|c: char| c.is_ascii_alphanumeric()), "{part}");
            assert!(part.chars().all(|c| c.is_ascii_alphanumeric() || also.contains(c)), "{part}");
        }
        assert!(!spec.devices.is_empty());
        let names: BTreeSet<&str> = spec.devices.iter().map(|device| &*device.name).collect();
        assert_eq!(names.len(), spec.devices.len(), "no name twice");
        for Device { name, container_edits: edits } in &spec.devices {
            assert!(is_name(name), "{name}");
            assert_ne!(*edits, ContainerEdits::default(), "{name} has edits");
            assert!(edits.device_nodes.iter().all(|node| node.path.starts_with("/dev/")));
            assert!(
                edits.env.iter().all(|it| it.split_once('=').is_some_and(|it| !it.0.is_empty()))
            );
            assert!(edits.net_devices.is_empty() || spec.cdi_version == NET_VERSION);
            let mut hosts = BTreeSet::new();
            for net in &edits.net_devices {
                assert!(!net.name.is_empty() && hosts.insert(&net.host_interface_name));
            }
        }
    }

    fn nodes(paths: &[&str]) -> Vec<String> {
        paths.iter().map(|path| (*path).to_owned()).collect()
    }

    fn nvidia(pci: &str, number: u32) -> Gpu {
        Gpu {
            pci: pci.into(),
            vendor: GpuVendor::Nvidia,
            driver: Some("nvidia".into()),
            uuid: Some(format!("GPU-{number}")),
            device_nodes: nodes(&[&format!("/dev/nvidia{number}"), "/dev/nvidiactl"]),
            ..Gpu::default()
        }
    }

    fn function(address: &str, driver: &str, iommu_group: u32) -> PciDevice {
        PciDevice {
            address: address.into(),
            driver: Some(driver.into()),
            iommu_group: Some(iommu_group),
            ..PciDevice::default()
        }
    }

    #[test]
    fn a_machine_without_any_has_no_file() {
        check(&Inventory::default(), expect![""]);
    }

    #[test]
    fn gpus_have_a_number_an_address_and_a_uuid() {
        let lost = Gpu { lost: true, ..nvidia("0000:02:00.0", 1) };
        let screen = Gpu { kind: GpuKind::Display, ..nvidia("0000:03:00.0", 2) };
        let handed = Gpu {
            pci: "0000:04:00.0".into(),
            driver: Some(VFIO.into()),
            vendor: GpuVendor::Amd,
            ..Gpu::default()
        };
        let inventory = Inventory {
            gpus: Some(vec![nvidia("0000:01:00.0", 0), lost, screen, handed]),
            pci: Some(vec![function("0000:04:00.0", VFIO, 12)]),
            ..Inventory::default()
        };
        check(
            &inventory,
            expect![[r#"
                purlin.io-gpu.json purlin.io/gpu 0.5.0
                  0: ["/dev/nvidia0", "/dev/nvidiactl"] [] ["NVIDIA_VISIBLE_DEVICES=void"]
                  0000:01:00.0: ["/dev/nvidia0", "/dev/nvidiactl"] [] ["NVIDIA_VISIBLE_DEVICES=void"]
                  GPU-0: ["/dev/nvidia0", "/dev/nvidiactl"] [] ["NVIDIA_VISIBLE_DEVICES=void"]
                  2: ["/dev/vfio/vfio", "/dev/vfio/12"] [] []
                  0000:04:00.0: ["/dev/vfio/vfio", "/dev/vfio/12"] [] []
            "#]],
        );
    }

    #[test]
    fn a_partitioned_gpu_is_given_by_its_parts() {
        let compute = ComputeInstance {
            id: 0,
            uuid: Some("MIG-7".into()),
            device_node: Some("/dev/nvidia-caps/nvidia-cap31".into()),
            ..ComputeInstance::default()
        };
        let instance = GpuInstance {
            id: 1,
            device_node: Some("/dev/nvidia-caps/nvidia-cap30".into()),
            compute: vec![compute],
            ..GpuInstance::default()
        };
        let mig = Mig { enabled: true, pending: None, instances: vec![instance] };
        let slice = |kind, id: &str, driver: Option<&str>| Slice {
            kind,
            id: id.into(),
            parent: "0000:01:00.0".into(),
            profile: None,
            memory: None,
            available: None,
            driver: driver.map(str::to_owned),
            iommu_group: Some(9),
        };
        let slices = vec![
            slice(SliceKind::Vf, "0000:01:00.1", Some(VFIO)),
            slice(SliceKind::Vf, "0000:01:00.2", Some("nvidia")),
            slice(SliceKind::Mdev, "c0ffee00-0000-4000-8000-000000000001", None),
            slice(SliceKind::MdevType, "nvidia-222", None),
        ];
        let gpu = Gpu { mig: Some(mig), slices, ..nvidia("0000:01:00.0", 0) };
        check(
            &Inventory { gpus: Some(vec![gpu]), ..Inventory::default() },
            expect![[r#"
                purlin.io-gpu.json purlin.io/gpu 0.5.0
                  MIG-7: ["/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-caps/nvidia-cap30", "/dev/nvidia-caps/nvidia-cap31"] [] ["NVIDIA_VISIBLE_DEVICES=void"]
                  0000:01:00.1: ["/dev/vfio/vfio", "/dev/vfio/9"] [] []
                  c0ffee00-0000-4000-8000-000000000001: ["/dev/vfio/vfio", "/dev/vfio/9"] [] []
            "#]],
        );
    }

    #[test]
    fn a_vf_is_given_as_a_group_or_as_an_interface() {
        let vf = |index, pci: &str| Vf { index, pci: Some(pci.into()), ..Vf::default() };
        let vfs = vec![vf(0, "0000:41:00.1"), vf(1, "0000:41:00.2"), vf(2, "0000:41:00.3")];
        let physical = Nic {
            name: "eth0".into(),
            pci: Some("0000:41:00.0".into()),
            sriov: Some(NicSriov { total: 8, enabled: Some(3), vfs }),
            ..Nic::default()
        };
        let interface = Nic {
            name: "eth0v1".into(),
            pci: Some("0000:41:00.2".into()),
            vf_of: Some(VfOf { pci: "0000:41:00.0".into(), index: Some(1) }),
            rdma: vec![Rdma { uverbs: Some("uverbs3".into()), ..Rdma::default() }],
            ..Nic::default()
        };
        let inventory = Inventory {
            nics: Some(vec![physical, interface]),
            pci: Some(vec![
                function("0000:41:00.1", VFIO, 33),
                function("0000:41:00.2", "mlx5_core", 34),
                function("0000:41:00.3", "mlx5_core", 35),
            ]),
            ..Inventory::default()
        };
        check(
            &inventory,
            expect![[r#"
            purlin.io-nic-vf.json purlin.io/nic-vf 1.1.0
              0000:41:00.1: ["/dev/vfio/vfio", "/dev/vfio/33"] [] []
              0000:41:00.2: ["/dev/infiniband/uverbs3", "/dev/infiniband/rdma_cm"] ["eth0v1"] []
        "#]],
        );
    }

    #[test]
    fn nvidias_files_come_with_its_gpus_alone() {
        let files = [Mount::read_only("/usr/lib64/libcuda.so.1.2", "/usr/lib64/libcuda.so.1")];
        let of = |gpu| {
            let inventory = Inventory { gpus: Some(vec![gpu]), ..Inventory::default() };
            specs_with(&inventory, &files)[0].container_edits.mounts.clone()
        };
        assert_eq!(of(nvidia("0000:01:00.0", 0)), files);
        assert_eq!(of(Gpu { device_nodes: nodes(&["/dev/kfd"]), ..Gpu::default() }), []);
    }

    #[test]
    fn a_name_is_what_the_specification_allows() {
        for name in ["0", "0000:01:00.0", "GPU-1", "a_b.c"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "-a", "a-", "a b", "ä"] {
            assert!(!is_name(name), "{name}");
        }
    }
}
