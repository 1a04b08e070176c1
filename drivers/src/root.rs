//! Where the machine's files are: the live machine, or a dump's directory.
//!
//! Owns the only directory descriptor from which drivers open anything, and the
//! limits on what one read may bring. A dump is opaque: each open is resolved
//! by the kernel as if the dump's directory were `/` (`openat2(2)`,
//! `RESOLVE_IN_ROOT`), so an absolute link or a `..` in it leads to the dump's
//! own file or nowhere, and only plain files and directories are opened, so
//! that a device node in it can't reach the live device. It must never fall
//! back to an unconfined open.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use nix::{
    dir::Dir,
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

/// The root directory of a machine's files.
#[derive(Debug)]
pub struct Root {
    dir: OwnedFd,
    live: bool,
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
        Ok(Self { dir: directory(Path::new("/"))?, live: true })
    }

    /// A dump: a directory that holds `proc` and `sys` of some machine.
    pub fn dump(path: &Path) -> Result<Self, OpenError> {
        let root = Self { dir: directory(path)?, live: false };
        // Asked once here, so that no read has to explain it.
        match root.open_at("/", OFlag::O_PATH) {
            Ok(_) => Ok(root),
            Err(errno) => Err(OpenError::NoConfinement { path: path.into(), errno }),
        }
    }

    /// True for the live machine.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// The bytes of the file at `path`, at most [`MAX_FILE`] of them; a larger
    /// file is an error of kind [`io::ErrorKind::FileTooLarge`].
    pub fn bytes(&self, path: &str) -> io::Result<Vec<u8>> {
        self.bytes_up_to(path, MAX_FILE)
    }

    /// [`Root::bytes`] with a limit of its own.
    pub fn bytes_up_to(&self, path: &str, limit: u64) -> io::Result<Vec<u8>> {
        // O_NONBLOCK: a pipe in a dump must not hold us.
        let file = self.open_plain(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)?;
        let mut bytes = Vec::with_capacity(PAGE);
        File::from(file).take(limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            let what = format!("larger than the limit of {limit} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
        }
        Ok(bytes)
    }

    /// The first `limit` bytes of the file at `path`, or all of it: for a long
    /// list of like records (`/proc/cpuinfo`), which the kernel writes no
    /// further than it is read.
    pub fn head(&self, path: &str, limit: u64) -> io::Result<String> {
        let file = self.open_plain(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)?;
        let mut bytes = Vec::with_capacity(PAGE);
        File::from(file).take(limit).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The text of the file at `path`, without the newlines, NULs and spaces
    /// at its end; what is not UTF-8 is replaced.
    pub fn read(&self, path: &str) -> io::Result<String> {
        let text = String::from_utf8(self.bytes(path)?)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        let kept = text.trim_end_matches(|c: char| c == '\0' || c.is_whitespace()).len();
        Ok(text[..kept].to_owned())
    }

    /// The names in the directory at `path`, sorted, without `.` and `..`. More
    /// than [`MAX_ENTRIES`] is an error.
    pub fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let fd = self.open_at(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        let mut names = Vec::new();
        for entry in Dir::from_fd(fd)?.iter() {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
            if names.len() > MAX_ENTRIES {
                let what = format!("more than the limit of {MAX_ENTRIES} entries");
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// What the link at `path` says, unresolved. Something that is no link is
    /// an error, as is a missing one.
    pub fn link_target(&self, path: &str) -> io::Result<String> {
        let target = if self.live {
            readlinkat(&self.dir, relative(path))?
        } else {
            let link = self.open_at(path, OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
            readlinkat(&link, "")?
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
        self.live.then(|| fstatvfs(&self.dir).map_err(io::Error::from))
    }

    fn open_plain(&self, path: &str, flags: OFlag) -> io::Result<OwnedFd> {
        if !self.live {
            // Opening a device node has effects of its own (a watchdog starts,
            // a tape rewinds); O_PATH has none.
            let mode = fstat(self.open_at(path, OFlag::O_PATH)?)?.st_mode;
            if SFlag::from_bits_truncate(mode) & SFlag::S_IFMT != SFlag::S_IFREG {
                return Err(io::Error::other("is not a plain file"));
            }
        }
        Ok(self.open_at(path, flags)?)
    }

    fn open_at(&self, path: &str, flags: OFlag) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlag::O_CLOEXEC;
        if self.live {
            return openat(self.dir.as_fd(), relative(path), flags, Mode::empty());
        }
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        openat2(self.dir.as_fd(), path, OpenHow::new().flags(flags).resolve(resolve))
    }
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
