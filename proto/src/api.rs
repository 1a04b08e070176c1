//! The JSON of the local API, version 1. Times are milliseconds since 1970,
//! durations milliseconds, sizes bytes. A reader ignores fields it doesn't know;
//! a field is never given another meaning under the same version.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /v1/status`
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Version of this API.
    pub api: u32,
    /// Version of the agent.
    pub version: String,
    /// Process id of the agent.
    pub pid: u32,
    /// Node id.
    pub node: String,
    /// Fleet.
    pub fleet: String,
    /// Random id of the state directory, in hexadecimal.
    pub incarnation: String,
    /// How the agent runs.
    pub mode: Mode,
    /// Since the agent started.
    pub uptime_ms: u64,
    /// From the start of the process to being ready.
    pub ready_after_ms: u64,
    /// State directory.
    pub state_dir: String,
    /// Named tasks.
    pub tasks: Vec<Task>,
    /// What the agent keeps itself from.
    #[serde(default)]
    pub sandbox: Sandbox,
    /// The helper process.
    pub helper: Helper,
    /// The wall clock.
    #[serde(default)]
    pub clock: Clock,
    /// The uplink, in short.
    pub link: Link,
    /// The container runtime.
    #[serde(default)]
    pub nri: Nri,
    /// The mesh, in short.
    #[serde(default)]
    pub mesh: Mesh,
    /// The spool, in short.
    pub queue: Queue,
    /// The document in force; absent on defaults.
    pub config: Option<Applied>,
    /// Who asks, and what they may.
    #[serde(default)]
    pub you: Option<You>,
    /// The core's commands since the agent started.
    #[serde(default)]
    pub commands: Commands,
    /// Alarms that are raised.
    #[serde(default)]
    pub alarms: Vec<Alarm>,
    /// What is wrong now. Empty when all is well.
    pub faults: Vec<Fault>,
    /// What this agent may not do, and why.
    pub limits: Vec<Limitation>,
    /// Everything that has a bound, and how full it is.
    pub bounds: Vec<Bound>,
}

/// What a process keeps itself and its children from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Sandbox {
    /// Version of Landlock's ABI that closes files to it; absent where nothing does.
    pub landlock_abi: Option<i32>,
    /// Whether system calls that it never makes are refused (seccomp).
    pub seccomp: bool,
    /// Why it is not kept in by both.
    pub why_not: Vec<String>,
}

/// Who is at the other end of the socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct You {
    /// User, as the kernel tells it.
    pub uid: Option<u32>,
    /// `viewer`, `technician`, `admin` or `none`.
    pub role: String,
    /// What gives it.
    pub why: String,
}

/// Commands of the core; `purlin audit list` has each of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Commands {
    /// Begun, whether they worked out or not.
    pub begun: u64,
    /// Not begun.
    pub refused: u64,
    /// Why the last of these was not.
    pub last_refusal: Option<String>,
}

/// `GET /v1/placement/enforcement`: what every container has, as read back from its
/// cgroup, and what was done about it since the agent started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Enforcement {
    /// When everything was last read back.
    pub checked_unix_ms: Option<u64>,
    /// Generation of the plan that it was compared with.
    pub generation: u64,
    /// Every container of the plan that has a cgroup.
    pub containers: Vec<EnforcedContainer>,
    /// Cpusets written.
    pub written: u64,
    /// Bytes that moves of memory found on another node.
    pub moved_bytes: u64,
    /// Container whose memory is being moved.
    pub moving: Option<String>,
    /// Device interrupts.
    pub interrupts: Interrupts,
    /// What can't be read.
    pub problem: Option<String>,
}

/// One container's cpuset.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EnforcedContainer {
    /// The runtime's id of it.
    pub id: String,
    /// Path of its cgroup, below where cpusets are mounted.
    pub cgroup: String,
    /// CPUs that the kernel grants it.
    pub cpus: String,
    /// NUMA nodes that the kernel grants it memory of.
    pub mems: String,
    /// What it is to the scheduler (cgroup v2): `member`, `isolated`, or why not.
    pub partition: Option<String>,
    /// It has what the plan says.
    pub in_place: bool,
    /// Why not.
    pub why: Option<String>,
    /// How often it was found otherwise and set right.
    pub repaired: u64,
}

