//! The process's own memory: the C library's heap (malloc_trim(3)) and the pages of the
//! program that are mapped (madvise(2)).

use std::{fs, ptr};

use nix::libc;
use procfs_core::{
    FromBufRead,
    process::{MMPermissions, MMapPath, MemoryMaps},
};

/// Lets go of the mapped pages of the program's code.
pub(crate) fn give_back_code() {
    let Ok(program) = fs::read_link("/proc/self/exe").map(MMapPath::Path) else { return };
    let Ok(maps) = fs::read("/proc/self/maps") else { return };
    let Ok(maps) = MemoryMaps::from_buf_read(&maps[..]) else { return };
    let is_code = MMPermissions::READ | MMPermissions::EXECUTE | MMPermissions::PRIVATE;
    for map in maps.iter().filter(|it| it.pathname == program && it.perms == is_code) {
        let (start, end) = map.address;
        let start = ptr::with_exposed_provenance_mut(start as usize);
        // SAFETY: it is a mapping of this process's program that nobody may write to, and
        // none ever did: code is not relocated. Whoever runs it next has it from the file.
        unsafe { libc::madvise(start, (end - map.address.0) as usize, libc::MADV_DONTNEED) };
    }
}

/// Hands free pages of the heap back to the kernel, also those between what is in use.
pub(crate) fn give_back_heap() {
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
            let text = fs::read_to_string("/proc/self/statm").expect("statm");
            text.split(' ').nth(1).and_then(|it| it.parse().ok()).expect("pages")
        };
        // 64 MiB, of which every hundredth KiB stays in use.
        let mut all: Vec<Option<Box<[u8; 1024]>>> =
            (0..64 << 10).map(|n| Some(Box::new([n as u8; 1024]))).collect();
        all.iter_mut().enumerate().for_each(|(n, it)| *it = it.take().filter(|_| n % 100 == 0));
        let before = resident();
        give_back_heap();
        let pages = before.saturating_sub(resident());
        assert!(pages > 8 << 10, "{pages} pages of {before} were given back");
        assert!(all[100].as_ref().is_some_and(|it| it[0] == 100));
    }

    #[test]
    fn code_that_is_given_back_runs_again() {
        let resident = || -> u64 {
            let text = fs::read_to_string("/proc/self/smaps").expect("smaps");
            let code = text.split("r-xp ").nth(1).expect("the program comes first");
            let rss = code.lines().find_map(|it| it.strip_prefix("Rss:")).expect("Rss");
            rss.trim().trim_end_matches(" kB").parse().expect("kB")
        };
        // All of it that was needed so far, among others for this.
        let before = resident();
        give_back_code();
        let after = resident();
        println!("{before} kB of code, then {after}");
        assert!(after < before, "{before} kB of code, then {after}");
    }
}
