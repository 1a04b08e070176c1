//! The C library's heap (malloc_trim(3)).

use nix::libc;

/// Hands free pages back to the kernel, also those between what is in use.
pub(crate) fn give_back() {
    // SAFETY: it takes the heap's own locks and touches nothing that is in use.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::*;

    #[test]
    fn what_is_free_between_what_is_used_is_given_back() {
        let resident = || -> u64 {
            let text = std::fs::read_to_string("/proc/self/statm").expect("statm");
            text.split(' ').nth(1).and_then(|it| it.parse().ok()).expect("pages")
        };
        // 64 MiB, of which every hundredth KiB stays in use.
        let mut all: Vec<Option<Box<[u8; 1024]>>> =
            (0..64 << 10).map(|n| Some(Box::new([n as u8; 1024]))).collect();
        all.iter_mut().enumerate().for_each(|(n, it)| *it = it.take().filter(|_| n % 100 == 0));
        let before = resident();
        give_back();
        let pages = before.saturating_sub(resident());
        assert!(pages > 8 << 10, "{pages} pages of {before} were given back");
        assert!(all[100].as_ref().is_some_and(|it| it[0] == 100));
    }
}