/// Where device interrupts arrive.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Interrupts {
    /// CPUs that they are kept off.
    pub kept_off: String,
    /// Interrupts that are elsewhere than they were.
    pub moved: u64,
    /// Those whose driver decides where they arrive.
    pub managed: Vec<String>,
    /// Why one is not where it should be.
    pub refused: Option<String>,
}

/// How the agent runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// As the node's service, configured by a file.
    System,
    /// By hand, under the user's own directories.
    Standalone,
}

/// A named task of the agent.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Task {
    /// Name.
    pub name: String,
    /// Running, or waiting to be restarted.
    pub running: bool,
    /// Restarts since the agent started.
    pub restarts: u32,
    /// Why it ended last.
    pub last_error: Option<String>,
}

/// The helper process.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Helper {
    /// Its process id, while there is one.
    pub pid: Option<u32>,
    /// Helpers started since the agent started.
    pub started: u32,
    /// Helpers given up because a read didn't return.
    pub abandoned: u32,
    /// Process ids of abandoned helpers that the kernel has not let go of.
    pub stuck_pids: Vec<u32>,
    /// Why none could be started, the last time one was needed.
    pub error: Option<String>,
}

/// The way to the container runtime: NRI, the Node Resource Interface.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Nri {
    /// The runtime's socket.
    pub socket: String,
    /// It was named by the configuration, and so is expected to be there.
    pub configured: bool,
    /// Where it stands.
    pub state: NriState,
    /// When the state was entered.
    pub since_unix_ms: u64,
    /// Name and version of the runtime that was last there.
    pub runtime: Option<String>,
    /// Why the last session ended or could not be made.
    pub last_error: Option<String>,
    /// Sessions since the agent started.
    pub sessions: u32,
    /// Containers created with our answer since the agent started.
    pub created: u64,
    /// Containers refused since the agent started.
    pub refused: u64,
    /// Containers that were not where they belong when a session began, and were
    /// repaired: created while we were away, or after an answer that was too late.
    pub repaired: u64,
}

/// The mesh as the agent sees it. `purlin mesh show` asks the mesh itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Mesh {
    /// Its socket.
    pub socket: String,
    /// Whether it answers.
    pub state: MeshState,
    /// When the state was entered.
    pub since_unix_ms: u64,
    /// Its process.
    pub pid: Option<u32>,
    /// Which document its table is of; 0: it has none.
    pub generation: u64,
    /// Addresses that it is to listen at.
    pub listeners: usize,
    /// Connections open when it was last asked.
    pub open: u64,
    /// HTTP requests since it started.
    pub requests: u64,
    /// What it says is wrong.
    pub problems: Vec<String>,
    /// Nodes of the rack that it lets in though their certificates are out of their time.
    #[serde(default)]
    pub lapsed: Vec<String>,
    /// Why it doesn't answer, or doesn't take the table.
    pub last_error: Option<String>,
}

/// Whether the mesh answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MeshState {
    /// It doesn't, and nothing is wanted of it.
    #[default]
    Absent,
    /// It does, and has the table.
    Up,
    /// It doesn't, or doesn't take the table.
    Down,
}

/// Where the way to the container runtime stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NriState {
    /// There is no such socket: no runtime with NRI runs here.
    #[default]
    Absent,
    /// The runtime has told of everything, and asks about each container.
    Up,
    /// There is a socket, and no session over it: containers are created without us.
    Down,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Fault {
    /// Stable id, e.g. `helper-stuck`.
    pub id: String,
    /// What is wrong, for a person.
    pub what: String,
    /// What to do next.
    pub next: String,
}

/// Something this agent may not do.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Limitation {
    /// What it can't do.
    pub what: String,
    /// Why.
    pub why: String,
}

/// Something with a bound.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Bound {
    /// What is bounded.
    pub what: String,
    /// How much is used; absent for what is bounded one by one.
    pub used: Option<u64>,
    /// The most it may be.
    pub limit: u64,
    /// Unit of both, e.g. `By`, `{record}`.
    pub unit: String,
}

