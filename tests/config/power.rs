//! Power cuts at each step of the door: what boots afterwards is the last known good
//! document or the one that was confirmed, whole, and never something between.

use std::{
    env,
    sync::atomic::{AtomicBool, Ordering},
    thread::{self, sleep},
    time::Duration,
};

use purlin_tests::{
    Lab, Need, Node, Random, Result,
    disk::{self, Disk},
    ensure,
    lab::Test,
    node::setting,
    test,
};

use crate::{apply, trial};

/// In CI; `PURLIN_CUTS` says otherwise.
const CUTS_A_STEP: u32 = 3;
/// A command that writes has written, or is about to, within this time of its start.
const AROUND_A_WRITE_MS: u64 = 40;

/// When the power fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// While a document is offered, its intent written, and it is put in force.
    Offered,
    /// While it is on trial.
    OnTrial,
    /// While it is confirmed.
    Confirming,
    /// Right after somebody was told that it is.
    Confirmed,
    /// While it is undone.
    Reverting,
}

const STEPS: [Step; 5] =
    [Step::Offered, Step::OnTrial, Step::Confirming, Step::Confirmed, Step::Reverting];

pub fn tests() -> [Test; 1] {
    [test("a_power_cut_at_any_step_leaves_one_document_or_the_other", 3000, cuts).needs(&[
        Need::Program("perl"),
        Need::Program("mount"),
        Need::Program("mkfs.ext4"),
        Need::Is(|| disk::missing("ext4")),
    ])]
}

fn cuts(lab: &Lab) -> Result {
    let cuts = env::var("PURLIN_CUTS").ok().and_then(|it| it.parse().ok()).unwrap_or(CUTS_A_STEP);
    let mut random = Random::from_environment()?;
    let disk = Disk::make(lab, "disk", "ext4", 64)?;
    let mut node = Node::new(lab, "node")?;
    node.set("PURLIN_STATE_DIR", disk.path().join("state"));
    node.start()?;
    ensure!(apply(lab, &node, &document(1))?.code == 0, "applied");
    let mut old = 1;
    let mut kept = [0; STEPS.len()];
    for cut in 0..cuts * STEPS.len() as u32 {
        let at = cut as usize % STEPS.len();
        let new = u64::from(cut) + 2;
        let may_be = cut_at(lab, &node, &disk, STEPS[at], new, &mut random)?;
        node.kill()?;
        disk.cycle()?;
        node.start()?;
        let is = in_force(&node).map_err(|e| format!("cut {cut}, {:?}: {e:?}", STEPS[at]))?;
        let fits = may_be.contains(&(is == new)) && (is == new || is == old);
        ensure!(fits, "cut {cut}, {:?}: {is} is in force, of {old} and {new}", STEPS[at]);
        kept[at] += u32::from(is == new);
        old = is;
    }
    let told: Vec<_> = STEPS.iter().zip(kept).map(|(at, new)| format!("{at:?} {new}")).collect();
    println!("{cuts} cuts a step; the new document was kept: {}", told.join(", "));
    node.stop().map(drop)
}

/// Offers a document, and cuts the power. Whether it may be the new one that is kept.
fn cut_at(
    lab: &Lab,
    node: &Node,
    disk: &Disk,
    step: Step,
    new: u64,
    random: &mut Random,
) -> Result<&'static [bool]> {
    let cutter = disk.arm()?;
    let path = lab.file("new.toml", document(new))?.display().to_string();
    let attempt = ["config", "try", &path, "--for", "10m"];
    match step {
        Step::Offered => {}
        Step::Confirmed => ensure!(apply(lab, node, &document(new))?.code == 0, "applied"),
        Step::OnTrial | Step::Confirming | Step::Reverting => {
            let tried = node.cli(&attempt)?;
            ensure!(tried.code == 0, "{tried:?}");
            trial::well(node)?;
        }
    }
    let command: &[&str] = match step {
        Step::Offered => &attempt,
        Step::Confirming => &["config", "confirm"],
        Step::Reverting => &["config", "revert"],
        Step::OnTrial | Step::Confirmed => {
            cutter.cut()?;
            return Ok(if step == Step::Confirmed { &[true] } else { &[false] });
        }
    };
    let (is_done, wait) = (AtomicBool::new(false), random.below(AROUND_A_WRITE_MS * 1000));
    thread::scope(|scope| {
        scope.spawn(|| {
            // What it says once the power is off, nobody would have heard.
            let answer = node.cli(command);
            is_done.store(answer.is_ok_and(|it| it.code == 0), Ordering::Release);
        });
        sleep(Duration::from_micros(wait));
        let was_done = is_done.load(Ordering::Acquire);
        cutter.cut()?;
        Ok(match (step, was_done) {
            (Step::Confirming, true) => &[true][..],
            (Step::Confirming, false) => &[true, false],
            _ => &[false],
        })
    })
}

/// Three settings, each of which tells which document it is of.
fn document(version: u64) -> String {
    let [(_, interval), (_, memory), (_, cap)] = settings(version);
    format!(
        "version = {version}\n\
         [sampling]\ninterval_s = {interval}\ninterval_s_by_sampler = {{ memory = {memory} }}\n\
         [spool]\ncap_mib = {cap}\n"
    )
}

/// What they are then, in the range of each: the disk is small.
fn settings(version: u64) -> [(&'static str, u64); 3] {
    let interval = 2 + version % 3000;
    [
        ("sampling.interval_s", interval),
        ("sampling.interval_s_by_sampler.memory", interval),
        ("spool.cap_mib", 2 + version % 8),
    ]
}

/// The version that is in force, if all of it is.
fn in_force(node: &Node) -> Result<u64> {
    let config = node.config()?;
    ensure!(config.trial.is_none(), "it boots into a trial: {:?}", config.trial);
    let version = config.active.as_ref().map_or(0, |active| active.version);
    for (path, expected) in settings(version) {
        let value = &setting(&config, path)?.value;
        ensure!(*value == expected.to_string(), "{path} is {value} in version {version}");
    }
    Ok(version)
}
