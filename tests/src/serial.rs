//! Serial lines made of ptys, with something between that disturbs them. A pty knows
//! no baud rate, parity or framing error.

use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    fcntl::{FcntlArg, FdFlag, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    pty::openpty,
    sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr},
    unistd::ttyname,
};

use crate::{Result, faults::Disturber};

/// How often a proxy looks whether it should end.
const TICK: Duration = Duration::from_millis(50);

/// Two ends of a line: a file of ours, and a terminal that somebody opens by path.
#[derive(Debug)]
pub struct Pty {
    /// Our end; reads don't wait.
    pub ours: File,
    path: PathBuf,
    /// Keeps the line up while nobody else has it open.
    _theirs: OwnedFd,
}

impl Pty {
    /// A new line, raw.
    pub fn open() -> Result<Self> {
        let pty = openpty(None, None)?;
        let mut attributes = tcgetattr(&pty.slave)?;
        cfmakeraw(&mut attributes);
        tcsetattr(&pty.slave, SetArg::TCSANOW, &attributes)?;
        fcntl(&pty.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        // A child that kept an end would keep the line up.
        for end in [&pty.master, &pty.slave] {
            fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        }
        let path = ttyname(&pty.slave)?;
        Ok(Self { ours: pty.master.into(), path, _theirs: pty.slave })
    }

    /// What to open at the other end.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A line from a driver to a device on which answers are disturbed.
#[derive(Debug)]
pub struct DisturbedLine {
    /// Where the driver opens it.
    pub driver: PathBuf,
    /// Where the device opens it.
    pub device: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl DisturbedLine {
    /// A new line; it ends when this is dropped.
    pub fn start(disturber: Disturber) -> Result<Self> {
        let (driver, device) = (Pty::open()?, Pty::open()?);
        let stop = Arc::new(AtomicBool::new(false));
        let (driver_path, device_path) = (driver.path.clone(), device.path.clone());
        let between = Between {
            driver,
            device,
            disturber,
            began: Instant::now(),
            requests: Vec::new(),
            answers: Vec::new(),
            asked: Vec::new(),
            due: Vec::new(),
        };
        let stopped = stop.clone();
        let thread = thread::spawn(move || between.run(&stopped));
        Ok(Self { driver: driver_path, device: device_path, stop, thread: Some(thread) })
    }
}

impl Drop for DisturbedLine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}

/// A line with several ends: what one says all others hear.
#[derive(Debug)]
pub struct Hub {
    /// Where each opens it.
    pub ports: Vec<PathBuf>,
    said: Arc<Mutex<Vec<(Instant, usize)>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Hub {
    /// A new line; it ends when this is dropped.
    pub fn start(ends: usize) -> Result<Self> {
        let mut ends = (0..ends).map(|_| Pty::open()).collect::<Result<Vec<_>>>()?;
        let ports = ends.iter().map(|end| end.path.clone()).collect();
        let (said, stop) = (Arc::<Mutex<Vec<_>>>::default(), Arc::new(AtomicBool::new(false)));
        let (saying, stopped) = (said.clone(), stop.clone());
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let mut files: Vec<_> =
                    ends.iter().map(|it| PollFd::new(it.ours.as_fd(), PollFlags::POLLIN)).collect();
                _ = poll(&mut files, PollTimeout::from(TICK.as_millis() as u8));
                for who in 0..ends.len() {
                    let heard = drain(&mut ends[who].ours);
                    if heard.is_empty() {
                        continue;
                    }
                    if let Ok(mut said) = saying.lock() {
                        said.push((Instant::now(), who));
                    }
                    for (_, other) in ends.iter_mut().enumerate().filter(|(it, _)| *it != who) {
                        _ = other.ours.write_all(&heard);
                    }
                }
            }
        });
        Ok(Self { ports, said, stop, thread: Some(thread) })
    }

    /// Who said something when, by his place.
    pub fn said(&self) -> Vec<(Instant, usize)> {
        self.said.lock().map(|said| said.clone()).unwrap_or_default()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}

struct Between {
    driver: Pty,
    device: Pty,
    disturber: Disturber,
    began: Instant,
    /// Bytes that are no whole request or answer yet.
    requests: Vec<u8>,
    answers: Vec<u8>,
    /// Requests that the device has not answered.
    asked: Vec<Vec<u8>>,
    /// What comes out when.
    due: Vec<(Duration, Vec<u8>)>,
}

/// A request for registers.
const REQUEST: usize = 8;

impl Between {
    fn run(mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            self.wait();
            let heard = drain(&mut self.driver.ours);
            self.requests.extend(heard);
            while self.requests.len() >= REQUEST {
                let request: Vec<u8> = self.requests.drain(..REQUEST).collect();
                _ = self.device.ours.write_all(&request);
                self.asked.push(request);
            }
            let heard = drain(&mut self.device.ours);
            self.answers.extend(heard);
            while let Some(answer) = whole_answer(&mut self.answers) {
                let request = self.asked.remove(0);
                let now = self.began.elapsed();
                self.due.extend(self.disturber.disturb(&request, &answer, now));
            }
            self.deliver();
        }
    }

    fn wait(&self) {
        let now = self.began.elapsed();
        let next = self.due.iter().map(|(due, _)| due.saturating_sub(now)).min();
        // Rounded up: a poll of 0 ms until the very millisecond would be a busy loop.
        let wait = next.unwrap_or(TICK).min(TICK).as_millis() as u8 + 1;
        let mut files = [&self.driver, &self.device]
            .map(|pty| PollFd::new(pty.ours.as_fd(), PollFlags::POLLIN));
        _ = poll(&mut files, PollTimeout::from(wait));
    }

    fn deliver(&mut self) {
        let now = self.began.elapsed();
        // Stable: what is due at the same time keeps its order.
        self.due.sort_by_key(|(due, _)| *due);
        let ready = self.due.partition_point(|(due, _)| *due <= now);
        for (_, bytes) in self.due.drain(..ready) {
            _ = self.driver.ours.write_all(&bytes);
        }
    }
}

fn drain(from: &mut File) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 512];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return bytes,
            Ok(count) => bytes.extend(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return bytes,
        }
    }
}

/// Takes the next answer to a read, or refusal, off what a device has said.
fn whole_answer(heard: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = match heard.get(1)? {
        function if function & 0x80 != 0 => 5,
        _ => 5 + usize::from(*heard.get(2)?),
    };
    (heard.len() >= length).then(|| heard.drain(..length).collect())
}
