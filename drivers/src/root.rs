//! Where the machine's files are: the live machine, or a dump's directory.
//!
//! Owns the only directory descriptor from which drivers open anything, and the
//! limits on what one read may bring. A dump is opaque: each open by path is
//! resolved by the kernel as if the dump's directory were `/` (`openat2(2)`,
//! `RESOLVE_IN_ROOT`), so an absolute link or a `..` in it leads to the dump's
//! own file or nowhere, and only plain files and directories are opened, so
//! that a device node in it can't reach the live device. A [`Dir`] opens what
//! its own listing calls a plain file or a directory, by that one name and
//! following no link; all else goes by path. It must never fall back to an
//! unconfined open.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use nix::{
    dir::{Dir as Entries, Type},
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat},
    sys::{
        stat::{Mode, SFlag, fstat},
        statvfs::{Statvfs, fstatvfs},
    },
};

/// The most one file may hold, in bytes: `/proc/cpuinfo` of a machine with 512
/// CPUs is about 800 kB, and nothing else we read comes near it.
pub const MAX_FILE: u64 = 1 << 20;

/// The most entries one directory may have: twice the kernel's largest
/// `NR_CPUS`, and far above the PCI functions of any machine.
pub const MAX_ENTRIES: usize = 16_384;

/// What a read starts with, in bytes: sysfs answers with at most one page.
const PAGE: usize = 4096;

/// How a file is opened. O_NONBLOCK: a pipe in a dump must not hold us.
const PLAIN: OFlag = OFlag::O_RDONLY.union(OFlag::O_NONBLOCK).union(OFlag::O_NOCTTY);

/// The root directory of a machine's files.
#[derive(Debug)]
pub struct Root {
    place: Place,
    opens: AtomicU64,
    reads: AtomicU64,
}

#[derive(Debug)]
enum Place {
    Live(OwnedFd),
    Dump(OwnedFd),
}

/// Why a root can't be used.
#[derive(Debug)]
pub enum OpenError {
    /// The directory can't be opened.
    Directory {
        /// The directory asked for.
        path: PathBuf,
        /// What the kernel said.
        errno: Errno,
    },
    /// The kernel (before Linux 5.6) or a system call filter has no `openat2`,
    /// without which a dump can't be kept apart from the live machine.
    NoConfinement {
        /// The directory asked for.
        path: PathBuf,
        /// What the kernel said.
        errno: Errno,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory { path, errno } => {
                write!(f, "{}: {}; give a readable directory", path.display(), errno.desc())
            }
            Self::NoConfinement { path, errno } => write!(
                f,
                "{}: this kernel can't confine a dump (openat2: {}); use Linux 5.6 or newer, \
                 without a filter on openat2",
                path.display(),
                errno.desc()
            ),
        }
    }
}

impl std::error::Error for OpenError {}

