//! Hears when someone writes a cpuset or makes a cgroup: inotify on the cgroups' files.
//!
//! The kernel tells what goes through its file system calls, and when it invalidates a
//! partition by itself. It tells our own writes too; they are read back once more then.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor},
};
use purlin_core::cpuset::Cpusets;
use tokio::io::{Interest, unix::AsyncFd};

/// Cgroups watched: each costs the kernel about a kilobyte. Beyond them the timer sees it.
const MAX_WATCHED: usize = 4096;

/// What is watched.
#[derive(Debug)]
pub struct Watch {
    inotify: Inotify,
    /// The same once more, for the event loop.
    events: AsyncFd<OwnedFd>,
    watched: BTreeMap<String, WatchDescriptor>,
}

impl Watch {
    /// Watches nothing yet.
    pub fn open() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let events = inotify.as_fd().try_clone_to_owned()?;
        #[allow(deprecated, reason = "its successor is unsafe; a descriptor of its own is safe")]
        let events = AsyncFd::with_interest(events, Interest::READABLE)?;
        Ok(Self { inotify, events, watched: BTreeMap::new() })
    }

    /// Watches every container's cgroup, and all those where one may appear. True if some of
    /// them were not watched before.
    pub fn follow(&mut self, found: &Cpusets) -> bool {
        let containers = found.containers.iter().map(|it| &it.cpuset.cgroup);
        let paths: Vec<String> = containers
            .chain(&found.others)
            .take(MAX_WATCHED)
            .map(|path| format!("{}{path}", found.mount))
            .collect();
        // One whose directory is gone was taken off the list by the kernel.
        self.watched.retain(|path, _| paths.contains(path));
        let flags = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_ONLYDIR;
        let before = self.watched.len();
        for path in paths {
            if !self.watched.contains_key(&path)
                && let Ok(watch) = self.inotify.add_watch(Path::new(&path), flags)
            {
                self.watched.insert(path, watch);
            }
        }
        self.watched.len() != before
    }

    /// Waits until something of that kind happened. Nothing is lost when it is dropped
    /// while it waits.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.events.readable().await?;
            match self.inotify.read_events() {
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(errno) => return Err(errno.into()),
                Ok(events) => {
                    let matters = events.iter().any(|event| {
                        let is_dir = event.mask.contains(AddWatchFlags::IN_ISDIR);
                        let name = event.name.as_deref().unwrap_or_default().to_string_lossy();
                        is_dir
                            || name.starts_with("cpuset.")
                            || event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW)
                    });
                    if matters {
                        return Ok(());
                    }
                }
            }
        }
    }
}
