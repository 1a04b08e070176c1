//! Which rule a request meets first.
//!
//! The order is the Gateway API's: the more specific host name, then an exact path,
//! then the longer path, a method, more headers, more query parameters and cookies,
//! and then the route's name and the place in it. A request that the first doesn't
//! match may match the next.

use alloc::{string::String, vec::Vec};
use core::{cmp::Reverse, fmt};

use super::{
    host::Hostname,
    model::{Kind, Match, Protocol, Route, Rule, ValueMatch},
    table::Table,
};

/// Whether a header, by its name in lower case, has a value that is the one.
pub type Headers<'a> = dyn Fn(&str, &mut dyn FnMut(&str) -> bool) -> bool + 'a;

/// A request as far as routes look at it.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// Its host, normal (see [`super::host::normal`]).
    pub host: &'a str,
    /// Method.
    pub method: &'a str,
    /// Path without query.
    pub path: &'a str,
    /// What stands after `?`.
    pub query: &'a str,
    /// Value of a header by its name in lower case; more than one are tried in turn.
    pub headers: &'a Headers<'a>,
}

impl fmt::Debug for Asked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}{}?{}", self.method, self.host, self.path, self.query)
    }
}

/// Why a match was passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Miss {
    Host,
    Path,
    Method,
    Header(String),
    Query(String),
    Cookie(String),
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Miss::Host => f.write_str("another host"),
            Miss::Path => f.write_str("another path"),
            Miss::Method => f.write_str("another method"),
            Miss::Header(name) => write!(f, "header {name} is not as wanted"),
            Miss::Query(name) => write!(f, "query parameter {name} is not as wanted"),
            Miss::Cookie(name) => write!(f, "cookie {name} is not as wanted"),
        }
    }
}

/// Where a match stands: route, rule of the route, match of the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Place {
    pub route: usize,
    pub rule: usize,
    pub matched: usize,
}

/// The matches that one listener's requests are held against, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choice {
    /// Most specific first; `None`: any host.
    hosts: Vec<(Option<Hostname>, Vec<Place>)>,
}

impl Choice {
    /// Sorts out what listener `index` of a table serves.
    pub fn of(table: &Table, index: usize) -> Self {
        let listener = &table.listeners[index];
        let mut hosts: Vec<(Option<Hostname>, Vec<Place>)> = Vec::new();
        for (at, route) in table.routes.iter().enumerate() {
            if !route.listeners.contains(&listener.name) {
                continue;
            }
            let any = [None];
            let named: Vec<_> = route.hostnames.iter().cloned().map(Some).collect();
            for host in if named.is_empty() { &any[..] } else { &named } {
                let places = match hosts.iter_mut().find(|(known, _)| known == host) {
                    Some((_, places)) => places,
                    None => {
                        hosts.push((host.clone(), Vec::new()));
                        &mut hosts.last_mut().expect("one was pushed").1
                    }
                };
                places.extend(places_of(at, route));
            }
        }
        hosts.sort_by_key(|(host, _)| match host {
            Some(Hostname::Exact(name)) => (0, Reverse(name.len())),
            Some(Hostname::Below(suffix)) => (1, Reverse(suffix.len())),
            None => (2, Reverse(0)),
        });
        for (_, places) in &mut hosts {
            places.sort_by(|a, b| precedence(table, *a).cmp(&precedence(table, *b)));
        }
        Self { hosts }
    }

    /// The first match of a request.
    pub fn choose(&self, table: &Table, asked: &Asked<'_>) -> Option<Place> {
        let hosts = self.hosts.iter().filter(|(host, _)| meant(host, asked.host));
        hosts
            .flat_map(|(_, places)| places)
            .copied()
            .find(|&place| table.matched(place).try_match(asked).is_ok())
    }

    /// The same, and why each one before it was passed over.
    pub fn explain(&self, table: &Table, asked: &Asked<'_>) -> (Vec<(Place, Miss)>, Option<Place>) {
        let mut missed = Vec::new();
        for (host, places) in &self.hosts {
            for &place in places {
                let tried = match meant(host, asked.host) {
                    true => table.matched(place).try_match(asked),
                    false => Err(Miss::Host),
                };
                match tried {
                    Ok(()) => return (missed, Some(place)),
                    Err(miss) => missed.push((place, miss)),
                }
            }
        }
        (missed, None)
    }

