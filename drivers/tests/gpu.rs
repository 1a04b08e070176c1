//! GPUs: NVIDIA's through a made-up NVML (`tests/nvml`), AMD's and Intel's as
//! 13 real cards show themselves in sysfs (the corpus), and small trees.
//!
//! A library stays in the process that loaded it and takes its profile from
//! the environment, so each such case runs this very executable once more,
//! with `child` as its only test.

mod tree;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use expect_test::{Expect, expect};
use purlin_core::inventory::{Gpu, GpuKind, SliceKind};
use purlin_drivers::{Problem, Root, gpu};
use serde_json::{Value, json};

use tree::Tree;

/// What the child is to do.
const TASK: &str = "PURLIN_TEST_GPU_TASK";

/// Marks the line of the child's output that has its answer.
const ANSWER: &str = "answer: ";

/// A PCI function with a driver.
fn function(tree: &Tree, address: &str, vendor: &str, class: &str, driver: &str) {
    let dir = format!("sys/bus/pci/devices/{address}");
    tree.file(&format!("{dir}/vendor"), vendor);
    tree.file(&format!("{dir}/device"), "0x20b0\n");
    tree.file(&format!("{dir}/class"), class);
    tree.file(&format!("{dir}/numa_node"), "1\n");
    tree.link(&format!("{dir}/driver"), &format!("../../../../bus/pci/drivers/{driver}"));
}

/// A machine whose NVIDIA GPUs are at these addresses.
fn nvidia(addresses: &[String]) -> Tree {
    let tree = Tree::new();
    for address in addresses {
        function(&tree, address, "0x10de\n", "0x030200\n", "nvidia");
    }
    tree
}

fn small() -> Tree {
    let tree = nvidia(&["0000:07:00.0".into(), "0000:0f:00.0".into()]);
    let caps = "proc/driver/nvidia/capabilities/gpu0/mig";
    let access = |minor| format!("DeviceFileMinor: {minor}\nDeviceFileMode: 292\n");
    for (path, minor) in
        [("gi1", 30), ("gi1/ci0", 31), ("gi1/ci1", 32), ("gi7", 84), ("gi7/ci0", 85)]
    {
        tree.file(&format!("{caps}/{path}/access"), access(minor));
    }
    let told = "Model: \t\t Example Accelerator 24GB\nGPU UUID: \t GPU-????????\n\
                Video BIOS: \t ??.??.??.??.??\nDevice Minor: \t 0\nGPU Firmware: \t N/A\n";
    tree.file("proc/driver/nvidia/gpus/0000:07:00.0/information", told);
    tree
}

/// The fixture libraries, which cargo builds beside this test.
fn library(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("this executable");
    own.parent().expect("its directory").join(format!("lib{name}.so"))
}

fn profile() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/nvml/small.yaml")
}

/// Runs the child, and returns its answer; says so and returns none where the
/// fixture libraries were not built.
fn in_child(task: Value, profile: &Path, control: Option<&Path>) -> Option<Value> {
    in_child_counted(task, profile, control, None)
}

/// The same, with every call of the library noted in a file.
fn in_child_counted(
    task: Value,
    profile: &Path,
    control: Option<&Path>,
    calls: Option<&Path>,
) -> Option<Value> {
    let libraries = [library("purlin_nvml_fixture"), library("purlin_nvml_half")];
    if let Some(missing) = libraries.iter().find(|path| !path.is_file()) {
        println!("skipped: {} was not built", missing.display());
        return None;
    }
    let mut child = Command::new(std::env::current_exe().expect("this executable"));
    child.args(["--exact", "child", "--nocapture"]).env(TASK, task.to_string());
    child.env("PURLIN_NVML_PROFILE", profile);
    if let Some(control) = control {
        child.env("PURLIN_NVML_CONTROL", control);
    }
    if let Some(calls) = calls {
        child.env("PURLIN_NVML_CALLS", calls);
    }
    let output = child.output().expect("the child runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{told}");
    assert!(!told.contains("panicked"), "{told}");
    let answer = text.lines().find_map(|line| Some(line.split_once(ANSWER)?.1));
    Some(serde_json::from_str(answer.expect("an answer")).expect("an answer in JSON"))
}

#[test]
fn a_gpu_without_a_driver_has_the_name_of_the_installed_list() {
    let tree = Tree::new();
    for (address, device) in [("0000:03:00.0", "0x73bf"), ("0000:04:00.0", "0x0000")] {
        let files = [("vendor", "0x1002"), ("device", device), ("class", "0x030000")];
        tree.files(&format!("sys/bus/pci/devices/{address}"), &files);
    }
    let names = |tree: &Tree| -> Vec<Option<String>> {
        let (gpus, problems) = gpu::read(&tree.root());
        assert_eq!(problems, []);
        gpus.expect("the GPUs").into_iter().map(|gpu| gpu.name).collect()
    };
    assert_eq!(names(&tree), [None, None]);
    tree.files("usr/share/hwdata", &[("pci.ids", "1002  AMD\n\t73bf  Navi 21")]);
    assert_eq!(names(&tree), [Some("AMD Navi 21".to_owned()), Some("AMD".to_owned())]);
}

/// Not a test of its own: see [`in_child`].
#[test]
fn child() {
    let Some(task) = std::env::var_os(TASK) else { return };
    let task: Value = serde_json::from_str(&task.to_string_lossy()).expect("a task in JSON");
    let library = PathBuf::from(task["library"].as_str().expect("a library"));
    let answer = match task["task"].as_str() {
        Some("read") => {
            let root =
                Root::dump(Path::new(task["root"].as_str().expect("a root"))).expect("a root");
            json!(gpu::read_with(&root, Some(&library)))
        }
        Some("readings") => {
            let root = Root::dump(Path::new(task["root"].as_str().expect("a root")));
            json!(gpu::readings_with(&root.expect("a root"), Some(&library)))
        }
        Some("late") => late(&library, Path::new(task["root"].as_str().expect("a root"))),
        Some("events") => events(&library),
        Some("limits") => json!(gpu::limits_with(&library)),
        Some("limit") => {
            let caps: Vec<gpu::Cap> = serde_json::from_value(task["caps"].clone()).expect("caps");
            json!(gpu::limit_with(&library, &caps))
        }
        task => panic!("{task:?} is no task"),
    };
    println!("\n{ANSWER}{answer}");
}

