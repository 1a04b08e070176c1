//! What scripts and technicians may rely on: exit codes, formats, colour, pipes.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use purlin_proto::api;
use purlin_tests::{Lab, Need, Node, Result, ensure, lab::Test, test};

/// The user `nobody`, and no group.
const NOBODY: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

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
        test("another_user_may_look_and_not_change", 30, not_permitted)
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

fn not_permitted(lab: &Lab) -> Result {
    let mut node = Node::new(lab, "node")?;
    for folder in [lab.dir(), node.dir()] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    }
    // The build directory may be closed to others. Not fs::copy: a process that
    // another test starts meanwhile would hold the file open for writing.
    let binary = lab.dir().join("purlin");
    ensure!(Command::new("cp").args([node.binary(), &binary]).status()?.success(), "cp");
    node.run_with(&[], &binary);
    node.start()?;
    let document = lab.file("desired.toml", "version = 1\n")?.display().to_string();
    let answer = node.cli_as(&NOBODY, &["config", "apply", &document])?;
    ensure!(answer.code == 5, "{answer:?}");
    ensure!(node.config()?.active.is_none(), "nothing applied");
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
