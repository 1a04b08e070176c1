//! `purlin status`: the whole agent on one screen, what is wrong last.

use anstyle::AnsiColor;
use purlin_proto::api::{
    Alarm, Applied, Bound, Clock, Commands, Fault, Helper, Mesh, MeshState, Mode, Nri, NriState,
    Sandbox, Status, Task, You,
};
use serde::Serialize;

use crate::{
    alarm,
    args::{Global, StatusArgs},
    client::{Answer, Client},
    config,
    exit::{Ended, Exit, Failure},
    link,
    output::{Output, Page},
    queue,
    table::{self, Column::*, Width, paint, pair},
    units, watch,
};

/// `purlin status`
pub async fn run(args: &StatusArgs, global: &Global, output: &Output) -> Ended {
    let client = Client::find(global)?;
    watch::show(output, args.watch.every(), async || fetch(args.verbose, &client).await).await
}

async fn fetch(verbose: bool, client: &Client) -> Result<Answer<Shown>, Failure> {
    let Answer { document: status, note } = client.get("/v1/status").await?;
    Ok(Answer { document: Shown { status, verbose }, note })
}

/// A status, and how much of it to show to a person.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    status: Status,
    #[serde(skip)]
    verbose: bool,
}

impl Page for Shown {
    fn page(&self, width: Width) -> String {
        let status = &self.status;
        table::sections([
            agent(status, width),
            queue::classes(&status.queue.classes, width),
            tasks(&status.tasks, self.verbose, width),
            bounds(&status.bounds, self.verbose, width),
            limits(status, width),
            faults(&status.faults, width),
        ])
    }

    fn exit(&self) -> Exit {
        match self.status.faults.is_empty() {
            true => alarm::exit(&self.status.alarms),
            false => Exit::Faults,
        }
    }
}

fn agent(status: &Status, width: Width) -> String {
    let lines = [
        pair("node", &format!("{}  in fleet {}", status.node, status.fleet), width),
        pair("agent", &process(status), width),
        pair("state", &format!("{}  {}", status.state_dir, sandbox(&status.sandbox)), width),
        clock(&status.clock, width),
        link::summary(&status.link, width),
        link::trouble(&status.link, width),
        runtime(&status.nri, width),
        mesh(&status.mesh, width),
        pair("config", &config(status.config.as_ref()), width),
        pair("helper", &helper(&status.helper), width),
        pair("tasks", &names(&status.tasks), width),
        alarms(&status.alarms, width),
        commands(&status.commands, width),
        you(status.you.as_ref(), width),
    ];
    lines.concat()
}

fn process(status: &Status) -> String {
    let mode = match status.mode {
        Mode::System => "system",
        Mode::Standalone => "standalone",
    };
    format!(
        "purlin {}, {mode}, pid {}, up {}, ready after {}",
        status.version,
        status.pid,
        units::duration(status.uptime_ms),
        units::duration(status.ready_after_ms)
    )
}

/// Whether the agent is closed out of what is not its own.
fn sandbox(sandbox: &Sandbox) -> String {
    let files = sandbox.landlock_abi.map(|abi| format!("Landlock {abi}"));
    let calls = sandbox.seccomp.then(|| "seccomp".to_owned());
    let held: Vec<_> = files.into_iter().chain(calls).collect();
    let not = sandbox.why_not.iter().map(|why| format!("not kept in: {why}"));
    let held = (!held.is_empty()).then(|| format!("kept in by {}", held.join(", ")));
    held.into_iter().chain(not).collect::<Vec<_>>().join("; ")
}

/// Where chronyd or ptp4l answers, what they say of the clock.
fn clock(clock: &Clock, width: Width) -> String {
    let chronyd = clock.service.as_ref().map(|it| match &it.reference {
        Some(reference) => format!(
            "by {reference}, stratum {}, {:+.6} s, ±{:.6} s",
            it.stratum, it.offset_s, it.max_error_s
        ),
        None => format!("chronyd {}", it.state),
    });
    let ptp4l = clock.ptp.as_ref().map(|it| match &it.grandmaster {
        Some(grandmaster) if it.steps > 0 => {
            format!("ptp4l {}: {grandmaster}, class {}, {:+.9} s", it.state, it.class, it.offset_s)
        }
        _ => format!("ptp4l {}", it.state),
    });
    let said: Vec<_> = chronyd.into_iter().chain(ptp4l).collect();
    if said.is_empty() {
        return String::new();
    }
    let trusted = if clock.trusted { "trusted" } else { "NOT TRUSTED" };
    pair("clock", &format!("{trusted}; {}", said.join("; ")), width)
}

