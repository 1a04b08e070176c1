//! How one mesh hands over to the next: a process that the serving one starts, and that
//! gets its sockets as file descriptors. A listening socket is never closed meanwhile, so
//! that no connection attempt is lost; a connection between two requests goes on in the
//! new process, which its client doesn't notice. What is under way is ended by an answer
//! that says so (`Connection: close`, GOAWAY), and bytes are cut at the drain's deadline.
//!
//! Messages go over a socket pair that keeps them apart, the new process's end being its
//! standard input. Each is a letter and a text, with descriptors beside it:
//!
//! ```text
//! c               the mesh's own socket, 1
//! l ADDRESS       sockets that listen at an address, 1 to 128; may come again
//! u ADDRESS       the same for UDP
//! e               that is all there is to start with
//! p ADDRESS PEER  a connection between two requests: where it came in, from whom, 1
//! f ADDRESS PEER  the same, without a byte so far
//! s ADDRESS PEER LOCAL N   a session of UDP, which came in at socket N: connected to the
//!                 endpoint, 1
//! d               the old process reads no datagram any more, and all sessions were told
//! ```
//!
//! The new process answers `r` once it serves. Until then the old one does, and goes on
//! if that never comes. Datagrams wait in their sockets until `d`, so that a client has one
//! session and not one in each process.

use std::{
    collections::HashMap,
    env,
    ffi::OsString,
    fmt::Display,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::{SocketAddr, TcpStream},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::Path,
    process::{Child, Command, Stdio},
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::Duration,
};

use purlin_core::mesh::model::Transport;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    sockopt::{Timeout, set_socket_timeout},
};

use crate::{PLACE, udp};

/// Set for a process that takes over.
const HEIR: &str = "PURLIN_MESH_HEIR";
/// For the new process to serve: it reads a table of some MiB and starts its workers.
const START: Duration = Duration::from_secs(20);
/// Descriptors in one message (the kernel takes 253).
const MAX_DESCRIPTORS: usize = 128;
/// The longest text: two addresses.
const MAX_TEXT: usize = 256;

/// What can be passed on of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Between two requests of HTTP/1.
    Parked,
    /// Without a byte so far.
    Fresh,
}

/// Sockets of this node, by what they carry and their address.
pub type Sockets = ((Transport, SocketAddr), Vec<OwnedFd>);

/// What goes on in the process that took over.
#[derive(Debug)]
pub enum Passed {
    /// A connection.
    Connection(Connection),
    /// A session of UDP.
    Session(udp::Passed),
    /// The old one reads no datagram any more.
    Released,
}

/// A connection that goes on elsewhere.
#[derive(Debug)]
pub struct Connection {
    /// Where it stands.
    pub stage: Stage,
    /// It.
    pub stream: TcpStream,
    /// Who is at the other end.
    pub peer: SocketAddr,
    /// The listener's address that it came in at.
    pub at: SocketAddr,
}

/// The process that took over.
#[derive(Clone, Debug)]
pub struct Heir {
    /// Its process id.
    pub pid: u32,
    passed: mpsc::Sender<Passed>,
    under_way: Arc<AtomicUsize>,
}

impl Heir {
    /// Passes something on.
    pub fn take(&self, passed: Passed) {
        self.under_way.fetch_add(1, Relaxed);
        if self.passed.send(passed).is_err() {
            self.under_way.fetch_sub(1, Relaxed);
        }
    }

    /// What tells it, once nobody has it any more, that this process reads no datagrams.
    pub fn release(&self) -> Arc<Release> {
        Arc::new(Release(self.clone()))
    }

    /// Whether all that was passed on is with it.
    pub fn has_all(&self) -> bool {
        self.under_way.load(Relaxed) == 0
    }
}

/// Tells the process that took over, when it is dropped, that datagrams are its own.
#[derive(Debug)]
pub struct Release(Heir);

impl Drop for Release {
    fn drop(&mut self) {
        self.0.take(Passed::Released);
    }
}