/// `GET /v1/link`: the uplink.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Link {
    /// Where it stands.
    pub state: LinkState,
    /// The broker, e.g. `mqtt://127.0.0.1:18830`; absent when none is configured.
    pub endpoint: Option<String>,
    /// The peer that sends on, or is asked to, while no broker can be reached.
    #[serde(default)]
    pub via: Option<String>,
    /// Client id in use.
    pub client_id: String,
    /// When the state was entered.
    pub since_unix_ms: u64,
    /// Why the last connection ended or could not be made.
    pub last_error: Option<String>,
    /// Until the next attempt, while waiting.
    pub retry_in_ms: Option<u64>,
    /// Attempts since the link was last up.
    pub attempts: u32,
    /// Connections made since the agent started.
    pub connects: u32,
    /// Batches sent and not yet acknowledged.
    pub in_flight: u32,
    /// Batches acknowledged since the agent started.
    pub acked_batches: u64,
    /// Records acknowledged since the agent started.
    pub acked_records: u64,
    /// Bytes of payload acknowledged since the agent started.
    pub acked_bytes: u64,
    /// Bytes of payload and topic sent today (UTC), also before the agent started.
    #[serde(default)]
    pub sent_today_bytes: u64,
    /// Most bytes a second that are sent; absent: as many as the link carries.
    #[serde(default)]
    pub rate_bytes_s: Option<u64>,
    /// Sessions that the broker ended within the last ten minutes.
    #[serde(default)]
    pub ended: u32,
    /// The broker has said that another client has this client id.
    #[serde(default)]
    pub taken_over: bool,
    /// Publishes that the broker refused since the agent started.
    pub refused: u64,
    /// Publishes acknowledged to nobody (no matching subscribers).
    pub unheard: u64,
    /// Frames of peers that were sent on since the agent started, as the broker
    /// acknowledged them.
    #[serde(default)]
    pub carried_frames: u64,
    /// Their bytes of payload.
    #[serde(default)]
    pub carried_bytes: u64,
}

/// Where the uplink stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LinkState {
    /// No endpoint is configured: telemetry stays in the spool.
    #[default]
    Unconfigured,
    /// An attempt is under way.
    Connecting,
    /// The broker has accepted us.
    Up,
    /// No broker can be reached: a peer of the rack sends our records on.
    Relayed,
    /// Waiting for the next attempt.
    Down,
}

/// `POST /v1/link/test`: one attempt, step by step.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LinkTest {
    /// The broker that was tried.
    pub endpoint: String,
    /// What was done, in order; the first that failed is the last.
    pub steps: Vec<LinkTestStep>,
    /// True if every step succeeded.
    pub ok: bool,
}

/// One step of a link test.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LinkTestStep {
    /// What was tried, e.g. `connect tcp 127.0.0.1:18830`.
    pub step: String,
    /// Succeeded.
    pub ok: bool,
    /// How long it took.
    pub took_ms: u64,
    /// What came of it, and what to do if it failed.
    pub detail: String,
}

/// `GET /v1/queue`: the spool.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Queue {
    /// Random id of the state directory, in hexadecimal.
    pub incarnation: String,
    /// Each class's log.
    pub classes: Vec<QueueClass>,
    /// What workloads handed in.
    #[serde(default)]
    pub sources: Vec<IntakeSource>,
}

