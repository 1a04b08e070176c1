//! The table in force as its own socket shows it.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use purlin_core::mesh::{
    authorize::{self, Principal},
    choose::{Asked, Place},
    credential::Now,
    host,
    jwt::{Claim, Jwt, Refused},
    model::{self, Backend, Listener, Match, Protocol, Rule, ValueMatch},
    path::{PathMatch, is_ambiguous},
    spiffe::Id,
    workload::{self, Workload},
};
use purlin_proto::mesh as view;

use crate::{
    endpoint::Endpoint,
    http::{self, bearer},
    jwt::Token,
    live::Live,
    target::Target,
};

/// Every match, route by route.
pub fn routes(live: &Live) -> view::Routes {
    let mut routes = Vec::new();
    for (at, route) in live.table.routes.iter().enumerate() {
        for (n, rule) in route.rules.iter().enumerate() {
            let place = Place { route: at, rule: n, matched: 0 };
            for it in &rule.matches {
                routes.push(view::Route {
                    route: route.name.clone(),
                    rule: n,
                    listeners: route.listeners.clone(),
                    hostnames: route.hostnames.iter().map(ToString::to_string).collect(),
                    matches: if route.kind.is_for_bytes() {
                        route.kind.name().into()
                    } else {
                        matched(it)
                    },
                    to: to(live, place) + &needs(rule),
                });
            }
        }
    }
    view::Routes { routes }
}

fn matched(it: &Match) -> String {
    let path = match &it.path {
        PathMatch::Exact(path) => format!("= {path}"),
        PathMatch::Prefix(path) => format!("{path}/*"),
        PathMatch::Template(path) => path.clone(),
    };
    let value = |kind: &str, it: &ValueMatch| match &it.value {
        Some(value) => format!("{kind} {}={value}", it.name),
        None => format!("{kind} {}", it.name),
    };
    let parts = it.method.iter().cloned().chain([path]);
    let parts = parts.chain(it.headers.iter().map(|it| value("header", it)));
    let parts = parts.chain(it.query.iter().map(|it| value("query", it)));
    let parts = parts.chain(it.cookies.iter().map(|it| value("cookie", it)));
    parts.collect::<Vec<_>>().join(", ")
}

/// The token that a rule asks for.
fn needs(rule: &Rule) -> String {
    let Some(jwt) = &rule.jwt else { return String::new() };
    let claim = |it: &Claim| format!(", {} {}", it.name, it.values.join(" or "));
    let claims: String = jwt.claims.iter().map(claim).collect();
    format!(", with a token of {}{claims}", jwt.issuers.join(" or "))
}

/// Whether a request shows it.
fn shows(live: &Live, asked: &view::WhyAsked, jwt: &Jwt, now: Now) -> Result<(), Refused> {
    let shown = asked.headers.iter().find(|(name, _)| name == "authorization");
    let (_, value) = shown.ok_or(Refused::Missing)?;
    Token::read(&live.table.jwt_issuers, bearer(value)?)?.admit(jwt, now)
}

fn to(live: &Live, place: Place) -> String {
    let rule = live.table.rule(place);
    if let Some(redirect) = &rule.redirect {
        return format!("redirect {}", redirect.status);
    }
    let elsewhere = |index: usize| {
        let full = live.targets.get(index).filter(|it| it.is_full())?;
        full.service.spill.as_ref().map(|it| format!(" (full: to {})", it.service))
    };
    let backend = |(n, it): (usize, &Backend)| {
        let share = match (live.weight(place, n), rule.backends.len()) {
            (_, 1) => String::new(),
            (0, _) if it.weight > 0 => format!(" (stepped back, was {})", it.weight),
            (weight, _) => format!(" ({weight})"),
        };
        format!("{}{share}{}", it.service, elsewhere(it.index).unwrap_or_default())
    };
    let all: Vec<_> = rule.backends.iter().enumerate().map(backend).collect();
    all.join(", ")
}