/// Whether a container runtime asks us about its containers.
fn runtime(nri: &Nri, width: Width) -> String {
    let since = units::time(nri.since_unix_ms);
    let runtime = nri.runtime.as_deref().unwrap_or("the container runtime");
    let (color, text) = match nri.state {
        NriState::Absent if nri.socket.is_empty() => return String::new(),
        NriState::Absent => return pair("runtime", &format!("none at {}", nri.socket), width),
        NriState::Up => (
            AnsiColor::Green,
            format!(
                "{runtime} asks since {since}: {} placed, {} refused, {} repaired",
                nri.created, nri.refused, nri.repaired
            ),
        ),
        NriState::Down => (AnsiColor::Red, format!("{runtime} does not ask since {since}")),
    };
    let line = paint(color.on_default(), &pair("runtime", &text, width));
    let error = nri.last_error.iter().map(|error| pair("last error", error, width));
    line + &error.collect::<String>()
}

/// Whether services find each other through us.
fn mesh(mesh: &Mesh, width: Width) -> String {
    let since = units::time(mesh.since_unix_ms);
    let (color, text) = match mesh.state {
        MeshState::Absent => return String::new(),
        MeshState::Up if mesh.generation == 0 => {
            return pair("mesh", &format!("runs since {since}, and has nothing to do"), width);
        }
        MeshState::Up => (
            AnsiColor::Green,
            format!(
                "generation {} in force: listeners {}, open connections {}, requests {}",
                mesh.generation, mesh.listeners, mesh.open, mesh.requests
            ),
        ),
        MeshState::Down => (AnsiColor::Red, format!("not as it should be since {since}")),
    };
    let line = paint(color.on_default(), &pair("mesh", &text, width));
    let error = mesh.last_error.iter().map(|error| pair("last error", error, width));
    line + &error.collect::<String>()
}

/// What who asks may do here.
fn you(you: Option<&You>, width: Width) -> String {
    let Some(You { uid, role, why }) = you else { return String::new() };
    let uid = uid.map_or("unknown".into(), |uid| uid.to_string());
    pair("you", &format!("{role}: uid {uid}, {why}"), width)
}

/// Whether the core has this node do something.
fn commands(commands: &Commands, width: Width) -> String {
    let Commands { begun, refused, last_refusal } = commands;
    let last = last_refusal.as_ref().map_or(String::new(), |why| format!(", the last one: {why}"));
    match begun + refused {
        0 => String::new(),
        _ => pair("commands", &format!("{begun} begun, {refused} refused{last}"), width),
    }
}

/// Faults are told below, and are alarms too.
fn alarms(alarms: &[Alarm], width: Width) -> String {
    let of_readings: Vec<&Alarm> =
        alarms.iter().filter(|it| !it.id.starts_with("fault.")).collect();
    let Some(first) = of_readings.first() else { return String::new() };
    let more = match of_readings.len() {
        1 => String::new(),
        n => format!(", and {} more", n - 1),
    };
    let text = format!("{}{more}: `purlin alarm list`", first.id);
    paint(AnsiColor::Red.on_default(), &pair("alarm", &text, width))
}

fn config(applied: Option<&Applied>) -> String {
    applied.map_or_else(|| "defaults: no document was applied yet".into(), config::applied)
}

fn helper(helper: &Helper) -> String {
    let mut text = match helper.pid {
        Some(pid) => format!("pid {pid}"),
        None => "not running".into(),
    };
    text += &format!(", {} started, {} abandoned", helper.started, helper.abandoned);
    if !helper.stuck_pids.is_empty() {
        let pids: Vec<_> = helper.stuck_pids.iter().map(u32::to_string).collect();
        text += &format!(", stuck in the kernel: {}", pids.join(" "));
    }
    text
}

