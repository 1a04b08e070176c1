//! An agent that is well and one that is ill, for the tests of the pages.

use purlin_proto::api::*;

use crate::output::Page;

/// 2026-01-02T03:04:05Z.
pub const THEN: u64 = 1_767_323_045_000;

/// A page at 80 columns, without its colours.
pub fn page(document: &impl Page) -> String {
    strip(&document.page(Some(80)))
}

/// Text without its colours.
pub fn strip(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

/// `text` has no line over 80 columns, and as many lines as a terminal has.
pub fn fits_a_screen(text: &str) -> bool {
    text.lines().count() < 24 && text.lines().all(|line| line.chars().count() <= 80)
}

pub fn status() -> Status {
    let names = ["sample", "helper", "spool", "uplink", "ledger", "api", "broker"];
    let task =
        |name: &str| Task { name: name.into(), running: true, restarts: 0, last_error: None };
    let limits = [
        ("write cgroups", "not root, and no cgroup was delegated"),
        ("move interrupts", "/proc/irq/*/smp_affinity belongs to root"),
        ("read SMART data", "/dev/sda belongs to group disk"),
        ("talk to the BMC", "/dev/ipmi0: permission denied"),
    ];
    let limit = |(what, why): (&str, &str)| Limitation { what: what.into(), why: why.into() };
    Status {
        api: 1,
        version: "0.1.0".into(),
        pid: 4242,
        node: "9f86d081884c7d659a2feaa0c55ad015".into(),
        fleet: "default".into(),
        incarnation: "a1b2c3d4e5f60718".into(),
        mode: Mode::Standalone,
        uptime_ms: 192_000,
        ready_after_ms: 42,
        state_dir: "/home/someone/.local/state/purlin".into(),
        tasks: names.map(task).into(),
        sandbox: Sandbox { landlock_abi: Some(7), seccomp: true, why_not: Vec::new() },
        helper: Helper { pid: Some(4243), started: 1, ..Helper::default() },
        clock: Clock::default(),
        link: link(),
        nri: nri(),
        mesh: mesh(),
        queue: queue(),
        config: None,
        you: None,
        commands: Commands::default(),
        alarms: Vec::new(),
        faults: Vec::new(),
        limits: limits.map(limit).into(),
        bounds: vec![
            bound("spool metric", 1_300_000, 64 << 20, "By"),
            bound("log", 812, 2000, "{line}"),
        ],
    }
}

fn mesh() -> Mesh {
    Mesh {
        socket: "/run/purlin-mesh/mesh.sock".into(),
        state: MeshState::Up,
        since_unix_ms: 1_767_323_045_000,
        pid: Some(4300),
        generation: 3,
        listeners: 2,
        open: 41,
        requests: 120_000,
        ..Mesh::default()
    }
}

pub fn ill() -> Status {
    let mut status = status();
    status.mesh = Mesh {
        state: MeshState::Down,
        last_error: Some("the mesh can't be reached: connection refused".into()),
        ..mesh()
    };
    status.link = link_down();
    status.nri = nri_down();
    status.config = Some(applied());
    status.tasks[3].running = false;
    status.tasks[3].restarts = 3;
    status.tasks[3].last_error = Some("panicked: index out of bounds".into());
    status.helper =
        Helper { pid: Some(4243), started: 2, abandoned: 1, stuck_pids: vec![4200], error: None };
    status.queue.classes[0].dropped = 120_000;
    status.faults = vec![Fault {
        id: "helper-stuck".into(),
        what: "a read of /sys/class/hwmon/hwmon3/temp1_input did not return within 5 s; helper \
               4200 was abandoned"
            .into(),
        next: "look for that device in dmesg; reseat or replace it".into(),
    }];
    status
}

fn bound(what: &str, used: u64, limit: u64, unit: &str) -> Bound {
    Bound { what: what.into(), used: Some(used), limit, unit: unit.into() }
}

pub fn link() -> Link {
    Link {
        state: LinkState::Up,
        endpoint: Some("mqtt://127.0.0.1:18830".into()),
        client_id: "9f86d081884c7d65".into(),
        since_unix_ms: THEN,
        connects: 1,
        in_flight: 2,
        acked_batches: 12,
        acked_records: 4711,
        acked_bytes: 123_456,
        unheard: 3,
        ..Link::default()
    }
}

pub fn nri() -> Nri {
    Nri {
        socket: "/var/run/nri/nri.sock".into(),
        state: NriState::Up,
        since_unix_ms: THEN,
        runtime: Some("containerd 2.1.9".into()),
        sessions: 1,
        created: 12,
        refused: 1,
        ..Nri::default()
    }
}

pub fn nri_down() -> Nri {
    let why = "the runtime has closed the connection";
    Nri { state: NriState::Down, last_error: Some(why.into()), ..nri() }
}

pub fn link_down() -> Link {
    Link {
        state: LinkState::Down,
        last_error: Some(
            "127.0.0.1:18830 refused the connection; is the broker running there, and does the \
             firewall let us through?"
                .into(),
        ),
        retry_in_ms: Some(12_000),
        attempts: 7,
        ..link()
    }
}

pub fn queue() -> Queue {
    let class = |class: &str, pending, bytes, cap_bytes| QueueClass {
        class: class.into(),
        first_seq: 1,
        durable_seq: 4800,
        last_seq: 4803,
        acked_seq: 4803 - pending,
        pending,
        bytes,
        cap_bytes,
        segments: 2,
        commit_window_ms: 200,
        when_full: "drop-oldest".into(),
        full_in_ms: Some(4 * 86_400_000),
        first_drop_in_ms: Some(68 * 86_400_000),
        bytes_per_day: Some(1 << 20),
        ..QueueClass::default()
    };
    Queue {
        incarnation: "a1b2c3d4e5f60718".into(),
        classes: vec![class("metric", 92, 1_300_000, 64 << 20), class("event", 0, 4096, 16 << 20)],
        sources: Vec::new(),
    }
}

pub fn applied() -> Applied {
    Applied {
        generation: 3,
        version: 7,
        sha256: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08".into(),
        origin: "uplink".into(),
        unix_ms: THEN,
        by: "the core".into(),
    }
}

pub fn verdict() -> Verdict {
    Verdict {
        accepted: true,
        outcome: "confirmed".into(),
        why: String::new(),
        generation: 3,
        version: 7,
        sha256: applied().sha256,
        origin: "uplink".into(),
        by: "core".into(),
        unix_ms: THEN,
        refusals: Vec::new(),
        repeated: false,
    }
}

pub fn refused() -> Verdict {
    let refusal = |path: &str, value: &str, limit: &str, hint: &str| Refusal {
        path: path.into(),
        value: value.into(),
        limit: limit.into(),
        hint: hint.into(),
    };
    Verdict {
        accepted: false,
        outcome: "refused".into(),
        version: 8,
        origin: "local".into(),
        by: "uid 1000 (someone)".into(),
        refusals: vec![
            refusal("sampling.interval_s", "0", "1 to 3600", "10 is usual"),
            refusal("samplng", "{…}", "", "unknown field: did you mean sampling?"),
        ],
        ..verdict()
    }
}
