//! One part's read in progress: a root, and the problems met so far.
//!
//! It draws the one line that all drivers need: a file that is not there, or
//! that answers "not applicable", is `None`; a file that is there and can't be
//! read or understood is `None` and a [`Problem`].

use std::{fmt::Display, io, str::FromStr};

use nix::errno::Errno;
use purlin_core::{
    idset::{IdSet, MAX_ID},
    inventory::{Part, Problem},
};

use crate::{
    Root,
    root::{Dir, text},
};

/// The most problems one read of one part reports: a person needs the first few,
/// and a tree of nonsense must not become a list without end.
pub const MAX_PROBLEMS: usize = 64;

/// The longest name or description kept, in characters; DMI strings are at
/// most 255 by the kernel's own reading, most are under 64.
const MAX_LABEL: usize = 128;

/// How much of a text that makes no sense is quoted, in characters.
const MAX_QUOTE: usize = 40;

/// How much is asked of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// What changes while it works, and whether that can be believed.
    Reading,
    /// What it is too.
    All,
}

/// Where a file is: a path, or a name in an open directory. The latter is the
/// cheap way to read several files of one directory.
pub(crate) trait File: Copy {
    fn path(self) -> String;
    fn read(self, root: &Root) -> io::Result<String>;
}

impl File for &str {
    fn path(self) -> String {
        self.into()
    }

    fn read(self, root: &Root) -> io::Result<String> {
        root.read(self)
    }
}

impl File for &String {
    fn path(self) -> String {
        self.clone()
    }

    fn read(self, root: &Root) -> io::Result<String> {
        root.read(self)
    }
}

impl File for (&Dir<'_>, &str) {
    fn path(self) -> String {
        self.0.path_of(self.1)
    }

    fn read(self, _: &Root) -> io::Result<String> {
        self.0.read(self.1)
    }
}

pub(crate) struct Probe<'a> {
    pub(crate) root: &'a Root,
    part: Part,
    problems: Vec<Problem>,
    unlisted: usize,
}

impl<'a> Probe<'a> {
    pub(crate) fn new(part: Part, root: &'a Root) -> Self {
        Self { root, part, problems: Vec::new(), unlisted: 0 }
    }

    /// The problems met, the last one telling how many more there were.
    pub(crate) fn finish(mut self) -> Vec<Problem> {
        if self.unlisted > 0 {
            let what = format!("and {} problems more, not listed", self.unlisted);
            self.problems.push(Problem { part: self.part, at: self.part.name().into(), what });
        }
        self.problems
    }

    pub(crate) fn problem(&mut self, at: &str, what: impl Display) {
        if self.problems.len() >= MAX_PROBLEMS {
            self.unlisted += 1;
            return;
        }
        self.problems.push(Problem { part: self.part, at: at.into(), what: what.to_string() });
    }

    /// The text of a file that a machine may lack.
    pub(crate) fn text(&mut self, file: impl File) -> Option<String> {
        let read = file.read(self.root);
        self.keep(file, read)
    }

    /// The text of a file that may be larger than most.
    pub(crate) fn text_up_to(&mut self, path: &str, limit: u64) -> Option<String> {
        let read = self.root.bytes_up_to(path, limit);
        self.keep(path, read).map(text)
    }

    /// The start of a file that a machine may lack; see [`Root::head`].
    pub(crate) fn head(&mut self, path: &str, limit: u64) -> Option<String> {
        let read = self.root.head(path, limit);
        self.keep(path, read)
    }

    /// The bytes of a file that a machine may lack.
    pub(crate) fn bytes(&mut self, path: &str) -> Option<Vec<u8>> {
        let read = self.root.bytes(path);
        self.keep(path, read)
    }

    /// The text of a file without which the part can't be told.
    pub(crate) fn need(&mut self, file: impl File) -> Option<String> {
        let read = file.read(self.root);
        if read.as_ref().is_err_and(is_absent) {
            self.problem(&file.path(), "is not there");
        }
        self.keep(file, read)
    }

    /// A name or description, fit for a terminal; `None` if it is empty.
    pub(crate) fn label(&mut self, file: impl File) -> Option<String> {
        label(&self.text(file)?)
    }

    /// The text of a file that is not empty; an empty one tells as little as
    /// none at all.
    fn filled(&mut self, file: impl File) -> Option<String> {
        self.text(file).filter(|text| !text.is_empty())
    }

    /// A decimal number, e.g. `-1` or `4096`.
    pub(crate) fn number<T: FromStr>(&mut self, file: impl File) -> Option<T> {
        let text = self.filled(file)?;
        match text.trim().parse() {
            Ok(number) => Some(number),
            Err(_) => {
                self.problem(&file.path(), format!("{} is not a number that fits", quote(&text)));
                None
            }
        }
    }

    /// A hexadecimal number, with or without `0x`.
    pub(crate) fn hex(&mut self, file: impl File) -> Option<u32> {
        let text = self.filled(file)?;
        let digits = text.trim().trim_start_matches("0x");
        match u32::from_str_radix(digits, 16) {
            Ok(number) => Some(number),
            Err(_) => {
                self.problem(
                    &file.path(),
                    format!("{} is not a 32-bit hexadecimal number", quote(&text)),
                );
                None
            }
        }
    }

    /// A number where the kernel writes −1 for "not told".
    pub(crate) fn told(&mut self, file: impl File) -> Option<u32> {
        let number: i64 = self.number(file)?;
        u32::try_from(number).ok()
    }

