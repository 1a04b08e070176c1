//! Trials: nothing that was not confirmed survives, whatever happens meanwhile.

use std::{fs, net::TcpListener, time::Duration};

use prost::Message;
use purlin_proto::{
    api,
    topic::Topics,
    v1::{Desired, Outcome, Sampling, Uplink},
};
use purlin_tests::{
    Broker, Lab, Node, Result, ensure,
    lab::Test,
    node::{Answer, class, setting},
    test, wait,
};

use crate::{ROUND_TRIP, apply, connected, offer, reported};

pub fn local() -> [Test; 5] {
    [
        test("what_is_tried_is_kept_by_a_confirmation_alone", 60, kept),
        test("a_kill_in_a_trial_reverts", 60, killed),
        test("time_up_reverts_every_subsystem", 90, every_subsystem),
        test("a_technician_without_a_core_can_apply", 60, without_a_core),
        test("a_plan_says_what_is_disturbed_and_what_is_exported_applies", 60, planned),
    ]
}

pub fn remote() -> [Test; 3] {
    [
        test("settings_that_cut_the_node_off_revert_by_themselves", 120, cut_off),
        test("a_session_is_asked_for_under_every_change", 120, session),
        test("an_override_is_drift_and_ends_by_itself", 120, over),
    ]
}

/// Both ledger files.
pub fn ledgers(node: &Node) -> Result<Vec<Option<Vec<u8>>>> {
    let files = ["ledger.a", "ledger.b"].map(|name| node.state_dir().join(name));
    Ok(files.iter().map(|file| fs::read(file).ok()).collect())
}

const FIRST: &str = "version = 1\n[sampling]\ninterval_s = 5\n";
const SECOND: &str = "version = 2\n[sampling]\ninterval_s = 6\n";

fn attempt(lab: &Lab, node: &Node, document: &str, more: &[&str]) -> Result<Answer> {
    let path = lab.file("tried.toml", document)?.display().to_string();
    node.cli(&[&["config", "try", &path, "-o", "json"], more].concat())
}

fn interval(node: &Node) -> Result<String> {
    Ok(setting(&node.config()?, "sampling.interval_s")?.value.clone())
}

/// Waits until the document on trial is well.
pub fn well(node: &Node) -> Result<api::ConfigTrial> {
    wait::until("a trial that is well", ROUND_TRIP, || {
        let config = node.config().map_err(|e| format!("{e:?}"))?;
        let trial = config.trial.ok_or("no trial")?;
        if trial.well_for_ms.is_some() { Ok(trial) } else { Err(format!("{trial:?}")) }
    })
}

fn over_with(node: &Node) -> Result<api::Verdict> {
    wait::until("the trial's end", ROUND_TRIP, || {
        let config = node.config().map_err(|e| format!("{e:?}"))?;
        match (config.trial, config.last) {
            (None, Some(last)) if last.outcome != "waiting" => Ok(last),
            other => Err(format!("{other:?}")),
        }
    })
}

fn kept(lab: &Lab) -> Result {
    let mut node = Node::new(lab, "node")?;
    node.start()?;
    ensure!(apply(lab, &node, FIRST)?.code == 0, "applied");
    ensure!(node.cli(&["config", "confirm"])?.code == 3, "there is nothing to confirm");
    let tried: api::Verdict = attempt(lab, &node, SECOND, &["--for", "10m"])?.json()?;
    ensure!((tried.outcome.as_str(), tried.generation) == ("trial", 2), "{tried:?}");
    let trial = well(&node)?;
    ensure!(trial.by_hand && trial.left_ms > 500_000, "{trial:?}");
    ensure!(interval(&node)? == "6", "it is in force");
    let undone: api::Verdict = node.cli(&["config", "revert", "-o", "json"])?.json()?;
    ensure!(undone.outcome == "reverted" && interval(&node)? == "5", "{undone:?}");

    let again = attempt(lab, &node, SECOND, &[])?;
    ensure!(again.code == 3 && again.stdout.contains("--force"), "undone by hand: {again:?}");
    ensure!(attempt(lab, &node, SECOND, &["--force"])?.code == 0, "insisted");
    well(&node)?;
    ensure!(node.cli(&["config", "confirm"])?.code == 0, "confirmed");
    node.kill()?;
    node.start()?;
    ensure!(interval(&node)? == "6", "kept over a kill");
    node.stop()?;
    Ok(())
}

