//! What changes while the machine runs: one reading of one sampler.
//!
//! Names, attributes and units follow OpenTelemetry's semantic conventions for
//! system and hardware metrics, and `purlin.*` where they have none. All but
//! the temperatures come from `/proc` (Documentation/filesystems/proc.rst,
//! Documentation/accounting/psi.rst, Documentation/admin-guide/iostats.rst) and
//! one `fstatvfs` of the root file system; none of these waits for a device.
//! [`Sampler::Temperature`] may hang with its chip and belongs in the helper,
//! as does [`Sampler::Gpu`], which asks drivers.
//!
//! Every sample is bounded: CPU time is the whole machine's, and devices and
//! interfaces are cut at [`MAX_DEVICES`].

use std::fmt::Display;

use procfs_core::{
    DiskStat, DiskStats, ExplicitSystemInfo, FromBufRead, FromBufReadSI, FromRead, KernelStats,
    LoadAverage,
    net::{DeviceStatus, InterfaceDeviceStatus},
    parse_pressure_record,
};
use purlin_core::{
    inventory::{Part, Problem},
    metric::{Point, Sampler},
};

use crate::{Root, gpu, memory::bytes_of, probe::Probe, sensor, storage::VIRTUAL};

/// The most disks, and the most interfaces, that one sample lists: a node with
/// hundreds of containers has as many veths, and each interface is 8 points.
pub const MAX_DEVICES: usize = 64;

/// Clock ticks a second in `/proc/stat`: `USER_HZ`, which is part of the ABI
/// and 100 on every architecture we ship for.
const USER_HZ: u64 = 100;

/// What `/proc/diskstats` counts in, in bytes, whatever the disk's own sectors.
const SECTOR: f64 = 512.0;

/// Milliseconds and microseconds in a second.
const MS: f64 = 1e3;
const US: f64 = 1e6;

/// The host's ends of container interfaces, left out first where there are too
/// many: their names come and go.
const CONTAINER_ENDS: [&str; 5] = ["veth", "cali", "lxc", "tap", "cni"];

/// Reads one sampler. Counters count since boot; what can't be read is missing
/// from the points and told in the problems.
pub fn sample(sampler: Sampler, root: &Root) -> (Vec<Point>, Vec<Problem>) {
    match sampler {
        Sampler::Cpu => with(Part::Cpu, root, cpu),
        Sampler::Memory => with(Part::Memory, root, memory),
        Sampler::Pressure => with(Part::Memory, root, pressure),
        Sampler::Disk => with(Part::Storage, root, disk),
        Sampler::Network => with(Part::Nic, root, network),
        Sampler::Temperature => temperature(root),
        Sampler::Gpu => gpu(root),
    }
}

type Points = Vec<Point>;

