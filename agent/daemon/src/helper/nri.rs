//! Connects to the container runtime's NRI socket for an agent that may not.
//!
//! Whoever has such a connection can change every container of the node, and what else
//! listens for root alone can do as much. So it is to one socket that a connection is
//! made: the one that root's own file names, or the default; and only where nobody but
//! root could have put another socket in its place.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{fs::MetadataExt, net::UnixStream},
    },
    path::{Path, PathBuf},
};

use crate::{
    boot::{self, SYSTEM_FILE},
    nri::SOCKET,
};

/// Write permission of the group and of all others, and "only the owner of a file may
/// replace it" (inode(7)).
const OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// A connection to the socket that is asked for; `None` if there is none.
pub fn connect(asked: &Path) -> Result<Option<OwnedFd>, String> {
    let named = named(Path::new(SYSTEM_FILE))?;
    if asked != named {
        return Err(format!(
            "{} is not {}, the only socket that is connected to for the agent: name it as \
             nri.socket in {SYSTEM_FILE}",
            asked.display(),
            named.display()
        ));
    }
    let failed = |error: io::Error| format!("{}: {error}", asked.display());
    match only_root_writes(asked).and_then(|()| UnixStream::connect(asked)) {
        Ok(connection) => Ok(Some(connection.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// The socket that a file of root's names.
fn named(file: &Path) -> Result<PathBuf, String> {
    match only_root_writes(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(SOCKET.into()),
        checked => checked.map_err(|error| format!("{}: {error}", file.display()))?,
    }
    Ok(boot::nri_socket(file)?.unwrap_or_else(|| SOCKET.into()))
}

/// Fails if somebody but root, or whoever this runs as, can put something else at that
/// path.
fn only_root_writes(path: &Path) -> io::Result<()> {
    let own = nix::unistd::geteuid().as_raw();
    let real = path.canonicalize()?;
    for place in path.ancestors().chain(real.ancestors()) {
        let is = fs::symlink_metadata(place)?;
        let others = is.mode() & OTHERS_WRITE != 0 && is.mode() & STICKY == 0;
        // Everybody may "write" a symbolic link and a socket that lets them connect.
        let is_writable = others && (is.is_dir() || is.is_file());
        if is_writable || ![0, own].contains(&is.uid()) {
            let why = format!("others than root can write {}", place.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::{
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    };

    use super::*;

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
    }

    #[test]
    fn what_others_can_replace_is_not_roots() {
        let dir = tempfile::tempdir().expect("a directory");
        let (roots, open) = (dir.path().join("roots"), dir.path().join("open"));
        fs::create_dir(&roots).expect("a directory");
        fs::create_dir(&open).expect("a directory");
        let socket = roots.join("sock");
        let _listener = UnixListener::bind(&socket).expect("a socket");
        mode(&socket, 0o666);
        only_root_writes(&socket).expect("whoever may connect can't replace it");
        symlink(&socket, open.join("sock")).expect("a link");
        only_root_writes(&open.join("sock")).expect("so far only its owner can");
        mode(&open, 0o777);
        let why = only_root_writes(&open.join("sock")).expect_err("anyone can").to_string();
        assert_eq!(why, format!("others than root can write {}", open.display()));
        mode(&open, 0o1777);
        only_root_writes(&open.join("sock")).expect("the link is its owner's");
    }

    #[test]
    fn the_only_socket_is_the_one_that_roots_file_names() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("purlin.toml");
        assert_eq!(named(&file), Ok(SOCKET.into()), "no file");
        fs::write(&file, "[nri]\nsocket = \"/run/k3s/nri.sock\"\n").expect("a write");
        mode(&file, 0o644);
        assert_eq!(named(&file), Ok("/run/k3s/nri.sock".into()));
        mode(&file, 0o664);
        let why = named(&file).expect_err("somebody else's");
        assert!(why.contains("others than root can write"), "{why}");
        mode(&file, 0o644);
        fs::write(&file, "[nri]\nsock = 1\n").expect("a write");
        assert!(named(&file).expect_err("nonsense").contains("nri.sock"));
    }
}
