//! How a command ends: its exit code, and what it says when it failed.
//!
//! Scripts and alarms on ten thousand nodes read these codes, so a code is
//! never given another meaning. Nothing else in this crate decides a number.

use std::{
    fmt,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use purlin_proto::api::{self, Refusal};

use crate::table::plain;

/// The exit code of `purlin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It worked. Also: whoever read our output had enough of it.
    Ok = 0,
    /// It did not work.
    Failed = 1,
    /// It worked, and the agent reports faults.
    Faults = 2,
    /// The document or the agent's own file was refused; nothing was changed.
    Refused = 3,
    /// No agent answered.
    Unreachable = 4,
    /// The agent answered, but not to this user.
    NotPermitted = 5,
    /// The command line makes no sense (`EX_USAGE` of sysexits.h).
    Usage = 64,
}

/// The codes as `purlin --help` and the man page list them.
pub const CODES: &str = "\
Exit codes:
   0  ok
   1  failed
   2  faults found
   3  document or agent's file refused; nothing was changed
   4  agent unreachable
   5  not permitted
  64  wrong usage";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// What a command comes to.
pub type Ended = Result<Exit, Failure>;

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// Anything that has no kind of its own.
    Failed(String),
    /// A document, or the agent's own file, was refused, with every reason.
    Refused(api::Error),
    /// No agent answered.
    Unreachable(Unreachable),
    /// This user may not do that.
    NotPermitted(String),
    /// The arguments don't go together in a way that clap could not see.
    Usage(String),
    /// Whoever read our output went away: not an error.
    PipeClosed,
}

/// Where the agent was looked for, and what was found there.
#[derive(Debug)]
pub struct Unreachable {
    /// Who was looked for: the agent or the mesh.
    pub who: &'static str,
    /// The socket that was tried.
    pub socket: PathBuf,
    /// What came of it.
    pub found: Found,
    /// What to do next.
    pub next: String,
}

/// What was found in place of an agent.
#[derive(Debug)]
pub enum Found {
    /// No socket.
    Nothing,
    /// A socket that nobody listens on.
    Remains,
    /// Something that took the request and did not answer in time.
    Silence(Duration),
    /// Something that took the request and went away.
    HungUp(String),
    /// Something else; the kernel's own words.
    Error(io::Error),
}

impl Found {
    /// True if what was asked for may have been done all the same.
    pub fn may_have_heard(&self) -> bool {
        matches!(self, Found::Silence(_) | Found::HungUp(_))
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Found::Nothing => f.write_str("no socket: it is not running"),
            Found::Remains => f.write_str("a socket that nobody listens on: it has died"),
            Found::Silence(limit) => write!(f, "no answer within {} s", limit.as_secs()),
            Found::HungUp(how) => write!(f, "no whole answer: it hung up ({how})"),
            Found::Error(error) => error.fmt(f),
        }
    }
}

impl Failure {
    /// The code that goes with it.
    pub fn exit(&self) -> Exit {
        match self {
            Failure::Failed(_) => Exit::Failed,
            Failure::Refused(_) => Exit::Refused,
            Failure::Unreachable(_) => Exit::Unreachable,
            Failure::NotPermitted(_) => Exit::NotPermitted,
            Failure::Usage(_) => Exit::Usage,
            Failure::PipeClosed => Exit::Ok,
        }
    }

    /// Says it on standard error, which may itself be gone, and returns its code.
    pub fn report(&self) -> Exit {
        if !matches!(self, Failure::PipeClosed) {
            let _ = writeln!(anstream::stderr(), "purlin: {self}");
        }
        self.exit()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Failed(what) | Failure::NotPermitted(what) | Failure::Usage(what) => {
                f.write_str(what)
            }
            Failure::Refused(error) => {
                f.write_str(&error.error)?;
                error.refusals.iter().try_for_each(|refusal| fmt_refusal(f, refusal))
            }
            Failure::Unreachable(it) => {
                writeln!(f, "the {} can't be reached", it.who)?;
                writeln!(f, "  looked at:  {}", it.socket.display())?;
                writeln!(f, "  found:      {}", it.found)?;
                write!(f, "  next:       {}", it.next)
            }
            Failure::PipeClosed => f.write_str("standard output was closed"),
        }
    }
}

fn fmt_refusal(f: &mut fmt::Formatter<'_>, refusal: &Refusal) -> fmt::Result {
    write!(f, "\n  {}", plain(&refusal.path))?;
    for (label, text) in
        [("is", &refusal.value), ("may be", &refusal.limit), ("next", &refusal.hint)]
    {
        if !text.is_empty() {
            write!(f, "\n    {:<8}{}", format!("{label}:"), plain(text))?;
        }
    }
    Ok(())
}

/// What goes wrong while writing to standard output.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::PipeClosed,
            _ => Failure::Failed(format!("can't write to standard output: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn every_code_is_in_the_help() {
        for exit in [
            Exit::Ok,
            Exit::Failed,
            Exit::Faults,
            Exit::Refused,
            Exit::Unreachable,
            Exit::NotPermitted,
            Exit::Usage,
        ] {
            let code = format!("{:>4}  ", exit as u8);
            assert!(CODES.lines().any(|line| line.starts_with(&code)), "{exit:?}");
        }
    }

    #[test]
    fn a_closed_pipe_is_no_error() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(failure.exit(), Exit::Ok);
    }

    #[test]
    fn a_full_disk_is_an_error() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(failure.exit(), Exit::Failed);
    }

    #[test]
    fn a_refusal_names_every_reason() {
        let refusal = |path: &str, value: &str, limit: &str, hint: &str| Refusal {
            path: path.into(),
            value: value.into(),
            limit: limit.into(),
            hint: hint.into(),
        };
        let failure = Failure::Refused(api::Error {
            error: "the document is refused; nothing was changed".into(),
            refusals: vec![
                refusal("sampling.interval_s", "0", "1 to 3600", "use 10"),
                refusal("samplng", "{…}", "", "unknown field: did you mean sampling?"),
            ],
        });
        assert_eq!(failure.exit(), Exit::Refused);
        expect![[r#"
            the document is refused; nothing was changed
              sampling.interval_s
                is:     0
                may be: 1 to 3600
                next:   use 10
              samplng
                is:     {…}
                next:   unknown field: did you mean sampling?"#]]
        .assert_eq(&failure.to_string());
    }
}
