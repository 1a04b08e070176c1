//! A file that opens and never answers a read or an ioctl, as a broken device's
//! does, and one of a device that is well beside it.
//!
//! A FUSE file system whose root is that one file, mounted over an ordinary file
//! of a made-up `/sys`. Once the request has been taken from the kernel, SIGKILL
//! does not end the reader any more: it stays until the connection is aborted.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    INodeNo, IoctlFlags, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEntry,
    ReplyIoctl, ReplyOpen, Request, Session,
};
use nix::mount::{MntFlags, umount2};

use crate::Result;

/// How long the kernel may remember an attribute: it is always the same.
const TTL: Duration = Duration::from_secs(60);

/// A file whose reads and ioctls never return while this lives.
pub struct StuckFile {
    path: PathBuf,
    reads: Arc<AtomicUsize>,
    _session: BackgroundSession,
}

impl StuckFile {
    /// Mounts it over the file `path`.
    pub fn mount(path: &Path) -> Result<Self> {
        Self::mount_as(path, false)
    }

    /// The file of a device that is well: an ioctl succeeds and changes nothing,
    /// which is an answer of zeros, and there is nothing to read.
    pub fn mount_well(path: &Path) -> Result<Self> {
        Self::mount_as(path, true)
    }

    fn mount_as(path: &Path, is_well: bool) -> Result<Self> {
        let reads = Arc::new(AtomicUsize::new(0));
        let silence = Silence { is_well, reads: Arc::clone(&reads), unanswered: Mutex::default() };
        let mut config = Config::default();
        config.mount_options = vec![MountOption::RO, MountOption::FSName("purlin-stuck".into())];
        let session = Session::new(silence, path, &config)?.spawn()?;
        Ok(Self { path: path.to_owned(), reads, _session: session })
    }

    /// How many reads and ioctls came.
    pub fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }
}

impl Drop for StuckFile {
    fn drop(&mut self) {
        // FORCE aborts the connection: whoever waits for an answer gets an error
        // and can die. DETACH because they may still hold the file open.
        let _ = umount2(&self.path, MntFlags::MNT_FORCE);
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
    }
}

/// The file system.
struct Silence {
    is_well: bool,
    reads: Arc<AtomicUsize>,
    /// A reply that is dropped answers with an error, so they are kept.
    unanswered: Mutex<Vec<Unanswered>>,
}

/// Kept, never looked at.
#[allow(dead_code)]
enum Unanswered {
    Read(ReplyData),
    Ioctl(ReplyIoctl),
}

impl Silence {
    fn keep(&self, reply: Unanswered) {
        self.unanswered.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(reply);
    }
}

impl Filesystem for Silence {
    fn lookup(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::ENOENT);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &attributes(ino));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if self.is_well {
            return reply.data(&[]);
        }
        self.keep(Unanswered::Read(reply));
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        given: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if self.is_well {
            return reply.ioctl(0, given);
        }
        self.keep(Unanswered::Ioctl(reply));
    }
}

fn attributes(ino: INodeNo) -> FileAttr {
    FileAttr {
        ino,
        size: 4096,
        blocks: 8,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0o444,
        nlink: 1,
        uid: nix::unistd::getuid().as_raw(),
        gid: nix::unistd::getgid().as_raw(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}
