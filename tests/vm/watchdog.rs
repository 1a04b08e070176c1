//! The machine's watchdog (i6300esb): fed while the agent is well, stopped when it stops in
//! order, and the end of a node whose agent hangs.

use std::{thread, time::Duration};

use purlin_tests::{
    Guest, Lab, Result, ensure,
    guest::{OWN, ROOT_BUS},
    lab::Test,
    test, wait,
};

/// After which the device resets.
const TIMEOUT: Duration = Duration::from_secs(12);
const READY: Duration = Duration::from_secs(90);

pub fn tests() -> Vec<Test> {
    vec![test("a_node_whose_agent_hangs_is_reset_by_its_watchdog", 400, hangs)]
}

fn hangs(lab: &Lab) -> Result {
    let device = format!("i6300esb,bus={ROOT_BUS}");
    let words = [
        ["-machine", "q35"],
        ["-smp", "1"],
        ["-m", "512M"],
        ["-device", &device],
        ["-action", "watchdog=reset"],
    ];
    let words: Vec<String> = words.iter().flatten().map(|it| (*it).to_owned()).collect();
    let mut guest = Guest::boot(lab, &OWN, &words)?;
    start(&mut guest)?;
    lives(&mut guest, TIMEOUT, "while it is fed")?;

    guest.output("kill -TERM $(cat /tmp/agent.pid)")?;
    wait::until("the agent stops", READY, || {
        let here = guest.run("kill -0 $(cat /tmp/agent.pid)").map_err(|e| format!("{e:?}"))?;
        if here.code == 0 { Err("it runs".to_owned()) } else { Ok(()) }
    })?;
    lives(&mut guest, TIMEOUT, "after an orderly stop")?;

    start(&mut guest)?;
    guest.output("kill -STOP $(cat /tmp/agent.pid)")?;
    wait::until("the machine is reset", TIMEOUT * 5, || match guest.ended() {
        Ok(true) => Ok(()),
        other => Err(format!("{other:?}")),
    })
}

/// Starts the agent and waits until the device is fed.
fn start(guest: &mut Guest) -> Result {
    let seconds = TIMEOUT.as_secs();
    guest.output(&format!(
        "PURLIN_WATCHDOG__DEVICE=/dev/watchdog0 PURLIN_WATCHDOG__TIMEOUT_S={seconds} \
         purlin agent >/tmp/agent.log 2>&1 & echo $! >/tmp/agent.pid"
    ))?;
    wait::until("the watchdog is fed", READY, || {
        let log = guest.run("cat /tmp/agent.log").map_err(|e| format!("{e:?}"))?.stdout;
        if log.contains("the watchdog is fed") { Ok(()) } else { Err(log) }
    })
}

/// For longer than the device would wait twice.
pub fn lives(guest: &mut Guest, timeout: Duration, when: &str) -> Result {
    let turns = 2 * timeout.as_secs() + 4;
    for second in 0..turns {
        ensure!(!guest.ended()?, "{when} the machine is reset after {second} s");
        thread::sleep(Duration::from_secs(1));
    }
    guest.output("true").map(drop)
}
