//! Writes a small machine's files, for the tests of drivers: `mod tree;`.

#![allow(dead_code, reason = "each test file is a crate of its own and uses a part of it")]

use std::{fs, os::unix::fs::symlink, path::PathBuf};

use expect_test::Expect;
use purlin_core::inventory::{Inventory, Part};
use purlin_drivers::Root;
use tempfile::TempDir;

/// A dump's directory, written by a test.
pub struct Tree(TempDir);

impl Tree {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    pub fn at(&self, path: &str) -> PathBuf {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        path
    }

    pub fn file(&self, path: &str, content: impl AsRef<[u8]>) -> &Self {
        fs::write(self.at(path), content).expect("a file");
        self
    }

    pub fn files(&self, dir: &str, files: &[(&str, &str)]) -> &Self {
        for (name, content) in files {
            self.file(&format!("{dir}/{name}"), format!("{content}\n"));
        }
        self
    }

    pub fn link(&self, path: &str, target: &str) -> &Self {
        symlink(target, self.at(path)).expect("a link");
        self
    }

    /// A PU with its own L1d and an L3 shared by `l3`.
    pub fn pu(&self, id: u32, package: u32, core: u32, l3: &str) -> &Self {
        let dir = format!("sys/devices/system/cpu/cpu{id}");
        let (id, package, core) = (id.to_string(), package.to_string(), core.to_string());
        let topology = [("physical_package_id", package.as_str()), ("core_id", &core)];
        let l1 = [("level", "1"), ("type", "Data"), ("size", "32K"), ("shared_cpu_list", &id)];
        let l3 = [("level", "3"), ("type", "Unified"), ("size", "8192K"), ("shared_cpu_list", l3)];
        self.files(&format!("{dir}/topology"), &topology)
            .files(&format!("{dir}/cache/index0"), &l1)
            .files(&format!("{dir}/cache/index1"), &l3)
    }

    pub fn node(&self, id: u32, cpus: &str, kib: u32, distance: &str) -> &Self {
        let meminfo = format!("Node {id} MemTotal: {kib} kB\nNode {id} MemFree: 1 kB");
        let files = [("cpulist", cpus), ("meminfo", &meminfo), ("distance", distance)];
        self.files(&format!("sys/devices/system/node/node{id}"), &files)
    }

    pub fn root(&self) -> Root {
        Root::dump(self.0.path()).expect("a dump's root")
    }

    pub fn read(&self) -> Inventory {
        purlin_drivers::inventory(&self.root())
    }
}

pub fn problems_of(inventory: &Inventory, part: Part) -> Vec<String> {
    let of = inventory.problems.iter().filter(|problem| problem.part == part);
    of.map(|problem| format!("{}: {}", problem.at, problem.what)).collect()
}

#[track_caller]
pub fn check(actual: &impl std::fmt::Debug, expected: Expect) {
    expected.assert_eq(&format!("{actual:?}"));
}