    /// The route of a connection that tells no more than a server name.
    pub fn by_name(&self, name: Option<&str>) -> Option<Place> {
        let named = |(host, _): &&(Option<Hostname>, Vec<Place>)| match (host, name) {
            (None, _) => true,
            (Some(host), Some(name)) => host.matches(name),
            (Some(_), None) => false,
        };
        self.hosts.iter().find(named).and_then(|(_, places)| places.first().copied())
    }
}

fn meant(host: &Option<Hostname>, asked: &str) -> bool {
    host.as_ref().is_none_or(|host| host.matches(asked))
}

fn places_of(route: usize, of: &Route) -> impl Iterator<Item = Place> {
    let rules = of.rules.iter().enumerate();
    rules.flat_map(move |(rule, it)| {
        (0..it.matches.len()).map(move |matched| Place { route, rule, matched })
    })
}

fn precedence(table: &Table, place: Place) -> impl Ord {
    let it = table.matched(place);
    (
        it.path.precedence(),
        it.method.is_none(),
        Reverse(it.headers.len()),
        Reverse(it.query.len() + it.cookies.len()),
        table.routes[place.route].name.clone(),
        place.rule,
        place.matched,
    )
}

impl Table {
    /// The rule at a place.
    pub fn rule(&self, place: Place) -> &Rule {
        &self.routes[place.route].rules[place.rule]
    }

    /// The match at a place.
    pub fn matched(&self, place: Place) -> &Match {
        &self.rule(place).matches[place.matched]
    }
}

impl Match {
    /// Whether a request matches, and if not, where it ends. The host is not looked at.
    pub fn try_match(&self, asked: &Asked<'_>) -> Result<(), Miss> {
        if !self.path.matches(asked.path) {
            return Err(Miss::Path);
        }
        if self.method.as_ref().is_some_and(|method| method != asked.method) {
            return Err(Miss::Method);
        }
        for wanted in &self.headers {
            if !(asked.headers)(&wanted.name, &mut |value| wanted.is(value)) {
                return Err(Miss::Header(wanted.name.clone()));
            }
        }
        for wanted in &self.query {
            if !pairs(asked.query, '&').any(|(name, value)| name == wanted.name && wanted.is(value))
            {
                return Err(Miss::Query(wanted.name.clone()));
            }
        }
        for wanted in &self.cookies {
            let has = |line: &str| {
                pairs(line, ';').any(|(name, value)| name == wanted.name && wanted.is(value))
            };
            if !(asked.headers)("cookie", &mut |line| has(line)) {
                return Err(Miss::Cookie(wanted.name.clone()));
            }
        }
        Ok(())
    }
}

impl ValueMatch {
    fn is(&self, value: &str) -> bool {
        self.value.as_deref().is_none_or(|wanted| wanted == value)
    }
}

/// `name=value` pairs; nothing is decoded.
fn pairs(text: &str, separator: char) -> impl Iterator<Item = (&str, &str)> {
    text.split(separator).map(|pair| pair.trim().split_once('=').unwrap_or((pair.trim(), "")))
}