/// One class's log. Sequence numbers start at 1. What is lost is counted since the
/// state directory was made, and told to the core.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct QueueClass {
    /// `alarm`, `event`, `metric` or `log`.
    pub class: String,
    /// Oldest record kept; one past the newest when empty.
    pub first_seq: u64,
    /// Newest record on disk; this and all before it survive a power cut.
    pub durable_seq: u64,
    /// Newest record accepted, durable or still in memory.
    pub last_seq: u64,
    /// Newest record that the core has acknowledged, with all before it.
    pub acked_seq: u64,
    /// Records waiting for the core, those that were thinned included.
    pub pending: u64,
    /// When the oldest of them was made, by the node's clock.
    #[serde(default)]
    pub oldest_unix_ms: Option<u64>,
    /// Until the core has it all, as it went in the last minute; absent while it grows.
    #[serde(default)]
    pub sent_in_ms: Option<u64>,
    /// Bytes on disk.
    pub bytes: u64,
    /// The most bytes it may take.
    pub cap_bytes: u64,
    /// Segment files.
    pub segments: u32,
    /// What goes when it is full: `drop-oldest`, `drop-newest` or `downsample`.
    #[serde(default)]
    pub when_full: String,
    /// Age at which a record is dropped, if there is one.
    #[serde(default)]
    pub ttl_ms: Option<u64>,
    /// Bytes that come in a day, at the rate of the last day, or since the agent
    /// started; absent for the first minute.
    #[serde(default)]
    pub bytes_per_day: Option<u64>,
    /// Until it is full at that rate, if nothing is sent from now on; what is
    /// downsampled is thinned from then on.
    #[serde(default)]
    pub full_in_ms: Option<u64>,
    /// Until the first record is dropped whole at that rate, if nothing is sent.
    #[serde(default)]
    pub first_drop_in_ms: Option<u64>,
    /// Records dropped because the log was full.
    pub dropped: u64,
    /// Records dropped because they had outlived their time.
    #[serde(default)]
    pub expired: u64,
    /// Records thinned away because the log was full: others stand for them.
    #[serde(default)]
    pub thinned: u64,
    /// Records that a person removed.
    #[serde(default)]
    pub purged: u64,
    /// Records lost to damage on disk.
    pub corrupt: u64,
    /// Records that were never on disk (disk error, or it was too slow).
    pub rejected: u64,
    /// Records that the broker will never take.
    #[serde(default)]
    pub refused: u64,
    /// Longest a record stays in memory before it is made durable.
    pub commit_window_ms: u64,
    /// Commits since the agent started.
    #[serde(default)]
    pub commits: u64,
    /// How long the last one took, in µs.
    #[serde(default)]
    pub commit_us: u64,
    /// How long the slowest one took, in µs.
    #[serde(default)]
    pub slowest_commit_us: u64,
    /// Bytes written to the disk in the last day, or since the agent started.
    #[serde(default)]
    pub written_day: u64,
    /// Why the disk can't be written or read now.
    pub error: Option<String>,
}

/// `GET /v1/metrics`: the local history.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Metrics {
    /// Its series, by name and attributes.
    pub series: Vec<MetricSeries>,
}

/// One series of the local history.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct MetricSeries {
    /// OpenTelemetry name.
    pub name: String,
    /// UCUM unit.
    pub unit: String,
    /// What it is of.
    pub attributes: std::collections::BTreeMap<String, String>,
    /// It counts: each value is the last of its minute; else its mean.
    pub counter: bool,
    /// Milliseconds since 1970 at which a minute began, and its value; oldest first.
    pub points: Vec<(u64, f64)>,
}

/// What a source of the intake handed in since the agent started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IntakeSource {
    /// The control group at the Unix socket, `loopback` or `journal`.
    pub source: String,
    /// Records taken.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of today (UTC), as its quota counts them.
    pub bytes_today: u64,
    /// Series of its metrics.
    pub series: u32,
    /// Requests that were over its quota: it was told to come again.
    pub refused: u64,
    /// Records and points that are lost.
    pub dropped: u64,
    /// Why the last of them was.
    pub why: String,
}

/// `GET /v1/happened`: what happened to alarms and hardware in the last day.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Happenings {
    /// Oldest first; only so many are kept.
    pub happened: Vec<Happening>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Happening {
    /// When, by the node's clock.
    pub unix_ms: u64,
    /// To what.
    pub kind: Happened,
    /// Of an alarm: `raised`, `acknowledged`, `silenced`, `came back`, `over`, `changed`
    /// or `cleared`; of hardware: `appeared`, `vanished`, `moved`, `changed`, …
    pub what: String,
    /// The alarm's id; what the hardware is known by.
    pub id: String,
    /// For a person.
    pub text: String,
    /// Who acknowledged it, and why.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub by: String,
}

/// What something happened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Happened {
    /// An alarm.
    Alarm,
    /// The hardware.
    Hardware,
}

/// `POST /v1/queue/purge`: what was removed.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Purged {
    /// The class.
    pub class: String,
    /// Records that were waiting and are gone.
    pub records: u64,
    /// The last number that is gone.
    pub last_seq: u64,
}

/// `POST /v1/queue/import`: what became of some entries of an export file.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Imported {
    /// Records that are on this node's disk now, to be sent on.
    pub taken: u64,
    /// Records that were brought before.
    pub known: u64,
}

/// `GET /v1/config`: what is in force.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Config {
    /// The document in force; absent on defaults.
    pub active: Option<Applied>,
    /// Every setting, with where its value came from.
    pub settings: Vec<Setting>,
    /// What became of the last document offered.
    pub last: Option<Verdict>,
    /// The document on trial, which is in force in place of `active`.
    pub trial: Option<ConfigTrial>,
    /// How what is in force differs from what the core wants.
    pub drift: Option<ConfigDrift>,
    /// Each part of the agent that has settings, as it was read back last.
    pub subsystems: Vec<Subsystem>,
}