fn read_task(root: &Tree, library: &Path) -> Value {
    json!({ "task": "read", "root": root.at(""), "library": library })
}

type Told = (Option<Vec<Gpu>>, Vec<Problem>);

fn read_in_child(root: &Tree, profile: &Path, control: Option<&Path>) -> Option<Told> {
    let task = read_task(root, &library("purlin_nvml_fixture"));
    let told = in_child(task, profile, control)?;
    Some(serde_json::from_value(told).expect("GPUs"))
}

/// The fields of one GPU that are known, as YAML-like lines.
fn check(gpu: &Gpu, expected: Expect) {
    let mut value = serde_json::to_value(gpu).expect("JSON");
    let fields = value.as_object_mut().expect("an object");
    let empty = |value: &Value| {
        value.is_null() || value.as_array().is_some_and(Vec::is_empty) || *value == json!({})
    };
    let lines = fields.iter().filter(|(_, value)| !empty(value));
    let text: String = lines.map(|(name, value)| format!("{name}: {value}\n")).collect();
    expected.assert_eq(&text);
}

#[test]
fn what_a_gpu_does_is_measured() {
    let Some((gpus, _)) = read_in_child(&small(), &profile(), None) else { return };
    let points = gpu::points(&gpus.expect("GPUs")[0]);
    let own = |it: &&(Cow<'static, str>, String)| {
        !it.0.starts_with("hw.") || it.0 == "hw.sensor_location"
    };
    let lines = points.iter().map(|point| {
        let own: Vec<_> = point.attributes.iter().filter(own).map(|it| it.1.as_str()).collect();
        format!("{} {:?} {} {}\n", point.name, point.value, point.unit, own.join(" "))
    });
    expect![[r#"
        hw.gpu.utilization Gauge(0.4) 1 
        hw.gpu.memory.limit Gauge(25769803776.0) By 
        hw.gpu.memory.usage Gauge(3758096384.0) By 
        purlin.hw.gpu.memory.busy Gauge(0.12) 1 
        hw.power Gauge(71.5) W 
        purlin.hw.gpu.power.limit Gauge(300.0) W 
        purlin.hw.gpu.frequency Gauge(210000000.0) Hz 
        purlin.hw.gpu.throttled Gauge(0.0) 1 
        purlin.hw.gpu.lost Gauge(0.0) 1 
        hw.temperature Gauge(33.0) Cel gpu
        hw.errors Counter(0.0) {error} corrected
        hw.errors Counter(0.0) {error} uncorrected
    "#]]
    .assert_eq(&lines.collect::<String>());
    let name = ("hw.name".into(), "Example Accelerator 24GB".to_owned());
    assert!(points.iter().all(|point| point.attributes.contains(&name)), "{points:?}");
}

/// A sample that asks for what never changes costs milliseconds a GPU, again and again.
#[test]
fn a_sample_tells_the_same_and_asks_for_no_more() {
    let Some((gpus, _)) = read_in_child(&small(), &profile(), None) else { return };
    let (root, calls) = (small(), Tree::new());
    let mut task = read_task(&root, &library("purlin_nvml_fixture"));
    task["task"] = "readings".into();
    let file = calls.at("calls");
    let told = in_child_counted(task, &profile(), None, Some(&file)).expect("what is sampled");
    let (sampled, problems): Told = serde_json::from_value(told).expect("GPUs");
    assert_eq!(problems, []);
    let points = |gpus: Option<Vec<Gpu>>| -> Vec<_> {
        gpus.expect("GPUs").iter().flat_map(gpu::points).collect()
    };
    assert_eq!(points(sampled), points(gpus));
    let asked = fs::read_to_string(file).expect("calls");
    let asked = asked.lines().fold(BTreeMap::<_, u32>::new(), |mut all, name| {
        *all.entry(name).or_default() += 1;
        all
    });
    let lines: String = asked.iter().map(|(name, times)| format!("{name} {times}\n")).collect();
    expect![[r#"
        nvmlDeviceGetClockInfo 2
        nvmlDeviceGetCurrentClocksThrottleReasons 2
        nvmlDeviceGetEccMode 2
        nvmlDeviceGetEnforcedPowerLimit 2
        nvmlDeviceGetHandleByPciBusId_v2 2
        nvmlDeviceGetMemoryInfo_v2 2
        nvmlDeviceGetName 2
        nvmlDeviceGetPowerUsage 2
        nvmlDeviceGetTemperature 2
        nvmlDeviceGetTotalEccErrors 4
        nvmlDeviceGetUtilizationRates 2
        nvmlSystemGetDriverVersion 1
    "#]]
    .assert_eq(&lines);
}

#[test]
fn everything_that_nvml_tells_is_there() {
    let Some((gpus, problems)) = read_in_child(&small(), &profile(), None) else { return };
    assert_eq!(problems, []);
    let gpus = gpus.expect("GPUs");
    check(
        &gpus[0],
        expect![[r#"
            board_part: "900-00001-0000-000"
            busy: 40
            clocks: {"core":210,"core_max":1410,"memory":1215,"memory_max":1215}
            compute_mode: "default"
            device_id: 8368
            device_nodes: ["/dev/nvidia0","/dev/nvidiactl","/dev/nvidia-uvm"]
            display: false
            driver: "nvidia"
            driver_version: "555.42.02"
            ecc: {"corrected":0,"corrected_total":0,"enabled":true,"pending":true,"uncorrected":0,"uncorrected_total":0}
            firmware: "555.42.02"
            kind: "compute"
            link: {"gt_per_s":16.0,"width":16}
            link_max: {"gt_per_s":16.0,"width":16}
            lost: false
            memory_busy: 12
            mig: {"enabled":true,"instances":[{"compute":[{"device_node":"/dev/nvidia-caps/nvidia-cap31","id":0,"slices":2,"uuid":"MIG-00000000-0000-0000-0000-000000000010"},{"device_node":"/dev/nvidia-caps/nvidia-cap32","id":1,"slices":1,"uuid":"MIG-00000000-0000-0000-0000-000000000011"}],"device_node":"/dev/nvidia-caps/nvidia-cap30","id":1,"memory":12616466432,"placement":[4,4],"profile":"3g.12gb","slices":3},{"compute":[{"device_node":"/dev/nvidia-caps/nvidia-cap85","id":0,"slices":1,"uuid":"MIG-00000000-0000-0000-0000-000000000070"}],"device_node":"/dev/nvidia-caps/nvidia-cap84","id":7,"memory":6174015488,"placement":[0,1],"profile":"1g.6gb","slices":1}],"pending":false}
            name: "Example Accelerator 24GB"
            node: 1
            nvlinks: [{"active":true,"errors":{"crc_data":0,"crc_flit":0,"recovery":0,"replay":0},"link":0,"remote":"0000:0f:00.0","remote_kind":"gpu","version":3},{"active":false,"errors":{"crc_data":0,"crc_flit":0,"recovery":0,"replay":0},"link":1,"remote":null,"remote_kind":null,"version":3}]
            pci: "0000:07:00.0"
            peers: [{"nvlinks":1,"path":"host bridge","pci":"0000:0f:00.0"}]
            performance: "P0"
            persistence: true
            power: 71.5
            power_limit: 300.0
            power_range: {"default":300.0,"max":300.0,"min":100.0,"set":300.0}
            remapped: {"correctable":0,"failed":false,"pending":false,"uncorrectable":0}
            replays: 0
            serial: "0000000000001"
            slices: [{"available":null,"driver":null,"id":"MIG-00000000-0000-0000-0000-000000000010","iommu_group":null,"kind":"mig","memory":12616466432,"parent":"0000:07:00.0","profile":"3g.12gb"},{"available":null,"driver":null,"id":"MIG-00000000-0000-0000-0000-000000000011","iommu_group":null,"kind":"mig","memory":12616466432,"parent":"0000:07:00.0","profile":"3g.12gb"},{"available":null,"driver":null,"id":"MIG-00000000-0000-0000-0000-000000000070","iommu_group":null,"kind":"mig","memory":6174015488,"parent":"0000:07:00.0","profile":"1g.6gb"}]
            temperatures: {"gpu":33.0}
            uuid: "GPU-00000000-0000-0000-0000-000000000001"
            vbios: "90.00.01.00.01"
            vendor: "nvidia"
            vendor_id: 4318
            vram: 25769803776
            vram_used: 3758096384
        "#]],
    );
    check(
        &gpus[1],
        expect![[r#"
            board_part: "900-00001-0000-000"
            busy: 40
            clocks: {"core":210,"core_max":1410,"memory":1215,"memory_max":1215}
            compute_mode: "exclusive process"
            device_id: 8368
            device_nodes: ["/dev/nvidia1","/dev/nvidiactl","/dev/nvidia-uvm"]
            display: false
            driver: "nvidia"
            driver_version: "555.42.02"
            ecc: {"corrected":4,"corrected_total":40,"enabled":true,"pending":false,"uncorrected":1,"uncorrected_total":2}
            firmware: "555.42.02"
            kind: "compute"
            link: {"gt_per_s":2.5,"width":16}
            link_max: {"gt_per_s":16.0,"width":16}
            lost: false
            memory_busy: 12
            mig: {"enabled":false,"instances":[],"pending":false}
            name: "Example Accelerator 24GB"
            node: 1
            nvlinks: [{"active":true,"errors":{"crc_data":0,"crc_flit":9,"recovery":0,"replay":3},"link":0,"remote":"0000:07:00.0","remote_kind":"gpu","version":3}]
            pci: "0000:0f:00.0"
            peers: [{"nvlinks":1,"path":"host bridge","pci":"0000:07:00.0"}]
            performance: "P0"
            persistence: true
            power: 71.5
            power_limit: 300.0
            power_range: {"default":300.0,"max":300.0,"min":100.0,"set":300.0}
            remapped: {"correctable":2,"failed":true,"pending":true,"uncorrectable":1}
            replays: 5
            retired: {"double_bit":1,"pending":true,"single_bit":3}
            serial: "0000000000002"
            temperatures: {"gpu":91.0}
            throttle: ["software power cap","hardware thermal slowdown"]
            uuid: "GPU-00000000-0000-0000-0000-000000000002"
            vbios: "90.00.01.00.01"
            vendor: "nvidia"
            vendor_id: 4318
            vram: 25769803776
            vram_used: 3758096384
        "#]],
    );
}

#[test]
fn a_lost_gpu_keeps_what_the_bus_tells() {
    let control = tempfile::NamedTempFile::new().expect("a control file");
    fs::write(control.path(), "lost 1\n").expect("a control file");
    let told = read_in_child(&small(), &profile(), Some(control.path()));
    let Some((gpus, problems)) = told else { return };
    assert_eq!(problems, []);
    let gpus = gpus.expect("GPUs");
    assert!(!gpus[0].lost && gpus[0].vram.is_some());
    check(
        &gpus[1],
        expect![[r#"
            clocks: {"core":null,"core_max":null,"memory":null,"memory_max":null}
            device_id: 8368
            driver: "nvidia"
            driver_version: "555.42.02"
            kind: "compute"
            lost: true
            node: 1
            pci: "0000:0f:00.0"
            vendor: "nvidia"
            vendor_id: 4318
        "#]],
    );
}

#[test]
fn a_power_limit_is_set_within_what_the_gpu_takes_and_read_back() {
    let control = tempfile::NamedTempFile::new().expect("a control file");
    let library = library("purlin_nvml_fixture");
    let set = |caps: Value| {
        let task = json!({ "task": "limit", "library": library, "caps": caps });
        in_child(task, &profile(), Some(control.path()))
    };
    let [one, two] = [1, 2].map(|n| format!("GPU-00000000-0000-0000-0000-00000000000{n}"));
    let Some(done) = set(json!([[one, 150_000], [two, 100_000]])) else { return };
    assert_eq!(done, json!({ "Ok": null }));
    let task = json!({ "task": "limits", "library": library });
    let limits = in_child(task, &profile(), Some(control.path())).expect("limits");
    let limit =
        |uuid, set| json!({ "uuid": uuid, "set_mw": set, "min_mw": 100_000, "max_mw": 300_000 });
    assert_eq!(limits, json!({ "Ok": [limit(&one, 150_000), limit(&two, 100_000)] }));
    let (gpus, _) = read_in_child(&small(), &profile(), Some(control.path())).expect("GPUs");
    let shown: Vec<_> = gpus.into_iter().flatten().map(|gpu| gpu.power_limit).collect();
    assert_eq!(shown, [Some(150.0), Some(100.0)]);

    // A board that was taken out has nothing to be taken back.
    assert_eq!(set(json!([["GPU-3", 150_000]])), Some(json!({ "Ok": null })));
    let before = fs::read_to_string(control.path()).expect("a control file");
    let refused = set(json!([[one, 99_999]])).expect("an answer");
    fs::write(control.path(), format!("{before}deny 0\nlost 1\n")).expect("a control file");
    let denied = set(json!([[one, 200_000]])).expect("an answer");
    let lost = set(json!([[two, 200_000]])).expect("an answer");
    expect![[r#"
        GPU-00000000-0000-0000-0000-000000000001: a power limit of 99999 mW; may be 100000 to 300000
        GPU-00000000-0000-0000-0000-000000000001: the driver lets nobody without CAP_SYS_ADMIN set its power limit
        GPU-00000000-0000-0000-0000-000000000002: a power limit of 200000 mW is not taken: device fell off the bus or has otherwise become inacessible
    "#]]
    .assert_eq(&[refused, denied, lost].map(|it| format!("{}\n", it["Err"].as_str().unwrap_or_default())).concat());
    let after = fs::read_to_string(control.path()).expect("a control file");
    assert_eq!(after, format!("{before}deny 0\nlost 1\n"), "none of these was set");
}

#[test]
fn an_incomplete_library_takes_nothing_away() {
    let root = small();
    let task = read_task(&root, &library("purlin_nvml_half"));
    let Some(told) = in_child(task, &profile(), None) else { return };
    let (gpus, problems): Told = serde_json::from_value(told).expect("GPUs");
    assert_eq!(problems, []);
    let gpus = gpus.expect("GPUs");
    assert_eq!(gpus.len(), 2);
    assert_eq!(gpus[1].name.as_deref(), Some("Half a GPU"));
    assert_eq!((gpus[1].node, gpus[1].lost, gpus[1].vram), (Some(1), false, None));
    let task = json!({ "task": "events", "library": library("purlin_nvml_half") });
    assert_eq!(in_child(task, &profile(), None), Some(json!([])));
    let task = json!({ "task": "limits", "library": library("purlin_nvml_half") });
    let told = in_child(task, &profile(), None).expect("an answer");
    assert!(told["Err"].is_string(), "{told}");
}

#[test]
fn a_library_that_is_missing_is_one_problem_and_found_when_it_comes() {
    let root = small();
    let task =
        json!({ "task": "late", "root": root.at(""), "library": library("purlin_nvml_fixture") });
    let control = tempfile::NamedTempFile::new().expect("a control file");
    let Some(told) = in_child(task, &profile(), Some(control.path())) else { return };
    assert_eq!(
        told,
        json!({
            "problems before": 1,
            "gpus before": 2,
            "events before": 0,
            "problems after": 0,
            "memory after": 25_769_803_776_u64,
            "events after": 1,
        })
    );
}

/// First without the library, then, in the same process, with it.
fn late(library: &Path, root: &Path) -> Value {
    let root = Root::dump(root).expect("a root");
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("libnvidia-ml.so.1");
    let mut events = gpu::Events::new(path.clone(), Duration::ZERO);
    let (before, problems) = gpu::read_with(&root, Some(&path));
    let events_before = events.poll().len();
    symlink(library, &path).expect("a link");
    let (after, problems_after) = gpu::read_with(&root, Some(&path));
    events.poll();
    happen("xid 0 79\n");
    json!({
        "problems before": problems.len(),
        "gpus before": before.expect("GPUs").len(),
        "events before": events_before,
        "problems after": problems_after.len(),
        "memory after": after.expect("GPUs")[0].vram,
        "events after": events.poll().len(),
    })
}

#[test]
fn events_are_told_once_and_a_lost_gpu_comes_back() {
    let control = tempfile::NamedTempFile::new().expect("a control file");
    let task = json!({ "task": "events", "library": library("purlin_nvml_fixture") });
    let Some(told) = in_child(task, &profile(), Some(control.path())) else { return };
    let text = |step: &Value| format!("{step}\n");
    let told: String = told.as_array().expect("steps").iter().map(text).collect();
    expect![[r#"
        [{"kind":{"xid":{"code":79,"text":"the GPU fell off the bus; check power, slot and temperature, then power-cycle"}},"pci":"0000:07:00.0"},{"kind":"ecc_double","pci":"0000:0f:00.0"}]
        [{"kind":"lost","pci":"0000:0f:00.0"}]
        [{"kind":"back","pci":"0000:0f:00.0"}]
        [{"kind":"mig_changed","pci":"0000:07:00.0"},{"kind":{"xid":{"code":94,"text":"uncorrectable memory error, contained to one program"}},"pci":"0000:0f:00.0"}]
    "#]].assert_eq(&told);
}

/// What is told after each thing that happens.
fn events(library: &Path) -> Value {
    let mut events = gpu::Events::new(library.to_owned(), Duration::ZERO);
    let mut told = vec![json!(events.poll())];
    for lines in
        ["xid 0 79\necc 1\n", "", "lost 1\n", "xid 1 48\n", "found 1\n", "xid 1 94\nmig 0\n"]
    {
        happen(lines);
        told.push(json!(events.poll()));
    }
    told.retain(|step| *step != json!([]));
    json!(told)
}

/// Adds to the fixture's control file, if there is one.
fn happen(lines: &str) {
    let Some(path) = std::env::var_os("PURLIN_NVML_CONTROL") else { return };
    let text = fs::read_to_string(&path).unwrap_or_default() + lines;
    fs::write(path, text).expect("a control file");
}

#[test]
fn without_nvidias_driver_its_library_is_not_missed() {
    let tree = Tree::new();
    function(&tree, "0000:01:00.0", "0x10de\n", "0x030000\n", "vfio-pci");
    function(&tree, "0000:02:00.0", "0x1af4\n", "0x030000\n", "virtio-pci");
    let root = tree.root();
    let (gpus, problems) = gpu::read_with(&root, Some(Path::new("/nowhere/libnvidia-ml.so.1")));
    assert_eq!(problems, []);
    let kinds: Vec<GpuKind> = gpus.expect("GPUs").iter().map(|gpu| gpu.kind).collect();
    assert_eq!(kinds, [GpuKind::Compute, GpuKind::Display]);
}

#[test]
fn slices_are_virtual_functions_and_mediated_devices() {
    let tree = Tree::new();
    function(&tree, "0000:01:00.0", "0x8086\n", "0x038000\n", "i915");
    tree.file("sys/bus/pci/devices/0000:01:00.0/sriov_numvfs", "2\n");
    for (number, vf) in ["0000:01:00.1", "0000:01:00.2"].iter().enumerate() {
        function(&tree, vf, "0x8086\n", "0x038000\n", "vfio-pci");
        tree.link(&format!("sys/bus/pci/devices/{vf}/physfn"), "../0000:01:00.0");
        tree.link(
            &format!("sys/bus/pci/devices/{vf}/iommu_group"),
            "../../../kernel/iommu_groups/7",
        );
        tree.link(&format!("sys/bus/pci/devices/0000:01:00.0/virtfn{number}"), &format!("../{vf}"));
    }
    let types = "sys/class/mdev_bus/0000:01:00.2/mdev_supported_types/nvidia-222";
    tree.file(&format!("{types}/name"), "GRID T4-1B\n");
    tree.file(&format!("{types}/available_instances"), "15\n");
    tree.file(&format!("{types}/description"), "num_heads=4, framebuffer=1024M\n");
    let uuid = "c0ffee00-0000-4000-8000-000000000001";
    tree.file(&format!("{types}/devices/{uuid}/uevent"), "");
    let (gpus, problems) = gpu::read_with(&tree.root(), None);
    assert_eq!(problems, []);
    let gpus = gpus.expect("GPUs");
    assert_eq!(gpus.len(), 1, "VFs are no GPUs of their own");
    let told: Vec<_> =
        gpus[0].slices.iter().map(|it| (it.kind, it.id.as_str(), it.available)).collect();
    assert_eq!(
        told,
        [
            (SliceKind::Vf, "0000:01:00.1", None),
            (SliceKind::Mdev, uuid, None),
            (SliceKind::MdevType, "nvidia-222", Some(15)),
        ]
    );
    assert_eq!(gpus[0].slices[0].iommu_group, Some(7));
    assert_eq!(gpus[0].slices[1].memory, Some(1 << 30));
    assert!(gpus[0].slices.iter().all(|slice| slice.parent == "0000:01:00.0"));
}

#[test]
fn a_vgpu_may_be_a_virtual_function_of_nvidias_driver() {
    let tree = Tree::new();
    function(&tree, "0000:41:00.0", "0x10de\n", "0x030200\n", "nvidia");
    tree.file("sys/bus/pci/devices/0000:41:00.0/sriov_numvfs", "3\n");
    let types = "ID    : vGPU Name\n1414  : NVIDIA H200X-1-18C\n1428  : NVIDIA H200X-141C\n";
    for (number, current, types) in [(0, "1414\n", ""), (1, "0\n", types), (2, "77\n", "")] {
        let vf = format!("0000:41:00.{}", number + 4);
        function(&tree, &vf, "0x10de\n", "0x030200\n", "nvidia");
        let device = format!("sys/bus/pci/devices/{vf}");
        tree.link(&format!("{device}/physfn"), "../0000:41:00.0");
        tree.link(&format!("sys/bus/pci/devices/0000:41:00.0/virtfn{number}"), &format!("../{vf}"));
        tree.file(&format!("{device}/nvidia/creatable_vgpu_types"), types);
        tree.file(&format!("{device}/nvidia/current_vgpu_type"), current);
    }
    let (gpus, problems) = gpu::read_with(&tree.root(), None);
    assert_eq!(problems, []);
    let slices = &gpus.expect("GPUs")[0].slices;
    let told: Vec<_> = slices
        .iter()
        .map(|it| (it.kind, it.id.as_str(), it.profile.as_deref(), it.available))
        .collect();
    assert_eq!(
        told,
        [
            (SliceKind::Vf, "0000:41:00.4", Some("NVIDIA H200X-1-18C"), None),
            (SliceKind::Vf, "0000:41:00.5", None, None),
            (SliceKind::Vf, "0000:41:00.6", Some("vGPU type 77"), None),
            (SliceKind::VgpuType, "nvidia-1414", Some("NVIDIA H200X-1-18C"), Some(1)),
            (SliceKind::VgpuType, "nvidia-1428", Some("NVIDIA H200X-141C"), Some(1)),
        ]
    );
}

#[test]
fn a_sleeping_gpu_is_not_asked_what_would_wake_it() {
    let tree = Tree::new();
    function(&tree, "0000:03:00.0", "0x1002\n", "0x030000\n", "amdgpu");
    let device = "sys/bus/pci/devices/0000:03:00.0";
    tree.file(&format!("{device}/mem_info_vram_total"), "17163091968\n");
    tree.file(&format!("{device}/gpu_busy_percent"), "3\n");
    tree.file(&format!("{device}/hwmon/hwmon0/temp1_input"), "56000\n");
    let read = || gpu::read(&tree.root()).0.expect("GPUs").remove(0);
    assert_eq!((read().busy, read().temperatures.len()), (Some(3), 1));
    tree.file(&format!("{device}/power/runtime_status"), "suspended\n");
    assert_eq!((read().busy, read().temperatures.len()), (None, 0));
    assert_eq!(read().vram, Some(17_163_091_968));
}

/// Files that a GPU is read from, filled with what they never hold.
#[test]
fn nonsense_takes_no_gpu_away() {
    const FILES: [&str; 16] = [
        "numa_node",
        "current_link_speed",
        "sriov_numvfs",
        "mem_info_vram_total",
        "gpu_busy_percent",
        "pp_dpm_sclk",
        "unique_id",
        "gpu_metrics",
        "ras/umc_err_count",
        "ras/gpu_vram_bad_pages",
        "hwmon/hwmon0/temp1_input",
        "hwmon/hwmon0/temp1_label",
        "hwmon/hwmon0/power1_average",
        "drm/card0/gt_act_freq_mhz",
        "tile0/gt0/freq0/act_freq",
        "tile0/gt0/freq0/throttle/reason_pl1",
    ];
    let long = "9".repeat(5000);
    let nonsense: [&[u8]; 6] =
        [b"", b"\xff\xfe\0", b"-1", b":::\n:", "²\n1:é".as_bytes(), long.as_bytes()];
    for content in nonsense {
        let tree = Tree::new();
        for (address, vendor, driver) in [
            ("0000:01:00.0", "0x1002", "amdgpu"),
            ("0000:02:00.0", "0x8086", "xe"),
            ("0000:03:00.0", "0x8086", "i915"),
            ("0000:04:00.0", "0x10de", "nvidia"),
        ] {
            function(&tree, address, vendor, "0x030000", driver);
            for file in FILES {
                tree.file(&format!("sys/bus/pci/devices/{address}/{file}"), content);
            }
            let told = format!("proc/driver/nvidia/gpus/{address}/information");
            tree.file(&told, [b"Device Minor: 0\nGPU UUID:", content].concat());
        }
        tree.file("proc/driver/nvidia/capabilities/gpu0/mig/gi1/access", content);
        let (gpus, _) = gpu::read(&tree.root());
        assert_eq!(gpus.map(|gpus| gpus.len()), Some(4), "{content:?}");
    }
}

#[test]
fn a_table_of_nonsense_is_a_problem_that_names_its_file() {
    let tree = Tree::new();
    function(&tree, "0000:03:00.0", "0x1002\n", "0x030000\n", "amdgpu");
    let path = "sys/bus/pci/devices/0000:03:00.0/gpu_metrics";
    tree.file(path, [8, 0, 7, 7, 0, 0, 0, 0]);
    let (gpus, problems) = gpu::read(&tree.root());
    assert_eq!(gpus.map(|gpus| gpus.len()), Some(1));
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].at, format!("/{path}"));
    assert_eq!(problems[0].what, "table of revision 7.7 is not known here");
}

fn corpus(part: &str) -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
    let corpus = std::env::var_os("PURLIN_CORPUS").map_or_else(beside, PathBuf::from).join(part);
    if !corpus.is_dir() {
        println!("skipped: no {} (set PURLIN_CORPUS)", corpus.display());
        return None;
    }
    Some(corpus)
}

/// The four real profiles: what the library says of each GPU is what we say.
#[test]
fn nvml_profiles_of_real_gpus_read_as_they_say() {
    let Some(corpus) = corpus("nvml-profiles") else { return };
    let mut read = 0;
    for entry in fs::read_dir(corpus).expect("profiles") {
        let path = entry.expect("a profile").path();
        let text = fs::read_to_string(&path).expect("a profile");
        let profile: Value = serde_saphyr::from_str(&text).expect("YAML");
        let devices = profile["devices"].as_array().expect("devices");
        let bus_id =
            |device: &Value| device["pci"]["bus_id"].as_str().expect("an id").to_lowercase();
        let root = nvidia(&devices.iter().map(bus_id).collect::<Vec<_>>());
        let Some((gpus, problems)) = read_in_child(&root, &path, None) else { return };
        assert_eq!(problems, [], "{}", path.display());
        let gpus = gpus.expect("GPUs");
        assert_eq!(gpus.len(), devices.len());
        for device in devices {
            let gpu = gpus.iter().find(|gpu| gpu.pci == bus_id(device)).expect("the GPU");
            agrees(gpu, &profile, device);
            read += 1;
        }
    }
    assert!(read > 0, "there is a profile");
}

fn agrees(gpu: &Gpu, profile: &Value, device: &Value) {
    let all = &profile["device_defaults"];
    let own = |name: &str| if device[name].is_null() { &all[name] } else { &device[name] };
    let links = profile["nvlink"]["links_per_gpu"].as_u64().unwrap_or_default() as usize;
    let rows = &all["remapped_rows"]["correctable"];
    let ours = json!({
        "name": gpu.name, "uuid": gpu.uuid, "serial": gpu.serial, "part": gpu.board_part,
        "vbios": gpu.vbios, "driver": gpu.driver_version, "memory": gpu.vram, "used": gpu.vram_used,
        "busy": gpu.busy, "clock": gpu.clocks.core, "most": gpu.clocks.core_max,
        "memory clock": gpu.clocks.memory, "state": gpu.performance,
        "power": gpu.power.map(|watts| (watts * 1000.0) as u64),
        "limits": gpu.power_range.map(|it| [it.min, it.default, it.max].map(|it| it.map(|w| w * 1000.0))),
        "temperature": gpu.temperatures["gpu"] as u64,
        "ecc": gpu.ecc.as_ref().and_then(|ecc| ecc.corrected_total),
        "rows": gpu.remapped.as_ref().and_then(|rows| rows.correctable),
        "links": gpu.nvlinks.iter().filter(|link| link.active).count(),
        "width": gpu.link.map(|link| link.width),
        "peers": gpu.peers.len(),
    });
    let theirs = json!({
        "name": all["name"], "uuid": own("uuid"), "serial": own("serial"),
        "part": all["board_part_number"], "vbios": all["vbios_version"],
        "driver": profile["system"]["driver_version"], "memory": all["memory"]["total_bytes"],
        "used": all["memory"]["used_bytes"], "busy": all["utilization"]["gpu"],
        "clock": all["clocks"]["sm_current"], "most": all["clocks"]["sm_max"],
        "memory clock": all["clocks"]["memory_current"], "state": all["performance_state"],
        "power": all["power"]["current_draw_mw"],
        "limits": all["power"]["min_limit_mw"].as_f64().map(|_| {
            ["min", "default", "max"].map(|it| all["power"][format!("{it}_limit_mw")].as_f64())
        }),
        "temperature": all["thermal"]["temperature_gpu_c"],
        "ecc": all["ecc"]["errors"]["aggregate"]["single_bit"]["total"],
        "rows": rows, "links": links, "width": all["pcie"]["current_link_width"],
        "peers": profile["devices"].as_array().expect("devices").len() - 1,
    });
    assert_eq!(ours, theirs, "{}", gpu.pci);
}

/// Facts where we differ on purpose from what the other reader said of a card.
const EXCEPTIONS: [(&str, &str, &str); 1] = [(
    "amd_hd7870",
    "temperature 1",
    "a sensor without a label is `gpu` here, whatever its driver, and a number there",
)];

#[test]
fn cards_of_real_machines_read_as_another_reader_says() {
    let Some(corpus) = corpus("gpu-drm") else { return };
    let (mut compared, mut differ) = (0, Vec::new());
    for entry in fs::read_dir(&corpus).expect("cards") {
        let path = entry.expect("a card").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let Some(card) = name.strip_suffix(".tar.xz") else { continue };
        let gpu = read_card(&path);
        let expected = corpus.join(format!("{card}.expected.yaml"));
        let text = fs::read_to_string(expected).expect("what another reader says");
        // A header in YAML, then the answer.
        let answer = text.splitn(3, "---").nth(2).expect("an answer");
        let theirs = facts(&serde_json::from_str(answer).expect("JSON"));
        let ours = our_facts(&gpu);
        for (fact, theirs) in theirs {
            compared += 1;
            let same = ours.get(&fact).is_some_and(|ours| is_same(ours, &theirs));
            let known = EXCEPTIONS.iter().any(|it| (it.0, it.1) == (card, fact.as_str()));
            if same == known {
                differ.push(format!("{card}: {fact} is {:?}, expected {theirs}", ours.get(&fact)));
            }
        }
    }
    for (card, fact, reason) in EXCEPTIONS {
        println!("{card}: {fact} is not compared: {reason}");
    }
    println!("{compared} facts compared");
    assert!(differ.is_empty(), "{differ:#?}");
    assert!(compared > 100, "only {compared} facts were compared");
}

/// Puts a `cardN` directory where the kernel shows it, and reads it.
fn read_card(archive: &Path) -> Gpu {
    let unpacked = tempfile::tempdir().expect("a temporary directory");
    let tar = Command::new("tar").arg("xJf").arg(archive).arg("-C").arg(unpacked.path()).status();
    assert!(tar.expect("tar runs").success(), "{} unpacks", archive.display());
    let name = ["card0", "card1"].into_iter().find(|name| unpacked.path().join(name).is_dir());
    let card = unpacked.path().join(name.expect("a card"));
    let text = fs::read_to_string(card.join("device/uevent")).expect("what the card is");
    let value = |key: &str| text.lines().find_map(|line| line.trim_matches('\0').strip_prefix(key));
    let root = tempfile::tempdir().expect("a temporary directory");
    let address = value("PCI_SLOT_NAME=").expect("an address");
    let device = root.path().join("sys/bus/pci/devices").join(address);
    fs::create_dir_all(device.parent().expect("a parent")).expect("a directory");
    fs::rename(card.join("device"), &device).expect("the device moves");
    fs::create_dir_all(device.join("drm")).expect("a directory");
    fs::rename(&card, device.join("drm").join(name.expect("a card"))).expect("the card moves");
    let class = value("PCI_CLASS=").expect("a class");
    fs::write(device.join("class"), format!("0x{class:0>6}\n")).expect("a class");
    symlink(format!("../{}", value("DRIVER=").expect("a driver")), device.join("driver"))
        .expect("a link");
    let (gpus, problems) = gpu::read(&Root::dump(root.path()).expect("a root"));
    assert_eq!(problems, [], "{}", archive.display());
    gpus.expect("GPUs").remove(0)
}

/// What the other reader says and our schema has a word for. Not compared:
/// voltages and fan settings (the sensor part has them), overclocking tables,
/// power profiles, names from `pci.ids` (the PCI part), Vulkan and OpenCL.
fn facts(theirs: &Value) -> BTreeMap<String, Value> {
    let mut facts = BTreeMap::new();
    let pointers = [
        ("driver", "/info/driver"),
        ("vbios", "/info/vbios_version"),
        ("link speed", "/info/link_info/current_speed"),
        ("link width", "/info/link_info/current_width"),
        ("link speed max", "/info/link_info/max_speed"),
        ("link width max", "/info/link_info/max_width"),
        ("memory", "/stats/vram/total"),
        ("memory used", "/stats/vram/used"),
        ("busy", "/stats/busy_percent"),
        ("core clock", "/stats/clockspeed/gpu_clockspeed"),
        ("memory clock", "/stats/clockspeed/vram_clockspeed"),
        ("power", "/stats/power/average"),
        ("power limit", "/stats/power/cap_current"),
        ("fan", "/stats/fan/speed_current"),
        ("performance", "/stats/performance_level"),
        ("throttle", "/stats/throttle_info"),
    ];
    for (name, pointer) in pointers {
        facts.extend(theirs.pointer(pointer).map(|value| (name.to_owned(), value.clone())));
    }
    // Of Intel's it takes the limit for the default, and the critical power for the most.
    if theirs["info"]["driver"] == "amdgpu" {
        for bound in ["min", "default", "max"] {
            let value = &theirs["stats"]["power"][format!("cap_{bound}")];
            facts.insert(format!("power limit {bound}"), value.clone());
        }
    }
    for (label, sensor) in theirs["stats"]["temps"].as_object().into_iter().flatten() {
        facts.insert(format!("temperature {label}"), sensor["current"].clone());
    }
    facts
}

fn our_facts(gpu: &Gpu) -> BTreeMap<String, Value> {
    let speed = |link: purlin_core::inventory::PciLink| format!("{:.1} GT/s PCIe", link.gt_per_s);
    let width = |link: purlin_core::inventory::PciLink| link.width.to_string();
    let mut facts = BTreeMap::from(
        [
            ("driver", json!(gpu.driver)),
            ("vbios", json!(gpu.vbios)),
            ("link speed", json!(gpu.link.map(speed))),
            ("link width", json!(gpu.link.map(width))),
            ("link speed max", json!(gpu.link_max.map(speed))),
            ("link width max", json!(gpu.link_max.map(width))),
            ("memory", json!(gpu.vram)),
            ("memory used", json!(gpu.vram_used)),
            ("busy", json!(gpu.busy)),
            ("core clock", json!(gpu.clocks.core)),
            ("memory clock", json!(gpu.clocks.memory)),
            ("power", json!(gpu.power)),
            ("power limit", json!(gpu.power_limit)),
            ("power limit default", json!(gpu.power_range.and_then(|it| it.default))),
            ("power limit min", json!(gpu.power_range.and_then(|it| it.min))),
            ("power limit max", json!(gpu.power_range.and_then(|it| it.max))),
            ("fan", json!(gpu.fan_rpm)),
            ("performance", json!(gpu.performance)),
            // The other reader has an object of reasons.
            (
                "throttle",
                json!(gpu.throttle.as_ref().map(|reasons| {
                    reasons.iter().map(|it| (it, true)).collect::<BTreeMap<_, _>>()
                })),
            ),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    for (label, degrees) in &gpu.temperatures {
        facts.insert(format!("temperature {label}"), json!(degrees));
    }
    facts
}

/// The other reader cuts hundredths of a degree off.
fn is_same(ours: &Value, theirs: &Value) -> bool {
    match (ours.as_f64(), theirs.as_f64()) {
        (Some(ours), Some(theirs)) => (0.0..1.0).contains(&(ours - theirs)),
        _ => ours == theirs,
    }
}

#[test]
fn files_of_nvidias_driver_are_those_of_its_version_by_all_their_names() {
    let tree = Tree::new();
    assert!(gpu::nvidia_files(&tree.root()).is_empty(), "without the driver");
    tree.file("sys/module/nvidia/version", "550.54.15\n");
    let lib = "usr/lib/x86_64-linux-gnu";
    for name in ["libcuda.so.550.54.15", "libnvidia-ml.so.550.54.15", "libnvidia-ml.so.535.1.2"] {
        tree.file(&format!("{lib}/{name}"), "");
    }
    tree.link(&format!("{lib}/libcuda.so.1"), "libcuda.so.550.54.15");
    tree.link(&format!("{lib}/libcuda.so"), "libcuda.so.1");
    // What leads out of the directory, or to another version, is not the driver's.
    tree.link(&format!("{lib}/libnvidia-ml.so.1"), "libnvidia-ml.so.535.1.2");
    tree.link(&format!("{lib}/libelse.so.1"), "/etc/alternatives/else.so.550.54.15");
    tree.file("usr/bin/nvidia-smi", "").file("lib/firmware/nvidia/550.54.15/gsp_ga10x.bin", "");
    // An installer of its own tells the dynamic linker.
    tree.file("etc/ld.so.conf", "include /etc/ld.so.conf.d/*.conf\n");
    tree.file("etc/ld.so.conf.d/nvidia.conf", "# GPU\n/usr/local/nvidia/lib64\n");
    tree.file("usr/local/nvidia/lib64/libnvoptix.so.550.54.15", "");
    let files = gpu::nvidia_files(&tree.root());
    let lines: Vec<String> = files.iter().map(|(host, at)| format!("{at} <- {host}\n")).collect();
    expect![[r#"
        /lib/firmware/nvidia/550.54.15/gsp_ga10x.bin <- /lib/firmware/nvidia/550.54.15/gsp_ga10x.bin
        /usr/bin/nvidia-smi <- /usr/bin/nvidia-smi
        /usr/lib/x86_64-linux-gnu/libcuda.so <- /usr/lib/x86_64-linux-gnu/libcuda.so.550.54.15
        /usr/lib/x86_64-linux-gnu/libcuda.so.1 <- /usr/lib/x86_64-linux-gnu/libcuda.so.550.54.15
        /usr/lib/x86_64-linux-gnu/libcuda.so.550.54.15 <- /usr/lib/x86_64-linux-gnu/libcuda.so.550.54.15
        /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.550.54.15 <- /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.550.54.15
        /usr/local/nvidia/lib64/libnvoptix.so.550.54.15 <- /usr/local/nvidia/lib64/libnvoptix.so.550.54.15
    "#]]
    .assert_eq(&lines.concat());
}