/// Tasks that just run need no line of their own.
fn names(tasks: &[Task]) -> String {
    let well = tasks.iter().filter(|task| task.running).map(|task| task.name.as_str());
    format!(
        "{} of {} running: {}",
        well.clone().count(),
        tasks.len(),
        well.collect::<Vec<_>>().join(" ")
    )
}

fn tasks(tasks: &[Task], all: bool, width: Width) -> String {
    let header = [Left("TASK"), Left("STATE"), Right("RESTARTS"), Left("LAST ERROR")];
    let shown = tasks.iter().filter(|task| all || !task.running || task.restarts > 0);
    let row = |task: &Task| {
        let state = if task.running { "running" } else { "waiting" };
        let error = task.last_error.clone().unwrap_or_default();
        vec![task.name.clone(), state.into(), task.restarts.to_string(), error]
    };
    table::columns(&header, shown.map(row), width)
}

fn bounds(bounds: &[Bound], all: bool, width: Width) -> String {
    let header = [Left("BOUND"), Right("USED"), Right("LIMIT"), Left("UNIT")];
    let row = |bound: &Bound| {
        let amount = |value| units::amount(value, &bound.unit);
        let used = bound.used.map_or_else(|| "-".into(), amount);
        vec![bound.what.clone(), used, amount(bound.limit), units::noun(&bound.unit)]
    };
    table::columns(&header, bounds.iter().filter(|_| all).map(row), width)
}

fn limits(status: &Status, width: Width) -> String {
    let header = [Left("MAY NOT"), Left("BECAUSE")];
    let rows = status.limits.iter().map(|limit| vec![limit.what.clone(), limit.why.clone()]);
    table::columns(&header, rows, width)
}

/// Last, so that they are what stays on a short screen.
fn faults(faults: &[Fault], width: Width) -> String {
    if faults.is_empty() {
        return paint(AnsiColor::Green.on_default(), "no faults") + "\n";
    }
    let heading = units::count(faults.len() as u64, "FAULT", "FAULTS");
    let mut text = paint(AnsiColor::Red.on_default().bold(), &heading) + "\n";
    text += &table::rows(faults.iter().flat_map(fault), width);
    text
}

