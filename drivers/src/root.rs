//! Where the machine's files are: the live machine, a dump's directory, or a tar.
//!
//! Owns the only directory descriptor from which drivers open anything, and the
//! limits on what one read may bring. A dump is opaque: each open by path is
//! resolved by the kernel as if the dump's directory were `/` (`openat2(2)`,
//! `RESOLVE_IN_ROOT`), so an absolute link or a `..` in it leads to the dump's
//! own file or nowhere, and only plain files and directories are opened, so
//! that a device node in it can't reach the live device. A [`Dir`] opens what
//! its own listing calls a plain file or a directory, by that one name and
//! following no link; all else goes by path. It must never fall back to an
//! unconfined open. A tar is never unpacked to disk ([`Archive`]).

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{self, Read, Write},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat},
    sys::{
        stat::{Mode, SFlag, fstat},
        statvfs::{Statvfs, fstatvfs},
    },
};
use rustix::fs::{FileType, RawDir};

use crate::{
    archive::{Archive, Node},
    gather,
};

/// The most one file may hold, in bytes: `/proc/cpuinfo` of a machine with 512
/// CPUs is about 800 kB, and nothing else we read comes near it.
pub const MAX_FILE: u64 = 1 << 20;

/// The most entries one directory may have: twice the kernel's largest
/// `NR_CPUS`, and far above the PCI functions of any machine.
pub const MAX_ENTRIES: usize = 16_384;

/// How often an open that met a rename is tried: each meets another one only by chance.
const RETRIES: u32 = 32;

/// What a read starts with, in bytes: sysfs answers with at most one page.
const PAGE: usize = 4096;

/// What one call that lists a directory may bring, in bytes: about 200 names,
/// so that nearly every directory takes one, on the stack.
const LISTING: usize = 8192;

/// How a file is opened. O_NONBLOCK: a pipe in a dump must not hold us.
const PLAIN: OFlag = OFlag::O_RDONLY.union(OFlag::O_NONBLOCK).union(OFlag::O_NOCTTY);

/// How a directory is opened.
const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY);

/// What is wrong with a pipe, a device node or a directory that is read.
pub(crate) const NOT_PLAIN: &str = "is not a plain file";

/// The root directory of a machine's files.
#[derive(Debug)]
pub struct Root {
    place: Place,
    /// What was read so far, where a dump is made.
    gathered: Option<Mutex<Archive>>,
    opens: AtomicU64,
    reads: AtomicU64,
}

