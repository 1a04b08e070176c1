//! A node as it is shipped that meets its rack's hardware: the agent, as a user of its own and
//! closed in by systemd and by itself, reads a BMC through its helper, feeds the machine's
//! watchdog, and has the machine switch itself off when its power policy says so.
//!
//! Not here: packages to cap (an emulated CPU has no RAPL) and GPUs. What the units need for
//! them is looked up in the units.

use std::{fs, time::Duration};

use purlin_tests::{Guest, Lab, Need, Result, ensure, guest::ROOT_BUS, lab::Test, test, wait};
use serde_json::Value;

use crate::{
    bmc::Bmc,
    installed::{DISK, active, boot, is_confined, show},
    watchdog::lives,
};

/// For what comes about through a BMC's bytes on an emulated CPU.
const SOON: Duration = Duration::from_secs(180);
/// After which the watchdog resets the machine.
const TIMEOUT: Duration = Duration::from_secs(30);
/// For systemd to stop everything: one service that doesn't end takes it 90 s.
const ORDERLY: Duration = Duration::from_secs(80);
/// What units have for hardware that no guest has.
const ELSEWHERE: [(&str, &str, &str); 5] = [
    ("purlin-helper@any.service", "ReadWritePaths", "/sys/devices/virtual/powercap"),
    ("purlin-gpu@any.service", "DeviceAllow", "char-nvidia rw"),
    ("purlin-gpu@any.service", "CapabilityBoundingSet", "cap_sys_admin"),
    ("purlind.service", "DeviceAllow", "char-nvidia rw"),
    ("purlind.service", "DeviceAllow", "char-ttyUSB rw"),
];

pub fn tests() -> Vec<Test> {
    let needs = [Need::Path(DISK), Need::Program("ipmi_sim"), Need::Program("sdrcomp")];
    vec![
        test("installed::a_node_meets_its_racks_hardware_and_goes_off_in_order", 900, meets)
            .needs(&needs),
    ]
}

fn meets(lab: &Lab) -> Result {
    let bmc = Bmc::start(lab)?;
    let mut words = Vec::from(bmc.words());
    words.push(("-device", format!("i6300esb,bus={ROOT_BUS}")));
    words.push(("-action", "watchdog=reset".into()));
    let mut guest = boot(lab, &words)?;
    let done = through_it_all(lab, &bmc, &mut guest);
    done.map_err(|failed| {
        let log = guest.output("purlin power show; journalctl --no-pager -b -q -n 60; true");
        let log = log.unwrap_or_else(|e| format!("no journal: {e:?}"));
        format!("{}\n--- what is told\n{log}", failed.message().unwrap_or("failed")).into()
    })
}

fn through_it_all(lab: &Lab, bmc: &Bmc, guest: &mut Guest) -> Result {
    let nodes = guest.output("stat -c '%n %U:%G %a' /dev/ipmi0 /dev/watchdog0")?;
    let right = "/dev/ipmi0 root:purlin 660\n/dev/watchdog0 root:purlin 660\n";
    ensure!(nodes == right, "{nodes}");
    for (unit, property, word) in ELSEWHERE {
        let is = show(guest, unit, property)?;
        ensure!(is.contains(word), "{property} of {unit} is {is}");
    }
    let file =
        format!("[watchdog]\\ndevice = \"/dev/watchdog0\"\\ntimeout_s = {}\\n", TIMEOUT.as_secs());
    guest.output(&format!("printf '{file}' >>/etc/purlin/purlin.toml"))?;
    guest.output("systemctl restart purlind.service")?;
    active(guest)?;

    wait::until("the BMC is read", SOON, || {
        let rack = guest.purlin("rack show").map_err(|e| format!("{e:?}"))?;
        let sensors = rack["bmc"]["sensors"].as_array().into_iter().flatten();
        let inlet = sensors.clone().find(|it| it["name"] == "Inlet Temp");
        if inlet.is_some_and(|it| it["value"] == 24.0) { Ok(()) } else { Err(rack.to_string()) }
    })?;
    let sandbox = guest.purlin("status")?["sandbox"].clone();
    ensure!(sandbox["seccomp"] == true && sandbox["landlock_abi"].is_number(), "{sandbox}");
    let agent: u32 = show(guest, "purlind.service", "MainPID")?.parse()?;
    // The helper alone has the BMC, the agent alone the watchdog, and neither a privilege.
    let holds_bmc = holders(guest, "/dev/ipmi0")?;
    ensure!(!holds_bmc.is_empty() && !holds_bmc.contains(&agent), "{holds_bmc:?}, agent {agent}");
    ensure!(holders(guest, "/dev/watchdog0")? == [agent], "who feeds the watchdog?");
    for pid in holds_bmc.into_iter().chain([agent]) {
        is_confined(guest, pid, "purlin", 0)?;
    }
    let timer = guest.output("cd /sys/class/watchdog/watchdog0 && cat state timeout")?;
    ensure!(timer == format!("active\n{}\n", TIMEOUT.as_secs()), "{timer}");
    lives(guest, TIMEOUT, "while it is fed")?;
    goes_off(lab, bmc, guest)
}