fn fault(fault: &Fault) -> [Vec<String>; 2] {
    [
        vec![fault.id.clone(), fault.what.clone()],
        vec![String::new(), format!("next: {}", fault.next)],
    ]
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::sample;

    fn shown(status: Status) -> Shown {
        Shown { status, verbose: false }
    }

    #[test]
    fn a_healthy_agent_fits_one_screen() {
        let shown = shown(sample::status());
        let page = sample::page(&shown);
        assert!(sample::fits_a_screen(&page));
        assert_eq!(shown.exit(), Exit::Ok);
        expect![[r#"
            node         9f86d081884c7d659a2feaa0c55ad015  in fleet default
            agent        purlin 0.1.0, standalone, pid 4242, up 3 m 12 s, ready after 42 ms
            state        /home/someone/.local/state/purlin  kept in by Landlock 7, seccomp
            link         up since 2026-01-02T03:04:05Z  mqtt://127.0.0.1:18830
            runtime      containerd 2.1.9 asks since 2026-01-02T03:04:05Z: 12 placed, 1
                         refused, 0 repaired
            mesh         generation 3 in force: listeners 2, open connections 41, requests
                         120000
            config       defaults: no document was applied yet
            helper       pid 4243, 1 started, 0 abandoned
            tasks        7 of 7 running: sample helper spool uplink ledger api broker

            QUEUE   PENDING  ON DISK     CAP  FULL IN  DROPS IN  LOST  NOTE
            metric       92  1.2 MiB  64 MiB  4 d 0 h  68 d 0 h     0
            event         0    4 KiB  16 MiB  4 d 0 h  68 d 0 h     0

            MAY NOT          BECAUSE
            write cgroups    not root, and no cgroup was delegated
            move interrupts  /proc/irq/*/smp_affinity belongs to root
            read SMART data  /dev/sda belongs to group disk
            talk to the BMC  /dev/ipmi0: permission denied

            no faults
        "#]]
        .assert_eq(&page);
    }

    #[test]
    fn faults_stand_last_and_exit_2() {
        let shown = shown(sample::ill());
        assert_eq!(shown.exit(), Exit::Faults);
        expect![[r#"
            node         9f86d081884c7d659a2feaa0c55ad015  in fleet default
            agent        purlin 0.1.0, standalone, pid 4242, up 3 m 12 s, ready after 42 ms
            state        /home/someone/.local/state/purlin  kept in by Landlock 7, seccomp
            link         down since 2026-01-02T03:04:05Z  mqtt://127.0.0.1:18830
            last error   127.0.0.1:18830 refused the connection; is the broker running
                         there, and does the firewall let us through?
            next try     in 12 s, after 7 attempts
            runtime      containerd 2.1.9 does not ask since 2026-01-02T03:04:05Z
            last error   the runtime has closed the connection
            mesh         not as it should be since 2026-01-02T03:04:05Z
            last error   the mesh can't be reached: connection refused
            config       version 7 (generation 3) from uplink, 2026-01-02T03:04:05Z
            helper       pid 4243, 2 started, 1 abandoned, stuck in the kernel: 4200
            tasks        6 of 7 running: sample helper spool ledger api broker

            QUEUE   PENDING  ON DISK     CAP  FULL IN  DROPS IN    LOST  NOTE
            metric       92  1.2 MiB  64 MiB  4 d 0 h  68 d 0 h  120000  120000 dropped when
                                                                         full
            event         0    4 KiB  16 MiB  4 d 0 h  68 d 0 h       0

            TASK    STATE    RESTARTS  LAST ERROR
            uplink  waiting         3  panicked: index out of bounds

            MAY NOT          BECAUSE
            write cgroups    not root, and no cgroup was delegated
            move interrupts  /proc/irq/*/smp_affinity belongs to root
            read SMART data  /dev/sda belongs to group disk
            talk to the BMC  /dev/ipmi0: permission denied

            1 FAULT
            helper-stuck  a read of /sys/class/hwmon/hwmon3/temp1_input did not return
                          within 5 s; helper 4200 was abandoned
                          next: look for that device in dmesg; reseat or replace it
        "#]]
        .assert_eq(&sample::page(&shown));
    }

    #[test]
    fn verbose_adds_every_task_and_every_bound() {
        let shown = Shown { status: sample::status(), verbose: true };
        expect![[r#"
            node         9f86d081884c7d659a2feaa0c55ad015  in fleet default
            agent        purlin 0.1.0, standalone, pid 4242, up 3 m 12 s, ready after 42 ms
            state        /home/someone/.local/state/purlin  kept in by Landlock 7, seccomp
            link         up since 2026-01-02T03:04:05Z  mqtt://127.0.0.1:18830
            runtime      containerd 2.1.9 asks since 2026-01-02T03:04:05Z: 12 placed, 1
                         refused, 0 repaired
            mesh         generation 3 in force: listeners 2, open connections 41, requests
                         120000
            config       defaults: no document was applied yet
            helper       pid 4243, 1 started, 0 abandoned
            tasks        7 of 7 running: sample helper spool uplink ledger api broker

            QUEUE   PENDING  ON DISK     CAP  FULL IN  DROPS IN  LOST  NOTE
            metric       92  1.2 MiB  64 MiB  4 d 0 h  68 d 0 h     0
            event         0    4 KiB  16 MiB  4 d 0 h  68 d 0 h     0

            TASK    STATE    RESTARTS  LAST ERROR
            sample  running         0
            helper  running         0
            spool   running         0
            uplink  running         0
            ledger  running         0
            api     running         0
            broker  running         0

            BOUND            USED   LIMIT  UNIT
            spool metric  1.2 MiB  64 MiB
            log               812    2000  line

            MAY NOT          BECAUSE
            write cgroups    not root, and no cgroup was delegated
            move interrupts  /proc/irq/*/smp_affinity belongs to root
            read SMART data  /dev/sda belongs to group disk
            talk to the BMC  /dev/ipmi0: permission denied

            no faults
        "#]]
        .assert_eq(&sample::page(&shown));
    }

    #[test]
    fn verbose_is_no_field() {
        let json = serde_json::to_value(shown(sample::status())).unwrap();
        assert_eq!(json, serde_json::to_value(sample::status()).unwrap());
    }
}
