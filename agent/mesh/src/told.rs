//! What the mesh measures, under OpenTelemetry's kind of names: for the page on loopback,
//! and for the agent's spool. What was never counted is left out.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use purlin_core::metric::Point;
use purlin_proto::mesh::Counts;

use crate::{
    live::Live,
    openmetrics::{Kind, Page},
    signals::{BOUNDS_US, Class, Decision, MAX_ROUTES, OTHER, Shown, Signals, TUNNEL},
};

/// What is measured.
#[derive(Debug, Default)]
pub struct Told {
    /// Values.
    pub points: Vec<Point>,
    /// How long answers took.
    took: Vec<Took>,
}

#[derive(Debug)]
struct Took {
    name: &'static str,
    of: Of,
    counts: [u64; BOUNDS_US.len() + 1],
    sum_us: u64,
}

/// What tells one from its siblings.
type Of = Vec<(&'static str, String)>;

/// The names of what there is of a route, or of an endpoint.
struct Names {
    requests: &'static str,
    duration: &'static str,
    /// For the spool, which has no histograms.
    duration_sum: &'static str,
    io: &'static str,
    active: &'static str,
    decisions: &'static str,
}

const OF_ROUTE: Names = Names {
    requests: "purlin.mesh.route.requests",
    duration: "purlin.mesh.route.duration",
    duration_sum: "purlin.mesh.route.duration.sum",
    io: "purlin.mesh.route.io",
    active: "purlin.mesh.route.active",
    decisions: "purlin.mesh.route.decisions",
};
const OF_ENDPOINT: Names = Names {
    requests: "purlin.mesh.endpoint.requests",
    duration: "purlin.mesh.endpoint.duration",
    duration_sum: "purlin.mesh.endpoint.duration.sum",
    io: "purlin.mesh.endpoint.io",
    active: "purlin.mesh.endpoint.active",
    decisions: "purlin.mesh.endpoint.decisions",
};

/// All that is measured now.
pub fn told(live: &Live, counts: &Counts, now_ms: u32) -> Told {
    let mut told = Told::default();
    told.counts(counts, live.table.generation);
    for split in live.splits() {
        let of = vec![("route", split.route.clone()), ("backend", split.backend.clone())];
        let is_back = f64::from(u8::from(split.is_back()));
        told.put(Point::gauge("purlin.mesh.route.stepped_back", "", is_back), &of);
    }
    for (route, signals) in live.signals() {
        told.add(&OF_ROUTE, vec![("route", route.into())], signals);
    }
    let of = |name: &str| vec![("route", name.to_owned())];
    told.add(&OF_ROUTE, of(TUNNEL), &live.of_tunnels);
    let mut over = live.signals.len().saturating_sub(MAX_ROUTES);
    for target in &live.targets {
        let keys = target.service.endpoints.iter().map(|it| it.key());
        for (key, endpoint) in keys.zip(&target.endpoints) {
            if Arc::ptr_eq(&endpoint.signals, &live.other_endpoints) {
                over += 1;
                continue;
            }
            let of = vec![("service", target.service.name.clone()), ("endpoint", key)];
            if endpoint.requests.load(Relaxed) > 0 {
                let is_up = !endpoint.is_out(now_ms);
                let up = Point::gauge("purlin.mesh.endpoint.up", "", f64::from(u8::from(is_up)));
                told.put(up, &of);
            }
            told.add(&OF_ENDPOINT, of, &endpoint.signals);
        }
    }
    told.add(&OF_ROUTE, of(OTHER), &live.other_routes);
    let other = vec![("service", OTHER.into()), ("endpoint", OTHER.into())];
    told.add(&OF_ENDPOINT, other, &live.other_endpoints);
    told.points.push(Point::gauge("purlin.mesh.series.shared", "", over as f64));
    told
}

impl Told {
    fn put(&mut self, point: Point, of: &Of) {
        let with = |point: Point, (key, value): &(&'static str, String)| point.with(key, value);
        self.points.push(of.iter().fold(point, with));
    }

    fn counted(&mut self, name: &'static str, unit: &'static str, value: u64, of: &Of) {
        if value > 0 {
            self.put(Point::counter(name, unit, value as f64), of);
        }
    }

    fn counts(&mut self, counts: &Counts, generation: u64) {
        let mut counted = |name, value| self.counted(name, "", value, &Vec::new());
        counted("purlin.mesh.connections", counts.connections);
        counted("purlin.mesh.slow", counts.slow);
        counted("purlin.mesh.unmatched", counts.unmatched);
        let reasons = [
            ("purlin.mesh.refused", &counts.violations),
            ("purlin.mesh.tunnels.refused", &counts.tunnels_refused),
            ("purlin.mesh.gossip.refused", &counts.gossip_refused),
            ("purlin.mesh.tokens.refused", &counts.tokens_refused),
        ];
        for (name, by) in reasons {
            for (why, count) in by {
                self.counted(name, "", *count, &vec![("reason", why.clone())]);
            }
        }
        let mut gauge = |name, value: u64| self.points.push(Point::gauge(name, "", value as f64));
        gauge("purlin.mesh.connections.open", counts.open);
        gauge("purlin.mesh.connections.parked", counts.parked);
        gauge("purlin.mesh.generation", generation);
    }

    fn add(&mut self, names: &Names, of: Of, signals: &Signals) {
        let shown: Shown = signals.shown();
        let with = |key, value: &str| of.iter().cloned().chain([(key, value.to_owned())]).collect();
        for (class, count) in Class::NAMES.iter().zip(shown.classes) {
            self.counted(names.requests, "", count, &with("class", class));
        }
        for (decision, count) in Decision::NAMES.iter().zip(shown.decisions) {
            self.counted(names.decisions, "", count, &with("decision", decision));
        }
        for (direction, bytes) in [("receive", shown.received), ("transmit", shown.sent)] {
            self.counted(names.io, "By", bytes, &with("network.io.direction", direction));
        }
        if shown.classes.iter().any(|it| *it > 0) || shown.active > 0 {
            self.put(Point::gauge(names.active, "", shown.active.into()), &of);
        }
        if shown.took.iter().any(|it| *it > 0) {
            let sum = Point::counter(names.duration_sum, "s", shown.took_us as f64 / 1e6);
            self.put(sum, &of);
            let (counts, sum_us) = (shown.took, shown.took_us);
            self.took.push(Took { name: names.duration, of, counts, sum_us });
        }
    }

    /// As a page. Sums of histograms are with these.
    pub fn page(&self) -> Page {
        let mut page = Page::default();
        for point in self.points.iter().filter(|it| !it.name.ends_with(".sum")) {
            let (kind, value) = match point.value {
                purlin_core::metric::Value::Gauge(value) => (Kind::Gauge, value),
                purlin_core::metric::Value::Counter(value) => (Kind::Counter, value),
            };
            let labels = point.attributes.iter().map(|(key, value)| (&**key, value.as_str()));
            page.add(kind, &point.name, &point.unit, labels, value);
        }
        let bounds = BOUNDS_US.map(|us| us as f64 / 1e6);
        for it in &self.took {
            let labels: Vec<_> = it.of.iter().map(|(key, value)| (*key, value.as_str())).collect();
            let sum = it.sum_us as f64 / 1e6;
            page.add_histogram(it.name, "s", &labels, &bounds, &it.counts, sum);
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use purlin_proto::v1;

    use super::*;
    use crate::{signals::MAX_ENDPOINTS, wire};

    /// So many routes, each to a service of its own.
    fn live(count: usize, before: &Live) -> Live {
        let service = |n: usize| v1::Service {
            name: format!("s{n}"),
            // Four each: more than have signals of their own.
            endpoints: (1..=4)
                .map(|host| v1::Endpoint {
                    address: format!("10.0.{host}.1:{}", 1000 + n),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        };
        let route = |n: usize| v1::Route {
            name: format!("r{n}"),
            listeners: vec!["web".into()],
            rules: vec![v1::Rule {
                backend_refs: vec![v1::BackendRef { name: format!("s{n}"), weight: None }],
                ..Default::default()
            }],
            ..Default::default()
        };
        let web = v1::Listener {
            name: "web".into(),
            address: "127.0.0.1:80".into(),
            ..Default::default()
        };
        let mesh = v1::Mesh {
            listeners: vec![web],
            services: (0..count).map(service).collect(),
            routes: (0..count).map(route).collect(),
            ..Default::default()
        };
        Live::new(wire::table(1, &mesh).expect("a table"), before, None)
    }

    fn ask_each(live: &Live) {
        for signals in &live.signals {
            signals.answered(200, Duration::from_millis(3));
        }
        for endpoint in live.targets.iter().flat_map(|it| &it.endpoints) {
            endpoint.signals.is_over(Class::Failed);
        }
    }

    #[test]
    fn beyond_the_cap_all_share_one_and_how_many_those_are_is_told() {
        let live = live(MAX_ROUTES + 44, &Live::default());
        ask_each(&live);
        let told = told(&live, &Counts::default(), 0);
        let text = told.page().text(&[]);
        let lines = |start: &str| text.lines().filter(|it| it.starts_with(start)).count();
        assert_eq!(lines("purlin_mesh_route_requests_total"), MAX_ROUTES + 1);
        assert_eq!(lines("purlin_mesh_endpoint_requests_total"), MAX_ENDPOINTS + 1);
        let endpoints = (MAX_ROUTES + 44) * 4 - MAX_ENDPOINTS;
        for line in [
            "purlin_mesh_route_requests_total{class=\"2xx\",route=\"(other)\"} 44".to_owned(),
            format!(
                "purlin_mesh_endpoint_requests_total{{class=\"failed\",endpoint=\"(other)\",service=\"(other)\"}} {endpoints}"
            ),
            format!("purlin_mesh_series_shared {}", 44 + endpoints),
            "purlin_mesh_route_duration_seconds_bucket{le=\"0.0025\",route=\"r0\"} 0".into(),
            "purlin_mesh_route_duration_seconds_bucket{le=\"0.005\",route=\"r0\"} 1".into(),
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is not in {text}");
        }
    }

    #[test]
    fn what_was_counted_outlives_a_table_that_has_it_too() {
        let before = live(3, &Live::default());
        ask_each(&before);
        let after = live(2, &before);
        ask_each(&after);
        let told = told(&after, &Counts::default(), 0);
        let of = |name: &str| {
            told.points.iter().filter(|it| it.name == name).map(|it| it.value).collect::<Vec<_>>()
        };
        let twice = purlin_core::metric::Value::Counter(2.0);
        assert_eq!(of("purlin.mesh.route.requests"), [twice; 2]);
        assert_eq!(of("purlin.mesh.endpoint.requests"), [twice; 8]);
    }
}