#[derive(Debug)]
enum Place {
    Live(OwnedFd),
    Dump(OwnedFd),
    Packed(Archive),
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
    /// The file is no dump, or a damaged one.
    Packed {
        /// The file asked for.
        path: PathBuf,
        /// What is wrong with it.
        error: io::Error,
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
                write!(f, "{}: {}; give a readable directory or tar", path.display(), errno.desc())
            }
            Self::Packed { path, error } => write!(
                f,
                "{}: {error}; give the directory of a machine's files, or a whole tar of it",
                path.display()
            ),
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
        // Paths begin there, and it is not listed: a sandbox may have closed it.
        Ok(Self::new(Place::Live(directory(Path::new("/"), OFlag::O_PATH)?)))
    }

    /// The live machine, whose files are kept as they are read: what drivers
    /// made of them is what they make of [`Root::gathered`].
    pub fn gathering() -> Result<Self, OpenError> {
        Ok(Self { gathered: Some(Mutex::default()), ..Self::live()? })
    }

    /// What was read, listed or found to exist through [`Root::gathering`].
    pub fn gathered(self) -> Archive {
        let gathered = self.gathered.unwrap_or_default();
        gathered.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// A dump: a directory that holds `proc` and `sys` of some machine, or that
    /// holds one such directory; or a tar of either.
    pub fn dump(path: &Path) -> Result<Self, OpenError> {
        let dir = match directory(path, OFlag::O_RDONLY) {
            Err(OpenError::Directory { errno: Errno::ENOTDIR, .. }) => return Self::packed(path),
            dir => dir?,
        };
        let root = Self::new(Place::Dump(dir));
        // Asked once here, so that no read has to explain it.
        if let Err(errno) = root.open_at("/", OFlag::O_PATH) {
            return Err(OpenError::NoConfinement { path: path.into(), errno });
        }
        let names = root.list("/").unwrap_or_default();
        let beneath = beneath(&names, |path| root.is_dir(path));
        let beneath = beneath.and_then(|name| root.open_at(&name, DIRECTORY).ok());
        Ok(beneath.map_or(root, |dir| Self::new(Place::Dump(dir))))
    }

    fn packed(path: &Path) -> Result<Self, OpenError> {
        let archive = File::open(path).and_then(Archive::unpack);
        match archive {
            Ok(archive) => Ok(archive.into()),
            Err(error) => Err(OpenError::Packed { path: path.into(), error }),
        }
    }

    fn new(place: Place) -> Self {
        Self { place, gathered: None, opens: AtomicU64::new(0), reads: AtomicU64::new(0) }
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
        let bytes = match &self.place {
            Place::Packed(archive) => {
                self.opens.fetch_add(1, Ordering::Relaxed);
                let bytes = archive.bytes_up_to(path, limit)?;
                self.reads.fetch_add(1, Ordering::Relaxed);
                bytes
            }
            _ => self.content(File::from(self.open_plain(path)?), path, limit)?,
        };
        self.keep(path, || Node::File(bytes.clone()));
        Ok(bytes)
    }

    /// The first `limit` bytes of the file at `path`, or all of it: for a long
    /// list of like records (`/proc/cpuinfo`), which the kernel writes no
    /// further than it is read.
    pub fn head(&self, path: &str, limit: u64) -> io::Result<String> {
        let bytes = match &self.place {
            Place::Packed(archive) => archive.head(path, limit)?,
            _ => {
                let mut bytes = Vec::with_capacity(PAGE);
                File::from(self.open_plain(path)?).take(limit).read_to_end(&mut bytes)?;
                bytes
            }
        };
        self.keep(path, || Node::File(bytes.clone()));
        Ok(String::from_utf8_lossy(&bytes).into_owned())
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
        let at = path.trim_end_matches('/').to_owned();
        match &self.place {
            Place::Packed(archive) => {
                self.opens.fetch_add(1, Ordering::Relaxed);
                Dir::unpacked(self, at, archive)
            }
            _ => Dir::listed(self, at, self.open_at(path, DIRECTORY)?),
        }
    }

    /// What the link at `path` says, unresolved. Something that is no link is
    /// an error, as is a missing one.
    pub fn link_target(&self, path: &str) -> io::Result<String> {
        let target = match &self.place {
            Place::Packed(archive) => archive.link_target(path)?,
            _ => self.unrecorded_target(path)?,
        };
        self.keep(path, || Node::Link(target.clone()));
        Ok(target)
    }

    /// Writes to a file of the live machine, in one call, as cgroups and `/proc` take it.
    /// A dump is never written to, and no link is followed.
    pub(crate) fn write(&self, path: &str, text: &str) -> io::Result<()> {
        let Place::Live(dir) = &self.place else {
            return Err(Errno::EROFS.into());
        };
        self.opens.fetch_add(1, Ordering::Relaxed);
        let mut file = File::from(open_to_write(dir.as_fd(), path)?);
        let written = file.write(text.as_bytes())?;
        if written == text.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// True if something is at `path`, readable or not.
    pub fn exists(&self, path: &str) -> bool {
        let exists = match &self.place {
            Place::Packed(archive) => archive.exists(path),
            _ => self.open_at(path, OFlag::O_PATH).is_ok(),
        };
        if exists && self.gathered.is_some() && !self.is_dir(path) {
            self.keep(path, || Node::File(Vec::new()));
        }
        exists
    }

    /// True if a directory is at `path`.
    pub fn is_dir(&self, path: &str) -> bool {
        let is_dir = match &self.place {
            Place::Packed(archive) => archive.is_dir(path),
            _ => self.open_at(path, OFlag::O_PATH | OFlag::O_DIRECTORY).is_ok(),
        };
        if is_dir {
            self.keep(path, || Node::Dir(BTreeMap::new()));
        }
        is_dir
    }

    /// Usage of the file system that holds `/`; `None` for a dump, whose
    /// directory lies on a file system of the machine that reads it.
    pub(crate) fn filesystem(&self) -> Option<io::Result<Statvfs>> {
        match &self.place {
            Place::Live(dir) => Some(fstatvfs(dir).map_err(io::Error::from)),
            Place::Dump(_) | Place::Packed(_) => None,
        }
    }

    /// The live machine has no device of the kind that `path` lists. In a dump
    /// an empty directory says so.
    pub(crate) fn keep_none(&self, path: &str) {
        self.keep(path, || Node::Dir(BTreeMap::new()));
    }

    fn keep(&self, path: &str, node: impl FnOnce() -> Node) {
        let Some(gathered) = &self.gathered else { return };
        let mut gathered = gathered.lock().unwrap_or_else(PoisonError::into_inner);
        gather::keep(&mut gathered, path, node(), |path| self.unrecorded_target(path).ok());
    }

    fn unrecorded_target(&self, path: &str) -> io::Result<String> {
        let target = match &self.place {
            Place::Live(dir) => readlinkat(dir, relative(path))?,
            _ => readlinkat(self.open_at(path, OFlag::O_PATH | OFlag::O_NOFOLLOW)?, "")?,
        };
        Ok(target.to_string_lossy().into_owned())
    }

    fn open_plain(&self, path: &str) -> io::Result<OwnedFd> {
        if let Place::Dump(_) = self.place {
            // Opening a device node has effects of its own (a watchdog starts,
            // a tape rewinds); O_PATH has none.
            let mode = fstat(self.open_at(path, OFlag::O_PATH)?)?.st_mode;
            if SFlag::from_bits_truncate(mode) & SFlag::S_IFMT != SFlag::S_IFREG {
                return Err(io::Error::other(NOT_PLAIN));
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
                let how = OpenHow::new().flags(flags).resolve(resolve);
                // A rename anywhere on the system while it follows a `..` (openat2(2)).
                let mut opened = (0..RETRIES).map(|_| openat2(dir.as_fd(), path, how));
                let decided = opened.find(|opened| !matches!(opened, Err(Errno::EAGAIN)));
                decided.unwrap_or(Err(Errno::EAGAIN))
            }
            Place::Packed(_) => Err(Errno::ENOTDIR),
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
            return Err(over(limit));
        }
        self.reads.fetch_add(1, Ordering::Relaxed);
        Ok(bytes)
    }
}

impl From<Archive> for Root {
    /// A dump that is in memory.
    fn from(archive: Archive) -> Self {
        Self::new(Place::Packed(archive))
    }
}

/// A directory of a root, open and listed once.
#[derive(Debug)]
pub struct Dir<'a> {
    root: &'a Root,
    path: String,
    entries: Vec<(String, Kind)>,
    /// Where the listing's own names are opened, without a path to resolve.
    /// A tar has no such place.
    open: Option<OwnedFd>,
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
        let mut entries = Vec::new();
        let mut listing = [MaybeUninit::uninit(); LISTING];
        let mut listing = RawDir::new(&fd, &mut listing);
        while let Some(entry) = listing.next() {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == "." || name == ".." {
                continue;
            }
            if entries.len() == MAX_ENTRIES {
                return Err(too_many());
            }
            let kind = match entry.file_type() {
                FileType::RegularFile => Kind::Plain,
                FileType::Directory => Kind::Directory,
                _ => Kind::Other,
            };
            entries.push((name, kind));
        }
        entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let dir = Self { root, path, entries, open: Some(fd) };
        dir.keep();
        Ok(dir)
    }

    fn unpacked(root: &'a Root, path: String, archive: &Archive) -> io::Result<Self> {
        // All goes by path.
        let entries = archive.list(&path)?.into_iter().map(|name| (name, Kind::Other)).collect();
        Ok(Self { root, path, entries, open: None })
    }

    /// The entries' names, and where links lead, are part of a dump; the content
    /// of a file is where it was read.
    fn keep(&self) {
        if self.root.gathered.is_none() {
            return;
        }
        self.root.keep(&self.path, || Node::Dir(BTreeMap::new()));
        for (name, kind) in &self.entries {
            let path = self.path_of(name);
            match kind {
                Kind::Plain => self.root.keep(&path, || Node::File(Vec::new())),
                Kind::Directory => self.root.keep(&path, || Node::Dir(BTreeMap::new())),
                Kind::Other => drop(self.root.link_target(&path)),
            }
        }
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

    /// The names in it of directories, sorted.
    pub fn dirs(&self) -> impl Iterator<Item = &str> {
        let is_dir = |(name, kind): &&(String, Kind)| match kind {
            Kind::Plain => false,
            Kind::Directory => true,
            Kind::Other => self.root.is_dir(&self.path_of(name)),
        };
        self.entries.iter().filter(is_dir).map(|(name, _)| name.as_str())
    }

    /// True if it has an entry of that name.
    pub fn has(&self, name: &str) -> bool {
        self.kind(name).is_some()
    }

    /// The bytes of a file in it, or further down in it, at most [`MAX_FILE`].
    pub fn bytes(&self, name: &str) -> io::Result<Vec<u8>> {
        if let Some((first, _)) = name.split_once('/') {
            return match self.kind(first) {
                Some(_) if self.has_below(name) => self.root.bytes(&self.path_of(name)),
                _ => Err(Errno::ENOENT.into()),
            };
        }
        match self.kind(name) {
            None => Err(Errno::ENOENT.into()),
            Some(Kind::Plain) => {
                let file = self.open_at(name, PLAIN)?;
                let bytes = self.root.content(File::from(file), &self.path, MAX_FILE)?;
                if self.root.gathered.is_some() {
                    self.root.keep(&self.path_of(name), || Node::File(bytes.clone()));
                }
                Ok(bytes)
            }
            Some(_) => self.root.bytes(&self.path_of(name)),
        }
    }

    /// The text of a file in it, as [`Root::read`] gives it.
    pub fn read(&self, name: &str) -> io::Result<String> {
        self.bytes(name).map(text)
    }

    /// A directory in it, or further down in it: `cpu0/topology` costs one open.
    pub fn dir(&self, name: &str) -> io::Result<Dir<'a>> {
        if let Some((first, _)) = name.split_once('/') {
            return match self.kind(first) {
                None => Err(Errno::ENOENT.into()),
                Some(_) => self.below(name),
            };
        }
        match self.kind(name) {
            None => Err(Errno::ENOENT.into()),
            Some(Kind::Directory) => {
                let fd = self.open_at(name, DIRECTORY)?;
                Dir::listed(self.root, self.path_of(name), fd)
            }
            Some(_) => self.root.dir(&self.path_of(name)),
        }
    }

    /// A path from here down. Where a link is on the way it goes by the whole
    /// path, since only from the root are links kept in the dump.
    fn below(&self, path: &str) -> io::Result<Dir<'a>> {
        match self.open_below(path, DIRECTORY) {
            Some(Ok(fd)) => Dir::listed(self.root, self.path_of(path), fd),
            Some(Err(errno)) if errno != Errno::ELOOP => Err(errno.into()),
            _ => self.root.dir(&self.path_of(path)),
        }
    }

    /// False where nothing is for sure; the way there from here is the short one.
    fn has_below(&self, path: &str) -> bool {
        !matches!(self.open_below(path, OFlag::O_PATH), Some(Err(Errno::ENOENT)))
    }

    /// Opens a path from here down that no link is on; only in a dump's directory.
    fn open_below(&self, path: &str, flags: OFlag) -> Option<Result<OwnedFd, Errno>> {
        let (Place::Dump(_), Some(open)) = (&self.root.place, &self.open) else { return None };
        let resolve = ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        self.root.opens.fetch_add(1, Ordering::Relaxed);
        Some(openat2(open, path, OpenHow::new().flags(flags).resolve(resolve)))
    }

    fn kind(&self, name: &str) -> Option<Kind> {
        let place = self.entries.binary_search_by(|(entry, _)| entry.as_str().cmp(name)).ok()?;
        Some(self.entries[place].1)
    }

    fn open_at(&self, name: &str, flags: OFlag) -> Result<OwnedFd, Errno> {
        self.root.opens.fetch_add(1, Ordering::Relaxed);
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(self.open.as_ref().ok_or(Errno::ENOTDIR)?, name, flags, Mode::empty())
    }
}