/// A document on trial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfigTrial {
    /// The document.
    pub applied: Applied,
    /// What happens to it now, e.g. `proving`.
    pub phase: String,
    /// Until it is undone, unless it is confirmed.
    pub left_ms: u64,
    /// It waits for somebody to confirm it; else it is confirmed by itself.
    pub by_hand: bool,
    /// How long all has been well; absent while it isn't.
    pub well_for_ms: Option<u64>,
    /// Until it is confirmed by itself, if all stays well.
    pub confirmed_in_ms: Option<u64>,
    /// What is not well.
    pub problems: Vec<String>,
}

/// A document in force that is not the core's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfigDrift {
    /// Who put it in force.
    pub by: String,
    /// Why; empty if nobody said.
    pub reason: String,
    /// Until it ends by itself; absent if it doesn't.
    pub left_ms: Option<u64>,
    /// Version of the core's document; 0 if there is none.
    pub desired_version: u64,
}

/// A part of the agent that has settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Subsystem {
    /// Name, the first word of its settings' paths.
    pub name: String,
    /// Empty: what it runs on is what it was told.
    pub problem: String,
}

/// `POST /v1/config/plan`: what a document would change, and what that disturbs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    /// What is in force, e.g. `generation 3 (version 7)`.
    pub from: String,
    /// What was offered.
    pub to: String,
    /// The parts of the agent whose settings change.
    pub parts: Vec<PlanPart>,
}

/// What changes for one part of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanPart {
    /// Its name.
    pub name: String,
    /// What the change disturbs: `nothing`; `reload` if connections or tables are made
    /// anew; `loss` if what was kept is given up; `workloads move`; `stages begin` of the
    /// power policy, by alarms that are raised now; `unknown` if the part
    /// did not answer in time.
    pub disturbs: String,
    /// Which connections, what is lost, who moves from where to where, what a stage does.
    #[serde(default)]
    pub what: Vec<String>,
    /// Its settings that differ.
    pub changes: Vec<Change>,
}

/// `GET /v1/config/document`: a document, in the words of its own fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Document {
    /// Which one it is.
    pub applied: Applied,
    /// The document.
    #[schema(value_type = Object)]
    pub document: serde_json::Value,
}

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Setting {
    /// Path, e.g. `sampling.interval_s`.
    pub path: String,
    /// Its value.
    pub value: String,
    /// Where the value came from, e.g. `default`, `PURLIN_UPLINK__ENDPOINT`,
    /// `desired version 7`.
    pub origin: String,
}

/// A document that was put in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Applied {
    /// Counts the documents this node has put in force.
    pub generation: u64,
    /// The document's own number.
    pub version: u64,
    /// SHA-256 of its bytes, in hexadecimal.
    pub sha256: String,
    /// `uplink` or `local`.
    pub origin: String,
    /// When.
    pub unix_ms: u64,
    /// Who offered it.
    #[serde(default)]
    pub by: String,
}

/// What became of a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Verdict {
    /// False: refused whole. True: see the outcome.
    pub accepted: bool,
    /// `refused`, `waiting`, `trial`, `confirmed`, `reverted`, `interrupted`, or
    /// `superseded` if another came while it waited.
    #[serde(default)]
    pub outcome: String,
    /// Why, for a person.
    #[serde(default)]
    pub why: String,
    /// The generation it was given, once it was tried.
    #[serde(default)]
    pub generation: u64,
    /// The document's own number.
    pub version: u64,
    /// SHA-256 of its bytes, in hexadecimal.
    pub sha256: String,
    /// `uplink` or `local`.
    pub origin: String,
    /// Who offered it.
    pub by: String,
    /// When.
    pub unix_ms: u64,
    /// Every reason, when refused.
    pub refusals: Vec<Refusal>,
    /// True if this very document had been judged before: nothing was written.
    pub repeated: bool,
}

/// One reason for refusing a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Refusal {
    /// Where in the document.
    pub path: String,
    /// What stood there.
    pub value: String,
    /// What may stand there.
    pub limit: String,
    /// What to do.
    pub hint: String,
}

