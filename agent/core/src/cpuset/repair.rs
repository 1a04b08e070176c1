//! What has to be written so that every container has the cpuset it should have, in an
//! order in which no CPU is ever in an exclusive cpuset and in another one.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::{String, ToString},
    vec::Vec,
};

use super::{Change, Cpuset, Cpusets, Found, Kind, Owner, To, Version, text};
use crate::{
    idset::IdSet,
    place::targets::{Target, Targets},
};

/// All cpusets against all targets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Review {
    /// To be written one after the other.
    pub steps: Vec<Step>,
    /// Memory to be moved, which may take long: one after the other, outside any request.
    pub moves: Vec<Step>,
    /// Containers that have what they should, as read back.
    pub in_place: BTreeSet<String>,
    /// What no write of ours can bring, by container, and why.
    pub not_granted: BTreeMap<String, String>,
    /// Containers that nobody told of, and the path of each.
    pub strays: Vec<(Owner, String)>,
    /// Containers that are to have a cpuset and have no cgroup.
    pub missing: BTreeSet<String>,
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Container id.
    pub id: String,
    /// What to write.
    pub change: Change,
    /// What is there instead, for a person.
    pub found: String,
}

/// When a step's turn is. Whoever loses CPUs comes before whoever gains them; what was
/// taken from an exclusive cpuset goes to the shared ones last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Dissolve,
    Lose,
    GainExclusive,
    GainShared,
    Isolate,
}

/// Compares what is found with what should be.
pub fn review(targets: &Targets, found: &Cpusets) -> Review {
    let mut review = Review::default();
    let mut steps: Vec<(Turn, Step)> = Vec::new();
    let mut seen = BTreeSet::new();
    for (id, target) in &targets.containers {
        let Some(Found { cpuset, .. }) = found.of(id, target.cgroup.as_deref()) else {
            review.missing.insert(id.clone());
            continue;
        };
        seen.insert(cpuset.cgroup.as_str());
        let one = One { id, target, cpuset, all: found };
        let before = (steps.len(), review.moves.len());
        one.cpus(&mut steps, &mut review.not_granted);
        one.partition(&mut steps, &mut review.not_granted);
        one.mems(&mut review.moves, &mut review.not_granted);
        if (steps.len(), review.moves.len()) == before && !review.not_granted.contains_key(id) {
            review.in_place.insert(id.clone());
        }
    }
    steps.sort_by_key(|(turn, _)| *turn);
    review.steps = steps.into_iter().map(|(_, step)| step).collect();
    review.strays = found
        .containers
        .iter()
        .filter(|it| !seen.contains(it.cpuset.cgroup.as_str()))
        .filter_map(|it| Some((it.owner.clone()?, it.cpuset.cgroup.clone())))
        .collect();
    review
}

/// One container.
struct One<'a> {
    id: &'a str,
    target: &'a Target,
    cpuset: &'a Cpuset,
    all: &'a Cpusets,
}

