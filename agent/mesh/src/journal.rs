//! Lines for the journal: standard error, with each line's priority before it, as
//! sd-daemon(3) has it. What a line says is all in its text, which is what journalctl shows.

use std::{
    env, fs,
    io::{self, Write},
    os::unix::fs::MetadataExt as _,
};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// Makes a writer for each line.
#[derive(Clone, Copy, Debug)]
pub struct Journal;

/// True if standard error is the journal's: systemd names the stream that it gave us, which
/// may have been redirected since (systemd.exec(5), `JOURNAL_STREAM`).
pub fn is_stderr() -> bool {
    let Ok(stderr) = fs::metadata("/proc/self/fd/2") else { return false };
    env::var("JOURNAL_STREAM").is_ok_and(|it| it == format!("{}:{}", stderr.dev(), stderr.ino()))
}

impl MakeWriter<'_> for Journal {
    type Writer = Prefixed;

    fn make_writer(&self) -> Prefixed {
        Prefixed("<6>")
    }

    fn make_writer_for(&self, of: &Metadata<'_>) -> Prefixed {
        Prefixed(match *of.level() {
            Level::ERROR => "<3>",
            Level::WARN => "<4>",
            Level::INFO => "<6>",
            Level::DEBUG | Level::TRACE => "<7>",
        })
    }
}

/// Writes lines of one priority.
#[derive(Debug)]
pub struct Prefixed(&'static str);

impl Prefixed {
    fn text(&self, lines: &[u8]) -> Vec<u8> {
        let lines = lines.split_inclusive(|byte| *byte == b'\n');
        lines.flat_map(|line| [self.0.as_bytes(), line].concat()).collect()
    }
}

impl Write for Prefixed {
    /// Writes all of it at once: lines of several threads don't mix.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        io::stderr().write_all(&self.text(lines))?;
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_has_its_priority() {
        let text = Prefixed("<3>").text(b"a panic panic=at x.rs:1:\nno more\n");
        assert_eq!(String::from_utf8_lossy(&text), "<3>a panic panic=at x.rs:1:\n<3>no more\n");
    }
}