/// Every endpoint, service by service.
pub fn endpoints(live: &Live, now_ms: u32) -> view::Endpoints {
    view::Endpoints {
        endpoints: live.targets.iter().flat_map(|it| endpoints_of(it, now_ms)).collect(),
    }
}

fn endpoints_of(target: &Arc<Target>, now_ms: u32) -> impl Iterator<Item = view::Endpoint> {
    (0..target.endpoints.len()).map(move |index| endpoint(target, index, now_ms))
}

fn endpoint(target: &Target, index: usize, now_ms: u32) -> view::Endpoint {
    let it: &Endpoint = &target.endpoints[index];
    let health = it.health();
    let requests = it.requests.load(Relaxed);
    view::Endpoint {
        service: target.service.name.clone(),
        address: target.service.endpoints[index].key(),
        weight: target.service.endpoints[index].weight,
        origin: origin(&target.service.endpoints[index], it.via.as_deref()),
        locality: target.tier(index, None).name().into(),
        active: it.active.load(Relaxed),
        latency_ms: (requests > 0).then(|| it.last_latency() / 1000.0),
        requests,
        failures: it.failures.load(Relaxed),
        ejected: it.is_ejected(now_ms),
        drained: it.is_drained.load(Relaxed),
        away: it.is_away.load(Relaxed),
        healthy: health.is_known.then_some(!health.is_unhealthy),
        trouble: it.trouble(),
    }
}

fn origin(it: &model::Endpoint, via: Option<&str>) -> String {
    match (&it.source, via) {
        (None, _) => "document".into(),
        (Some(source), None) => source.clone(),
        (Some(source), Some(node)) => format!("record of {node}: {source}"),
    }
}

/// Drains endpoints, or opens a service's circuit breaker, or takes that back; how many.
pub fn set_aside(live: &Live, is_endpoint: bool, asked: &view::SetAside) -> usize {
    let mut count = 0;
    for target in &live.targets {
        if !is_endpoint && target.service.name == asked.name {
            target.set_broken(!asked.undo);
            count += 1;
        }
        let named = target.service.endpoints.iter().map(|it| it.key());
        for (_, it) in
            named.zip(&target.endpoints).filter(|(key, _)| is_endpoint && *key == asked.name)
        {
            it.is_drained.store(!asked.undo, Relaxed);
            count += 1;
        }
    }
    count
}

/// Which workload of this node asks; `None` if the node is in no rack.
fn who(asked: &view::WhyAsked, own: Option<&str>) -> Result<Option<Principal>, String> {
    let named = asked
        .workload
        .as_ref()
        .map(|it| Workload::parse(it).ok_or_else(|| format!("{it} may be {}", workload::FORMS)));
    let named = named.transpose()?;
    Ok(own.and_then(Id::parse).map(|own| Principal::new(&own, named.as_ref())))
}

/// What becomes of a request of a workload of this node that a service's rules don't let in.
fn shut(
    target: &Target,
    who: Option<&Principal>,
    method: &str,
    path: &str,
    token: impl FnMut(&Jwt) -> Result<(), Refused>,
) -> Option<String> {
    let name = &target.service.name;
    if !target.tells_workloads {
        return None;
    }
    let Some(who) = who else {
        return Some(format!(
            "answered with 403: the rules of {name} name workloads, and this node is in no rack"
        ));
    };
    match authorize::may_ask(&target.service.allow, who, method, path, token).err()? {
        Some(why) => Some(format!("answered with {}: {}", why.status(), why.text().trim_end())),
        None if who.has_workload() => {
            Some(format!("answered with 403: no rule of {name} allows {who}"))
        }
        None => Some(format!(
            "answered with 403: no rule of {name} allows {who}, and `--as` names no workload of it"
        )),
    }
}

