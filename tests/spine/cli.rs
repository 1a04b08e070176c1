//! What scripts and technicians may rely on: exit codes, formats, colour, pipes.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use purlin_proto::api;
use purlin_tests::{Lab, Need, Node, Result, ensure, lab::Test, test};

/// The user `nobody`, and its group.
const NOBODY: [&str; 3] = ["setpriv", "--reuid=65534", "--regid=65534"];
/// Groups that every Debian has, for roles: viewer, technician, admin.
const GROUPS: [&str; 3] = ["games", "dialout", "staff"];

/// Every command that shows something of a running agent.
const SHOWS: [&[&str]; 8] = [
    &["status"],
    &["hw", "list"],
    &["hw", "tree"],
    &["queue", "show"],
    &["link", "show"],
    &["config", "show"],
    &["config", "history"],
    &["log"],
];

pub fn tests() -> Vec<Test> {
    vec![
        test("without_an_agent_commands_exit_4", 30, unreachable),
        test("wrong_usage_exits_64", 30, usage),
        test("every_view_has_a_table_json_and_yaml", 90, formats),
        test("another_user_may_what_a_group_lets_him", 60, by_role)
            .needs(&[Need::Root, Need::Program("setpriv")]),
        test("a_closed_pipe_is_not_an_error", 30, closed_pipe).needs(&[Need::Program("bash")]),
        test("colour_only_on_a_terminal", 30, colour).needs(&[Need::Program("script")]),
        test("completions_and_man_pages_come_from_the_binary", 30, generated),
    ]
}

fn unreachable(lab: &Lab) -> Result {
    let node = Node::new(lab, "node")?;
    for command in [&["status"][..], &["link", "show"], &["link", "test"], &["log"]] {
        let answer = node.cli(command)?;
        ensure!(answer.code == 4, "{command:?}: {answer:?}");
        ensure!(!answer.stderr.is_empty(), "{command:?} says why");
    }
    Ok(())
}

fn usage(lab: &Lab) -> Result {
    let node = Node::new(lab, "node")?;
    for command in [&["nonsense"][..], &["status", "--nope"], &["status", "-o", "xml"], &["config"]]
    {
        let answer = node.cli(command)?;
        ensure!(answer.code == 64, "{command:?}: {answer:?}");
    }
    ensure!(node.cli(&["--help"])?.code == 0, "--help");
    ensure!(node.cli(&["--version"])?.stdout.starts_with("purlin "), "--version");
    Ok(())
}

fn formats(lab: &Lab) -> Result {
    let mut node = Node::new(lab, "node")?;
    node.start()?;
    for command in SHOWS {
        node.json::<serde_json::Value>(command)?;
        for format in ["table", "yaml"] {
            let answer = node.cli(&[command, &["-o", format]].concat())?;
            ensure!(matches!(answer.code, 0 | 2), "{command:?} {format}: {answer:?}");
            let json = serde_json::from_str::<serde_json::Value>(&answer.stdout).is_ok();
            ensure!(!answer.stdout.is_empty() && !json, "{command:?} {format}: {answer:?}");
        }
    }
    let status: api::Status = node.status()?;
    ensure!(status.api == 1 && status.pid == node.pid()?, "{status:?}");
    node.stop()?;
    Ok(())
}

fn by_role(lab: &Lab) -> Result {
    let mut node = Node::new(lab, "node")?;
    for folder in [lab.dir(), node.dir()] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    }
    // The build directory may be closed to others. Not fs::copy: a process that
    // another test starts meanwhile would hold the file open for writing.
    let binary = lab.dir().join("purlin");
    ensure!(Command::new("cp").args([node.binary(), &binary]).status()?.success(), "cp");
    node.run_with(&[], &binary);
    for (role, group) in ["VIEWER", "TECHNICIAN", "ADMIN"].iter().zip(GROUPS) {
        node.set(&format!("PURLIN_ACCESS__{role}_GROUP"), group);
    }
    node.start()?;
    let document = lab.file("desired.toml", "version = 1\n")?.display().to_string();
    let look = ["status", "-o", "json"];
    let change = ["config", "apply", &document];
    let remove = ["queue", "purge", "--class", "event", "--yes"];
    let none = "--clear-groups".to_owned();
    let of = |group: &str| format!("--groups={group}");
    for (groups, role, codes) in [
        (none, "none", [5, 5, 5]),
        (of(GROUPS[0]), "viewer", [0, 5, 5]),
        (of(GROUPS[1]), "technician", [0, 0, 5]),
        (of(GROUPS[2]), "admin", [0, 0, 0]),
    ] {
        let who = [&NOBODY[..], &[&groups]].concat();
        for (words, code) in [&look[..], &change, &remove].into_iter().zip(codes) {
            let answer = node.cli_as(&who, words)?;
            ensure!(answer.code == code, "{role}: {words:?}: {answer:?}");
            let says_how = answer.stderr.contains("usermod -aG");
            ensure!(says_how == (code == 5), "{role}: {words:?}: {answer:?}");
        }
        if role != "none" {
            let you = node.cli_as(&who, &look)?.json::<api::Status>()?.you.ok_or("nobody")?;
            ensure!((you.uid, you.role.as_str()) == (Some(65534), role), "{you:?}");
        }
    }
    ensure!(node.status()?.you.is_some_and(|you| you.role == "admin"), "whoever runs it");
    let record = node.cli(&["audit", "list", "-n", "50", "-o", "json"])?.stdout;
    let refused = record.matches("api.refused").count();
    ensure!(refused == 4, "{refused} refusals on record: {record}");
    node.stop()?;
    Ok(())
}

fn closed_pipe(lab: &Lab) -> Result {
    let node = Node::new(lab, "node")?;
    // The reader is gone before the first byte is written.
    let script = r#"{ sleep 0.3; "$@"; echo "exit $?" >&2; } | exec true"#;
    let mut command = node.command(&["timeout", "20", "bash", "-c", script, "bash"]);
    let output = command.args(["hw", "list", "-o", "json"]).output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(stderr.trim() == "exit 0", "{stderr}");
    Ok(())
}

fn colour(lab: &Lab) -> Result {
    let mut node = Node::new(lab, "node")?;
    let piped = node.cli(&["hw", "list"])?;
    ensure!(!piped.stdout.contains('\x1b'), "colour in a pipe: {}", piped.stdout);
    node.set("TERM", "linux");
    node.set("NO_COLOR", "1");
    let plain = on_a_terminal(&node)?;
    ensure!(!plain.contains('\x1b'), "colour in spite of NO_COLOR: {plain}");
    node.unset("NO_COLOR");
    let coloured = on_a_terminal(&node)?;
    ensure!(coloured.contains('\x1b'), "no colour on a terminal: {coloured}");
    Ok(())
}

/// `purlin hw list` under a pseudo-terminal.
fn on_a_terminal(node: &Node) -> Result<String> {
    let script = r#"script --quiet --return --command "'$0' hw list" /dev/null"#;
    let mut command = node.command(&["timeout", "20", "bash", "-c", script]);
    Ok(String::from_utf8_lossy(&command.output()?.stdout).into_owned())
}

fn generated(lab: &Lab) -> Result {
    let node = Node::new(lab, "node")?;
    for shell in ["bash", "zsh", "fish"] {
        let answer = node.cli(&["completions", shell])?;
        ensure!(answer.code == 0 && answer.stdout.contains("purlin"), "{shell}: {answer:?}");
    }
    let answer = node.cli(&["config", "default"])?;
    ensure!(answer.code == 0 && answer.stdout.contains("state_dir"), "{answer:?}");
    Ok(())
}