/// `GET /v1/config/diff`: what the last document changed.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Diff {
    /// What is on the left, e.g. `previous (generation 3)`.
    pub from: String,
    /// What is on the right.
    pub to: String,
    /// Settings whose values differ.
    pub changes: Vec<Change>,
}

/// One setting that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Change {
    /// Path.
    pub path: String,
    /// Value on the left.
    pub from: String,
    /// Value on the right.
    pub to: String,
}

/// `GET /v1/hardware/diff`: two inventories compared, the machine against the
/// accepted hardware; `POST /v1/hardware/baseline` answers with what is left of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HardwareDiff {
    /// What is on the left, e.g. `accepted by uid 0 (local)`; empty while nothing is
    /// accepted.
    pub from: String,
    /// What is on the right.
    pub to: String,
    /// When the left was accepted, if it was.
    pub accepted_unix_ms: Option<u64>,
    /// What differs.
    pub changes: Vec<HardwareChange>,
    /// Kinds of things that only one side could read, and that were not compared.
    pub unread: Vec<String>,
}

/// `GET /v1/hardware/changes`: what happened to the hardware since the agent started.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct HardwareChanges {
    /// Oldest first; only so many are kept.
    pub changes: Vec<HardwareChange>,
}

/// Something that happened to the hardware, or a difference.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HardwareChange {
    /// `hw.appeared`, `hw.vanished`, `hw.moved`, `hw.changed`, `hw.reader_fault`,
    /// `hw.reader_back`, `hw.flapping`.
    pub name: String,
    /// When it was told.
    pub unix_ms: u64,
    /// The part of the inventory.
    pub part: String,
    /// What kind of thing, e.g. `NIC`.
    pub kind: String,
    /// What the thing is known by: serial, else bus address, else name.
    pub identity: String,
    /// The thing, for a person.
    pub title: String,
    /// The fact that changed, if one did.
    pub field: String,
    /// What it was.
    pub before: String,
    /// What it is.
    pub after: String,
    /// All of it, for a person.
    pub text: String,
}

/// `GET /v1/config/history`
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct History {
    /// Verdicts, newest first.
    pub verdicts: Vec<Verdict>,
}

/// `GET /v1/log?after=N`: what the agent has written about itself lately.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Log {
    /// Lines after `after`, oldest first.
    pub lines: Vec<LogLine>,
    /// Lines between `after` and the first of `lines` that are no longer kept.
    pub missed: u64,
}

/// One line of the log.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// Counts the lines since the agent started, from 1.
    pub number: u64,
    /// When.
    pub unix_ms: u64,
    /// `ERROR`, `WARN`, `INFO`, `DEBUG` or `TRACE`.
    pub level: String,
    /// The module that wrote it.
    pub target: String,
    /// The text, with its fields as `key=value`.
    pub text: String,
}

/// The body of every answer that is not a success.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Error {
    /// What went wrong and what to do next.
    pub error: String,
    /// Every reason, when a document was refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<Refusal>,
}

/// `GET /v1/alarms`: what a person must know of.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Alarms {
    /// Raised now.
    pub raised: Vec<Alarm>,
    /// Cleared, the oldest first; only so many are kept.
    pub history: Vec<Alarm>,
    /// How many found no room since the agent started.
    pub passed_over: u64,
    /// Raised on other nodes of the rack, as `NODE/ID`, as far as this one has heard of them
    /// in the last two minutes; each node tells at most eight.
    #[serde(default)]
    pub elsewhere: Vec<String>,
}

/// An alarm.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Alarm {
    /// The same for the same cause, always.
    pub id: String,
    /// `info`, `warning` or `critical`.
    pub severity: String,
    /// What is wrong.
    pub text: String,
    /// What to do; may be empty.
    pub remedy: String,
    /// The page of hw-docs about it; may be empty.
    pub page: String,
    /// The metric that it is about, if it is about one.
    pub metric: Option<String>,
    /// Its latest value, in its unit.
    pub value: Option<f64>,
    /// UCUM.
    pub unit: Option<String>,
    /// When it was raised.
    pub raised_unix_ms: u64,
    /// How often its cause came back before it was cleared.
    pub returns: u32,
    /// Its cause is gone, and it waits to be acknowledged.
    pub over: bool,
    /// When it was cleared.
    pub cleared_unix_ms: Option<u64>,
    /// Who knows of it.
    pub acknowledged: Option<Note>,
    /// Who wants to hear no more of it, and until when.
    pub silenced: Option<Note>,
}

