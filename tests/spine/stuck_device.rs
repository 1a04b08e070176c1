//! A device that never answers costs one helper and never the agent.

use std::{
    fs,
    os::unix::fs::symlink,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use purlin_tests::{
    Lab, Need, Node, Result, ensure,
    lab::Test,
    process::{Process, lives},
    stuck::StuckFile,
    test, wait,
};
use serde_json::Value;

/// How soon a command must be answered, whatever a device does.
const PROMPT: Duration = Duration::from_secs(1);
/// How long the helper's deadlines may add up to before the fault shows.
const NOTICED: Duration = Duration::from_secs(60);

pub fn tests() -> Vec<Test> {
    let name = "a_file_that_never_answers_is_a_fault_and_not_a_hung_agent";
    let tests = [
        test(name, 180, never_answers),
        test("a_disk_that_never_answers_costs_its_own_health_only", 180, dead_disk)
            .needs(&[Need::Program("unshare")]),
        test("sigkill_does_not_end_the_reader_of_such_a_file", 30, unkillable),
    ];
    tests.into_iter().map(|test| test.needs(&[Need::Fuse])).collect()
}

/// The file itself: else the test of the agent would prove nothing.
fn unkillable(lab: &Lab) -> Result {
    let path = lab.file("device", "")?;
    let stuck = StuckFile::mount(&path)?;
    let reader = Process::start(Command::new("cat").arg(&path).stderr(Stdio::null()))?;
    wait::until("the read arrives", PROMPT, || match stuck.reads() {
        0 => Err("no read".to_owned()),
        _ => Ok(()),
    })?;
    reader.signal(Signal::SIGKILL)?;
    ensure!(reader.wait(PROMPT).is_err(), "SIGKILL ended the reader");
    drop(stuck);
    reader.wait(PROMPT)?;
    Ok(())
}

fn never_answers(lab: &Lab) -> Result {
    let stuck = StuckFile::mount(&made_up_machine(lab)?)?;
    let mut node = Node::new(lab, "stuck")?;
    node.set("PURLIN_TEST__ROOT", lab.dir().join("root"));
    node.start()?;

    let mut slowest = Duration::ZERO;
    let status = wait::until("fault helper-stuck and a new helper", NOTICED, || {
        let began = Instant::now();
        let status = node.status().map_err(|e| format!("{e:?}"))?;
        slowest = slowest.max(began.elapsed());
        let stuck = status.faults.iter().any(|fault| fault.id == "helper-stuck");
        let replaced = status.helper.abandoned > 0 && status.helper.pid.is_some();
        if stuck && replaced { Ok(status) } else { Err(format!("{:?}", status.helper)) }
    })?;
    ensure!(slowest < PROMPT, "an answer took {slowest:?}");
    ensure!(stuck.reads() > 0, "nobody read the file");
    let &abandoned = status.helper.stuck_pids.first().ok_or("no pid of the stuck helper")?;
    ensure!(lives(abandoned), "helper {abandoned} is gone: it was not stuck");

    let answer = node.cli(&["status"])?;
    ensure!(answer.code == 2, "status with a fault exits 2: {answer:?}");
    let stopped = node.stop()?;
    ensure!(lives(abandoned), "helper {abandoned} went with the agent: it was not stuck");

    let started = node.start()?;
    println!(
        "stuck device: slowest answer {slowest:?}, stopped in {stopped:?}, started again in \
         {started:?} beside helper {abandoned}, {} reads waiting",
        stuck.reads()
    );
    node.stop()?;

    drop(stuck);
    wait::until("the kernel lets go of the helper", PROMPT * 5, || match lives(abandoned) {
        true => Err(format!("{abandoned} still lives")),
        false => Ok(()),
    })
}

/// Puts the lab's `sys` and `dev` in place of the machine's, and runs the rest.
const IN_MADE_UP_MACHINE: &str = "mount --bind /dev/null \"$0/dev/null\" \
    && mount --rbind \"$0/dev\" /dev && mount --rbind \"$0/sys\" /sys && exec \"$@\"";

/// Two NVMe controllers, seen live; the ioctl that asks the first one about its
/// health hangs in the kernel.
fn dead_disk(lab: &Lab) -> Result {
    for (number, serial) in [(7, "DEAD"), (8, "WELL")] {
        let dir = format!("sys/class/nvme/nvme{number}");
        for (name, content) in [("transport", "pcie"), ("state", "live"), ("serial", serial)] {
            lab.file(&format!("{dir}/{name}"), content)?;
        }
        lab.file(&format!("sys/block/nvme{number}n1/size"), "8\n")?;
        let device = lab.dir().join(format!("sys/block/nvme{number}n1/device"));
        symlink(format!("../../class/nvme/nvme{number}"), device)?;
    }
    fs::create_dir_all(lab.dir().join("sys/devices/system/cpu"))?;
    lab.file("dev/null", "")?;
    let dead = StuckFile::mount(&lab.file("dev/nvme7", "")?)?;
    let well = StuckFile::mount_well(&lab.file("dev/nvme8", "")?)?;

    let mut node = Node::new(lab, "dead")?;
    let lab_dir = lab.dir().display().to_string();
    let runner = ["unshare", "--mount", "sh", "-c", IN_MADE_UP_MACHINE, &lab_dir];
    let binary = node.binary().to_owned();
    node.run_with(&runner, &binary);
    node.start()?;
    wait::until("the storage and a stuck helper", NOTICED, || {
        let inventory: Value = node.json(&["hw", "list"]).map_err(|e| format!("{e:?}"))?;
        let states = health(&inventory);
        let expected = ["nvme7: unknown", "nvme8: ok", "nvme7n1: unknown", "nvme8n1: ok"];
        let told = inventory["problems"].as_array().into_iter().flatten().any(|problem| {
            let what = problem["what"].as_str().unwrap_or_default();
            problem["at"] == "nvme7" && what.contains("its helper was abandoned")
        });
        if states == expected && told { Ok(()) } else { Err(format!("{inventory}")) }
    })?;
    let status = node.status().map_err(|e| format!("{e:?}"))?;
    let &[stuck] = &status.helper.stuck_pids[..] else {
        return Err(format!("one disk hangs: {:?}", status.helper).into());
    };
    ensure!(lives(stuck), "helper {stuck} is gone: it was not stuck");
    // The agent and the command ask for themselves: the dead one hangs at the first
    // of three questions and is asked no second, the other answers all of them.
    let (hung, answered) = (dead.reads(), well.reads());
    ensure!(hung >= 2 && answered == 3 * hung, "{hung} hang, {answered} were answered");
    node.stop()?;
    drop(dead);
    wait::until("the kernel lets go of the helper", PROMPT * 5, || match lives(stuck) {
        true => Err(format!("{stuck} still lives")),
        false => Ok(()),
    })
}

/// How controllers and disks are.
fn health(inventory: &Value) -> Vec<String> {
    let lists = ["controllers", "disks"].map(|list| inventory["storage"][list].as_array());
    let all = lists.into_iter().flatten().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    all.map(|it| format!("{}: {}", text(&it["name"]), text(&it["health"]["state"]))).collect()
}

/// A machine of one sensor; the path of its reading.
fn made_up_machine(lab: &Lab) -> Result<PathBuf> {
    let hwmon = "root/sys/class/hwmon/hwmon0";
    lab.file(&format!("{hwmon}/name"), "broken\n")?;
    for folder in ["root/proc", "root/sys/devices/system/cpu", "root/etc"] {
        fs::create_dir_all(lab.dir().join(folder))?;
    }
    lab.file(&format!("{hwmon}/temp1_input"), "")
}
