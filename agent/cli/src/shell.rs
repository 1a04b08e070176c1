//! What a shell and `man` know of this command line, made from the same tree as
//! `--help`.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{
    args::Cli,
    exit::{Ended, Exit, Failure},
    output::Output,
};

/// `purlin completions SHELL`
pub fn completions(shell: Shell, output: &Output) -> Ended {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "purlin", &mut script);
    output.text(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok)
}

/// `purlin man DIR`
pub fn man(dir: &Path) -> Ended {
    let failed = |error| Failure::Failed(format!("no man pages in {}: {error}", dir.display()));
    clap_mangen::generate_to(Cli::command(), dir).map_err(failed)?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_but_the_hidden_one_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        man(dir.path()).unwrap();
        let has = |page: &str| dir.path().join(page).exists();
        assert!(has("purlin.1") && has("purlin-status.1") && has("purlin-config-apply.1"));
        assert!(!has("purlin-helper.1"));
    }

    #[test]
    fn man_pages_without_a_directory_fail() {
        let failure = man(Path::new("/nowhere/at/all")).unwrap_err();
        assert_eq!(failure.exit(), Exit::Failed);
    }
}
