//! Accelerators as rows and sections.

use purlin_core::inventory::{
    Ecc, Gpu, GpuClocks, GpuInstance, GpuKind, GpuPeer, GpuVendor, Inventory, Mig, NvLink, Part,
    PciLink, PowerRange, RemappedRows, RetiredPages, Slice, SliceKind,
};

use super::{Row, Section, UNKNOWN, join, or_unknown, plural, row, told, yes_no};
use crate::units::size;

pub(super) fn rows(inventory: &Inventory) -> Vec<Row> {
    inventory.gpus.iter().flatten().map(gpu_row).collect()
}

pub(super) fn sections(inventory: &Inventory) -> Vec<Section> {
    inventory.gpus.iter().flatten().map(gpu_section).collect()
}

fn gpu_row(gpu: &Gpu) -> Row {
    let driver = gpu.driver.as_ref().map_or("no driver".into(), |name| format!("driver {name}"));
    let words = [
        Some(name(gpu)),
        gpu.vram.map(size),
        Some(driver),
        (gpu.kind == GpuKind::Display).then(|| "display only".into()),
        parts(gpu),
        marks(gpu),
    ];
    row(Part::Gpu, &gpu.pci, gpu.node, join(words))
}

fn name(gpu: &Gpu) -> String {
    if let Some(name) = &gpu.name {
        return name.clone();
    }
    // What to look for in a list of PCI devices.
    let model = match (gpu.vendor_id, gpu.device_id) {
        (Some(vendor), Some(device)) => format!("model {vendor:04x}:{device:04x} unknown"),
        _ => "model unknown".into(),
    };
    match gpu.vendor {
        GpuVendor::Other => model,
        vendor => format!("{}, {model}", maker(vendor)),
    }
}

fn maker(vendor: GpuVendor) -> &'static str {
    match vendor {
        GpuVendor::Nvidia => "NVIDIA",
        GpuVendor::Amd => "AMD",
        GpuVendor::Intel => "Intel",
        GpuVendor::Other => "other",
    }
}

fn parts(gpu: &Gpu) -> Option<String> {
    let mig = gpu.mig.as_ref().filter(|mig| mig.enabled)?;
    Some(format!("MIG in {}", plural(mig.instances.len(), "part")))
}

/// What a technician must see first.
fn marks(gpu: &Gpu) -> Option<String> {
    let ecc = gpu.ecc.as_ref().and_then(|ecc| ecc.uncorrected).is_some_and(|errors| errors > 0);
    let rows = gpu.remapped.as_ref().and_then(|rows| rows.failed) == Some(true);
    let heat = gpu.throttle.as_ref().is_some_and(|reasons| !reasons.is_empty());
    let marks =
        [(gpu.lost, "LOST"), (ecc, "ECC ERRORS"), (rows, "MEMORY WORN OUT"), (heat, "throttled")];
    let set: Vec<&str> = marks.into_iter().filter(|(set, _)| *set).map(|(_, mark)| mark).collect();
    (!set.is_empty()).then(|| set.join(", "))
}

/// What can't apply to this GPU is left out.
fn gpu_section(gpu: &Gpu) -> Section {
    let facts = [identity(gpu), state(gpu), memory_errors(gpu), topology(gpu), partitions(gpu)];
    Section { title: gpu.pci.clone(), facts: facts.into_iter().flatten().collect() }
}

type Facts = Vec<(String, String)>;

fn fact(name: &str, value: impl Into<String>) -> Option<(String, String)> {
    Some((name.into(), value.into()))
}

/// A fact that has no place where there is nothing to say.
fn maybe(name: &str, value: Option<impl ToString>) -> Option<(String, String)> {
    fact(name, value?.to_string())
}

fn identity(gpu: &Gpu) -> Facts {
    let driver = gpu.driver.as_ref().map(|driver| match &gpu.driver_version {
        Some(version) => format!("{driver} {version}"),
        None => driver.clone(),
    });
    let display_only = gpu.kind == GpuKind::Display;
    let facts = [
        gpu.lost.then(|| ("state".into(), "LOST: it no longer answers its driver".into())),
        fact("name", told(&gpu.name)),
        fact("maker", maker(gpu.vendor)),
        fact("use", if display_only { "display only" } else { "compute" }),
        fact("driver", driver.unwrap_or_else(|| "none".into())),
        fact("UUID", told(&gpu.uuid)),
        maybe("serial", gpu.serial.as_ref()),
        maybe("board part", gpu.board_part.as_ref()),
        maybe("video BIOS", gpu.vbios.as_ref()),
        maybe("firmware", gpu.firmware.as_ref()),
        fact("node", or_unknown(gpu.node)),
        fact("link", link(gpu)),
        maybe("link replays", gpu.replays),
        fact("memory", or_unknown(gpu.vram.map(size))),
        maybe("memory used", gpu.vram_used.map(size)),
    ];
    facts.into_iter().flatten().collect()
}