fn with(
    part: Part,
    root: &Root,
    read: impl Fn(&mut Probe<'_>, &mut Points),
) -> (Points, Vec<Problem>) {
    let mut probe = Probe::new(part, root);
    let mut points = Vec::new();
    read(&mut probe, &mut points);
    (points, probe.finish())
}

/// Keeps what a parser understood, or says what it did not.
fn understood<T, E: Display>(probe: &mut Probe<'_>, path: &str, parsed: Result<T, E>) -> Option<T> {
    parsed.map_err(|error| probe.problem(path, format!("makes no sense: {error}"))).ok()
}

fn cpu(probe: &mut Probe<'_>, points: &mut Points) {
    cpu_time(probe, points);
    load(probe, points);
}

fn cpu_time(probe: &mut Probe<'_>, points: &mut Points) {
    const PATH: &str = "/proc/stat";
    // Only the ticks matter for what we take from this file.
    const SYSTEM: ExplicitSystemInfo = ExplicitSystemInfo {
        boot_time_secs: 0,
        ticks_per_second: USER_HZ,
        page_size: 4096,
        is_little_endian: cfg!(target_endian = "little"),
    };
    let Some(text) = probe.need(PATH) else { return };
    let parsed = KernelStats::from_buf_read(text.as_bytes(), &SYSTEM);
    let Some(stat) = understood(probe, PATH, parsed) else { return };
    let total = &stat.total;
    let modes = [
        ("user", Some(total.user)),
        ("nice", Some(total.nice)),
        ("system", Some(total.system)),
        ("idle", Some(total.idle)),
        ("iowait", total.iowait),
        ("interrupt", total.irq.map(|irq| irq.saturating_add(total.softirq.unwrap_or(0)))),
        ("steal", total.steal),
    ];
    for (mode, ticks) in modes {
        let Some(ticks) = ticks else { continue };
        let seconds = ticks as f64 / USER_HZ as f64;
        points.push(Point::counter("system.cpu.time", "s", seconds).with("cpu.mode", mode));
    }
    points.push(Point::counter("purlin.cpu.context_switches", "{switch}", stat.ctxt as f64));
}

/// The kernel prints two decimals; a wider float of a narrow one has fifteen.
fn hundredths(value: f32) -> f64 {
    (f64::from(value) * 100.0).round() / 100.0
}

/// The conventions have no load average; these are the names that the
/// OpenTelemetry collector gives it.
fn load(probe: &mut Probe<'_>, points: &mut Points) {
    const PATH: &str = "/proc/loadavg";
    let Some(text) = probe.text(PATH) else { return };
    let parsed = LoadAverage::from_read(text.as_bytes());
    let Some(load) = understood(probe, PATH, parsed) else { return };
    let averages = [
        ("system.cpu.load_average.1m", load.one),
        ("system.cpu.load_average.5m", load.five),
        ("system.cpu.load_average.15m", load.fifteen),
    ];
    points.extend(averages.map(|(name, load)| Point::gauge(name, "{thread}", hundredths(load))));
}

/// Read with our own parser: procfs-core's multiplies without a check, and
/// refuses the whole file for one line it does not know.
fn memory(probe: &mut Probe<'_>, points: &mut Points) {
    const PATH: &str = "/proc/meminfo";
    let Some(text) = probe.need(PATH) else { return };
    let figure = |key| bytes_of(&text, key);
    let bytes = |name, bytes: u64| Point::gauge(name, "By", bytes as f64);
    let Some(total) = figure("MemTotal:") else {
        return probe.problem(PATH, "has no MemTotal that makes sense");
    };
    points.push(bytes("system.memory.limit", total));
    let available = figure("MemAvailable:");
    points.extend(available.map(|size| bytes("system.memory.linux.available", size)));
    if let (Some(free), Some(buffers), Some(cached)) =
        (figure("MemFree:"), figure("Buffers:"), figure("Cached:"))
    {
        // The states must add up to the limit, so used is what the others leave.
        let used = total.saturating_sub(free).saturating_sub(buffers).saturating_sub(cached);
        let states = [("used", used), ("free", free), ("buffers", buffers), ("cached", cached)];
        points.extend(states.map(|(state, size)| {
            bytes("system.memory.usage", size).with("system.memory.state", state)
        }));
    }
    if let (Some(all), Some(free)) = (figure("SwapTotal:"), figure("SwapFree:")) {
        let states = [("used", all.saturating_sub(free)), ("free", free)];
        points.extend(states.map(|(state, size)| {
            bytes("system.paging.usage", size).with("system.paging.state", state)
        }));
    }
}

/// Time in which some, or all, runnable tasks waited for a resource.
fn pressure(probe: &mut Probe<'_>, points: &mut Points) {
    for resource in ["cpu", "memory", "io"] {
        let path = format!("/proc/pressure/{resource}");
        let Some(text) = probe.text(&path) else { continue };
        for line in text.lines() {
            let Some((share, _)) = line.split_once(' ') else { continue };
            // The parser takes only these two for granted; a kernel may add one.
            if share != "some" && share != "full" {
                continue;
            }
            let Some(record) = understood(probe, &path, parse_pressure_record(line)) else {
                continue;
            };
            let seconds = record.total as f64 / US;
            let point = Point::counter("purlin.pressure.stall.time", "s", seconds)
                .with("purlin.pressure.resource", resource)
                .with("purlin.pressure.share", share);
            points.push(point);
        }
    }
}

fn disk(probe: &mut Probe<'_>, points: &mut Points) {
    disk_io(probe, points);
    root_filesystem(probe, points);
}

fn disk_io(probe: &mut Probe<'_>, points: &mut Points) {
    const PATH: &str = "/proc/diskstats";
    let Some(text) = probe.need(PATH) else { return };
    let parsed = DiskStats::from_buf_read(text.as_bytes());
    let Some(DiskStats(all)) = understood(probe, PATH, parsed) else { return };
    let mut disks: Vec<&DiskStat> = all
        .iter()
        .filter(|disk| !VIRTUAL.iter().any(|prefix| disk.name.starts_with(prefix)))
        .filter(|disk| !all.iter().any(|whole| is_partition(&disk.name, &whole.name)))
        .collect();
    cut(probe, PATH, &mut disks);
    points.extend(disks.into_iter().flat_map(disk_points));
}

/// True if `name` is `whole` and a number, with a `p` between them where
/// `whole` itself ends in a digit: the kernel's own rule.
fn is_partition(name: &str, whole: &str) -> bool {
    let Some(rest) = name.strip_prefix(whole) else { return false };
    let number = match whole.ends_with(|c: char| c.is_ascii_digit()) {
        true => rest.strip_prefix('p').unwrap_or_default(),
        false => rest,
    };
    !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
}

fn disk_points(disk: &DiskStat) -> [Point; 7] {
    let counter = |name, unit, value: f64| {
        Point::counter(name, unit, value).with("system.device", disk.name.as_str())
    };
    let both = |name, unit, read: f64, write: f64| {
        [("read", read), ("write", write)]
            .map(|(way, value)| counter(name, unit, value).with("disk.io.direction", way))
    };
    let (read, written) = (disk.sectors_read as f64, disk.sectors_written as f64);
    let [in_bytes, out_bytes] = both("system.disk.io", "By", read * SECTOR, written * SECTOR);
    let [reads, writes] =
        both("system.disk.operations", "{operation}", disk.reads as f64, disk.writes as f64);
    let (reading, writing) = (disk.time_reading as f64 / MS, disk.time_writing as f64 / MS);
    let [read_time, write_time] = both("system.disk.operation_time", "s", reading, writing);
    let busy = counter("system.disk.io_time", "s", disk.time_in_progress as f64 / MS);
    [in_bytes, out_bytes, reads, writes, read_time, write_time, busy]
}

fn root_filesystem(probe: &mut Probe<'_>, points: &mut Points) {
    let stat = match probe.root.filesystem() {
        None => return,
        Some(Ok(stat)) => stat,
        Some(Err(error)) => return probe.problem("/", format!("usage can't be read: {error}")),
    };
    let bytes = |blocks: u64| blocks as f64 * stat.fragment_size() as f64;
    let (all, free) = (stat.blocks(), stat.blocks_free());
    // Ordinary users see less free than there is: the rest is kept for root.
    let available = stat.blocks_available().min(free);
    let states = [
        ("used", all.saturating_sub(free)),
        ("free", available),
        ("reserved", free.saturating_sub(available)),
    ];
    for (state, blocks) in states {
        let point = Point::gauge("system.filesystem.usage", "By", bytes(blocks))
            .with("system.filesystem.mountpoint", "/")
            .with("system.filesystem.state", state);
        points.push(point);
    }
}

fn network(probe: &mut Probe<'_>, points: &mut Points) {
    const PATH: &str = "/proc/net/dev";
    let Some(text) = probe.need(PATH) else { return };
    let parsed = InterfaceDeviceStatus::from_buf_read(text.as_bytes());
    let Some(InterfaceDeviceStatus(all)) = understood(probe, PATH, parsed) else { return };
    let mut nics: Vec<DeviceStatus> = all.into_values().collect();
    nics.sort_by_key(|nic| (is_container_end(&nic.name), nic.name.clone()));
    cut(probe, PATH, &mut nics);
    points.extend(nics.iter().flat_map(nic_points));
}

fn is_container_end(name: &str) -> bool {
    CONTAINER_ENDS.iter().any(|prefix| name.starts_with(prefix))
}

fn nic_points(nic: &DeviceStatus) -> Vec<Point> {
    let figures = [
        ("system.network.io", "By", nic.recv_bytes, nic.sent_bytes),
        ("system.network.packet.count", "{packet}", nic.recv_packets, nic.sent_packets),
        ("system.network.packet.dropped", "{packet}", nic.recv_drop, nic.sent_drop),
        ("system.network.errors", "{error}", nic.recv_errs, nic.sent_errs),
    ];
    let mut points = Vec::with_capacity(2 * figures.len());
    for (name, unit, received, sent) in figures {
        for (way, value) in [("receive", received), ("transmit", sent)] {
            let point = Point::counter(name, unit, value as f64)
                .with("network.interface.name", nic.name.as_str())
                .with("network.io.direction", way);
            points.push(point);
        }
    }
    points
}

fn cut<T>(probe: &mut Probe<'_>, path: &str, devices: &mut Vec<T>) {
    if devices.len() > MAX_DEVICES {
        let left_out = devices.len() - MAX_DEVICES;
        probe.problem(path, format!("{left_out} devices over the limit of {MAX_DEVICES} left out"));
        devices.truncate(MAX_DEVICES);
    }
}

/// Nothing where none of their drivers is loaded: most nodes have no GPU, and their bus need
/// not be gone through for that every few seconds.
fn gpu(root: &Root) -> (Points, Vec<Problem>) {
    let is_loaded = |driver: &str| root.exists(&format!("/sys/module/{driver}"));
    if !["nvidia", "amdgpu", "i915", "xe"].into_iter().any(is_loaded) {
        return (Vec::new(), Vec::new());
    }
    let (gpus, problems) = gpu::readings(root);
    (gpus.iter().flatten().flat_map(gpu::points).collect(), problems)
}

fn temperature(root: &Root) -> (Points, Vec<Problem>) {
    let (sensors, problems) = sensor::temperatures(root);
    let points = sensors.into_iter().filter_map(|sensor| {
        let id = format!("{}/{}", sensor.device, sensor.label);
        let point = Point::gauge("hw.temperature", "Cel", sensor.value?);
        Some(point.with("hw.id", id).with("hw.name", sensor.label))
    });
    (points.collect(), problems)
}