/// In two stages: work that can wait stands still, and then all ends in order.
fn goes_off(lab: &Lab, bmc: &Bmc, guest: &mut Guest) -> Result {
    let work = "trap \"echo the work ended in order >/dev/console; exit\" TERM; \
                while :; do sleep 0.2; done";
    guest.output(&format!("systemd-run --slice=box --unit=work sh -c '{work}'"))?;
    let document = "[power]\\nrecover_s = 1\\n\
        [[power.stages]]\\nname = \"input\"\\nwhen = [\"bmc.PS1_Status.input-lost*\"]\\n\
        cap_w = 50\\nshed = [\"box.slice\"]\\n\
        [[power.stages]]\\nname = \"last\"\\nwhen = [\"bmc.Inlet_Temp.*\"]\\n\
        flush = true\\nshutdown = true\\n";
    guest.output(&format!("printf '{document}' >/root/power.toml"))?;
    let applied = guest.run("purlin config apply /root/power.toml")?;
    ensure!(applied.code == 0, "{applied:?}");

    bmc.set("ps1-status", 0b1001)?;
    wait::until("the work stands still", SOON, || {
        let events = guest.output("cat /sys/fs/cgroup/box.slice/cgroup.events");
        let events = events.map_err(|e| format!("{e:?}"))?;
        if events.contains("frozen 1") { Ok(()) } else { Err(events) }
    })?;
    let power = guest.purlin("power show")?;
    println!("in the first stage: {power}");
    let stages = power["stages"].as_array().into_iter().flatten();
    let in_force: Vec<&Value> = stages.map(|it| &it["in_force"]).collect();
    ensure!(in_force == [true, false], "{power}");

    bmc.set("inlet", 52)?;
    let off = wait::until("systemd is told to power off", SOON, || {
        if guest.ended().map_err(|e| format!("{e:?}"))? {
            return Ok(());
        }
        let state = guest.run("systemctl is-system-running").map_err(|e| format!("{e:?}"))?;
        if state.stdout.trim() == "stopping" { Ok(()) } else { Err(state.stdout) }
    });
    // Its shell may be among what has ended already.
    let ended = wait::until("the machine is off", ORDERLY, || match guest.ended() {
        Ok(true) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    ended.map_err(|late| format!("{late:?}, {off:?}"))?;
    let why = guest.why_ended()?;
    ensure!(why == "guest-shutdown", "it ended by {why}");
    let console = fs::read_to_string(lab.dir().join("guest.log"))?;
    ensure!(console.contains("the work ended in order"), "{console}");
    Ok(())
}

/// Processes that have a file open.
fn holders(guest: &mut Guest, file: &str) -> Result<Vec<u32>> {
    let list = format!(
        "for p in /proc/[0-9]*; do ls -l $p/fd 2>/dev/null | grep -q '{file}$' && \
         echo ${{p#/proc/}}; done; true"
    );
    Ok(guest.output(&list)?.split_whitespace().flat_map(str::parse).collect())
}