fn link(gpu: &Gpu) -> String {
    let told = |link: PciLink| format!("{} GT/s x{}", link.gt_per_s, link.width);
    match (gpu.link, gpu.link_max) {
        (Some(now), Some(most)) if now != most => format!("{} of {}", told(now), told(most)),
        (Some(now), _) => told(now),
        (None, Some(most)) => format!("{UNKNOWN} of {}", told(most)),
        (None, None) => UNKNOWN.into(),
    }
}

fn state(gpu: &Gpu) -> Facts {
    let degrees: Vec<String> =
        gpu.temperatures.iter().map(|(label, value)| format!("{label} {value:.0} °C")).collect();
    let facts = [
        (!degrees.is_empty()).then(|| ("temperature".into(), degrees.join(", "))),
        power(gpu).map(|power| ("power".into(), power)),
        gpu.power_range.map(|range| ("power limit".into(), power_range(&range))),
        maybe("fan", gpu.fan_rpm.map(|turns| format!("{turns} rpm"))),
        clocks(&gpu.clocks).map(|clocks| ("clocks".into(), clocks)),
        maybe(
            "held down by",
            gpu.throttle.as_ref().map(|reasons| match reasons.is_empty() {
                true => "nothing".into(),
                false => reasons.join(", "),
            }),
        ),
        maybe("busy", gpu.busy.map(|share| format!("{share} %"))),
        maybe("memory busy", gpu.memory_busy.map(|share| format!("{share} %"))),
        maybe("performance", gpu.performance.as_ref()),
        gpu.display.map(|shown| ("display".into(), yes_no(Some(shown)))),
        gpu.persistence.map(|kept| ("persistence".into(), yes_no(Some(kept)))),
        maybe("compute mode", gpu.compute_mode.as_ref()),
    ];
    facts.into_iter().flatten().collect()
}

fn power(gpu: &Gpu) -> Option<String> {
    match (gpu.power, gpu.power_limit) {
        (None, None) => None,
        (power, None) => Some(or_unknown(power.map(watts))),
        (power, Some(limit)) => {
            Some(format!("{} of {}", or_unknown(power.map(watts)), watts(limit)))
        }
    }
}

fn power_range(range: &PowerRange) -> String {
    let told = |value: Option<f64>| or_unknown(value.map(watts));
    let PowerRange { set, default, min, max } = *range;
    let [set, default, min, max] = [set, default, min, max].map(told);
    format!("set to {set}, by default {default}, may be {min} to {max}")
}

fn watts(value: f64) -> String {
    format!("{value:.0} W")
}

fn clocks(clocks: &GpuClocks) -> Option<String> {
    let one = |name, now: Option<u32>, most: Option<u32>| match (now, most) {
        (None, None) => None,
        (now, None) => Some(format!("{name} {} MHz", or_unknown(now))),
        (now, Some(most)) => Some(format!("{name} {} of {most} MHz", or_unknown(now))),
    };
    let core = one("cores", clocks.core, clocks.core_max);
    let text = join([core, one("memory", clocks.memory, clocks.memory_max)]);
    (!text.is_empty()).then_some(text)
}

fn memory_errors(gpu: &Gpu) -> Facts {
    let facts = [
        gpu.ecc.as_ref().map(ecc),
        gpu.retired.as_ref().map(retired),
        gpu.remapped.as_ref().map(remapped),
    ];
    facts.into_iter().flatten().flatten().collect()
}

fn ecc(ecc: &Ecc) -> Facts {
    let mode = match (ecc.enabled, ecc.pending) {
        (Some(now), Some(next)) if now != next => {
            format!("{}, {} after a reset", on(now), on(next))
        }
        (now, _) => or_unknown(now.map(on)),
    };
    let both = |now: Option<u64>, ever: Option<u64>| match ever {
        Some(ever) => format!("{}, {ever} in its life", or_unknown(now)),
        None => or_unknown(now),
    };
    vec![
        ("ECC".into(), mode),
        ("ECC corrected".into(), both(ecc.corrected, ecc.corrected_total)),
        ("ECC uncorrected".into(), both(ecc.uncorrected, ecc.uncorrected_total)),
    ]
}