/// The body of `POST /v1/alarms/{id}`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AlarmAct {
    /// What to do.
    pub act: Act,
    /// Why, 1 to 200 bytes.
    pub reason: String,
    /// Seconds of silence, 1 to 2592000.
    pub for_s: Option<u64>,
}

/// What somebody does about an alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// Knows of it.
    Acknowledge,
    /// Wants to hear no more of it for a while.
    Silence,
    /// Says that it is over.
    Clear,
}

/// What somebody did about an alarm.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Note {
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When; of a silence, when it ends.
    pub unix_ms: u64,
}

/// `GET /v1/power`: what is done when power or cooling fails.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Power {
    /// Everything is told and nothing done.
    pub rehearse: bool,
    /// The mildest first.
    pub stages: Vec<PowerStage>,
    /// The alarms that the stages in force are for.
    pub causes: Vec<String>,
    /// Cgroups that stand still.
    pub frozen: Vec<String>,
    /// Packages and GPUs that may take less than before.
    #[serde(default)]
    pub limits: Vec<PowerLimit>,
    /// What could not be done, and is tried again.
    pub problems: Vec<String>,
}

/// What a package or a GPU may take.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct PowerLimit {
    /// A package's zone, or a GPU's UUID.
    pub what: String,
    /// Watts now.
    pub watts: f64,
    /// Watts before, and again when it is over.
    pub before_watts: f64,
}

/// A stage.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct PowerStage {
    /// Its name.
    pub name: String,
    /// Patterns of the alarms that begin it.
    pub when: Vec<String>,
    /// What it does, in this order.
    pub does: Vec<String>,
    /// It is in force.
    pub in_force: bool,
}

/// The wall clock.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Clock {
    /// A time service has set it, and says that it is right.
    pub trusted: bool,
    /// chronyd, where it answers.
    pub service: Option<TimeService>,
    /// ptp4l, where there is one.
    #[serde(default)]
    pub ptp: Option<Ptp>,
}

/// What chronyd says of the clock.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct TimeService {
    /// `synchronized`, `follows nobody` or `follows itself`.
    pub state: String,
    /// Who it follows: an IPv4 address, or as much of another id.
    pub reference: Option<String>,
    /// Hops to a clock that needs no other.
    pub stratum: u16,
    /// Seconds by which the clock is ahead.
    pub offset_s: f64,
    /// Seconds by which it is wrong at most, if its sources aren't.
    pub max_error_s: f64,
}

/// What ptp4l says of its clock: the network card's own, or the system's where packets are
/// stamped by software.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Ptp {
    /// `synchronized`, `follows a clock without a source`, `follows itself`, `follows nobody`,
    /// `does not answer` or `may not be asked`.
    pub state: String,
    /// Whom it follows in the end, by its identity.
    pub grandmaster: Option<String>,
    /// How good that one says it is: 6 has its time from a primary reference, 7 had, 248
    /// doesn't say.
    pub class: u8,
    /// Hops to the grandmaster.
    pub steps: u16,
    /// Seconds by which its clock is ahead.
    pub offset_s: f64,
    /// Seconds from the one that it follows to it.
    pub path_delay_s: f64,
}

/// `GET /v1/rack`: what the rack's buses say.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Rack {
    /// Every bus that is configured.
    pub buses: Vec<RackBus>,
    /// The node's BMC, if it has one.
    #[serde(default)]
    pub bmc: Option<Bmc>,
}

/// What the BMC says.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Bmc {
    /// IANA number of its maker.
    pub manufacturer: u32,
    /// Its maker's number of it.
    pub product: u16,
    /// Firmware.
    pub firmware: String,
    /// Version of IPMI.
    pub ipmi: String,
    /// Why the last look failed, and what could not be read.
    pub problems: Vec<String>,
    /// When it last answered.
    pub unix_ms: u64,
    /// What follows is older than three looks.
    pub stale: bool,
    /// Its sensors.
    pub sensors: Vec<BmcSensor>,
    /// What the parts say they are.
    pub parts: Vec<BmcPart>,
    /// Entries that its event log holds.
    pub log_entries: u16,
    /// Bytes of it that are free; 65535 for that or more.
    pub log_free: u16,
    /// The latest of them, the oldest first.
    pub events: Vec<BmcEvent>,
    /// Its own watchdog timer.
    pub watchdog: Option<BmcWatchdog>,
}

