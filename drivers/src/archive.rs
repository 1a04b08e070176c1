//! A machine's files in memory: what a tar holds.
//!
//! Owns the tree of one dump and the limits on what unpacking it may cost.
//! Nothing is ever written to disk: a link in it can only lead to what is in
//! it, whatever it says. Paths are resolved as `openat2(2)` resolves them with
//! `RESOLVE_IN_ROOT`, and fail with the same errors, so that a dump reads the
//! same packed and unpacked.

use std::{
    collections::BTreeMap,
    io::{self, BufReader, Read, Write},
};

use flate2::{Compression, bufread::MultiGzDecoder, write::GzEncoder};
use lzma_rust2::XzReader;
use nix::errno::Errno;
use ruzstd::decoding::StreamingDecoder;
use tar::EntryType;

use crate::{MAX_ENTRIES, root};

/// The most that a tar may hold unpacked, in bytes, and the most that is kept
/// of it: a machine with 512 CPUs has about 30 MB, nearly all of it headers.
pub const MAX_UNPACKED: u64 = 256 << 20;

/// The most that is kept of one file, in bytes: one more than any driver reads
/// (a `pci.ids`), so that a larger one is told as too large.
const MAX_KEPT: u64 = (8 << 20) + 1;

/// The most files, directories and links of one archive: a machine with 512
/// CPUs shows about 100,000 in all of `/sys`.
const MAX_NODES: usize = 1 << 19;

/// The longest path, in bytes, as the kernel's `PATH_MAX`.
const MAX_PATH: usize = 4096;

/// Links followed on the way to one file, as the kernel's `MAXSYMLINKS`.
const MAX_LINKS: usize = 40;

/// What unpacking may take beside what is kept, in KiB: `xz -9` takes 64 MiB.
const XZ_MEMORY: u32 = 128 << 10;

/// How much of a file tells what it is: a tar's magic is at 257.
const MAGIC: usize = 512;

/// A block of a tar, in bytes; two of zeros end it.
const BLOCK: usize = 512;

/// The files of a machine.
#[derive(Clone, Debug)]
pub struct Archive {
    nodes: Vec<Node>,
    /// The place of `/` among the nodes.
    root: usize,
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A plain file and its content.
    File(Vec<u8>),
    /// A directory: names, and their places.
    Dir(BTreeMap<String, usize>),
    /// A symbolic link and what it says.
    Link(String),
    /// A device node or a pipe; it has no content.
    Special,
}

impl Default for Archive {
    fn default() -> Self {
        Self { nodes: vec![Node::Dir(BTreeMap::new())], root: 0 }
    }
}

