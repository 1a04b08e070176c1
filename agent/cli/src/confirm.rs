//! Asks before something is gone for good.

use std::io::{self, IsTerminal, Write};

use crate::exit::Failure;

/// Goes on only if that word is typed; `what` says what would become of it. Where nobody can
/// be asked nothing is done.
pub fn typed(word: &str, what: &str) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::Usage(format!("{what} Say --yes to do it without being asked.")));
    }
    anstream::eprint!("{what}\nType {word} to go on: ");
    _ = io::stderr().flush();
    let mut typed = String::new();
    io::stdin().read_line(&mut typed)?;
    match typed.trim() == word {
        true => Ok(()),
        false => Err(Failure::Failed("nothing was removed".into())),
    }
}
