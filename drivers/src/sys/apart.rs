//! A process that can be left behind: a copy of this one (fork(2)).

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    process,
};

use nix::{
    sys::{
        prctl::set_pdeathsig,
        signal::Signal,
        wait::{WaitStatus, waitpid},
    },
    unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, fork},
};

/// Does `work` in a copy of this process and returns its exit code as soon as there
/// is one. Threads that are then still stuck in the kernel can't be ended and keep a
/// process from ending: they are left behind with the copy, which holds neither the
/// terminal nor a pipe of ours any more. A copy that dies is told by what a shell
/// would say of it. The error is that there can be no copy, and no work was done.
///
/// It costs a tenth of starting the executable again.
pub fn apart(work: impl FnOnce() -> u8) -> io::Result<u8> {
    // Only the thread that forks is copied, with the locks that others hold.
    if fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("a process with threads can't be copied"));
    }
    let (mut told, mut tell) = io::pipe()?;
    // SAFETY: this is the only thread, so what the copy finds is whole.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            drop(tell);
            let mut code = [0];
            match told.read_exact(&mut code) {
                Ok(()) => Ok(code[0]),
                Err(_) => Ok(code_of(waitpid(child, None)?)),
            }
        }
        ForkResult::Child => {
            drop(told);
            // Whoever ends the command ends the copy.
            _ = set_pdeathsig(Signal::SIGKILL);
            let code = work();
            _ = let_go();
            _ = tell.write_all(&[code]);
            process::exit(code.into());
        }
    }
}

/// Whoever waits for the end of our output must not wait for what is stuck.
fn let_go() -> io::Result<()> {
    _ = io::stdout().flush();
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    Ok(dup2_stderr(&null)?)
}

/// As a shell tells it: 128 and the signal.
fn code_of(status: WaitStatus) -> u8 {
    match status {
        WaitStatus::Exited(_, code) => u8::try_from(code).unwrap_or(u8::MAX),
        WaitStatus::Signaled(_, signal, _) => 128 | signal as u8,
        _ => u8::MAX,
    }
}