impl Archive {
    /// Unpacks a tar: plain, or packed by gzip, xz or zstd, told by its first
    /// bytes. The error says what is wrong with it.
    pub fn unpack(packed: impl Read) -> io::Result<Self> {
        let mut packed = BufReader::with_capacity(1 << 16, packed);
        // A pipe may bring less than a block at a time.
        let mut start = Vec::with_capacity(MAGIC);
        packed.by_ref().take(MAGIC as u64).read_to_end(&mut start)?;
        let whole = io::Cursor::new(start.clone()).chain(packed);
        match start.as_slice() {
            [0x1f, 0x8b, ..] => Self::untar(MultiGzDecoder::new(whole)),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
                Self::untar(XzReader::new_mem_limit(whole, true, XZ_MEMORY))
            }
            [0x28, 0xb5, 0x2f, 0xfd, ..] => {
                Self::untar(StreamingDecoder::new(whole).map_err(io::Error::other)?)
            }
            // Those that no tar wrote after 1988 lack the magic.
            _ if start.get(257..262) == Some(b"ustar") => Self::untar(whole),
            // No bytes, or a tar of no files.
            start if start.iter().all(|byte| *byte == 0) => Err(invalid("is empty")),
            _ => Err(invalid("is no tar, plain or packed by gzip, xz or zstd")),
        }
    }

    fn untar(unpacked: impl Read) -> io::Result<Self> {
        let mut archive = Self::default();
        let bounded = Bounded { inner: unpacked, left: MAX_UNPACKED, zeros: 0, ended: false };
        let mut tar = tar::Archive::new(bounded);
        let taken = archive.take_all(&mut tar);
        let mut rest = tar.into_inner();
        // What packed it checks its sums at the end.
        let read = taken.and_then(|()| io::copy(&mut rest, &mut io::sink()));
        match read {
            Err(_) if rest.ended => Err(cut_off()),
            Err(error) => Err(error),
            Ok(_) if rest.zeros < BLOCK => Err(cut_off()),
            Ok(_) => {
                archive.find_root();
                Ok(archive)
            }
        }
    }

    fn take_all(&mut self, tar: &mut tar::Archive<impl Read>) -> io::Result<()> {
        let mut kept = 0;
        for entry in tar.entries()? {
            self.take_in(entry?, &mut kept)?;
        }
        Ok(())
    }

    fn take_in(&mut self, entry: tar::Entry<'_, impl Read>, kept: &mut u64) -> io::Result<()> {
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let link = entry.link_name_bytes().map(|it| String::from_utf8_lossy(&it).into_owned());
        match (entry.header().entry_type(), link) {
            (EntryType::Directory, _) => self.put_dir(&path),
            (EntryType::Symlink, Some(target)) => self.put_link(&path, &target),
            (EntryType::Link, Some(target)) => self.put_again(&path, &target),
            (EntryType::Char | EntryType::Block | EntryType::Fifo, _) => {
                self.put(&path, Node::Special)
            }
            (kind, _) if kind.is_file() || kind.is_gnu_sparse() || kind.is_contiguous() => {
                let mut content = Vec::new();
                *kept += entry.take(MAX_KEPT).read_to_end(&mut content)? as u64;
                if *kept > MAX_UNPACKED {
                    return Err(too_large());
                }
                self.put_file(&path, content)
            }
            // Extensions that tell nothing a driver asks for.
            _ => Ok(()),
        }
    }

    /// A dump may have been packed with the directory it lay in.
    fn find_root(&mut self) {
        let dirs = match &self.nodes[self.root] {
            Node::Dir(entries) => entries.iter(),
            _ => return,
        };
        let names = dirs.filter(|(_, at)| matches!(self.nodes[**at], Node::Dir(_)));
        let names: Vec<String> = names.map(|(name, _)| name.clone()).collect();
        if let Some(name) = root::beneath(&names, |path| self.is_dir(path))
            && let Ok(at) = self.find(&name, true)
        {
            self.root = at;
        }
    }

    /// Puts a file in place of what is at `path`. Directories on the way are
    /// made; one that is something else is an error.
    pub fn put_file(&mut self, path: &str, content: Vec<u8>) -> io::Result<()> {
        self.put(path, Node::File(content))
    }

    /// Puts a symbolic link in place of what is at `path`.
    pub fn put_link(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.put(path, Node::Link(target.to_owned()))
    }

    /// Makes the directory at `path`, if it isn't there.
    pub fn put_dir(&mut self, path: &str) -> io::Result<()> {
        names(path)?.try_fold(self.root, |at, name| self.enter(at, name)).map(|_| ())
    }

    /// A hard link: `path` becomes another name of the file `target`.
    fn put_again(&mut self, path: &str, target: &str) -> io::Result<()> {
        match self.find(target, false) {
            // Of a directory it would be a way without an end.
            Ok(at) if !matches!(self.nodes[at], Node::Dir(_)) => self.name(path, at),
            _ => Ok(()),
        }
    }

    fn put(&mut self, path: &str, node: Node) -> io::Result<()> {
        let at = self.add(node)?;
        self.name(path, at)
    }

    fn add(&mut self, node: Node) -> io::Result<usize> {
        if self.nodes.len() >= MAX_NODES {
            return Err(invalid(&format!("has more than the limit of {MAX_NODES} files")));
        }
        self.nodes.push(node);
        Ok(self.nodes.len() - 1)
    }

    fn name(&mut self, path: &str, node: usize) -> io::Result<()> {
        let names: Vec<&str> = names(path)?.collect();
        let Some((last, above)) = names.split_last() else { return Ok(()) };
        let dir = above.iter().try_fold(self.root, |at, name| self.enter(at, name))?;
        if let Node::Dir(entries) = &mut self.nodes[dir] {
            entries.insert((*last).to_owned(), node);
        }
        Ok(())
    }

    /// The directory `name` in the directory at `at`, made if it isn't there.
    fn enter(&mut self, at: usize, name: &str) -> io::Result<usize> {
        let there = match &self.nodes[at] {
            Node::Dir(entries) => entries.get(name).copied(),
            _ => None,
        };
        if let Some(there) = there {
            return match self.nodes[there] {
                Node::Dir(_) => Ok(there),
                _ => Err(invalid(&format!("has files under {name:?}, which is no directory"))),
            };
        }
        let new = self.add(Node::Dir(BTreeMap::new()))?;
        if let Node::Dir(entries) = &mut self.nodes[at] {
            entries.insert(name.to_owned(), new);
        }
        Ok(new)
    }

    /// Takes away what is at `path`, with all that is under it.
    pub fn remove(&mut self, path: &str) -> io::Result<()> {
        let (above, name) = path.trim_end_matches('/').rsplit_once('/').unwrap_or(("", path));
        let dir = self.find(above, true)?;
        match &mut self.nodes[dir] {
            Node::Dir(entries) => {
                entries.remove(name).map(|_| ()).ok_or_else(|| error(Errno::ENOENT))
            }
            _ => Err(error(Errno::ENOTDIR)),
        }
    }

    /// What is at `path`, with links followed but for the last.
    pub fn get(&self, path: &str) -> io::Result<&Node> {
        Ok(&self.nodes[self.find(path, false)?])
    }

    /// Every path with what is there, directories before what is in them.
    pub fn walk(&self) -> Vec<(String, &Node)> {
        let mut found = Vec::new();
        let mut ahead = vec![(String::new(), self.root)];
        while let Some((path, at)) = ahead.pop() {
            if let Node::Dir(entries) = &self.nodes[at] {
                let under = entries.iter().rev();
                ahead.extend(under.map(|(name, at)| (format!("{path}/{name}"), *at)));
            }
            if !path.is_empty() {
                found.push((path, &self.nodes[at]));
            }
        }
        found
    }

    /// Puts in what `other` has and this one doesn't: a file without content is
    /// one that is only known to be there.
    pub fn absorb(&mut self, other: &Self) -> io::Result<()> {
        for (path, node) in other.walk() {
            match (self.get(&path), node) {
                (Ok(Node::File(known)), Node::File(_)) if known.is_empty() => {
                    self.put(&path, node.clone())?;
                }
                (Ok(_), _) => {}
                (Err(_), Node::Dir(_)) => self.put_dir(&path)?,
                (Err(_), node) => self.put(&path, node.clone())?,
            }
        }
        Ok(())
    }

    /// [`Archive::pack`] through gzip.
    pub fn pack_gzip(&self, top: &str) -> io::Result<Vec<u8>> {
        self.pack(top, GzEncoder::new(Vec::new(), Compression::best()))?.finish()
    }

    /// Writes a tar. Every name in it is under the directory `top`.
    pub fn pack<W: Write>(&self, top: &str, out: W) -> io::Result<W> {
        let mut tar = tar::Builder::new(out);
        for (path, node) in self.walk() {
            let mut header = tar::Header::new_gnu();
            header.set_mode(if matches!(node, Node::Dir(_)) { 0o755 } else { 0o644 });
            header.set_size(0);
            let path = format!("{top}{path}");
            match node {
                Node::File(content) => {
                    header.set_size(content.len() as u64);
                    tar.append_data(&mut header, path, content.as_slice())?;
                }
                Node::Dir(_) => {
                    header.set_entry_type(EntryType::Directory);
                    tar.append_data(&mut header, path, io::empty())?;
                }
                Node::Link(target) => {
                    header.set_entry_type(EntryType::Symlink);
                    tar.append_link(&mut header, path, target)?;
                }
                Node::Special => {}
            }
        }
        tar.into_inner()
    }

    pub(crate) fn bytes_up_to(&self, path: &str, limit: u64) -> io::Result<Vec<u8>> {
        match &self.nodes[self.find(path, true)?] {
            Node::File(content) if content.len() as u64 <= limit => Ok(content.clone()),
            Node::File(_) => Err(root::over(limit)),
            _ => Err(io::Error::other(root::NOT_PLAIN)),
        }
    }

    pub(crate) fn head(&self, path: &str, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = self.bytes_up_to(path, u64::MAX)?;
        bytes.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(bytes)
    }

    pub(crate) fn list(&self, path: &str) -> io::Result<Vec<String>> {
        match &self.nodes[self.find(path, true)?] {
            Node::Dir(entries) if entries.len() > MAX_ENTRIES => Err(root::too_many()),
            Node::Dir(entries) => Ok(entries.keys().cloned().collect()),
            _ => Err(error(Errno::ENOTDIR)),
        }
    }

    pub(crate) fn link_target(&self, path: &str) -> io::Result<String> {
        match &self.nodes[self.find(path, false)?] {
            Node::Link(target) => Ok(target.clone()),
            _ => Err(error(Errno::EINVAL)),
        }
    }

    pub(crate) fn exists(&self, path: &str) -> bool {
        self.find(path, true).is_ok()
    }

    pub(crate) fn is_dir(&self, path: &str) -> bool {
        self.find(path, true).is_ok_and(|at| matches!(self.nodes[at], Node::Dir(_)))
    }

    /// The place of what is at `path`. A link in the last place is followed if
    /// `follow` says so; `..` of the root is the root.
    fn find(&self, path: &str, follow: bool) -> io::Result<usize> {
        let mut above = vec![self.root];
        let mut ahead: Vec<&str> = path.rsplit('/').collect();
        let mut links = 0;
        while let Some(name) = ahead.pop() {
            let here = above.last().copied().unwrap_or(self.root);
            let Node::Dir(entries) = &self.nodes[here] else { return Err(error(Errno::ENOTDIR)) };
            match name {
                "" | "." => continue,
                ".." => {
                    above.truncate(above.len().saturating_sub(1).max(1));
                    continue;
                }
                _ => {}
            }
            let next = *entries.get(name).ok_or_else(|| error(Errno::ENOENT))?;
            match &self.nodes[next] {
                Node::Link(target) if follow || !ahead.is_empty() => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(error(Errno::ELOOP));
                    }
                    if target.starts_with('/') {
                        above.truncate(1);
                    }
                    ahead.extend(target.rsplit('/'));
                }
                _ => above.push(next),
            }
        }
        Ok(above.last().copied().unwrap_or(self.root))
    }
}