impl Root {
    /// The live machine for `/`, else the dump at `path`.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        if path == Path::new("/") { Self::live() } else { Self::dump(path) }
    }

    /// The live machine.
    pub fn live() -> Result<Self, OpenError> {
        Ok(Self::new(Place::Live(directory(Path::new("/"))?)))
    }

    /// A dump: a directory that holds `proc` and `sys` of some machine.
    pub fn dump(path: &Path) -> Result<Self, OpenError> {
        let root = Self::new(Place::Dump(directory(path)?));
        // Asked once here, so that no read has to explain it.
        match root.open_at("/", OFlag::O_PATH) {
            Ok(_) => Ok(root),
            Err(errno) => Err(OpenError::NoConfinement { path: path.into(), errno }),
        }
    }

    fn new(place: Place) -> Self {
        Self { place, opens: AtomicU64::new(0), reads: AtomicU64::new(0) }
    }

    /// True for the live machine.
    pub fn is_live(&self) -> bool {
        matches!(self.place, Place::Live(_))
    }

    /// How many opens were tried through this root so far: what a part costs
    /// is asserted by counting, since time differs from machine to machine.
    pub fn opens(&self) -> u64 {
        self.opens.load(Ordering::Relaxed)
    }

    /// How many files were read whole through this root so far.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// The bytes of the file at `path`, at most [`MAX_FILE`] of them; a larger
    /// file is an error of kind [`io::ErrorKind::FileTooLarge`].
    pub fn bytes(&self, path: &str) -> io::Result<Vec<u8>> {
        self.bytes_up_to(path, MAX_FILE)
    }

    /// [`Root::bytes`] with a limit of its own.
    pub fn bytes_up_to(&self, path: &str, limit: u64) -> io::Result<Vec<u8>> {
        self.content(File::from(self.open_plain(path)?), path, limit)
    }

    /// The text of the file at `path`, without the newlines, NULs and spaces
    /// at its end; what is not UTF-8 is replaced.
    pub fn read(&self, path: &str) -> io::Result<String> {
        self.bytes(path).map(text)
    }

    /// The names in the directory at `path`, sorted, without `.` and `..`. More
    /// than [`MAX_ENTRIES`] is an error.
    pub fn list(&self, path: &str) -> io::Result<Vec<String>> {
        Ok(self.dir(path)?.entries.into_iter().map(|(name, _)| name).collect())
    }

    /// The directory at `path`, open and listed: whoever reads several files of
    /// it, or asks whether they are there, pays one open for the directory and
    /// one for each file, and nothing for a file that is not there. More than
    /// [`MAX_ENTRIES`] is an error.
    pub fn dir(&self, path: &str) -> io::Result<Dir<'_>> {
        let fd = self.open_at(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        Dir::listed(self, path.trim_end_matches('/').to_owned(), fd)
    }

    /// What the link at `path` says, unresolved. Something that is no link is
    /// an error, as is a missing one.
    pub fn link_target(&self, path: &str) -> io::Result<String> {
        let target = match &self.place {
            Place::Live(dir) => readlinkat(dir, relative(path))?,
            Place::Dump(_) => {
                let link = self.open_at(path, OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
                readlinkat(&link, "")?
            }
        };
        Ok(target.to_string_lossy().into_owned())
    }

    /// True if something is at `path`, readable or not.
    pub fn exists(&self, path: &str) -> bool {
        self.open_at(path, OFlag::O_PATH).is_ok()
    }

    /// True if a directory is at `path`.
    pub fn is_dir(&self, path: &str) -> bool {
        self.open_at(path, OFlag::O_PATH | OFlag::O_DIRECTORY).is_ok()
    }

    /// Usage of the file system that holds `/`; `None` for a dump, whose
    /// directory lies on a file system of the machine that reads it.
    pub(crate) fn filesystem(&self) -> Option<io::Result<Statvfs>> {
        match &self.place {
            Place::Live(dir) => Some(fstatvfs(dir).map_err(io::Error::from)),
            Place::Dump(_) => None,
        }
    }

    fn open_plain(&self, path: &str) -> io::Result<OwnedFd> {
        if let Place::Dump(_) = self.place {
            // Opening a device node has effects of its own (a watchdog starts,
            // a tape rewinds); O_PATH has none.
            let mode = fstat(self.open_at(path, OFlag::O_PATH)?)?.st_mode;
            if SFlag::from_bits_truncate(mode) & SFlag::S_IFMT != SFlag::S_IFREG {
                return Err(io::Error::other("is not a plain file"));
            }
        }
        Ok(self.open_at(path, PLAIN)?)
    }

    fn open_at(&self, path: &str, flags: OFlag) -> Result<OwnedFd, Errno> {
        self.opens.fetch_add(1, Ordering::Relaxed);
        let flags = flags | OFlag::O_CLOEXEC;
        match &self.place {
            Place::Live(dir) => openat(dir.as_fd(), relative(path), flags, Mode::empty()),
            Place::Dump(dir) => {
                let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
                openat2(dir.as_fd(), path, OpenHow::new().flags(flags).resolve(resolve))
            }
        }
    }

    fn content(&self, mut file: File, path: &str, limit: u64) -> io::Result<Vec<u8>> {
        // On the stack, since nearly all of what is read is a few bytes.
        let mut page = [0; PAGE];
        let first = file.read(&mut page)?;
        let mut bytes = page[..first].to_vec();
        if first == PAGE || (first > 0 && !answers_whole(path)) {
            file.take((limit + 1).saturating_sub(first as u64)).read_to_end(&mut bytes)?;
        }
        if bytes.len() as u64 > limit {
            let what = format!("larger than the limit of {limit} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
        }
        self.reads.fetch_add(1, Ordering::Relaxed);
        Ok(bytes)
    }
}

/// A directory of a root, open and listed once.
#[derive(Debug)]
pub struct Dir<'a> {
    root: &'a Root,
    path: String,
    entries: Vec<(String, Kind)>,
    /// Where the listing's own names are opened, without a path to resolve.
    open: Entries,
}