fn killed(lab: &Lab) -> Result {
    let mut node = Node::new(lab, "node")?;
    node.start()?;
    ensure!(apply(lab, &node, FIRST)?.code == 0, "applied");
    ensure!(attempt(lab, &node, SECOND, &[])?.code == 0, "tried");
    well(&node)?;
    node.kill()?;
    let offline = node.cli(&["config", "show", "-o", "json"])?;
    ensure!(offline.stdout.contains("\"5\""), "on disk the last known good one: {offline:?}");
    node.start()?;
    ensure!(interval(&node)? == "5", "it boots from the last known good one");
    let last = over_with(&node)?;
    ensure!(last.outcome == "interrupted", "{last:?}");
    ensure!(apply(lab, &node, SECOND)?.code == 0, "an interrupted one may be tried again");
    node.stop()?;
    Ok(())
}

/// Whatever a document can set, and where its effect is seen besides `config show`.
fn every_subsystem(lab: &Lab) -> Result {
    let mut node = Node::new(lab, "node")?;
    node.set("PURLIN_TEST__TRIAL_MS", "3000");
    node.start()?;
    let seen = |node: &Node| -> Result<_> {
        let config = node.config()?;
        let settings: Vec<_> =
            config.settings.iter().map(|it| format!("{}={}", it.path, it.value)).collect();
        let caps: Vec<_> =
            node.queue()?.classes.iter().map(|it| (it.cap_bytes, it.commit_window_ms)).collect();
        Ok((settings, caps, node.link()?.endpoint))
    };
    let before = seen(&node)?;
    let nobody = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let document = format!(
        "version = 9\n[sampling]\ninterval_s = 7\n[log]\nlevel = \"debug\"\n[spool]\n\
         cap_mib = 4\ncommit_window_s = 2\n[uplink]\nendpoint = \"mqtt://{nobody}\"\n\
         fallbacks = [\"mqtt://{nobody}\"]\nrate_kib_s = 9\n\
         [placement]\nenabled = false\nreserved_cpus = \"0\"\npolicy = \"none\"\n\
         fail_open = true\nrepack_mib = 64\ninterrupts = false\nmove_mib = 1\n\
         [placement.profiles.db]\ncontainer = \"db\"\n\
         [alarms]\nwebhook = \"http://{nobody}\"\n\
         [alarms.rules.hot]\nmetric = \"hw.temperature\"\nabove = 60\n\
         [[power.stages]]\nname = \"cap\"\nwhen = [\"hot\"]\nflush = true\n{}",
        [
            ("alarm", "newest"),
            ("event", "newest"),
            ("metric", "newest"),
            ("log", "newest"),
            ("relay", "oldest")
        ]
        .map(|(class, goes)| format!(
            "[spool.class.{class}]\ncap_mib = 3\nwhen_full = \"drop-{goes}\"\nttl_h = 1\n"
        ))
        .concat()
    );
    // The core's own time: nobody confirms it, and the broker isn't there.
    let path = lab.file("all.toml", document)?.display().to_string();
    let tried = node.cli(&["config", "try", &path, "--for", "5s"])?;
    ensure!(tried.code == 0, "{tried:?}");
    wait::until("all of it is in force", ROUND_TRIP, || {
        let now = seen(&node).map_err(|e| format!("{e:?}"))?;
        let changed = now.0.iter().zip(&before.0).filter(|(now, before)| now != before).count();
        let caps = now.1.iter().all(|(cap, _)| *cap <= 4 << 20) && now.1[0] != before.1[0];
        match changed == before.0.len() && caps && now.2.is_some() {
            true => Ok(()),
            false => Err(format!("{now:?}")),
        }
    })?;
    let last = over_with(&node)?;
    ensure!(last.outcome == "reverted", "{last:?}");
    wait::until("all of it is put back", ROUND_TRIP, || {
        let now = seen(&node).map_err(|e| format!("{e:?}"))?;
        if now == before { Ok(()) } else { Err(format!("{now:?}")) }
    })?;
    let config = node.config()?;
    ensure!(config.subsystems.iter().all(|it| it.problem.is_empty()), "{:?}", config.subsystems);
    // No setting is nobody's: each is planned, put in force, read back and put back.
    for it in &config.settings {
        let name = it.path.split('.').next().unwrap_or_default();
        ensure!(config.subsystems.iter().any(|part| part.name == name), "{} is nobody's", it.path);
    }
    node.stop()?;
    Ok(())
}

/// Its uplink has an endpoint, and nobody is there.
fn without_a_core(lab: &Lab) -> Result {
    let broker = Broker::absent(lab, "")?;
    let mut node = Node::new(lab, "node")?;
    node.set("PURLIN_UPLINK__ENDPOINT", broker.endpoint());
    node.start()?;
    ensure!(apply(lab, &node, FIRST)?.code == 0, "no session before, and none is asked for");
    let elsewhere = Broker::absent(lab, "")?;
    let moved = format!("version = 3\n[uplink]\nendpoint = \"{}\"\n", elsewhere.endpoint());
    ensure!(attempt(lab, &node, &moved, &[])?.code == 0, "tried");
    wait::until("confirmed by hand", ROUND_TRIP, || {
        let answer = node.cli(&["config", "confirm"]).map_err(|e| format!("{e:?}"))?;
        if answer.code == 0 { Ok(()) } else { Err(answer.stderr) }
    })?;
    ensure!(node.config()?.active.is_some_and(|it| it.version == 3), "in force");
    node.stop()?;
    Ok(())
}