/// The names in a path of a tar, as if its root were `/`.
fn names(path: &str) -> io::Result<impl Iterator<Item = &str>> {
    if path.len() > MAX_PATH {
        return Err(invalid(&format!("has a path of more than {MAX_PATH} bytes")));
    }
    let mut names = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    Ok(names.into_iter())
}

fn error(errno: Errno) -> io::Error {
    errno.into()
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn too_large() -> io::Error {
    invalid(&format!("holds more than the limit of {} MiB", MAX_UNPACKED >> 20))
}

fn cut_off() -> io::Error {
    invalid("ends too early, as one that was not copied whole")
}

/// Reads no more than is left, counts the zeros at the end, and notes the end.
struct Bounded<R> {
    inner: R,
    left: u64,
    zeros: usize,
    ended: bool,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer).inspect_err(|error| {
            self.ended |= error.kind() == io::ErrorKind::UnexpectedEof;
        })?;
        self.ended |= read == 0 && !buffer.is_empty();
        self.left = self.left.checked_sub(read as u64).ok_or_else(too_large)?;
        let zeros = buffer[..read].iter().rev().take_while(|byte| **byte == 0).count();
        self.zeros = if zeros == read { self.zeros.saturating_add(zeros) } else { zeros };
        Ok(read)
    }
}
