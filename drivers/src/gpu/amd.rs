//! AMD's GPUs, through the amdgpu and radeon drivers' files.
//!
//! Source: Documentation/gpu/amdgpu/driver-misc.rst (identity, memory, link),
//! thermal.rst (activity, clocks, `gpu_metrics`), ras.rst (memory errors).

use purlin_core::inventory::{Ecc, Gpu, GpuKind, RetiredPages};

use super::{asleep, hwmon};
use crate::{gpu_metrics, pci, probe::Probe};

/// The device file through which programs compute on any AMD GPU.
const KFD: &str = "/sys/class/kfd/kfd";

pub(super) fn read(probe: &mut Probe<'_>, gpu: &mut Gpu) {
    let address = gpu.pci.clone();
    let at = |file: &str| pci::file(&address, file);
    gpu.name = probe.label(&at("product_name"));
    gpu.board_part = probe.label(&at("product_number"));
    gpu.serial = probe.label(&at("serial_number"));
    gpu.uuid = probe.label(&at("unique_id"));
    gpu.vbios = probe.label(&at("vbios_version"));
    gpu.firmware = probe.label(&at("fw_version/smc_fw_version"));
    gpu.vram = probe.number(&at("mem_info_vram_total"));
    gpu.replays = probe.number(&at("pcie_replay_count"));
    errors(probe, gpu);
    if gpu.kind == GpuKind::Compute && gpu.driver.is_some() && probe.root.exists(KFD) {
        gpu.device_nodes.push("/dev/kfd".into());
    }
    if asleep(probe, &address) {
        return;
    }
    gpu.vram_used = probe.number(&at("mem_info_vram_used"));
    gpu.busy = probe.told(&at("gpu_busy_percent"));
    gpu.memory_busy = probe.told(&at("mem_busy_percent"));
    gpu.performance = probe.label(&at("power_dpm_force_performance_level"));
    hwmon::read(probe, gpu);
    gpu.clocks.core_max = probe.text(&at("pp_dpm_sclk")).as_deref().and_then(highest);
    gpu.clocks.memory_max = probe.text(&at("pp_dpm_mclk")).as_deref().and_then(highest);
    metrics(probe, gpu, &at("gpu_metrics"));
}

/// What the firmware's table tells and no file of its own does.
fn metrics(probe: &mut Probe<'_>, gpu: &mut Gpu, path: &str) {
    let Some(bytes) = probe.bytes(path) else { return };
    let metrics = match gpu_metrics::decode(&bytes) {
        Ok(metrics) => metrics,
        Err(what) => return probe.problem(path, what),
    };
    for (name, value) in metrics.temperatures {
        gpu.temperatures.entry(name.into()).or_insert(value);
    }
    gpu.power = gpu.power.or(metrics.power);
    gpu.busy = gpu.busy.or(metrics.busy);
    gpu.memory_busy = gpu.memory_busy.or(metrics.memory_busy);
    gpu.clocks.core = gpu.clocks.core.or(metrics.core);
    gpu.clocks.memory = gpu.clocks.memory.or(metrics.memory);
    gpu.fan_rpm = gpu.fan_rpm.or(metrics.fan_rpm);
    gpu.link = gpu.link.or(metrics.link);
    gpu.throttle = metrics.throttle;
}

/// Errors of the memory controllers since the driver was loaded, and the pages
/// that it set aside for them.
fn errors(probe: &mut Probe<'_>, gpu: &mut Gpu) {
    let at = |file: &str| pci::file(&gpu.pci, file);
    if let Some(text) = probe.text(&at("ras/umc_err_count")) {
        let (uncorrected, corrected) = (count(&text, "ue:"), count(&text, "ce:"));
        gpu.ecc = Some(Ecc { corrected, uncorrected, ..Ecc::default() });
    }
    gpu.retired = probe.text(&at("ras/gpu_vram_bad_pages")).map(|text| retired(&text));
}

fn count(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.trim().strip_prefix(key))?.trim().parse().ok()
}

/// `0x00000001 : 0x00001000 : R`, a line a page: reserved, pending, failed.
fn retired(text: &str) -> RetiredPages {
    let ends = |mark| move |line: &&str| line.trim_end().ends_with(mark);
    RetiredPages {
        double_bit: Some(text.lines().filter(ends(": R")).count() as u64),
        pending: Some(text.lines().any(|line| ends(": P")(&line))),
        ..RetiredPages::default()
    }
}

/// The highest of the levels `0: 300Mhz`, `1: 1900Mhz *`.
fn highest(levels: &str) -> Option<u32> {
    let clock = |line: &str| {
        let value = line.split_once(':')?.1.trim();
        value[..value.find(|c: char| !c.is_ascii_digit())?].parse::<u32>().ok()
    };
    levels.lines().filter_map(clock).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_level_need_not_be_the_last() {
        assert_eq!(highest("0: 300Mhz\n1: 2475Mhz\n2: 800Mhz *\n"), Some(2475));
        assert_eq!(highest("S: 19Mhz *\n0: 500Mhz"), Some(500));
        assert_eq!(highest("nonsense"), None);
    }

    #[test]
    fn pages_are_counted_by_their_mark() {
        let pages = retired("0x1 : 0x1000 : R\n0x2 : 0x1000 : P\n0x3 : 0x1000 : R\n");
        assert_eq!((pages.double_bit, pages.pending), (Some(2), Some(true)));
    }

    #[test]
    fn errors_are_counted_by_their_key() {
        assert_eq!(count("ue: 2\nce: 17\n", "ce:"), Some(17));
        assert_eq!(count("ue: many", "ue:"), None);
    }
}