/// A sensor of the BMC.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct BmcSensor {
    /// Its name.
    pub name: String,
    /// The reading; absent if it has none, or none now.
    pub value: Option<f64>,
    /// UCUM unit.
    pub unit: String,
    /// States that are asserted; absent if it can't be told now.
    pub states: Option<Vec<String>>,
    /// Thresholds: lower non-critical, critical, non-recoverable, then upper.
    pub limits: [Option<f64>; 6],
}

/// What a part says it is.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct BmcPart {
    /// Its name.
    pub name: String,
    /// Fields, by what they are called, in their order.
    pub fields: Vec<(String, String)>,
}

/// An entry of the BMC's log.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct BmcEvent {
    /// Its record.
    pub record: u16,
    /// By the BMC's clock; below 2^29 s it counts from its start.
    pub unix_s: u32,
    /// What happened.
    pub text: String,
    /// It began; else it is over.
    pub asserted: bool,
}

/// The BMC's watchdog timer.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct BmcWatchdog {
    /// It counts.
    pub running: bool,
    /// What it does at its end: `nothing`, `reset`, `power down`, `power cycle`.
    pub action: String,
    /// From what it counts, in ms.
    pub timeout_ms: u32,
    /// What is left, in ms.
    pub left_ms: u32,
}

/// `POST /v1/rack/identify`: lets the chassis be found.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Identify {
    /// For so many seconds, 0 to 255; 0 ends it.
    pub seconds: u8,
}

/// A bus.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct RackBus {
    /// Its name.
    pub name: String,
    /// Its port, as configured.
    pub port: String,
    /// Why it is not open.
    pub error: Option<String>,
    /// What this node is on a bus that two are wired to, and whether it speaks.
    #[serde(default)]
    pub role: Option<String>,
    /// What is on it.
    pub devices: Vec<RackDevice>,
}

/// A device on a bus.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RackDevice {
    /// Its name on its bus.
    pub name: String,
    /// Its address; 0 where it has none.
    pub address: u8,
    /// Its register map.
    pub map: String,
    /// What it is.
    pub title: String,
    /// It has left several requests in a row unanswered.
    pub silent: bool,
    /// Why its last request failed.
    pub error: Option<String>,
    /// What its registers said last.
    pub readings: Vec<RackReading>,
}

/// What a register said last.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RackReading {
    /// The register's name.
    pub name: String,
    /// The metric it is a point of; empty if of none.
    pub metric: String,
    /// The value, if it is a number.
    pub value: Option<f64>,
    /// The value, if it is text or the names of bits.
    pub text: Option<String>,
    /// UCUM unit.
    pub unit: String,
    /// How far it may be believed.
    pub quality: Quality,
    /// When it was read; absent if it never was.
    pub unix_ms: Option<u64>,
}

/// How far a reading may be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Quality {
    /// Read when it was due, and possible.
    Good,
    /// Good when it was read, and overdue since.
    Stale,
    /// Read, but not possible: the device or the map is wrong.
    Suspect,
    /// There is none.
    Bad,
}

/// What was done to the node, as far as the record can be believed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Audit {
    /// Number of the first line that is kept.
    pub first: u64,
    /// Where it ends; absent while it is empty, or broken.
    pub head: Option<AuditHead>,
    /// Public key (Ed25519, hexadecimal digits) that its checkpoints were verified by.
    pub key: String,
    /// Where it is not what was written, and why; from there on nothing of it is shown.
    pub broken: Option<String>,
    /// The oldest first.
    pub entries: Vec<AuditEntry>,
}

/// The newest line of an audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditHead {
    /// Its number.
    pub number: u64,
    /// Its SHA-256, in hexadecimal digits.
    pub sha256: String,
}

/// One thing that was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// Counts from 1.
    pub number: u64,
    /// By the node's clock.
    pub unix_ms: u64,
    /// Who did it, e.g. uid 1000 (local).
    pub by: String,
    /// What was done, e.g. config.confirmed.
    pub what: String,
    /// To what, and what came of it.
    pub text: String,
}
