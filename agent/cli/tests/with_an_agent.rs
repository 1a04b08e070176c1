//! The binary against something that answers as an agent would: exit codes by what
//! it says, watching, and ending well.

#![allow(clippy::unwrap_used)]

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    thread,
};

use tempfile::TempDir;

const LINK: &str = r#"{"state": "up", "endpoint": "mqtt://127.0.0.1:18830", "client_id": "a1",
    "since_unix_ms": 0, "last_error": null, "retry_in_ms": null, "attempts": 0, "connects": 1,
    "in_flight": 0, "acked_batches": 0, "acked_records": 0, "acked_bytes": 0, "refused": 0,
    "unheard": 0}"#;

const REFUSED: &str = r#"{"error": "refused; nothing was changed", "refusals": [
    {"path": "log.level", "value": "loud", "limit": "info or debug", "hint": "use info"}]}"#;

/// Answers every request with one status and one body, until the test ends.
struct Agent {
    dir: TempDir,
}

impl Agent {
    fn answering(status: &'static str, body: &'static str) -> Self {
        let agent = Self { dir: tempfile::tempdir().unwrap() };
        let listener = UnixListener::bind(agent.socket()).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                answer(stream.unwrap(), status, body);
            }
        });
        agent
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    fn purlin(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_purlin"));
        command.arg("--socket").arg(self.socket()).args(words);
        command.env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE").env("COLUMNS", "80");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn ran(&self, words: &[&str]) -> Output {
        self.purlin(words).output().unwrap()
    }
}

fn answer(mut stream: UnixStream, status: &str, body: &str) {
    let _ = stream.read(&mut [0; 4096]);
    let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
}

fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    line
}

#[test]
fn a_pipe_is_never_coloured_unless_told() {
    let agent = Agent::answering("200 OK", LINK);
    let coloured = |words: &[&str]| agent.ran(words).stdout.contains(&0x1b);
    assert!(!coloured(&["link", "show"]));
    assert!(coloured(&["link", "show", "--color", "always"]));
    assert!(!coloured(&["link", "show", "--color", "never"]));
}

#[test]
fn watching_json_is_a_document_a_line_until_the_pipe_is_closed() {
    let agent = Agent::answering("200 OK", LINK);
    let mut child = agent.purlin(&["link", "show", "-w=1", "-o", "json"]).spawn().unwrap();
    // The reader is dropped after this line: the next document finds the pipe closed.
    let line = first_line(&mut child);
    assert!(line.starts_with(r#"{"schema":1,"state":"up","#), "{line}");
    let ended = child.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), ended.stderr.len()), (Some(0), 0));
}

#[test]
fn ctrl_c_ends_watching_well() {
    let agent = Agent::answering("200 OK", LINK);
    let mut child = agent.purlin(&["link", "show", "-w=3600"]).spawn().unwrap();
    assert!(first_line(&mut child).starts_with("link"));
    let killed = Command::new("sh").arg("-c").arg(format!("kill -INT {}", child.id())).status();
    assert!(killed.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_refused_document_is_3_with_every_reason() {
    let agent = Agent::answering("422 Unprocessable Entity", REFUSED);
    for words in [["config", "apply", "-"], ["config", "plan", "-"]] {
        let output = agent.ran(&words);
        assert_eq!(output.status.code(), Some(3));
        assert!(output.stdout.is_empty());
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.contains("log.level") && told.contains("use info"), "{told}");
    }
}

#[test]
fn a_program_gets_the_reasons_as_a_document() {
    let agent = Agent::answering("422 Unprocessable Entity", REFUSED);
    let output = agent.ran(&["config", "apply", "-", "-o", "json"]);
    assert_eq!(output.status.code(), Some(3));
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["refusals"][0]["path"], "log.level");
}

#[test]
fn what_is_not_permitted_is_5() {
    let agent = Agent::answering("403 Forbidden", r#"{"error": "uid 1000 may not: use sudo"}"#);
    let output = agent.ran(&["config", "apply", "-"]);
    assert_eq!(output.status.code(), Some(5));
    assert_eq!(output.stderr, b"purlin: uid 1000 may not: use sudo\n");
}

#[test]
fn an_agent_that_hangs_up_leaves_an_offer_in_doubt() {
    let agent = Agent::answering("", "");
    let output = agent.ran(&["config", "apply", "-"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stderr).contains("may be in force or not"));
}
