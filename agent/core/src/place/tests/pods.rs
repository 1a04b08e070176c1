//! nri-plugins' cases of what a pod asks for by its class and its annotations (0705acc),
//! `cmd/plugins/topology-aware/policy/pod-preferences_test.go`: 18 of its 44 cases of CPUs
//! (three of them without the options of a whole node that they have too), and the four
//! that differ of its 23 of where an annotation holds.
//!
//! Not here:
//! - options of a whole node that prefer isolated or shared CPUs (12): here a profile asks
//!   for that by name, and is tested as a profile is;
//! - a whole and a part of a CPU for one container ("mixed", 3): kubelet gives none either,
//!   and a thread that lands on the part is as slow as if all were shared;
//! - containers that are put on the reserved CPUs by namespace or annotation (9): reserved
//!   CPUs are shared by all who share, so that nobody is crowded on a few;
//! - arguments that are not there (2); an annotation that makes no sense, which is taken for
//!   its default there, and is refused with the reason here.

use super::{
    super::{
        book::Rules,
        container::{Container, Pod, Resources, Texts, Via},
        source::{Source, asked},
    },
    *,
};

/// A container of a Guaranteed pod, or another, with so many thousandths of a CPU.
fn container(guaranteed: bool, milli: u64, annotations: &[(&str, &str)]) -> Container {
    let text = |(key, value): &(&str, &str)| (String::from(*key), String::from(*value));
    let annotations: Texts = annotations.iter().map(text).collect();
    let quota = guaranteed.then(|| i64::try_from(milli * 100).expect("a few CPUs"));
    Container {
        id: "c0".into(),
        name: "c0".into(),
        pod: Some(Pod { annotations, ..Pod::default() }),
        cgroup: Some(match guaranteed {
            true => "/kubepods/podp/c0".into(),
            false => "/kubepods/burstable/podp/c0".into(),
        }),
        resources: Resources {
            cpu_shares: Some(milli * 1024 / 1000),
            cpu_quota_us: quota,
            cpu_period_us: Some(100_000),
            ..Resources::default()
        },
        via: Via::Nri,
        ..Container::default()
    }
}

const SHARED: &[(&str, &str)] = &[("c0.purlin.dev/exclusive-cpus", "0")];
const ISOLATED: &[(&str, &str)] = &[("c0.purlin.dev/isolated", "true")];

const BOTH: &[(&str, &str)] =
    &[("c0.purlin.dev/exclusive-cpus", "0"), ("c0.purlin.dev/isolated", "true")];

/// Thousandths of a CPU, and annotations; whole CPUs that nri-plugins gives, and whether
/// they are isolated.
type Case = (bool, u64, &'static [(&'static str, &'static str)], usize, bool);

const CASES: &[Case] = &[
    (false, 0, &[], 0, false),
    (false, 1000, &[], 0, false),
    (false, 2000, &[], 0, false),
    (true, 750, &[], 0, false),
    (true, 1000, &[], 1, false),
    (true, 1000, SHARED, 0, false),
    (true, 1000, &[("c0.purlin.dev/isolated", "false")], 1, false),
    (true, 1000, ISOLATED, 1, true),
    (true, 2000, &[], 2, false),
    (true, 2000, ISOLATED, 2, true),
    (true, 2000, SHARED, 0, false),
    (true, 2500, &[], 0, false),
    (true, 2500, SHARED, 0, false),
    (true, 750, SHARED, 0, false),
    // Where an annotation holds.
    (true, 2000, &[("other.purlin.dev/isolated", "true")], 2, false),
    (true, 2000, &[("purlin.dev/isolated", "true")], 2, true),
    (true, 2000, &[("purlin.dev/isolated", "true"), ("c0.purlin.dev/isolated", "false")], 2, false),
];

#[test]
fn a_pod_asks_as_it_does_with_nri_plugins() {
    for (guaranteed, milli, annotations, whole, isolated) in CASES {
        let what = format!("{milli} of Guaranteed {guaranteed} with {annotations:?}");
        let asked = asked(&container(*guaranteed, *milli, annotations), &Rules::default());
        let asked = asked.expect("it asks well");
        let count = match asked.request.cpus {
            Cpus::Exclusive { count, .. } => count,
            Cpus::Shared { .. } => 0,
        };
        assert_eq!((count, asked.isolated), (*whole, *isolated), "{what}");
        assert_eq!(asked.by == Source::Nobody, !guaranteed, "{what}");
    }
    // What is shared can't be isolated: nri-plugins leaves that out, we say so.
    for (milli, annotations) in [(2000, BOTH), (2500, BOTH), (2500, ISOLATED)] {
        let why = asked(&container(true, milli, annotations), &Rules::default());
        assert!(why.expect_err("it contradicts itself").starts_with("isolated CPUs are exclusive"));
    }
    let wrong = container(true, 2000, &[("c0.purlin.dev/isolated", "blah")]);
    let why = asked(&wrong, &Rules::default()).expect_err("it is told");
    assert_eq!(why, "annotation c0.purlin.dev/isolated: \"blah\" may be true or false");
}