impl One<'_> {
    fn cpus(&self, steps: &mut Vec<(Turn, Step)>, not_granted: &mut BTreeMap<String, String>) {
        let Cpuset { cpus, granted_cpus, .. } = self.cpuset;
        let want = self.target.cpus.intersection(&self.all.cpus);
        if want.is_empty() {
            let why = format!("none of the CPUs {} is online", self.target.cpus);
            not_granted.insert(self.id.into(), why);
            return;
        }
        let is_asked = match cpus {
            Some(cpus) => *cpus == want || *cpus == self.target.cpus,
            None => *granted_cpus == want,
        };
        if is_asked {
            if *granted_cpus != want {
                let granted = text(granted_cpus);
                let why = format!(
                    "CPUs {want} are asked for and {granted} granted: a cgroup above it has \
                     fewer, or a partition took them"
                );
                not_granted.insert(self.id.into(), why);
            }
            return;
        }
        let found = format!("CPUs {}", text(cpus.as_ref().unwrap_or(granted_cpus)));
        // A partition's CPUs are changed as a member's, so that a step that goes wrong
        // can't leave them to nobody.
        if self.is_partition() {
            steps.push((Turn::Dissolve, self.step(To::Member, self.partition_text())));
        }
        let kept = granted_cpus.intersection(&want);
        if kept == want {
            steps.push((Turn::Lose, self.step(To::Cpus(want), found)));
            return;
        }
        if !kept.is_empty() && kept != *granted_cpus {
            steps.push((Turn::Lose, self.step(To::Cpus(kept), found.clone())));
        }
        let turn = if self.target.exclusive { Turn::GainExclusive } else { Turn::GainShared };
        steps.push((turn, self.step(To::Cpus(want), found)));
    }

    fn partition(&self, steps: &mut Vec<(Turn, Step)>, not_granted: &mut BTreeMap<String, String>) {
        let is_dissolved =
            steps.iter().any(|(turn, step)| *turn == Turn::Dissolve && step.id == self.id);
        if !self.target.isolated {
            if self.is_partition() && !is_dissolved {
                steps.push((Turn::Dissolve, self.step(To::Member, self.partition_text())));
            }
            return;
        }
        if self.all.version == Version::V1 || !self.all.remote_partitions {
            let why = "an isolated partition needs cgroup v2 and Linux 6.7: its CPUs are \
                       exclusive all the same, with load balancing";
            not_granted.insert(self.id.into(), why.into());
            return;
        }
        let is_isolated = self.cpuset.partition.as_ref().is_some_and(|it| it.is_isolated());
        if !is_isolated || is_dissolved {
            steps.push((Turn::Isolate, self.step(To::Isolated, self.partition_text())));
        }
    }

    fn mems(&self, moves: &mut Vec<Step>, not_granted: &mut BTreeMap<String, String>) {
        let Cpuset { mems, granted_mems, .. } = self.cpuset;
        let want = self.target.mems.intersection(&self.all.mems);
        if want.is_empty() || *granted_mems == want {
            return;
        }
        if mems.as_ref() == Some(&want) {
            let granted = text(granted_mems);
            let why = format!(
                "memory of node {want} is asked for and {granted} granted: a cgroup above it \
                 has fewer"
            );
            not_granted.insert(self.id.into(), why);
            return;
        }
        let found = format!("memory of node {}", text(granted_mems));
        moves.push(self.step(To::Mems(want), found));
    }

    fn is_partition(&self) -> bool {
        self.cpuset.partition.as_ref().is_some_and(|it| it.kind != Kind::Member)
    }

    fn partition_text(&self) -> String {
        let partition = self.cpuset.partition.as_ref();
        partition.map_or_else(|| "no partition".into(), |it| format!("partition {it}"))
    }

    fn step(&self, to: To, found: String) -> Step {
        let cgroup = self.cpuset.cgroup.clone();
        Step { id: self.id.to_string(), change: Change { cgroup, to }, found }
    }
}

