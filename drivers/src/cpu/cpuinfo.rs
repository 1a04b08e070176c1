//! `/proc/cpuinfo`, whose keys differ by architecture: names, what the first
//! PU can do, and what tells PUs apart where sysfs doesn't.

use std::collections::BTreeMap;

use crate::probe::{Probe, label};

const CPUINFO: &str = "/proc/cpuinfo";

/// The most that the file may hold, in bytes: about 2.5 kB for each PU of a
/// recent x86, times twice the PUs of the largest machine.
const MAX_CPUINFO: u64 = 16 << 20;

/// The most flags kept; recent x86 has about 150.
const MAX_FLAGS: usize = 1024;

#[derive(Default)]
pub(super) struct CpuInfo {
    pub(super) model: Option<String>,
    pub(super) vendor: Option<String>,
    pub(super) flags: Vec<String>,
    pub(super) microcode: Option<String>,
    pub(super) family: Option<u32>,
    /// By PU, where the file has a paragraph for each.
    pub(super) pus: BTreeMap<u32, OfPu>,
}

/// What the file tells of one PU.
#[derive(Clone, Copy, Default)]
pub(super) struct OfPu {
    pub(super) package: Option<i32>,
    pub(super) core: Option<i32>,
    /// Implementer, variant, part and revision as they stand in `MIDR_EL1`.
    pub(super) midr: Option<u32>,
}

pub(super) fn read(probe: &mut Probe<'_>) -> CpuInfo {
    let Some(text) = probe.text_up_to(CPUINFO, MAX_CPUINFO) else { return CpuInfo::default() };
    // In order of trust: x86 and loongarch, arm, ppc, riscv.
    const MODEL: [&str; 5] = ["model name", "Model Name", "Processor", "cpu", "uarch"];
    const VENDOR: [&str; 3] = ["vendor_id", "vendor", "CPU implementer"];
    const FLAGS: [&str; 3] = ["flags", "Features", "features"];
    let first = |keys: &[&str]| {
        let of = |key: &&str| text.lines().find_map(|line| value(line, key));
        keys.iter().find_map(of)
    };
    let flags = first(&FLAGS).unwrap_or_default();
    CpuInfo {
        model: first(&MODEL).and_then(label),
        vendor: first(&VENDOR).and_then(label).map(implementer),
        flags: flags.split_whitespace().take(MAX_FLAGS).filter_map(label).collect(),
        microcode: first(&["microcode"]).and_then(label),
        family: first(&["cpu family"]).and_then(|family| family.parse().ok()),
        pus: paragraphs(&text),
    }
}

fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let rest = line.strip_prefix(key)?.trim_start().strip_prefix(':')?.trim();
    (!rest.is_empty()).then_some(rest)
}

/// Each PU's paragraph starts with `processor`; what Arm says once for all
/// stands before the first or after the last, and is nobody's.
fn paragraphs(text: &str) -> BTreeMap<u32, OfPu> {
    let mut pus: BTreeMap<u32, OfPu> = BTreeMap::new();
    let mut id = None;
    for line in text.lines() {
        if let Some(processor) = value(line, "processor") {
            id = processor.parse().ok();
        }
        let Some(id) = id else { continue };
        let pu = pus.entry(id).or_default();
        if let Some(package) = value(line, "physical id") {
            pu.package = package.parse().ok();
        } else if let Some(core) = value(line, "core id") {
            pu.core = core.parse().ok();
        } else if line.starts_with("CPU ") {
            midr(&mut pu.midr, line);
        }
    }
    pus
}

/// MIDR_EL1: implementer 31:24, variant 23:20, architecture 19:16 (0xf: see
/// the feature registers), part 15:4, revision 3:0.
fn midr(midr: &mut Option<u32>, line: &str) {
    let hex = |key| u32::from_str_radix(value(line, key)?.trim_start_matches("0x"), 16).ok();
    let number = |key| value(line, key)?.parse::<u32>().ok();
    let bits = hex("CPU implementer")
        .map(|it| (it & 0xff) << 24 | 0xf << 16)
        .or_else(|| hex("CPU variant").map(|it| (it & 0xf) << 20))
        .or_else(|| hex("CPU part").map(|it| (it & 0xfff) << 4))
        .or_else(|| number("CPU revision").map(|it| it & 0xf));
    if let Some(bits) = bits {
        *midr = Some(midr.unwrap_or_default() | bits);
    }
}

/// Arm's implementer codes (MIDR_EL1, bits 31:24) by name, others unchanged.
fn implementer(vendor: String) -> String {
    let name = match vendor.as_str() {
        "0x41" => "ARM",
        "0x42" => "Broadcom",
        "0x43" => "Cavium",
        "0x46" => "Fujitsu",
        "0x48" => "HiSilicon",
        "0x4e" => "NVIDIA",
        "0x50" => "APM",
        "0x51" => "Qualcomm",
        "0x61" => "Apple",
        "0xc0" => "Ampere",
        _ => return vendor,
    };
    name.into()
}
