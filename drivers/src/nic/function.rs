//! What sysfs hangs on the function behind a NIC: interrupts, virtual
//! functions, RDMA devices, PTP clock.

use purlin_core::{
    idset::IdSet,
    inventory::{Irq, Nic, NicSriov, Ptp, Rdma, SwitchPort, Vf, VfOf},
};

use crate::{
    pci,
    probe::{Probe, label},
};

/// The most interrupts of one NIC that are followed: the limit of MSI-X.
const MAX_IRQS: usize = 2048;

/// Adds to `nic`, whose directory is `dir`, what its function has.
pub(super) fn fill(probe: &mut Probe<'_>, dir: &str, nic: &mut Nic) {
    nic.irqs = irqs(probe, dir, nic.pci.as_deref());
    nic.irqs_off_node = off_node(probe, nic);
    nic.sriov = sriov(probe, &format!("{dir}/device"));
    nic.vf_of = vf_of(probe, dir, nic.pci.as_deref());
    nic.rdma = rdma(probe, dir);
    nic.ptp = ptp(probe, &format!("{dir}/device/ptp"));
}

/// The interrupts are those of the PCI function; a virtio device lies between.
fn irqs(probe: &mut Probe<'_>, dir: &str, pci: Option<&str>) -> Vec<Irq> {
    let own = probe.numbered(&format!("{dir}/device/msi_irqs"), "");
    let of_function = pci.map(|address| pci::file(address, "msi_irqs"));
    let ids = own.or_else(|| probe.numbered(&of_function?, ""));
    ids.iter().flat_map(IdSet::iter).take(MAX_IRQS).map(|irq| interrupt(probe, irq)).collect()
}

fn interrupt(probe: &mut Probe<'_>, irq: u32) -> Irq {
    let at = |file: &str| format!("/proc/irq/{irq}/{file}");
    let cpus = probe.set(&at("effective_affinity_list"));
    Irq {
        irq,
        cpus: cpus.or_else(|| probe.set(&at("smp_affinity_list"))),
        node: probe.told(&at("node")),
    }
}

/// An interrupt that no CPU handles yet is not off the node.
fn off_node(probe: &mut Probe<'_>, nic: &Nic) -> Option<u32> {
    if nic.irqs.is_empty() {
        return None;
    }
    let local = probe.set(&format!("/sys/devices/system/node/node{}/cpulist", nic.node?))?;
    let off = |irq: &Irq| {
        let cpus = irq.cpus.as_ref()?;
        Some(u32::from(!cpus.is_empty() && !cpus.iter().any(|cpu| local.contains(cpu))))
    };
    nic.irqs.iter().map(off).sum()
}

fn sriov(probe: &mut Probe<'_>, device: &str) -> Option<NicSriov> {
    let total = probe.told(&format!("{device}/sriov_totalvfs")).filter(|total| *total > 0)?;
    let enabled = probe.told(&format!("{device}/sriov_numvfs"));
    let functions = probe.numbered(device, "virtfn").unwrap_or_default();
    let vf = |index| {
        let pci = probe.link_name(&format!("{device}/virtfn{index}"));
        Vf { index, pci, ..Vf::default() }
    };
    Some(NicSriov { total, enabled, vfs: functions.iter().map(vf).collect() })
}

fn vf_of(probe: &mut Probe<'_>, dir: &str, own: Option<&str>) -> Option<VfOf> {
    let physfn = format!("{dir}/device/physfn");
    let pci = probe.link_name(&physfn).filter(|name| pci::is_address(name))?;
    // The physical function's directory, by whichever way the dump has it.
    let functions = [physfn, pci::file(&pci, "")];
    let mut index_in = |of: &String| {
        let ids = probe.numbered(of, "virtfn")?;
        ids.iter().find(|id| probe.link_name(&format!("{of}/virtfn{id}")).as_deref() == own)
    };
    let index = own.and_then(|_| functions.iter().find_map(&mut index_in));
    Some(VfOf { pci, index })
}

fn rdma(probe: &mut Probe<'_>, dir: &str) -> Vec<Rdma> {
    let devices = format!("{dir}/device/infiniband");
    let names = probe.names(&devices).unwrap_or_default();
    names.into_iter().map(|name| rdma_device(probe, dir, &devices, name)).collect()
}

/// A NIC of an adapter with several ports in one function is told by
/// `dev_port`, from 0; RDMA counts its ports from 1.
fn rdma_device(probe: &mut Probe<'_>, dir: &str, devices: &str, name: String) -> Rdma {
    let ports = format!("{devices}/{name}/ports");
    let own = probe.told(&format!("{dir}/dev_port")).unwrap_or_default().saturating_add(1);
    let port = if probe.root.is_dir(&format!("{ports}/{own}")) { own } else { 1 };
    let at = |file: &str| format!("{ports}/{port}/{file}");
    let state = probe.label(&at("state"));
    Rdma {
        uverbs: uverbs(probe, dir, &name),
        link_layer: probe.label(&at("link_layer")),
        // `4: ACTIVE`
        state: state.and_then(|state| label(state.rsplit(": ").next()?)),
        name,
    }
}

fn uverbs(probe: &mut Probe<'_>, dir: &str, device: &str) -> Option<String> {
    let all = format!("{dir}/device/infiniband_verbs");
    let names = probe.names(&all)?;
    names
        .into_iter()
        .find(|name| probe.label(&format!("{all}/{name}/ibdev")).as_deref() == Some(device))
}

fn ptp(probe: &mut Probe<'_>, clocks: &str) -> Option<Ptp> {
    let device = probe.names(clocks)?.into_iter().find(|name| name.starts_with("ptp"))?;
    let clock = probe.label(&format!("{clocks}/{device}/clock_name"));
    Some(Ptp { device, clock })
}

/// The port of an embedded switch, if it is one.
pub(super) fn switch_port(probe: &mut Probe<'_>, dir: &str) -> Option<SwitchPort> {
    let switch = probe.label(&format!("{dir}/phys_switch_id"))?;
    let name = probe.label(&format!("{dir}/phys_port_name"));
    let [pf, vf, sf] = name.as_deref().map(functions).unwrap_or_default();
    Some(SwitchPort { switch, name, pf, vf, sf })
}

/// The functions in `pf0vf3`, `pf0sf88` or `c1pf0vf3` (Documentation/networking/
/// devlink/devlink-port.rst); none in `p0`, the way out.
fn functions(name: &str) -> [Option<u32>; 3] {
    let controller = name.strip_prefix('c').map(|rest| rest.trim_start_matches(digit));
    let Some(rest) = controller.unwrap_or(name).strip_prefix("pf") else { return [None; 3] };
    let end = rest.find(|c| !digit(c)).unwrap_or(rest.len());
    let (pf, rest) = rest.split_at(end);
    let after = |prefix| rest.strip_prefix(prefix).and_then(|number: &str| number.parse().ok());
    [pf.parse().ok(), after("vf"), after("sf")]
}

fn digit(c: char) -> bool {
    c.is_ascii_digit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_representor_is_named_for_its_function() {
        assert_eq!(functions("pf0vf3"), [Some(0), Some(3), None]);
        assert_eq!(functions("c1pf2sf88"), [Some(2), None, Some(88)]);
        assert_eq!(functions("pf1"), [Some(1), None, None]);
        assert_eq!(functions("p0"), [None; 3]);
        assert_eq!(functions("pf99999999999vf"), [None; 3]);
    }
}