/// What exclusive cpusets have, all of them together.
pub fn exclusive(targets: &Targets) -> IdSet {
    let exclusive = targets.containers.values().filter(|target| target.exclusive);
    exclusive.flat_map(|target| target.cpus.iter()).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::cpuset::{Partition, Runtime};

    fn set(list: &str) -> IdSet {
        IdSet::parse(list).expect("a list")
    }

    /// One word each: `a:0-1` shares, `a!0-1` is exclusive, `a!!0-1` isolated.
    fn targets(words: &str) -> Targets {
        let one = |word: &str| {
            let at = word.find([':', '!']).expect("a mark");
            let cpus = word[at..].trim_start_matches([':', '!']);
            let target = Target {
                cgroup: None,
                cpus: set(cpus),
                mems: set("0-1"),
                exclusive: word.contains('!'),
                isolated: word.contains("!!"),
            };
            (word[..at].to_string(), target)
        };
        let containers = words.split_whitespace().map(one).collect();
        Targets { generation: 1, shared: set("0"), containers, ..Targets::default() }
    }

    /// `a=0-1` was asked for and is granted, `a=0-1/0` is granted less, `a=/0-3` was asked
    /// for nothing; `a=0-1@isolated` is a partition.
    fn found(words: &str) -> Cpusets {
        let one = |word: &str| {
            let (id, rest) = word.split_once('=').expect("a cpuset");
            let (cpus, partition) = rest.split_once('@').unwrap_or((rest, "member"));
            let (asked, granted) = cpus.split_once('/').unwrap_or((cpus, cpus));
            Found {
                owner: Some(Owner { runtime: Runtime::Unknown, id: id.into() }),
                cpuset: Cpuset {
                    cgroup: format!("/{id}"),
                    cpus: Some(set(asked)).filter(|it| !it.is_empty()),
                    mems: None,
                    granted_cpus: set(granted),
                    granted_mems: set("0-1"),
                    partition: Partition::parse(&partition.replace('_', " ")),
                    controlled: true,
                },
            }
        };
        Cpusets {
            version: Version::V2,
            mount: "/m".into(),
            cpus: set("0-7"),
            mems: set("0-1"),
            remote_partitions: true,
            containers: words.split_whitespace().map(one).collect(),
            others: Vec::new(),
        }
    }

    #[track_caller]
    fn check(wanted: &str, is: &str, expected: Expect) {
        let review = review(&targets(wanted), &found(is));
        let mut text = String::new();
        for step in review.steps.iter().chain(&review.moves) {
            text += &format!("{}: {}, was {}\n", step.id, step.change.to, step.found);
        }
        for (id, why) in &review.not_granted {
            text += &format!("{id}: {why}\n");
        }
        for id in &review.in_place {
            text += &format!("{id} is in place\n");
        }
        for (owner, path) in &review.strays {
            text += &format!("{} at {path} is a stray\n", owner.id);
        }
        for id in &review.missing {
            text += &format!("{id} is missing\n");
        }
        expected.assert_eq(&text);
    }

    #[test]
    fn what_is_as_it_should_be_is_left_alone() {
        check(
            "a:0-5 b!6-7",
            "a=0-5 b=6-7",
            expect![[r#"
            a is in place
            b is in place
        "#]],
        );
    }

    #[test]
    fn who_loses_cpus_comes_before_who_gains_them() {
        check(
            "a!6-7 z:0-5",
            "z=/0-7 a=/0-7",
            expect![[r#"
            a: CPUs 6-7, was CPUs 0-7
            z: CPUs 0-5, was CPUs 0-7
        "#]],
        );
        // One that moves first keeps to what it may keep, and what it left is shared last.
        check(
            "a!2-3 z:0-1,4-7",
            "z=2-7 a=0-1",
            expect![[r#"
            z: CPUs 4-7, was CPUs 2-7
            a: CPUs 2-3, was CPUs 0-1
            z: CPUs 0-1,4-7, was CPUs 2-7
        "#]],
        );
    }

    #[test]
    fn what_someone_wrote_over_it_is_named() {
        check(
            "a!6-7",
            "a=0-7",
            expect![[r#"
            a: CPUs 6-7, was CPUs 0-7
        "#]],
        );
    }

    #[test]
    fn what_is_asked_for_and_not_granted_is_not_written_again() {
        check(
            "a!6-7",
            "a=6-7/6",
            expect![[r#"
            a: CPUs 6-7 are asked for and 6 granted: a cgroup above it has fewer, or a partition took them
        "#]],
        );
        check(
            "a!8-9",
            "a=6-7",
            expect![[r#"
            a: none of the CPUs 8-9 is online
        "#]],
        );
    }

    #[test]
    fn a_partition_is_dissolved_before_its_cpus_change_and_made_last() {
        check(
            "a!!6-7 z:0-5",
            "a=4-5@isolated z=0-7/0-3,6-7",
            expect![[r#"
            a: no partition, was partition isolated
            z: CPUs 0-3, was CPUs 0-7
            a: CPUs 6-7, was CPUs 4-5
            z: CPUs 0-5, was CPUs 0-7
            a: an isolated partition, was partition isolated
        "#]],
        );
        check(
            "a!!6-7",
            "a=6-7@isolated_invalid_(someone)",
            expect![[r#"
            a: an isolated partition, was partition isolated, invalid: someone
        "#]],
        );
        check(
            "a!6-7",
            "a=6-7@isolated",
            expect![[r#"
            a: no partition, was partition isolated
        "#]],
        );
    }

    #[test]
    fn containers_without_a_target_and_targets_without_a_cgroup_are_told() {
        check(
            "a:0-5",
            "b=/0-7",
            expect![[r#"
            b at /b is a stray
            a is missing
        "#]],
        );
    }
}
