//! The binary as a shell sees it: exit codes, streams, pipes. It needs no agent.

#![allow(clippy::unwrap_used)]

use std::{
    io::{Read, pipe},
    process::{Command, Output, Stdio},
};

fn purlin(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_purlin"));
    command.args(words).env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE").env("COLUMNS", "80");
    command
}

fn ran(words: &[&str]) -> Output {
    purlin(words).output().unwrap()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_closed_pipe_is_ok_and_silent() {
    for words in [&["completions", "bash"][..], &["--help"], &["config", "apply", "--help"]] {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let mut child = purlin(words).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(0), ""), "{words:?}");
    }
}

#[test]
fn a_full_disk_fails() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let status = purlin(&["completions", "bash"]).stdout(full).stderr(Stdio::null()).status();
    assert_eq!(status.unwrap().code(), Some(1));
}

#[test]
fn wrong_usage_is_64() {
    for words in [&["frobnicate"][..], &["status", "-o", "xml"], &["hw", "show", "soul"], &[]] {
        assert_eq!(ran(words).status.code(), Some(64), "{words:?}");
    }
}

#[test]
fn help_is_0_and_lists_the_exit_codes() {
    let help = ran(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&help.stdout).contains("64  wrong usage"));
}

#[test]
fn without_an_agent_it_is_4_and_says_where_it_looked() {
    for words in [&["status"][..], &["link", "show"], &["link", "test"], &["log", "-w"]] {
        let output = ran(&[&["--socket", "/nowhere/agent.sock"], words].concat());
        assert_eq!(output.status.code(), Some(4), "{words:?}");
        assert!(output.stdout.is_empty());
        assert!(told(&output).contains("/nowhere/agent.sock"), "{}", told(&output));
    }
}

#[test]
fn help_is_coloured_on_demand_only() {
    let colour = |words: &[&str]| ran(words).stdout.contains(&0x1b);
    assert!(!colour(&["--help"]));
    assert!(!colour(&["status", "--help"]));
}

#[test]
fn a_root_is_where_the_command_was_typed() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("dump/proc")).unwrap();
    std::fs::write(dir.path().join("dump/proc/meminfo"), "MemTotal: 1024 kB\n").unwrap();
    let mut list = purlin(&["hw", "list", "--root", "dump"]);
    let output = list.current_dir(&dir).output().unwrap();
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(listed.contains("1 MiB"), "{listed}{}", told(&output));
}