    /// A yes or no written as `1` or `0`.
    pub(crate) fn flag(&mut self, file: impl File) -> Option<bool> {
        self.number(file).map(|number: i64| number != 0)
    }

    /// A set of ids in list form.
    pub(crate) fn set(&mut self, file: impl File) -> Option<IdSet> {
        let text = self.text(file)?;
        self.understood(file, IdSet::parse(&text))
    }

    /// A set of ids that has a mask file and, since 2.6.26, a list file with
    /// the same content. The mask is asked first: every kernel has it.
    pub(crate) fn mask_or_set(&mut self, mask: impl File, list: impl File) -> Option<IdSet> {
        match self.text(mask) {
            Some(text) => self.understood(mask, IdSet::parse_mask(&text)),
            None => self.set(list),
        }
    }

    /// A directory, open and listed; `None` if there is none.
    pub(crate) fn dir(&mut self, path: &str) -> Option<Dir<'a>> {
        let dir = self.root.dir(path);
        self.keep(path, dir)
    }

    /// A directory in an open one; `None` if there is none.
    pub(crate) fn dir_in<'d>(&mut self, dir: &Dir<'d>, name: &str) -> Option<Dir<'d>> {
        let inner = dir.dir(name);
        self.keep((dir, name), inner)
    }

    /// The names in a directory; `None` if there is none.
    pub(crate) fn names(&mut self, path: &str) -> Option<Vec<String>> {
        let list = self.root.list(path);
        self.keep(path, list)
    }

    /// The names in a directory that lists one kind of device. A live machine
    /// without the directory has no such device; a dump without it does not
    /// say, and that is a problem.
    pub(crate) fn devices(&mut self, path: &str) -> Option<Vec<String>> {
        let names = self.names(path);
        if names.is_some() || self.root.exists(path) {
            return names;
        }
        if self.root.is_live() && self.root.exists("/sys/devices") {
            self.root.keep_none(path);
            return Some(Vec::new());
        }
        self.problem(path, "is not there; is this the root of a machine's files?");
        None
    }

    /// The ids of a directory's entries that are called `prefix` and a number.
    pub(crate) fn numbered(&mut self, path: &str, prefix: &str) -> Option<IdSet> {
        Some(numbered(&self.dir(path)?, prefix))
    }

    /// Where a link leads, unresolved; `None` if it is no link.
    pub(crate) fn link(&mut self, path: &str) -> Option<String> {
        let link = self.root.link_target(path);
        self.keep(path, link)
    }

    /// The last name of where a link leads: a driver, a group, a device.
    pub(crate) fn link_name(&mut self, path: &str) -> Option<String> {
        let target = self.link(path)?;
        label(target.rsplit('/').next()?)
    }

    fn keep<T>(&mut self, file: impl File, result: io::Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.report(&file.path(), &error);
                None
            }
        }
    }

    /// Makes a problem of an error, unless it says that there is nothing to read.
    pub(crate) fn report(&mut self, path: &str, error: &io::Error) {
        if !is_absent(error) && !is_not_applicable(error) {
            self.problem(path, reason(error));
        }
    }

    fn understood(&mut self, file: impl File, set: Result<IdSet, String>) -> Option<IdSet> {
        set.map_err(|what| self.problem(&file.path(), quote(&what))).ok()
    }
}

/// The ids of the entries called `prefix` and a number, ascending.
pub(crate) fn numbered(dir: &Dir<'_>, prefix: &str) -> IdSet {
    let id = |name: &str| name.strip_prefix(prefix)?.parse().ok().filter(|id| *id <= MAX_ID);
    dir.names().filter_map(id).collect()
}

/// A kernel's error in words, with the next step where one is known.
pub(crate) fn reason(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EACCES | Errno::EPERM) => "permission denied; root may read it".into(),
        Some(errno) => errno.desc().to_lowercase(),
        None => error.to_string(),
    }
}

pub(crate) fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP)
    )
}

/// What sysfs answers where the question makes no sense: the speed of a link
/// that is down, a sensor with nothing connected, a device just pulled out.
fn is_not_applicable(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::EINVAL | Errno::ENODATA | Errno::EOPNOTSUPP | Errno::ENODEV)
    )
}

/// Text fit for a terminal: one line, no control characters, not too long;
/// `None` if nothing remains.
pub(crate) fn label(text: &str) -> Option<String> {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    let text: String = text.chars().map(printable).collect();
    let words: Vec<&str> = text.split_whitespace().collect();
    let label: String = words.join(" ").chars().take(MAX_LABEL).collect();
    (!label.is_empty()).then_some(label)
}

/// A piece of a text that makes no sense, in quotes, safe to print.
pub(crate) fn quote(text: &str) -> String {
    let start: String = text.chars().take(MAX_QUOTE).collect();
    let dots = if start.len() < text.len() { "…" } else { "" };
    format!("\"{}{dots}\"", start.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_counts_its_words_from_the_right() {
        let set = IdSet::parse_mask("00000001,80000003\n").expect("a valid mask");
        assert_eq!(set.to_string(), "0-1,31-32");
    }

    #[test]
    fn a_mask_of_nonsense_is_an_error() {
        assert!(IdSet::parse_mask("xyz").is_err());
        assert!(IdSet::parse_mask(&"ffffffff,".repeat(600)).is_err());
    }

    #[test]
    fn a_label_cannot_move_the_cursor() {
        assert_eq!(label("a\x1b[2Jb\n c\0").as_deref(), Some("a [2Jb c"));
        assert_eq!(label(" \0\n"), None);
    }
}