fn on(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

fn retired(pages: &RetiredPages) -> Facts {
    let words = [
        pages.single_bit.map(|count| format!("{count} for single-bit errors")),
        pages.double_bit.map(|count| format!("{count} for double-bit errors")),
        (pages.pending == Some(true)).then(|| "more after a reset".into()),
    ];
    vec![("retired pages".into(), join(words))]
}

fn remapped(rows: &RemappedRows) -> Facts {
    let words = [
        rows.correctable.map(|count| format!("{count} for corrected errors")),
        rows.uncorrectable.map(|count| format!("{count} for uncorrected errors")),
        (rows.pending == Some(true)).then(|| "more after a reset".into()),
        (rows.failed == Some(true)).then(|| "FAILED: exchange the board".into()),
    ];
    vec![("remapped rows".into(), join(words))]
}

fn topology(gpu: &Gpu) -> Facts {
    let peers = gpu.peers.iter().map(|it| (format!("to {}", it.pci), peer(it)));
    let links = gpu.nvlinks.iter().map(|it| (format!("NVLink {}", it.link), nvlink(it)));
    peers.chain(links).collect()
}

fn peer(peer: &GpuPeer) -> String {
    let path = peer.path.as_ref().map(|path| format!("by the {path}"));
    join([path, (peer.nvlinks > 0).then(|| plural(peer.nvlinks as usize, "NVLink"))])
}

fn nvlink(link: &NvLink) -> String {
    let kind = link.remote_kind.as_deref().unwrap_or("device");
    let errors = link.errors.iter().filter(|(_, count)| **count > 0);
    let errors: Vec<String> = errors.map(|(name, count)| format!("{count} {name}")).collect();
    join([
        Some(if link.active { "up".into() } else { "down".into() }),
        link.version.map(|version| format!("version {version}")),
        link.remote.as_ref().map(|remote| format!("to {kind} {remote}")),
        (!errors.is_empty()).then(|| format!("errors: {}", errors.join(" "))),
    ])
}

fn partitions(gpu: &Gpu) -> Facts {
    let mut facts: Facts = gpu.mig.iter().flat_map(mig).collect();
    facts.extend(gpu.slices.iter().filter_map(slice));
    if !gpu.device_nodes.is_empty() {
        facts.push(("device files".into(), gpu.device_nodes.join(" ")));
    }
    facts
}

/// The tree, indented: GPU instances, and compute instances below them.
fn mig(mig: &Mig) -> Facts {
    let pending = mig.pending.filter(|next| *next != mig.enabled);
    let mode = join([
        Some(on(mig.enabled).into()),
        pending.map(|next| format!("{} after a reset", on(next))),
    ]);
    let mut facts = vec![("MIG".into(), mode)];
    for instance in &mig.instances {
        facts.push((format!("  part {}", instance.id), gpu_instance(instance)));
        for compute in &instance.compute {
            let slices = compute.slices.map(|count| plural(count as usize, "slice"));
            let what = join([Some(told(&compute.uuid)), slices]);
            facts.push((format!("    compute {}", compute.id), what));
        }
    }
    facts
}

fn gpu_instance(instance: &GpuInstance) -> String {
    let place = instance.placement.map(|(start, count)| {
        format!("memory slices {start} to {}", start.saturating_add(count).saturating_sub(1))
    });
    join([
        Some(told(&instance.profile)),
        instance.slices.map(|count| plural(count as usize, "slice")),
        instance.memory.map(size),
        place,
    ])
}

/// MIG parts stand in their tree.
fn slice(slice: &Slice) -> Option<(String, String)> {
    let name = match slice.kind {
        SliceKind::Mig => return None,
        SliceKind::Vf => "VF",
        SliceKind::Mdev => "vGPU",
        SliceKind::MdevType | SliceKind::VgpuType => "vGPU type",
    };
    let what = join([
        slice.profile.clone(),
        slice.memory.map(size),
        slice.driver.as_ref().map(|driver| format!("driver {driver}")),
        slice.available.map(|count| format!("{count} more can be made")),
    ]);
    Some((format!("{name} {}", slice.id), what))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use purlin_core::inventory::ComputeInstance;

    use super::*;

    fn check(gpu: Gpu, expected: Expect) {
        let row = gpu_row(&gpu);
        let section = gpu_section(&gpu);
        let line = |(name, value): &(String, String)| format!("{name}: {value}\n");
        let facts: String = section.facts.iter().map(line).collect();
        expected.assert_eq(&format!("{} | {}\n{facts}", row.name, row.what));
    }

    #[test]
    fn a_gpu_of_which_little_is_known() {
        let gpu = Gpu {
            pci: "0000:01:00.0".into(),
            vendor: GpuVendor::Intel,
            vendor_id: Some(0x8086),
            device_id: Some(0x0bda),
            ..Gpu::default()
        };
        check(
            gpu,
            expect![[r#"
            0000:01:00.0 | Intel, model 8086:0bda unknown, no driver
            name: unknown
            maker: Intel
            use: compute
            driver: none
            UUID: unknown
            node: unknown
            link: unknown
            memory: unknown
        "#]],
        );
    }

    #[test]
    fn a_worn_and_partitioned_gpu() {
        let compute = ComputeInstance {
            id: 0,
            uuid: Some("MIG-1".into()),
            slices: Some(1),
            ..ComputeInstance::default()
        };
        let instance = GpuInstance {
            id: 7,
            profile: Some("1g.5gb".into()),
            slices: Some(1),
            memory: Some(5 << 30),
            placement: Some((2, 2)),
            compute: vec![compute],
            ..GpuInstance::default()
        };
        let rate = |gt_per_s| Some(PciLink { gt_per_s, width: 16 });
        let gpu = Gpu {
            pci: "0000:41:00.0".into(),
            vendor: GpuVendor::Nvidia,
            name: Some("Example 9000".into()),
            driver: Some("nvidia".into()),
            driver_version: Some("555.42".into()),
            uuid: Some("GPU-1".into()),
            node: Some(1),
            vram: Some(40 << 30),
            link: rate(2.5),
            link_max: rate(16.0),
            ecc: Some(Ecc {
                enabled: Some(true),
                pending: Some(false),
                corrected: Some(4),
                uncorrected: Some(1),
                corrected_total: Some(40),
                uncorrected_total: Some(2),
            }),
            retired: Some(RetiredPages {
                single_bit: Some(3),
                double_bit: Some(1),
                pending: Some(true),
            }),
            remapped: Some(RemappedRows { failed: Some(true), ..RemappedRows::default() }),
            throttle: Some(vec!["hardware thermal slowdown".into()]),
            temperatures: [("gpu".into(), 91.0)].into(),
            power: Some(71.5),
            power_limit: Some(300.0),
            power_range: Some(PowerRange {
                default: Some(300.0),
                max: Some(350.0),
                set: Some(300.0),
                min: None,
            }),
            clocks: GpuClocks { core: Some(210), core_max: Some(1410), ..GpuClocks::default() },
            nvlinks: vec![NvLink {
                link: 0,
                active: true,
                version: Some(3),
                remote: Some("0000:42:00.0".into()),
                remote_kind: Some("gpu".into()),
                errors: [("replay".into(), 3), ("crc_flit".into(), 0)].into(),
            }],
            peers: vec![GpuPeer {
                pci: "0000:42:00.0".into(),
                path: Some("host bridge".into()),
                nvlinks: 1,
            }],
            mig: Some(Mig { enabled: true, pending: Some(false), instances: vec![instance] }),
            device_nodes: vec!["/dev/nvidia0".into()],
            ..Gpu::default()
        };
        check(
            gpu,
            expect![[r#"
            0000:41:00.0 | Example 9000, 40 GiB, driver nvidia, MIG in 1 part, ECC ERRORS, MEMORY WORN OUT, throttled
            name: Example 9000
            maker: NVIDIA
            use: compute
            driver: nvidia 555.42
            UUID: GPU-1
            node: 1
            link: 2.5 GT/s x16 of 16 GT/s x16
            memory: 40 GiB
            temperature: gpu 91 °C
            power: 72 W of 300 W
            power limit: set to 300 W, by default 300 W, may be unknown to 350 W
            clocks: cores 210 of 1410 MHz
            held down by: hardware thermal slowdown
            ECC: on, off after a reset
            ECC corrected: 4, 40 in its life
            ECC uncorrected: 1, 2 in its life
            retired pages: 3 for single-bit errors, 1 for double-bit errors, more after a reset
            remapped rows: FAILED: exchange the board
            to 0000:42:00.0: by the host bridge, 1 NVLink
            NVLink 0: up, version 3, to gpu 0000:42:00.0, errors: 3 replay
            MIG: on, off after a reset
              part 7: 1g.5gb, 1 slice, 5 GiB, memory slices 2 to 3
                compute 0: MIG-1, 1 slice
            device files: /dev/nvidia0
        "#]],
        );
    }

    #[test]
    fn a_lost_gpu_says_so_first() {
        let gpu = Gpu {
            pci: "0000:01:00.0".into(),
            vendor: GpuVendor::Nvidia,
            driver: Some("nvidia".into()),
            lost: true,
            ..Gpu::default()
        };
        check(
            gpu,
            expect![[r#"
            0000:01:00.0 | NVIDIA, model unknown, driver nvidia, LOST
            state: LOST: it no longer answers its driver
            name: unknown
            maker: NVIDIA
            use: compute
            driver: nvidia
            UUID: unknown
            node: unknown
            link: unknown
            memory: unknown
        "#]],
        );
    }
}
