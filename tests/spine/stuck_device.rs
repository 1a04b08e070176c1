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
        test("a_command_ends_beside_disks_that_never_answer", 120, commands_end)
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

/// What the disks of the machine with dead ones are known to be.
const STATES: [&str; 5] =
    ["nvme7: unknown", "nvme8: ok", "nvme7n1: unknown", "nvme8n1: ok", "sdy: unknown"];

/// Two NVMe controllers, seen live, and an ATA disk; the ioctls that ask the first
/// and the last one about their health hang in the kernel.
struct Disks {
    dead: [StuckFile; 2],
    well: StuckFile,
}

fn disks(lab: &Lab, node: &mut Node) -> Result<Disks> {
    for (number, serial) in [(7, "DEAD"), (8, "WELL")] {
        let dir = format!("sys/class/nvme/nvme{number}");
        for (name, content) in [("transport", "pcie"), ("state", "live"), ("serial", serial)] {
            lab.file(&format!("{dir}/{name}"), content)?;
        }
        lab.file(&format!("sys/block/nvme{number}n1/size"), "8\n")?;
        let device = lab.dir().join(format!("sys/block/nvme{number}n1/device"));
        symlink(format!("../../class/nvme/nvme{number}"), device)?;
    }
    let target = "devices/ata9/host9/target9:0:0/9:0:0:0";
    lab.file(&format!("sys/{target}/vendor"), "ATA     \n")?;
    lab.file(&format!("sys/{target}/scsi_generic/sg9/dev"), "21:9\n")?;
    lab.file("sys/block/sdy/size", "8\n")?;
    symlink(format!("../../{target}"), lab.dir().join("sys/block/sdy/device"))?;
    fs::create_dir_all(lab.dir().join("sys/devices/system/cpu"))?;
    lab.file("dev/null", "")?;
    let dead = [lab.file("dev/nvme7", "")?, lab.file("dev/sg9", "")?];
    let [nvme, sg] = dead.map(|path| StuckFile::mount(&path));
    let dead = [nvme?, sg?];
    let well = StuckFile::mount_well(&lab.file("dev/nvme8", "")?)?;
    let lab_dir = lab.dir().display().to_string();
    let runner = ["unshare", "--mount", "sh", "-c", IN_MADE_UP_MACHINE, &lab_dir];
    let binary = node.binary().to_owned();
    node.run_with(&runner, &binary);
    Ok(Disks { dead, well })
}

fn dead_disk(lab: &Lab) -> Result {
    let mut node = Node::new(lab, "dead")?;
    let Disks { dead, well } = disks(lab, &mut node)?;
    node.start()?;
    let status = wait::until("two stuck helpers", NOTICED, || {
        let status = node.status().map_err(|e| format!("{e:?}"))?;
        let stuck = status.helper.stuck_pids.len();
        let asked = well.reads();
        if stuck == 2 && asked >= 3 { Ok(status) } else { Err(format!("{:?}", status.helper)) }
    })?;
    for &stuck in &status.helper.stuck_pids {
        ensure!(lives(stuck), "helper {stuck} is gone: it was not stuck");
    }
    // The dead ones hang at the first of three questions and are asked no second, the
    // other answers all of them.
    let hung = dead.each_ref().map(StuckFile::reads);
    let answered = well.reads();
    ensure!(hung == [1, 1] && answered == 3, "{hung:?} hang, {answered} were answered");
    node.stop()?;
    drop(dead);
    wait::until("the kernel lets go of the helpers", PROMPT * 5, || {
        match status.helper.stuck_pids.iter().find(|pid| lives(**pid)) {
            Some(pid) => Err(format!("{pid} still lives")),
            None => Ok(()),
        }
    })
}

/// A command leaves behind what is stuck, and nobody who waits for it or for the end
/// of its output waits for that.
fn commands_end(lab: &Lab) -> Result {
    let mut node = Node::new(lab, "dead")?;
    let Disks { dead, well } = disks(lab, &mut node)?;
    let inventory: Value = node.json(&["hw", "list"])?;
    ensure!(health(&inventory) == STATES, "{inventory}");
    let told = inventory["problems"].as_array().into_iter().flatten().any(|problem| {
        let what = problem["what"].as_str().unwrap_or_default();
        problem["at"] == "nvme7, sdy" && what.contains("no answer within")
    });
    ensure!(told, "{inventory}");
    let hung = dead.each_ref().map(StuckFile::reads);
    ensure!(hung == [1, 1] && well.reads() == 3, "{hung:?} hang, {} were answered", well.reads());

    let dump = lab.dir().join("dump.tar.gz").display().to_string();
    let gathered = node.cli(&["hw", "gather", &dump])?;
    ensure!(gathered.code == 0, "{gathered:?}");
    let read: Value = node.json(&["hw", "list", "--root", &dump])?;
    ensure!(read["storage"]["disks"].as_array().map(Vec::len) == Some(3), "{read}");
    Ok(())
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
