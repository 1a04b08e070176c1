//! vGPUs that are VFs: NVIDIA's way on Linux 6.8 and later, where mediated devices
//! are no more.
//!
//! Source: NVIDIA's vGPU user guide, "vGPU on a host that uses a vendor-specific VFIO
//! framework": each VF has `nvidia/creatable_vgpu_types` (`1428 : NVIDIA H200X-141C`
//! a line) and `nvidia/current_vgpu_type`, a number of such a type or 0.

use std::collections::BTreeMap;

use crate::{
    pci,
    probe::{Probe, label},
};

/// A type that can be created.
pub(super) struct Type {
    pub name: String,
    /// VFs that can become one: as many at most, and fewer where they share memory.
    pub vfs: u32,
}

#[derive(Default)]
pub(super) struct Vgpus {
    /// By their numbers.
    pub types: BTreeMap<u32, Type>,
    /// Names of the types that VFs have, by the VF's PCI address.
    pub profiles: BTreeMap<String, String>,
}

pub(super) fn read(probe: &mut Probe<'_>, vfs: &[String]) -> Vgpus {
    let mut vgpus = Vgpus::default();
    let mut current = Vec::new();
    for vf in vfs {
        let Some(dir) = probe.dir(&pci::file(vf, "nvidia")) else { continue };
        let text = probe.text((&dir, "creatable_vgpu_types")).unwrap_or_default();
        for (id, name) in text.lines().filter_map(line) {
            vgpus.types.entry(id).or_insert(Type { name, vfs: 0 }).vfs += 1;
        }
        let id: Option<u32> = probe.number((&dir, "current_vgpu_type"));
        current.extend(id.filter(|id| *id != 0).map(|id| (vf.clone(), id)));
    }
    for (vf, id) in current {
        // The last VF's type is in no list any more.
        let name = vgpus.types.get(&id).map(|kind| kind.name.clone());
        vgpus.profiles.insert(vf, name.unwrap_or_else(|| format!("vGPU type {id}")));
    }
    vgpus
}

/// Not the heading that some versions print.
fn line(line: &str) -> Option<(u32, String)> {
    let (id, name) = line.split_once(':')?;
    Some((id.trim().parse().ok()?, label(name)?))
}
