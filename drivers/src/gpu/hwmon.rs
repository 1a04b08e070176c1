//! A GPU's own hwmon device: what amdgpu, radeon, i915 and xe measure.
//!
//! Source: Documentation/hwmon/sysfs-interface.rst (m°C, µW, Hz, turns a
//! minute); amdgpu's labels in Documentation/gpu/amdgpu/thermal.rst, xe's in
//! Documentation/ABI/testing/sysfs-driver-intel-xe-hwmon. The sensor part
//! lists every one of these files; here are those that a GPU is judged by.

use purlin_core::inventory::{Gpu, PowerRange};

use crate::{
    pci,
    probe::{Probe, label},
};

/// The most temperatures of one GPU; xe has one a memory channel.
const MAX_TEMPERATURES: usize = 64;

pub(super) fn read(probe: &mut Probe<'_>, gpu: &mut Gpu) {
    let above = pci::file(&gpu.pci, "hwmon");
    let devices = probe.names(&above).unwrap_or_default();
    let Some(device) = devices.iter().find(|name| name.starts_with("hwmon")) else { return };
    let dir = format!("{above}/{device}");
    let files = probe.names(&dir).unwrap_or_default();
    temperatures(probe, gpu, &dir, &files);
    let has = |name: &str| files.iter().any(|file| file == name);
    let first = |names: [&'static str; 2]| names.into_iter().find(|name| has(name));
    let mut number = |name: Option<&str>| probe.number::<f64>(&format!("{dir}/{}", name?));
    gpu.power = number(first(["power1_average", "power1_input"])).map(micro);
    // 0 is "no limit".
    let limit = number(first(["power1_cap", "power1_max"])).map(micro);
    gpu.power_limit = limit.filter(|limit| *limit > 0.0);
    // amdgpu's alone: others tell no default.
    gpu.power_range = has("power1_cap_default").then(|| PowerRange {
        set: gpu.power_limit,
        default: number(Some("power1_cap_default")).map(micro),
        min: number(has("power1_cap_min").then_some("power1_cap_min")).map(micro),
        max: number(has("power1_cap_max").then_some("power1_cap_max")).map(micro),
    });
    gpu.fan_rpm = number(has("fan1_input").then_some("fan1_input")).map(whole);
    gpu.clocks.core = number(has("freq1_input").then_some("freq1_input")).map(micro).map(whole);
    gpu.clocks.memory = number(has("freq2_input").then_some("freq2_input")).map(micro).map(whole);
}

fn temperatures(probe: &mut Probe<'_>, gpu: &mut Gpu, dir: &str, files: &[String]) {
    let sensors = files.iter().filter_map(|name| name.strip_suffix("_input"));
    for sensor in sensors.filter(|name| name.starts_with("temp")).take(MAX_TEMPERATURES) {
        let named = format!("{sensor}_label");
        let named = files.contains(&named).then(|| probe.text(&format!("{dir}/{named}"))).flatten();
        let name = named.as_deref().and_then(label).unwrap_or_else(|| "gpu".into());
        if let Some(value) = probe.number::<i64>(&format!("{dir}/{sensor}_input")) {
            gpu.temperatures.insert(name, value as f64 / 1000.0);
        }
    }
}

fn micro(value: f64) -> f64 {
    value / 1e6
}

/// Saturates: a cast of a float does.
fn whole(value: f64) -> u32 {
    value.round() as u32
}
