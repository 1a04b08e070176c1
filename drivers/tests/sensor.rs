//! What sensors tell beside their reading, and what must not be believed.

use std::{fs, os::unix::fs::symlink, path::PathBuf};

use expect_test::{Expect, expect};
use purlin_core::{
    inventory::{PartData, Sensor},
    metric::Sampler,
};
use purlin_drivers::{Part, Root};
use tempfile::TempDir;

struct Machine(TempDir);

impl Machine {
    fn new() -> Self {
        let machine = Self(tempfile::tempdir().expect("a temporary directory"));
        fs::create_dir_all(machine.0.path().join("sys/class/hwmon")).expect("a directory");
        machine
    }

    fn at(&self, path: &str) -> PathBuf {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        path
    }

    fn files(self, dir: &str, files: &[(&str, &str)]) -> Self {
        for (name, content) in files {
            fs::write(self.at(&format!("{dir}/{name}")), format!("{content}\n")).expect("a file");
        }
        self
    }

    fn link(self, path: &str, target: &str) -> Self {
        symlink(target, self.at(path)).expect("a link");
        self
    }

    fn root(&self) -> Root {
        Root::dump(self.0.path()).expect("a dump's root")
    }

    fn read(&self) -> Vec<Sensor> {
        let (data, problems) = purlin_drivers::read(Part::Sensor, &self.root());
        assert_eq!(problems, []);
        let Some(PartData::Sensor(sensors)) = data else { panic!("no sensors") };
        sensors
    }
}

const CHIP: &str = "sys/class/hwmon/hwmon0";

#[track_caller]
fn check(sensors: &[Sensor], expected: Expect) {
    let line = |sensor: &Sensor| {
        let Sensor { device, label, kind, value, limits, alarm, fault, .. } = sensor;
        let limits = [limits.lcrit, limits.min, limits.max, limits.crit, limits.cap];
        format!("{device} {label} {kind:?} {value:?} {limits:?} {alarm:?} {fault:?}\n")
    };
    let text: String = sensors.iter().map(line).collect();
    expected.assert_eq(&text.replace("Some(", "").replace("),", ",").replace(") ", " "));
}

#[test]
fn each_kind_reads_in_its_unit_with_its_limits() {
    let machine = Machine::new().files(
        CHIP,
        &[
            ("name", "chip"),
            ("curr1_input", "1500"),
            ("energy1_input", "2000000"),
            ("fan1_input", "4200"),
            ("fan1_min", "500"),
            ("humidity1_input", "45500"),
            ("in0_input", "12100"),
            ("in0_lcrit", "10000"),
            ("intrusion0_alarm", "1"),
            ("power1_average", "350000000"),
            ("power1_input", "360000000"),
            ("power1_cap", "400000000"),
            ("temp1_input", "-5000"),
            ("temp1_max", "80000"),
            ("temp1_crit", "90000"),
            ("temp1_max_alarm", "0"),
            ("temp1_crit_alarm", "1"),
        ],
    );
    check(
        &machine.read(),
        expect![[r#"
        chip at hwmon0 curr1 Current 1.5 [None, None, None, None, None] None None
        chip at hwmon0 energy1 Energy 2.0 [None, None, None, None, None] None None
        chip at hwmon0 fan1 Fan 4200.0 [None, 500.0, None, None, None] None None
        chip at hwmon0 humidity1 Humidity 45.5 [None, None, None, None, None] None None
        chip at hwmon0 in0 Voltage 12.1 [10.0, None, None, None, None] None None
        chip at hwmon0 intrusion0 Intrusion 1.0 [None, None, None, None, None] None None
        chip at hwmon0 power1 Power 360.0 [None, None, None, None, 400.0)] None None
        chip at hwmon0 temp1 Temperature -5.0 [None, None, 80.0, 90.0, None] true None
    "#]],
    );
}

#[test]
fn a_faulty_sensor_has_no_reading_and_is_not_sampled() {
    let chip = [("name", "chip"), ("temp1_input", "0"), ("temp1_fault", "1")];
    let machine = Machine::new().files(CHIP, &chip);
    check(
        &machine.read(),
        expect![[r#"
        chip at hwmon0 temp1 Temperature None [None, None, None, None, None] None true)
    "#]],
    );
    let (points, _) = purlin_drivers::sample(Sampler::Temperature, &machine.root());
    assert_eq!(points, []);
}

#[test]
fn a_chip_is_at_its_pci_function_and_node() {
    let device = "sys/devices/pci0000:40/0000:40:01.1/0000:41:00.0";
    let machine = Machine::new()
        .files(&format!("{device}/nvme/nvme3/hwmon0"), &[("name", "nvme"), ("temp1_input", "1000")])
        .files("sys/bus/pci/devices/0000:41:00.0", &[("numa_node", "1")])
        .link(&format!("{device}/nvme/nvme3/hwmon0/device"), "../../nvme3")
        .link(CHIP, &format!("../../../{device}/nvme/nvme3/hwmon0"));
    let sensors = machine.read();
    assert_eq!(sensors[0].device, "nvme at 0000:41:00.0");
    assert_eq!((sensors[0].pci.as_deref(), sensors[0].node), (Some("0000:41:00.0"), Some(1)));
}

#[test]
fn a_zone_that_hwmon_shows_is_not_told_twice() {
    let zone = |number: u32| format!("sys/class/thermal/thermal_zone{number}");
    let machine = Machine::new()
        .files(CHIP, &[("name", "soc_thermal"), ("temp1_input", "40000")])
        .files(&zone(0), &[("type", "soc-thermal"), ("temp", "40000")])
        .files(&zone(1), &[("type", "gpu-thermal"), ("temp", "41000")]);
    check(
        &machine.read(),
        expect![[r#"
        soc_thermal at hwmon0 temp1 Temperature 40.0 [None, None, None, None, None] None None
        thermal_zone1 gpu-thermal Temperature 41.0 [None, None, None, None, None] None None
    "#]],
    );
}