fn planned(lab: &Lab) -> Result {
    let mut node = Node::new(lab, "node")?;
    node.start()?;
    ensure!(apply(lab, &node, FIRST)?.code == 0, "applied");
    let text = format!("{SECOND}[uplink]\nendpoint = \"mqtt://127.0.0.1:1\"\n");
    let path = lab.file("planned.toml", text)?.display().to_string();
    let plan: api::Plan = node.json(&["config", "plan", &path])?;
    let parts: Vec<_> =
        plan.parts.iter().map(|it| (it.name.as_str(), it.disturbs.as_str())).collect();
    ensure!(parts == [("sampling", "nothing"), ("uplink", "reload")], "{plan:?}");
    ensure!(plan.parts[1].what == ["mqtt://127.0.0.1:1 is connected to"], "{plan:?}");
    ensure!(interval(&node)? == "5", "nothing was applied");

    let hungry = "[placement]\nreserved_cpus = \"9000\"\n[placement.profiles.db]\n\
                  container = \"db\"\nworkload = { exclusive_cpus = 9000, devices = { gpu = 99 } }\n";
    let hungry = lab.file("hungry.toml", hungry)?.display().to_string();
    wait::until("what the machine doesn't have is refused", ROUND_TRIP, || {
        let refused = node.cli(&["config", "plan", &hungry]).map_err(|e| format!("{e:?}"))?;
        let missing = ["reserved_cpus", "exclusive_cpus", "devices.gpu"];
        let told = missing.iter().all(|path| refused.stderr.contains(path));
        // The inventory is being read.
        if refused.code == 3 && told { Ok(()) } else { Err(format!("{refused:?}")) }
    })?;

    let huge = lab.file("huge.toml", "[spool]\ncap_mib = 65536\n")?.display().to_string();
    let disk = nix_mib(&node)?;
    let refused = node.cli(&["config", "plan", &huge])?;
    ensure!(
        disk >= 65_536 || (refused.code == 3 && refused.stderr.contains("spool.cap_mib")),
        "a spool larger than its {disk} MiB disk: {refused:?}"
    );

    ensure!(apply(lab, &node, SECOND)?.code == 0, "applied");
    for form in ["table", "json", "yaml"] {
        let exported = node.cli(&["config", "export", "--gen", "1", "-o", form])?;
        ensure!(exported.code == 0, "{exported:?}");
        let name = format!("exported.{}", if form == "table" { "toml" } else { form });
        let path = lab.file(&name, &exported.stdout)?.display().to_string();
        let plan: api::Plan = node.json(&["config", "plan", &path])?;
        let changes: Vec<_> = plan.parts.iter().flat_map(|it| &it.changes).collect();
        ensure!(changes.iter().any(|it| it.from == "6" && it.to == "5"), "{form}: {plan:?}");
    }
    // A stage that an alarm has called already begins with its document, unless it rehearses.
    let rule = "version = 3\n[sampling]\ninterval_s = 1\n[alarms.rules.used]\n\
                metric = \"system.memory.usage\"\nabove = 0\n";
    ensure!(apply(lab, &node, rule)?.code == 0, "applied");
    wait::until("an alarm is raised", ROUND_TRIP, || {
        let alarms = node.status().map_err(|e| format!("{e:?}"))?.alarms;
        if alarms.iter().any(|it| it.id.starts_with("used")) {
            Ok(())
        } else {
            Err("none".to_owned())
        }
    })?;
    for (rehearse, disturbs) in [(false, "stages begin"), (true, "nothing")] {
        let stages = "[[power.stages]]\nname = \"low\"\nwhen = [\"used*\"]\nflush = true\n";
        let text = format!("{rule}[power]\nrehearse = {rehearse}\n{stages}");
        let path = lab.file("staged.toml", text)?.display().to_string();
        let plan: api::Plan = node.json(&["config", "plan", &path])?;
        let part = plan.parts.iter().find(|it| it.name == "power").ok_or("no part power")?;
        ensure!(part.disturbs == disturbs, "{plan:?}");
        ensure!(
            rehearse || part.what == ["stage low begins at once: tell, flush the spool"],
            "{part:?}"
        );
    }
    node.stop()?;
    Ok(())
}

fn nix_mib(node: &Node) -> Result<u64> {
    let disk = nix::sys::statvfs::statvfs(&node.state_dir())?;
    Ok((disk.blocks() * disk.fragment_size()) >> 20)
}