/// The name of the one directory that is a machine's root, where the directory
/// asked for is none itself: dumps are packed with the directory they lay in.
pub(crate) fn beneath(names: &[String], is_dir: impl Fn(&str) -> bool) -> Option<String> {
    let is_root = |name: &str| ["proc", "sys"].iter().any(|dir| is_dir(&format!("{name}/{dir}")));
    if is_root("") {
        return None;
    }
    let mut roots = names.iter().filter(|name| is_root(&format!("/{name}")));
    roots.next().filter(|_| roots.next().is_none()).cloned()
}

pub(crate) fn over(limit: u64) -> io::Error {
    let what = format!("larger than the limit of {limit} bytes");
    io::Error::new(io::ErrorKind::FileTooLarge, what)
}

pub(crate) fn too_many() -> io::Error {
    let what = format!("more than the limit of {MAX_ENTRIES} entries");
    io::Error::new(io::ErrorKind::FileTooLarge, what)
}

/// True where a read that brings less than was asked for has met the end: an
/// attribute of sysfs comes whole. The files of procfs and debugfs are made of
/// records, and a read may end at any of them.
fn answers_whole(path: &str) -> bool {
    path.starts_with("/sys/") && !path.starts_with("/sys/kernel/debug")
}

pub(crate) fn text(bytes: Vec<u8>) -> String {
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

/// Opens a file for writing, one folder after the other, so that no link is followed.
/// `openat2` does it at once; systemd's `RestrictSUIDSGID=` answers it with `ENOSYS`.
fn open_to_write(dir: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    let (folders, name) = match relative(path).rsplit_once('/') {
        Some((folders, name)) => (Some(folders), name),
        None => (None, relative(path)),
    };
    let open = |at: BorrowedFd<'_>, name: &str, flags| match name {
        "" | ".." => Err(Errno::EINVAL),
        name => openat(at, name, flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty()),
    };
    let mut at: Option<OwnedFd> = None;
    for folder in folders.into_iter().flat_map(|folders| folders.split('/')) {
        let above = at.as_ref().map_or(dir, |at| at.as_fd());
        at = Some(open(above, folder, OFlag::O_PATH | OFlag::O_DIRECTORY)?);
    }
    let above = at.as_ref().map_or(dir, |at| at.as_fd());
    open(above, name, OFlag::O_WRONLY | OFlag::O_NOCTTY)
}

fn directory(path: &Path, how: OFlag) -> Result<OwnedFd, OpenError> {
    let flags = how | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::fcntl::open(path, flags, Mode::empty())
        .map_err(|errno| OpenError::Directory { path: path.into(), errno })
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn what_is_written_is_where_it_was_named_and_behind_no_link() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| format!("{}/{name}", dir.path().display());
        fs::create_dir(path("in")).expect("a folder");
        fs::write(path("in/file"), "").expect("a file");
        symlink(path("in"), path("link")).expect("a link");
        symlink(path("in/file"), path("in/link")).expect("a link");
        let root = Root::live().expect("the live machine");
        root.write(&path("in/file"), "yes").expect("a write");
        for name in ["link/file", "in/link", "in/../in/file", "in//file", "in/none", "in"] {
            root.write(&path(name), "no").expect_err(name);
        }
        assert_eq!(fs::read_to_string(path("in/file")).expect("a file"), "yes");
    }
}