impl Kind {
    /// Whether a listener of this protocol can carry it.
    pub fn fits(self, protocol: Protocol) -> bool {
        match self {
            Kind::Http | Kind::Grpc => protocol == Protocol::Http,
            Kind::Tcp => protocol == Protocol::Tcp,
            Kind::Tls => protocol == Protocol::Tls,
            Kind::Udp => protocol == Protocol::Udp,
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::{format, vec};

    use super::*;
    use crate::mesh::{model::Listener, path::PathMatch};

    fn route(name: &str, hosts: &[&str], rules: Vec<Match>) -> Route {
        Route {
            name: name.into(),
            kind: Kind::Http,
            listeners: vec!["web".into()],
            zones: vec![],
            hostnames: hosts.iter().map(|host| host.parse().expect("a host name")).collect(),
            rules: rules
                .into_iter()
                .map(|it| Rule { matches: vec![it], ..Rule::default() })
                .collect(),
        }
    }

    fn path(path: PathMatch) -> Match {
        Match { path, ..Match::default() }
    }

    fn prefix(prefix: &str) -> Match {
        path(PathMatch::Prefix(prefix.into()))
    }

    fn table(routes: Vec<Route>) -> Table {
        let listener = Listener {
            name: "web".into(),
            address: "127.0.0.1:80".parse().expect("an address"),
            protocol: Protocol::Http,
            zone: None,
            proxy_protocol: false,
            intercept: None,
        };
        Table { listeners: vec![listener], routes, ..Table::default() }
    }

    /// `route.rule` of a request `METHOD HOST PATH[?QUERY]` with these headers.
    fn chosen(table: &Table, request: &str, headers: &[(&str, &str)]) -> String {
        let words: Vec<_> = request.split(' ').collect();
        let (path, query) = words[2].split_once('?').unwrap_or((words[2], ""));
        let asked = Asked {
            host: words[1],
            method: words[0],
            path,
            query,
            headers: &|name, is_it| headers.iter().any(|(key, value)| *key == name && is_it(value)),
        };
        let choice = Choice::of(table, 0);
        let (_, explained) = choice.explain(table, &asked);
        let place = choice.choose(table, &asked);
        assert_eq!(place, explained, "both say the same");
        place.map_or("none".into(), |it| format!("{}.{}", table.routes[it.route].name, it.rule))
    }

    #[test]
    fn the_more_specific_goes_first_whatever_the_order_of_the_document() {
        let mut routes = vec![
            route("any", &[], vec![prefix("")]),
            route("below", &["*.rack"], vec![prefix("")]),
            route("deep", &["*.shop.rack"], vec![prefix("")]),
            route(
                "exact",
                &["shop.rack"],
                vec![
                    prefix("/a"),
                    prefix("/a/b"),
                    path(PathMatch::Exact("/a/b/c".into())),
                    path(PathMatch::Template("/a/{x}/c/d".into())),
                    Match { method: Some("PUT".into()), ..prefix("/a/b") },
                ],
            ),
        ];
        for _ in 0..2 {
            let table = table(routes.clone());
            for (request, wanted) in [
                ("GET shop.rack /a", "exact.0"),
                ("GET shop.rack /a/b/x", "exact.1"),
                ("PUT shop.rack /a/b/x", "exact.4"),
                ("PUT shop.rack /a/b/c", "exact.2"),
                ("GET shop.rack /a/z/c/d", "exact.3"),
                ("GET shop.rack /other", "below.0"),
                ("GET eu.shop.rack /a", "deep.0"),
                ("GET x.rack /a", "below.0"),
                ("GET rack /a", "any.0"),
            ] {
                assert_eq!(chosen(&table, request, &[]), wanted, "{request}");
            }
            routes.reverse();
        }
    }

    #[test]
    fn all_that_is_given_must_match() {
        let value = |name: &str, value: Option<&str>| ValueMatch {
            name: name.into(),
            value: value.map(Into::into),
        };
        let it = Match {
            headers: vec![value("x-a", Some("1")), value("x-b", None)],
            query: vec![value("q", Some("1"))],
            cookies: vec![value("c", Some("1"))],
            ..prefix("/")
        };
        let it = Match { path: PathMatch::default(), ..it };
        let table = table(vec![route("all", &[], vec![it])]);
        let whole = [("x-a", "1"), ("x-b", "z"), ("cookie", "d=2; c=1")];
        assert_eq!(chosen(&table, "GET h /?p=0&q=1", &whole), "all.0");
        assert_eq!(chosen(&table, "GET h /?q=2", &whole), "none");
        for missing in 0..3 {
            let mut fewer = whole.to_vec();
            fewer.remove(missing);
            assert_eq!(chosen(&table, "GET h /?q=1", &fewer), "none", "without {missing}");
        }
    }
}
