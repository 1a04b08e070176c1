//! A real NVIDIA GPU, where the machine has one: what NVIDIA's own `nvidia-smi` says of it.

use std::{collections::BTreeMap, process::Command};

use purlin_tests::{Lab, Need, Node, Result, ensure, lab::Test, test};
use serde_json::{Value, json};

const SMI: &str = "nvidia-smi";

/// What doesn't change by itself between two readings: nvidia-smi's name of a column,
/// where we have it, and what a unit of theirs is in ours.
const FACTS: [(&str, &str, f64); 32] = [
    ("name", "/name", 1.0),
    ("uuid", "/uuid", 1.0),
    ("serial", "/serial", 1.0),
    ("vbios_version", "/vbios", 1.0),
    ("driver_version", "/driver_version", 1.0),
    ("memory.total", "/vram", (1 << 20) as f64),
    ("ecc.mode.current", "/ecc/enabled", 1.0),
    ("ecc.mode.pending", "/ecc/pending", 1.0),
    ("ecc.errors.corrected.volatile.total", "/ecc/corrected", 1.0),
    ("ecc.errors.uncorrected.volatile.total", "/ecc/uncorrected", 1.0),
    ("ecc.errors.corrected.aggregate.total", "/ecc/corrected_total", 1.0),
    ("ecc.errors.uncorrected.aggregate.total", "/ecc/uncorrected_total", 1.0),
    ("retired_pages.single_bit_ecc.count", "/retired/single_bit", 1.0),
    ("retired_pages.double_bit.count", "/retired/double_bit", 1.0),
    ("retired_pages.pending", "/retired/pending", 1.0),
    ("enforced.power.limit", "/power_limit", 1.0),
    ("power.limit", "/power_range/set", 1.0),
    ("power.default_limit", "/power_range/default", 1.0),
    ("power.min_limit", "/power_range/min", 1.0),
    ("power.max_limit", "/power_range/max", 1.0),
    ("clocks.max.sm", "/clocks/core_max", 1.0),
    ("clocks.max.memory", "/clocks/memory_max", 1.0),
    ("pcie.link.gen.max", "/link_max/gt_per_s", 1.0),
    ("pcie.link.width.max", "/link_max/width", 1.0),
    ("pcie.link.width.current", "/link/width", 1.0),
    ("display_active", "/display", 1.0),
    ("persistence_mode", "/persistence", 1.0),
    ("compute_mode", "/compute_mode", 1.0),
    ("mig.mode.current", "/mig/enabled", 1.0),
    ("mig.mode.pending", "/mig/pending", 1.0),
    ("memory.used", "/vram_used", (1 << 20) as f64),
    ("temperature.gpu", "/temperatures/gpu", 1.0),
];

pub fn tests() -> [Test; 1] {
    [test("a_gpu_is_as_nvidia_smi_says", 120, as_nvidia_smi_says).needs(&[Need::Program(SMI)])]
}

fn as_nvidia_smi_says(lab: &Lab) -> Result {
    let columns: Vec<_> = FACTS.iter().map(|(column, ..)| *column).collect();
    let theirs = smi(&format!("--query-gpu=pci.bus_id,{}", columns.join(",")))?;
    let node = Node::new(lab, "node")?;
    let shown: Value = node.json(&["hw", "show", "gpu"])?;
    ensure!(shown["problems"] == json!([]), "{}", shown["problems"]);
    let list = shown["gpus"].as_array().ok_or("no list of GPUs")?;
    let ours: BTreeMap<_, _> = list.iter().map(|gpu| (gpu["pci"].as_str(), gpu)).collect();
    ensure!(!theirs.is_empty(), "nvidia-smi lists none");
    let mut differences = Vec::new();
    for (address, row) in &theirs {
        let Some(gpu) = ours.get(&Some(address.as_str())) else {
            differences.push(format!("{address} is not in {:?}", ours.keys()));
            continue;
        };
        for ((column, pointer, unit), said) in FACTS.iter().zip(row) {
            let is = gpu.pointer(pointer).unwrap_or(&Value::Null);
            if !agree(column, said, is, *unit) {
                differences.push(format!("{address} {column}: {said:?}, ours {pointer}: {is}"));
            }
        }
    }
    ensure!(differences.is_empty(), "{}", differences.join("\n"));
    Ok(())
}

/// Rows of nvidia-smi's by the PCI address as sysfs writes it.
fn smi(query: &str) -> Result<BTreeMap<String, Vec<String>>> {
    let output = Command::new(SMI).args([query, "--format=csv,noheader,nounits"]).output()?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "nvidia-smi {query}: {text}");
    let row = |line: &str| {
        let mut cells = line.split(", ").map(str::to_owned);
        let address = cells.next()?.to_lowercase();
        // Eight digits of domain, of which sysfs writes the last four.
        Some((address.strip_prefix("0000")?.to_owned(), cells.collect()))
    };
    text.lines().map(|line| row(line).ok_or_else(|| format!("row {line:?}").into())).collect()
}

fn agree(column: &str, said: &str, is: &Value, unit: f64) -> bool {
    const GT_PER_S: [f64; 6] = [2.5, 5.0, 8.0, 16.0, 32.0, 64.0];
    match said {
        "[N/A]" | "N/A" | "[Not Supported]" | "[Insufficient Permissions]" => is.is_null(),
        "Enabled" | "Yes" => *is == json!(true),
        "Disabled" | "No" => *is == json!(false),
        _ => match (said.parse::<f64>(), is.as_f64()) {
            (Ok(generation), Some(is)) if column.starts_with("pcie.link.gen") => {
                GT_PER_S.get(generation as usize - 1) == Some(&is)
            }
            // They change between two readings.
            (Ok(said), Some(is)) if column == "memory.used" => (said - is / unit).abs() <= 64.0,
            (Ok(said), Some(is)) if column == "temperature.gpu" => (said - is).abs() <= 5.0,
            // Theirs is cut to whole units, or to hundredths.
            (Ok(said), Some(is)) => (said - is / unit).abs() < 1.0,
            _ => is.as_str().is_some_and(|is| is.eq_ignore_ascii_case(said)),
        },
    }
}