fn cut_off(lab: &Lab) -> Result {
    let (broker, mut node, topics) = connected(lab)?;
    node.stop()?;
    node.set("PURLIN_TEST__TRIAL_MS", "4000");
    node.start()?;
    let good = Desired { version: 1, ..Desired::default() };
    ensure!(
        offer(&broker, &topics, &good.encode_to_vec())?.outcome() == Outcome::Confirmed,
        "good"
    );
    let nobody = Broker::absent(lab, "")?;
    let document = Desired {
        version: 2,
        uplink: Some(Uplink { endpoint: Some(nobody.endpoint()), ..Uplink::default() }),
        ..Desired::default()
    };
    let verdict = offer(&broker, &topics, &document.encode_to_vec())?;
    ensure!(verdict.outcome() == Outcome::Reverted && verdict.version == 2, "{verdict:?}");
    ensure!(verdict.why.contains("uplink"), "{verdict:?}");
    let back = reported(&broker, &topics)?;
    ensure!(back.active.is_some_and(|it| it.version == 1), "the last known good one");
    ensure!(node.link()?.endpoint == Some(broker.endpoint()), "{:?}", node.link()?);
    // It was retained, and delivered again with the new session: it is not tried again.
    let ledgers_now = ledgers(&node)?;
    std::thread::sleep(Duration::from_secs(1));
    ensure!(node.config()?.trial.is_none() && ledgers(&node)? == ledgers_now, "not again");
    node.stop()?;
    Ok(())
}

/// A document that has nothing to do with the uplink, under which the node is cut off.
fn session(lab: &Lab) -> Result {
    let (mut broker, mut node, topics) = connected(lab)?;
    node.stop()?;
    node.set("PURLIN_TEST__TRIAL_MS", "8000");
    node.set("PURLIN_TEST__CONFIRM_AFTER_MS", "4000");
    node.start()?;
    wait_up(&node)?;
    let sampling = Some(Sampling { interval_s: Some(9), ..Sampling::default() });
    let document = Desired { version: 3, sampling, ..Desired::default() }.encode_to_vec();
    broker.retain(&topics.desired(), &document)?;
    wait::until("a trial", ROUND_TRIP, || {
        let config = node.config().map_err(|e| format!("{e:?}"))?;
        config.trial.map(drop).ok_or_else(|| "none".to_owned())
    })?;
    broker.kill()?;
    let last = over_with(&node)?;
    ensure!(last.outcome == "reverted" && last.why.contains("no session"), "{last:?}");
    ensure!(node.config()?.active.is_none(), "back to the defaults");
    node.stop()?;
    Ok(())
}

fn wait_up(node: &Node) -> Result {
    wait::until("the link", ROUND_TRIP, || {
        let link = node.link().map_err(|e| format!("{e:?}"))?;
        if link.state == api::LinkState::Up { Ok(()) } else { Err(format!("{link:?}")) }
    })
}

fn over(lab: &Lab) -> Result {
    let (broker, mut node, topics): (Broker, Node, Topics) = connected(lab)?;
    let sampling = |s| Some(Sampling { interval_s: Some(s), ..Sampling::default() });
    let document = |version, s| Desired { version, sampling: sampling(s), ..Desired::default() };
    offer(&broker, &topics, &document(1, 5).encode_to_vec())?;
    let path = lab.file("over.toml", SECOND)?.display().to_string();
    let without = node.cli(&["config", "apply", &path, "--override", "5s"])?;
    ensure!(without.code == 64, "an override needs a reason: {without:?}");
    let words = ["config", "apply", &path, "--override", "8s", "--reason", "a fan & its cable"];
    let applied = node.cli(&words)?;
    ensure!(applied.code == 0, "{applied:?}");
    let drift = reported(&broker, &topics)?.drift.ok_or("no drift reported")?;
    let over = drift.applied.unwrap_or_default().r#override.unwrap_or_default();
    ensure!(drift.desired_version == 1 && over.reason == "a fan & its cable", "{over:?}");
    let shown = node.cli(&["config", "show"])?.stdout;
    ensure!(shown.contains("drift") && shown.contains("a fan & its cable"), "{shown}");
    broker.retain(&topics.desired(), &document(4, 8).encode_to_vec())?;
    wait::until("the core's document comes back", ROUND_TRIP, || {
        let reported = reported(&broker, &topics).map_err(|e| format!("{e:?}"))?;
        let active = reported.active.clone().unwrap_or_default().version;
        match reported.drift.is_none() && reported.trial.is_none() && active == 4 {
            true => Ok(()),
            false => Err(format!("{reported:?}")),
        }
    })?;
    ensure!(interval(&node)? == "8", "the later one of the core's");
    ensure!(class(&node.queue()?, "event")?.last_seq > 0, "and events tell of it");
    node.stop()?;
    Ok(())
}