/// Which route and endpoint a request would take.
pub fn why(
    live: &Live,
    asked: &view::WhyAsked,
    own: Option<&str>,
    now_ms: u32,
    now: Now,
) -> Result<view::Why, String> {
    let listener = listener(live, asked.listener.as_deref())?;
    let who = who(asked, own)?;
    let host =
        host::normal(&asked.host).ok_or_else(|| format!("{} is no host name", asked.host))?;
    let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
    let request = Asked {
        host: &host,
        method: &asked.method,
        path,
        query,
        headers: &|name, is_it| {
            asked.headers.iter().any(|(key, value)| key == name && is_it(value))
        },
    };
    let (passed, place) = live.explain(listener.address, &request);
    let passed_over = passed.into_iter().map(|(place, miss)| view::Passed {
        route: live.table.routes[place.route].name.clone(),
        rule: place.rule,
        because: miss.to_string(),
    });
    let rule = place.map(|place| live.table.rule(place));
    let targets = place.iter().flat_map(|place| {
        let backends = live.table.rule(*place).backends.iter().enumerate();
        backends.filter(|(n, _)| live.weight(*place, *n) > 0).map(|(_, it)| it.index)
    });
    let shut = place.filter(|_| listener.zone.is_none()).and_then(|place| {
        let (rule, matched) = (live.table.rule(place), &live.table.matched(place).path);
        let edit = rule.rewrite.as_ref().and_then(|it| it.path.as_ref());
        let path = edit.map_or_else(|| path.to_owned(), |it| http::changed(it, matched, path));
        targets.clone().find_map(|index| {
            shut(live.targets.get(index)?, who.as_ref(), &asked.method, &path, |jwt| {
                shows(live, asked, jwt, now).map(drop)
            })
        })
    });
    let mut endpoints: Vec<_> = targets
        .filter_map(|index| {
            let own = live.targets.get(index)?;
            let spill = own.service.spill.as_ref().filter(|_| own.is_full());
            spill.map_or(Some(own), |it| live.targets.get(it.index))
        })
        .flat_map(|it| endpoints_of(it, now_ms))
        .collect();
    let cost = |it: &view::Endpoint| it.latency_ms.unwrap_or_default() * (it.active + 1) as f32;
    endpoints.sort_by(|a, b| cost(a).total_cmp(&cost(b)));
    let to = || place.map(|place| to(live, place)).unwrap_or_default();
    let refused = rule.and_then(|rule| shows(live, asked, rule.jwt.as_ref()?, now).err());
    let token = rule.map(needs).unwrap_or_default();
    let outcome = match rule {
        _ if is_ambiguous(path) => "answered with 400: the path is ambiguous".into(),
        None => "answered with 404: no route matches".into(),
        _ if let Some(why) = refused => {
            let goes_on = token.trim_start_matches(',');
            format!(
                "answered with {}: {}; it goes on{goes_on}",
                why.status(),
                why.text().trim_end()
            )
        }
        Some(rule) if rule.redirect.is_some() => format!("answered with a {}{token}", to()),
        _ if let Some(why) = shut => why,
        Some(_) if endpoints.is_empty() => {
            format!("answered with 503: {} has no endpoint", to())
        }
        Some(_) => format!("goes to {}{token}", to()),
    };
    Ok(view::Why {
        listener: listener.name.clone(),
        passed_over: passed_over.collect(),
        route: place.map(|place| (live.table.routes[place.route].name.clone(), place.rule)),
        outcome,
        endpoints,
    })
}

fn listener<'a>(live: &'a Live, name: Option<&str>) -> Result<&'a Listener, String> {
    let http: Vec<_> =
        live.table.listeners.iter().filter(|it| it.protocol == Protocol::Http).collect();
    let names = || http.iter().map(|it| it.name.as_str()).collect::<Vec<_>>().join(", ");
    match (name, &http[..]) {
        (None, [one]) => Ok(one),
        (None, []) => Err("there is no listener for HTTP".into()),
        (None, _) => Err(format!("name one of the listeners: {}", names())),
        (Some(name), _) => {
            let found = http.iter().find(|it| it.name == name);
            found.copied().ok_or_else(|| {
                format!("no listener for HTTP is called {name}: there are {}", names())
            })
        }
    }
}
