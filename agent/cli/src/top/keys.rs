//! Keys as they are pressed: the terminal tells them one by one and shows none of them,
//! until this is dropped.

use std::{
    io::{self, IsTerminal, Read},
    thread,
};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::sync::mpsc;

/// A keyboard.
pub struct Keys {
    pressed: mpsc::Receiver<u8>,
    before: Termios,
}

impl Keys {
    /// Standard input, if it is a terminal.
    pub fn open() -> Option<Self> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return None;
        }
        let before = tcgetattr(&stdin).ok()?;
        let mut one_by_one = before.clone();
        // Ctrl-C stays a signal.
        one_by_one.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
        tcsetattr(&stdin, OptionalActions::Now, &one_by_one).ok()?;
        let (press, pressed) = mpsc::channel(16);
        // A read can't be taken back: it ends with the process.
        thread::spawn(move || {
            let keys = stdin.lock().bytes().map_while(Result::ok);
            keys.map(|key| press.blocking_send(key)).take_while(Result::is_ok).for_each(drop);
        });
        Some(Self { pressed, before })
    }

    /// Waits for one of `keys`; for ever, if the terminal goes away.
    ///
    /// Cancel safe: what is pressed while nobody waits is taken the next time.
    pub async fn until(&mut self, keys: &[u8]) {
        while let Some(key) = self.pressed.recv().await {
            if keys.contains(&key) {
                return;
            }
        }
        std::future::pending().await
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}
