//! The arguments of an OCI runtime, as far as they matter here: which command, which
//! container, where its bundle is, where to log.
//!
//! There is no standard; these are runc's and crun's, which container managers write.
//! What is not known is a switch without a value, and passed on like all the rest.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

/// Options before the command that have a value.
const GLOBAL: [&str; 8] =
    ["root", "log", "log-format", "log-level", "criu", "cgroup-manager", "rootless", "systemd-log"];
/// Options after it that have one.
const OF_CREATE: [&str; 9] = [
    "bundle",
    "b",
    "config",
    "f",
    "console-socket",
    "pid-file",
    "preserve-fds",
    "lsm-profile",
    "lsm-mount-context",
];
/// Commands that make a container from a specification.
const CREATING: [&str; 2] = ["create", "run"];

/// What a runtime was called for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// All of them, to be passed on.
    pub words: Vec<OsString>,
    /// The container that is to be made, if one is.
    pub create: Option<Create>,
    /// Where errors are looked for.
    pub log: Option<PathBuf>,
    /// They are looked for as JSON.
    pub log_is_json: bool,
}

/// A container that is to be made.
#[derive(Debug, PartialEq, Eq)]
pub struct Create {
    /// Its id.
    pub id: String,
    /// Its specification.
    pub config: PathBuf,
}

impl Call {
    /// Reads the words after the runtime's name.
    pub fn parse(all: Vec<OsString>) -> Self {
        let mut call = Self::default();
        let mut words = all.iter();
        let command = loop {
            match Word::next(&mut words, &GLOBAL) {
                Some(Word::Option("log", Some(value))) => call.log = Some(value.into()),
                Some(Word::Option("log-format", Some(value))) => call.log_is_json = value == "json",
                Some(Word::Option(..)) => {}
                Some(Word::Plain(word)) => break Some(word),
                None => break None,
            }
        };
        if command.is_some_and(|it| CREATING.iter().any(|creating| it == *creating)) {
            call.create = create(&mut words);
        }
        call.words = all;
        call
    }
}

fn create<'a>(words: &mut impl Iterator<Item = &'a OsString>) -> Option<Create> {
    let (mut id, mut bundle, mut config) = (None, None, None);
    while let Some(word) = Word::next(words, &OF_CREATE) {
        match word {
            Word::Option("bundle" | "b", value) => bundle = value,
            Word::Option("config" | "f", value) => config = value,
            Word::Option(..) => {}
            Word::Plain(word) => id = id.or(word.to_str()),
        }
    }
    let bundle = Path::new(bundle.unwrap_or(OsStr::new("")));
    let config = bundle.join(config.unwrap_or(OsStr::new("config.json")));
    Some(Create { id: id?.into(), config })
}

/// One word, or an option and its value.
enum Word<'a> {
    Option(&'a str, Option<&'a OsStr>),
    Plain(&'a OsStr),
}

impl<'a> Word<'a> {
    fn next(words: &mut impl Iterator<Item = &'a OsString>, valued: &[&str]) -> Option<Self> {
        let word = words.next()?;
        // An option's name is ASCII; what follows `=` is a path, and may be anything.
        let bytes = word.as_encoded_bytes();
        let Some(option) = bytes.strip_prefix(b"-").filter(|it| !it.is_empty()) else {
            return Some(Word::Plain(word));
        };
        let option = option.strip_prefix(b"-").unwrap_or(option);
        let end = option.iter().position(|it| *it == b'=');
        let name = std::str::from_utf8(&option[..end.unwrap_or(option.len())]).unwrap_or("");
        let value = match end {
            Some(end) => {
                use std::os::unix::ffi::OsStrExt;
                Some(OsStr::from_bytes(&option[end + 1..]))
            }
            None if valued.contains(&name) => words.next().map(OsString::as_os_str),
            None => None,
        };
        Some(Word::Option(name, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, expected: Option<(&str, &str)>) -> Call {
        let words = line.split_whitespace().map(OsString::from).collect();
        let call = Call::parse(words);
        let found = call.create.as_ref().map(|it| (it.id.as_str(), it.config.to_str().unwrap()));
        assert_eq!(found, expected, "{line}");
        call
    }

    #[test]
    fn the_bundle_and_the_id_are_found_as_container_managers_write_them() {
        // containerd's shim.
        let call = check(
            "--root /run/runc/k8s.io --log /x/log.json --log-format json --systemd-cgroup create \
             --bundle /run/b --pid-file /run/b/init.pid abc",
            Some(("abc", "/run/b/config.json")),
        );
        assert_eq!((call.log, call.log_is_json), (Some("/x/log.json".into()), true));
        // conmon.
        check(
            "--systemd-cgroup --root=/run/runc create --bundle /b --pid-file /p --console-socket /s id",
            Some(("id", "/b/config.json")),
        );
        check("--log-level debug create -b=/b id", Some(("id", "/b/config.json")));
        // By hand, in the bundle's own directory, and with crun's order of words.
        check("run box", Some(("box", "config.json")));
        check("run box --detach -b /b -f other.json", Some(("box", "/b/other.json")));
        check("-root /r run --preserve-fds 3 --keep box", Some(("box", "config.json")));
    }

    #[test]
    fn whatever_makes_no_container_is_passed_on() {
        for line in
            ["state id", "--root /r delete --force id", "--version", "", "create", "exec run id"]
        {
            let call = check(line, None);
            assert_eq!(call.words.len(), line.split_whitespace().count(), "{line}");
        }
    }
}
