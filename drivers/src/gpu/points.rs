//! What of a GPU changes while it works, as metrics (OpenTelemetry's semantic conventions
//! for hardware metrics, `hw.gpu.*`).

use purlin_core::{
    inventory::{Gpu, GpuKind},
    metric::Point,
};

const MHZ: f64 = 1e6;

/// What is known of it; a screen without a GPU behind it has none of this.
pub fn points(gpu: &Gpu) -> Vec<Point> {
    if gpu.kind == GpuKind::Display {
        return Vec::new();
    }
    let share = |percent: Option<u32>| percent.map(|it| f64::from(it) / 100.0);
    let number = |count: Option<u64>| count.map(|it| it as f64);
    let gauges = [
        ("hw.gpu.utilization", "1", share(gpu.busy)),
        ("hw.gpu.memory.limit", "By", number(gpu.vram)),
        ("hw.gpu.memory.usage", "By", number(gpu.vram_used)),
        ("purlin.hw.gpu.memory.busy", "1", share(gpu.memory_busy)),
        ("hw.power", "W", gpu.power),
        ("purlin.hw.gpu.power.limit", "W", gpu.power_limit),
        ("purlin.hw.gpu.frequency", "Hz", gpu.clocks.core.map(|it| f64::from(it) * MHZ)),
        // 1 while something holds the clocks down.
        ("purlin.hw.gpu.throttled", "1", gpu.throttle.as_ref().map(|it| f64::from(!it.is_empty()))),
        ("purlin.hw.gpu.lost", "1", Some(f64::from(gpu.lost))),
    ];
    let gauges =
        gauges.into_iter().filter_map(|(name, unit, value)| Some(Point::gauge(name, unit, value?)));
    // Those of other drivers are sensors of the kernel's, and sampled as such.
    let is_own = gpu.driver.as_deref() == Some("nvidia");
    let temperatures = gpu.temperatures.iter().filter(|_| is_own).map(|(label, degrees)| {
        Point::gauge("hw.temperature", "Cel", *degrees).with("hw.sensor_location", label)
    });
    let errors = gpu.ecc.iter().flat_map(|ecc| {
        let kinds = [("corrected", ecc.corrected), ("uncorrected", ecc.uncorrected)];
        kinds.into_iter().filter_map(|(kind, count)| {
            let point = Point::counter("hw.errors", "{error}", count? as f64);
            Some(point.with("error.type", kind))
        })
    });
    let described = |point: Point| {
        let point = point.with("hw.id", &gpu.pci).with("hw.type", "gpu");
        match &gpu.name {
            Some(name) => point.with("hw.name", name),
            None => point,
        }
    };
    gauges.chain(temperatures).chain(errors).map(described).collect()
}