/// What a listing says of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Directory,
    /// A link, a device node, or a file system that doesn't say.
    Other,
}

impl<'a> Dir<'a> {
    fn listed(root: &'a Root, path: String, fd: OwnedFd) -> io::Result<Self> {
        let mut open = Entries::from_fd(fd)?;
        let mut entries = Vec::new();
        for entry in open.iter() {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == "." || name == ".." {
                continue;
            }
            if entries.len() == MAX_ENTRIES {
                let what = format!("more than the limit of {MAX_ENTRIES} entries");
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
            }
            let kind = match entry.file_type() {
                Some(Type::File) => Kind::Plain,
                Some(Type::Directory) => Kind::Directory,
                _ => Kind::Other,
            };
            entries.push((name, kind));
        }
        entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(Self { root, path, entries, open })
    }

    /// Where it is, e.g. `/sys/devices/system/cpu`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Where an entry of it is.
    pub fn path_of(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }

    /// The names in it, sorted, without `.` and `..`.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(name, _)| name.as_str())
    }

    /// True if it has an entry of that name.
    pub fn has(&self, name: &str) -> bool {
        self.kind(name).is_some()
    }

    /// The bytes of a file in it, at most [`MAX_FILE`].
    pub fn bytes(&self, name: &str) -> io::Result<Vec<u8>> {
        match self.kind(name) {
            None => Err(Errno::ENOENT.into()),
            Some(Kind::Plain) => {
                let file = self.open_at(name, PLAIN)?;
                self.root.content(File::from(file), &self.path, MAX_FILE)
            }
            Some(_) => self.root.bytes(&self.path_of(name)),
        }
    }

    /// The text of a file in it, as [`Root::read`] gives it.
    pub fn read(&self, name: &str) -> io::Result<String> {
        self.bytes(name).map(text)
    }

    /// A directory in it.
    pub fn dir(&self, name: &str) -> io::Result<Dir<'a>> {
        match self.kind(name) {
            None => Err(Errno::ENOENT.into()),
            Some(Kind::Directory) => {
                let fd = self.open_at(name, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
                Dir::listed(self.root, self.path_of(name), fd)
            }
            Some(_) => self.root.dir(&self.path_of(name)),
        }
    }

    fn kind(&self, name: &str) -> Option<Kind> {
        let place = self.entries.binary_search_by(|(entry, _)| entry.as_str().cmp(name)).ok()?;
        Some(self.entries[place].1)
    }

    fn open_at(&self, name: &str, flags: OFlag) -> Result<OwnedFd, Errno> {
        self.root.opens.fetch_add(1, Ordering::Relaxed);
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(&self.open, name, flags, Mode::empty())
    }
}

/// True where a read that brings less than was asked for has met the end: an
/// attribute of sysfs comes whole. The files of procfs and debugfs are made of
/// records, and a read may end at any of them.
fn answers_whole(path: &str) -> bool {
    path.starts_with("/sys/") && !path.starts_with("/sys/kernel/debug")
}

fn text(bytes: Vec<u8>) -> String {
    let mut text = String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
    text.truncate(text.trim_end_matches(|c: char| c == '\0' || c.is_whitespace()).len());
    text
}

/// `openat` ignores its directory for an absolute path, so `/sys` becomes `sys`.
fn relative(path: &str) -> &str {
    match path.trim_start_matches('/') {
        "" => ".",
        relative => relative,
    }
}

fn directory(path: &Path) -> Result<OwnedFd, OpenError> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::fcntl::open(path, flags, Mode::empty())
        .map_err(|errno| OpenError::Directory { path: path.into(), errno })
}
