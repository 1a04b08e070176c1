//! Intel's GPUs, through the i915 and xe drivers' files.
//!
//! Source: Documentation/ABI/testing/sysfs-driver-intel-i915-hwmon,
//! sysfs-driver-intel-xe-hwmon, and the drivers' own `gt/gt*/rps_*` (i915) and
//! `tile*/gt*/freq0/*` (xe). Energy is a counter, so that one read tells no power.

use purlin_core::inventory::Gpu;

use super::{asleep, hwmon, is_numbered};
use crate::{pci, probe::Probe};

pub(super) fn read(probe: &mut Probe<'_>, gpu: &mut Gpu, card: Option<&str>) {
    // A card's function sits behind a switch on the card: its own link is that
    // switch's inside, and says nothing about the slot.
    (gpu.link, gpu.link_max) = (None, None);
    let tiles = xe_tiles(probe, &gpu.pci);
    gpu.vram = match (tiles.is_empty(), card) {
        (true, Some(card)) => probe.number(&format!("{card}/lmem_total_bytes")),
        _ => vram(probe, &tiles),
    };
    if asleep(probe, &gpu.pci) {
        return;
    }
    hwmon::read(probe, gpu);
    match (tiles.is_empty(), card) {
        (false, _) => xe(probe, gpu, &tiles),
        (true, Some(card)) => i915(probe, gpu, card),
        (true, None) => {}
    }
}

/// Directories of xe's tiles.
fn xe_tiles(probe: &mut Probe<'_>, address: &str) -> Vec<String> {
    // Four tiles are the most of any product; eight leave room.
    let dir = |number| pci::file(address, &format!("tile{number}"));
    (0..8).map(dir).take_while(|dir| probe.root.is_dir(dir)).collect()
}

fn vram(probe: &mut Probe<'_>, tiles: &[String]) -> Option<u64> {
    let size = |tile: &String| probe.number(&format!("{tile}/physical_vram_size_bytes"));
    let sizes: Vec<u64> = tiles.iter().filter_map(size).collect();
    (!sizes.is_empty()).then(|| sizes.into_iter().fold(0, u64::saturating_add))
}

fn xe(probe: &mut Probe<'_>, gpu: &mut Gpu, tiles: &[String]) {
    for tile in tiles {
        let mut gts = probe.names(tile).unwrap_or_default();
        gts.retain(|name| is_numbered(name, "gt"));
        for gt in gts {
            let dir = format!("{tile}/{gt}/freq0");
            // The first GT is the one that computes; others are for media.
            if gpu.clocks.core.is_none() {
                gpu.clocks.core = clock(probe, &dir, "act_freq", "cur_freq");
                gpu.clocks.core_max = probe.told(&format!("{dir}/rp0_freq"));
            }
            let throttle = format!("{dir}/throttle");
            reasons(probe, gpu, &throttle, "reason_");
        }
    }
}

fn i915(probe: &mut Probe<'_>, gpu: &mut Gpu, card: &str) {
    gpu.clocks.core = clock(probe, card, "gt_act_freq_mhz", "gt_cur_freq_mhz");
    gpu.clocks.core_max = probe.told(&format!("{card}/gt_RP0_freq_mhz"));
    let mut gts = probe.names(&format!("{card}/gt")).unwrap_or_default();
    gts.retain(|name| is_numbered(name, "gt"));
    for gt in gts {
        reasons(probe, gpu, &format!("{card}/gt/{gt}"), "throttle_reason_");
    }
}

/// The clock that runs; the one asked for where the GPU naps and none does.
fn clock(probe: &mut Probe<'_>, dir: &str, actual: &str, wanted: &str) -> Option<u32> {
    let mut read = |name| probe.told(&format!("{dir}/{name}")).filter(|clock| *clock > 0);
    read(actual).or_else(|| read(wanted))
}

/// Files that say 1 while their reason holds the clock down.
fn reasons(probe: &mut Probe<'_>, gpu: &mut Gpu, dir: &str, prefix: &str) {
    for file in probe.names(dir).unwrap_or_default() {
        let Some(reason) = file.strip_prefix(prefix).filter(|name| *name != "status") else {
            continue;
        };
        let Some(holds) = probe.flag(&format!("{dir}/{file}")) else { continue };
        let told = gpu.throttle.get_or_insert_default();
        if holds && !told.iter().any(|it| it == reason) {
            told.push(reason.into());
        }
    }
}