/// Starts the next mesh, from the executable that is at this path now, and waits until it
/// serves. It blocks.
pub fn start(executable: &Path, control: &UnixListener, sockets: &[Sockets]) -> io::Result<Heir> {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&ours, Timeout::Recv, Some(START))?;
    set_socket_timeout(&ours, Timeout::Send, Some(START))?;
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let mut child = Command::new(executable)
        .args(arguments)
        .env(HEIR, "1")
        // It may find another one.
        .env_remove(PLACE)
        // It would stand for this process.
        .env_remove("WATCHDOG_PID")
        .stdin(Stdio::from(theirs))
        .spawn()
        .map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("{} can't be started: {error}", executable.display()),
            )
        })?;
    if let Err(error) = introduce(&ours, control, sockets) {
        _ = child.kill();
        _ = child.wait();
        let what = format!("the new mesh did not take over ({error}); its log tells why");
        return Err(io::Error::new(error.kind(), what));
    }
    Ok(follow(child, ours))
}

/// Tells the new process all it starts with, and waits for its word.
fn introduce(to: &OwnedFd, control: &UnixListener, sockets: &[Sockets]) -> io::Result<()> {
    send(to, "c", &[control.as_fd()])?;
    for ((transport, address), sockets) in sockets {
        let letter = if *transport == Transport::Stream { 'l' } else { 'u' };
        for some in sockets.chunks(MAX_DESCRIPTORS) {
            let some: Vec<_> = some.iter().map(AsFd::as_fd).collect();
            send(to, &format!("{letter} {address}"), &some)?;
        }
    }
    send(to, "e", &[])?;
    match receive(to)? {
        Some((text, _)) if text == "r" => Ok(()),
        Some((text, _)) => Err(io::Error::new(io::ErrorKind::InvalidData, text)),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// A thread passes things on: a new process that is slow to take them holds up no
/// worker.
fn follow(mut child: Child, to: OwnedFd) -> Heir {
    let (sender, passed) = mpsc::channel();
    let heir = Heir { pid: child.id(), passed: sender, under_way: Arc::default() };
    let under_way = heir.under_way.clone();
    thread::spawn(move || {
        for passed in passed {
            let (text, descriptor) = told(&passed);
            if let Err(error) = send(&to, &text, descriptor.as_slice()) {
                tracing::warn!(%error, text, "it could not be passed on");
            }
            under_way.fetch_sub(1, Relaxed);
        }
    });
    // Whoever is there when it ends reaps it.
    thread::spawn(move || child.wait());
    heir
}

fn told(passed: &Passed) -> (String, Option<BorrowedFd<'_>>) {
    match passed {
        Passed::Connection(Connection { stage, stream, peer, at }) => {
            let letter = if *stage == Stage::Parked { 'p' } else { 'f' };
            (format!("{letter} {at} {peer}"), Some(stream.as_fd()))
        }
        Passed::Session(udp::Passed { client, index, upstream }) => {
            let udp::Client { at, peer, local } = client;
            (format!("s {at} {peer} {local} {index}"), Some(upstream.as_fd()))
        }
        Passed::Released => ("d".into(), None),
    }
}

/// What a process that takes over starts with.
#[derive(Debug)]
pub struct Inherited {
    /// The mesh's own socket.
    pub control: UnixListener,
    /// Sockets of listeners.
    pub sockets: HashMap<(Transport, SocketAddr), Vec<OwnedFd>>,
    from: OwnedFd,
}

impl Inherited {
    /// `None` if this process takes over from nobody.
    pub fn read() -> io::Result<Option<Self>> {
        if env::var_os(HEIR).is_none() {
            return Ok(None);
        }
        let from = io::stdin().as_fd().try_clone_to_owned()?;
        set_socket_timeout(&from, Timeout::Recv, Some(START))?;
        let (mut control, mut sockets) = (None, HashMap::<_, Vec<_>>::new());
        loop {
            let (text, descriptors) = receive(&from)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            match text.split_once(' ').unwrap_or((&text, "")) {
                ("c", _) => control = descriptors.into_iter().next().map(UnixListener::from),
                (letter @ ("l" | "u"), address) => {
                    let is_stream = letter == "l";
                    let transport = if is_stream { Transport::Stream } else { Transport::Datagram };
                    let all = sockets.entry((transport, parsed(address)?)).or_default();
                    all.extend(descriptors);
                }
                ("e", _) => break,
                _ => return Err(io::Error::new(io::ErrorKind::InvalidData, text)),
            }
        }
        let control = control.ok_or(io::ErrorKind::InvalidData)?;
        Ok(Some(Self { control, sockets, from }))
    }

    /// Tells that this process serves now, and takes what the other one passes on.
    pub fn take_over(self, mut take: impl FnMut(Passed) + Send + 'static) -> io::Result<()> {
        send(&self.from, "r", &[])?;
        set_socket_timeout(&self.from, Timeout::Recv, None)?;
        thread::spawn(move || {
            loop {
                match receive(&self.from) {
                    Ok(Some((text, descriptors))) => match passed(&text, descriptors) {
                        Ok(passed) => take(passed),
                        Err(error) => tracing::warn!(%error, text, "nothing that is passed on"),
                    },
                    Ok(None) => return,
                    Err(error) => {
                        return tracing::warn!(%error, "nothing more is passed on");
                    }
                }
            }
        });
        Ok(())
    }
}

fn passed(text: &str, descriptors: Vec<OwnedFd>) -> io::Result<Passed> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let words: Vec<_> = text.split(' ').collect();
    let stage = |letter| if letter == "p" { Stage::Parked } else { Stage::Fresh };
    let descriptor = descriptors.into_iter().next();
    match (&words[..], descriptor) {
        ([letter @ ("p" | "f"), at, peer], Some(stream)) => {
            let (stage, stream) = (stage(*letter), stream.into());
            Ok(Passed::Connection(Connection {
                stage,
                at: parsed(at)?,
                peer: parsed(peer)?,
                stream,
            }))
        }
        (["s", at, peer, local, index], Some(upstream)) => {
            let client =
                udp::Client { at: parsed(at)?, peer: parsed(peer)?, local: parsed(local)? };
            Ok(Passed::Session(udp::Passed { client, index: parsed(index)?, upstream }))
        }
        (["d"], None) => Ok(Passed::Released),
        _ => Err(invalid()),
    }
}

fn parsed<T: FromStr<Err: Display>>(text: &str) -> io::Result<T> {
    text.parse()
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{text}: {error}")))
}

fn send(to: &OwnedFd, text: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(to, &[IoSlice::new(text.as_bytes())], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// `None` at the end.
fn receive(from: &OwnedFd) -> io::Result<Option<(String, Vec<OwnedFd>)>> {
    let mut text = [0; MAX_TEXT];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let bytes = loop {
        let mut into = [IoSliceMut::new(&mut text)];
        match recvmsg(from, &mut into, &mut control, flags) {
            Err(rustix::io::Errno::INTR) => {}
            received => break received?.bytes,
        }
    };
    let descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let descriptors = descriptors.flatten().collect();
    let text = String::from_utf8_lossy(&text[..bytes]).into_owned();
    Ok((bytes > 0).then_some((text, descriptors)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_arrives_with_its_descriptors() {
        let (a, b) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .expect("a pair");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("its address");
        let client = TcpStream::connect(address).expect("a connection");
        let (stream, peer) = listener.accept().expect("the same");
        send(&a, "e", &[]).expect("sent");
        send(&a, &format!("f {address} {peer}"), &[stream.as_fd()]).expect("sent");
        drop((a, stream));
        assert_eq!(receive(&b).expect("read").map(|it| (it.0, it.1.len())), Some(("e".into(), 0)));
        let (text, descriptors) = receive(&b).expect("read").expect("a message");
        let Ok(Passed::Connection(it)) = passed(&text, descriptors) else { panic!("{text}") };
        assert_eq!((it.stage, it.at, it.peer), (Stage::Fresh, address, peer));
        assert_eq!(it.stream.peer_addr().ok(), client.local_addr().ok());
        assert_eq!(receive(&b).expect("the end").map(|it| it.0), None);
        assert!(passed("x", Vec::new()).is_err() && passed("p 1 2", Vec::new()).is_err());
    }
}
