//! One request: which rule it meets, and what that says.

use std::{io, rc::Rc, sync::Arc, time::Instant};

use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Uri,
    header::{self, HeaderValue},
    http::request::Parts,
};
use purlin_core::mesh::{
    authorize::{self, Principal},
    choose::Asked,
    host,
    jwt::{Jwt, Refused},
    model::{PathEdit, Redirect, Rule},
    path::{PathMatch, is_ambiguous},
    trace::{self, Trace},
};

use super::{Body, Inbound, body::Request as Begun, forward, headers, look, token};
use crate::{
    connection::Connection,
    counters::Counters,
    signals::{Decision, Signals},
    target::Target,
    who,
    worker::Worker,
};

/// Answers one request.
pub async fn handle(
    worker: &Rc<Worker>,
    connection: &Rc<Connection>,
    mut request: Request<Inbound>,
) -> Response<Body> {
    Counters::one(&worker.counters.requests);
    let began = Instant::now();
    headers::end_named(request.headers_mut());
    let trace = trace(worker, request.headers_mut());
    let begun = Begun::begin(connection);
    let is_http1 = request.version() < hyper::Version::HTTP_2;
    let looked_at = worker.looks_at_requests().then(|| look::At::new(connection, &request, trace));
    let mut answer = match answer(worker, connection, request, begun).await {
        Ok(answer) => answer,
        Err((Refusal(status, text), begun)) => own(status, text, begun),
    };
    let status = answer.status().as_u16();
    worker.counters.answer(status);
    if let Some(route) = answer.body().route() {
        route.answered(status, began.elapsed());
    }
    if let Some(looked_at) = looked_at {
        let by = answer.extensions().get::<forward::By>();
        looked_at.over(worker, status, by.map(|it| it.0.shown()), connection.asker.known());
    }
    if worker.is_draining.get() && is_http1 && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        // Only this loses none: a close without it crosses the next request.
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

/// Which trace a request belongs to; the headers say so further on. One that can't be read,
/// or that is said twice, is begun anew, and what stood beside it is left out.
fn trace(worker: &Worker, headers: &mut HeaderMap) -> Trace {
    let mut given = headers.get_all(trace::HEADER).iter();
    let one = given.next().filter(|_| given.next().is_none());
    let trace = match one.and_then(|it| Trace::read(it.to_str().ok()?)) {
        Some(trace) => trace.passed_on(worker.random()),
        None => {
            headers.remove(trace::STATE);
            worker.new_trace()
        }
    };
    headers.insert(trace::HEADER, headers::of_trace(trace));
    trace
}

/// Why a request goes nowhere.
#[derive(Debug)]
pub struct Refusal(pub StatusCode, pub &'static str);

impl Refusal {
    pub const NO_ENDPOINT: Self =
        Self(StatusCode::SERVICE_UNAVAILABLE, "the service has no endpoint\n");

    /// No way to an endpoint was had.
    pub fn unconnected(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::PermissionDenied {
            return Self(
                StatusCode::FORBIDDEN,
                "the service's rules don't allow this node, or this workload of it\n",
            );
        }
        Self(StatusCode::BAD_GATEWAY, "no endpoint of the service can be connected to\n")
    }
}

async fn answer(
    worker: &Rc<Worker>,
    connection: &Rc<Connection>,
    request: Request<Inbound>,
    mut begun: Begun,
) -> Result<Response<Body>, (Refusal, Begun)> {
    let (mut parts, body) = request.into_parts();
    let host = match host_of(&parts) {
        Ok(host) => host,
        Err(refusal) => return Err((refusal, begun)),
    };
    let live = worker.live();
    let path = parts.uri.path();
    let asked = Asked {
        host: &host,
        method: parts.method.as_str(),
        // The target of a CONNECT is an authority and has no path.
        path: if parts.method == Method::CONNECT { "/" } else { path },
        query: parts.uri.query().unwrap_or_default(),
        headers: &|name, is_it| has(&parts.headers, name, is_it),
    };
    if is_ambiguous(asked.path) {
        let text = "the path has dot segments, or a slash or backslash in disguise\n";
        return Err((Refusal(StatusCode::BAD_REQUEST, text), begun));
    }
    let shows = |headers: &HeaderMap, jwt: &Jwt| {
        worker.tokens.admit(&live.table.jwt_issuers, token::shown(headers)?, jwt)
    };
    if let Some(through) = &connection.through {
        begun.is_of(&live.of_tunnels);
        let target = live.service_here(&through.service).cloned().ok_or(None);
        let target = target.and_then(|it: Arc<Target>| {
            let (rules, who) = (&it.service.allow, &through.principal);
            let shows = |jwt: &Jwt| shows(&parts.headers, jwt);
            authorize::may_ask(rules, who, asked.method, asked.path, shows).map(|()| it)
        });
        let target = match target {
            Ok(target) => target,
            Err(why) => {
                let who = &through.principal;
                return refused(worker, &live.of_tunnels, why, who, begun);
            }
        };
        live.of_tunnels.decided(Decision::Allowed);
        let request = Request::from_parts(parts, body);
        return forward::forward(worker, connection, &target, request, begun).await;
    }
    let Some(place) = live.choose(connection.at, &asked) else {
        Counters::one(&worker.counters.unmatched);
        return Err((Refusal(StatusCode::NOT_FOUND, "no route matches this request\n"), begun));
    };
    let signals = &live.signals[place.route];
    begun.is_of(signals);
    let rule = live.table.rule(place);
    if let Err(why) = rule.jwt.as_ref().map_or(Ok(()), |jwt| shows(&parts.headers, jwt)) {
        signals.decided(Decision::Denied);
        return Ok(token::refuse(&worker.counters, why, begun));
    }
    if !live.is_within_rate(place, worker.now_ms()) {
        Counters::one(&worker.counters.limited);
        signals.decided(Decision::Limited);
        return Err((
            Refusal(StatusCode::TOO_MANY_REQUESTS, "over the route's rate limit\n"),
            begun,
        ));
    }
    let matched = &live.table.matched(place).path;
    if let Some(redirect) = &rule.redirect {
        signals.decided(Decision::Allowed);
        return Ok(redirected(redirect, matched, &parts, &host, begun));
    }
    if let Err(refusal) = rewrite(rule, matched, &mut parts) {
        return Err((refusal, begun));
    }
    headers::edit(&mut parts.headers, &rule.request_headers);
    let Some(chosen) = live.backend(place, &worker.by(&[], None)) else {
        return Err((
            Refusal(StatusCode::SERVICE_UNAVAILABLE, "every backend has weight 0\n"),
            begun,
        ));
    };
    if chosen.is_spilled {
        signals.decided(Decision::Spilled);
    }
    for target in chosen.all() {
        let who = match connection.asker.asks(worker, connection.at, target).await {
            Ok(Some(who)) => who,
            Ok(None) => continue,
            Err(text) => {
                signals.decided(Decision::Denied);
                return Err((Refusal(StatusCode::FORBIDDEN, text), begun));
            }
        };
        let (method, path) = (parts.method.as_str(), parts.uri.path());
        let shows = |jwt: &Jwt| shows(&parts.headers, jwt);
        let may = authorize::may_ask(&target.service.allow, &who, method, path, shows);
        if let Err(why) = may {
            return refused(worker, signals, why, &who, begun);
        }
    }
    signals.decided(Decision::Allowed);
    let request = Request::from_parts(parts, body);
    let forwarded = forward::forward(worker, connection, chosen.target, request, begun).await;
    if let Some((split, is_new)) = &chosen.of_split {
        split.over(
            *is_new,
            match &forwarded {
                Ok(answer) => has_failed(answer),
                Err((Refusal(status, _), _)) => status.is_server_error(),
            },
        );
    }
    let mut answer = forwarded?;
    headers::edit(answer.headers_mut(), &rule.response_headers);
    Ok(answer)
}

/// A service's rules don't let somebody in: for want of a token, or at all.
fn refused(
    worker: &Worker,
    signals: &Signals,
    why: Option<Refused>,
    who: &Principal,
    begun: Begun,
) -> Result<Response<Body>, (Refusal, Begun)> {
    signals.decided(Decision::Denied);
    match why {
        Some(why) => Ok(token::refuse(&worker.counters, why, begun)),
        None => Err((Refusal(StatusCode::FORBIDDEN, who::denied(worker, who)), begun)),
    }
}

/// Whether an answer says that the server failed. gRPC says so in trailers, or where it has
/// no message in a header (gRPC over HTTP/2, Responses).
fn has_failed(answer: &Response<Body>) -> bool {
    // UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
    let is_servers =
        |it: &HeaderValue| matches!(it.as_bytes(), b"2" | b"4" | b"12" | b"13" | b"14" | b"15");
    answer.status().is_server_error() || answer.headers().get("grpc-status").is_some_and(is_servers)
}

/// The host that is asked for. The request line's own wins (RFC 9112, 3.2.2).
fn host_of(parts: &Parts) -> Result<String, Refusal> {
    let named = match parts.uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => parts.headers.get(header::HOST).and_then(|it| it.to_str().ok()),
    };
    // HTTP/1.0 may leave it out: then only routes for any host are meant.
    match named.filter(|named| !named.is_empty()) {
        None => Ok(String::new()),
        Some(named) => host::normal(named)
            .ok_or(Refusal(StatusCode::BAD_REQUEST, "the host is no host name\n")),
    }
}

fn has(headers: &HeaderMap, name: &str, is_it: &mut dyn FnMut(&str) -> bool) -> bool {
    headers.get_all(name).iter().any(|value| value.to_str().is_ok_and(&mut *is_it))
}

fn rewrite(rule: &Rule, matched: &PathMatch, parts: &mut Parts) -> Result<(), Refusal> {
    let Some(rewrite) = &rule.rewrite else { return Ok(()) };
    if let Some(edit) = &rewrite.path {
        let path = changed(edit, matched, parts.uri.path());
        let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        parts.uri = format!("{path}{query}").parse().map_err(|_| {
            Refusal(StatusCode::BAD_REQUEST, "the path can't be rewritten as its route says\n")
        })?;
    }
    if let Some(value) = rewrite.hostname.as_ref().and_then(|name| HeaderValue::from_str(name).ok())
    {
        // An absolute target or :authority would win over it.
        parts.uri = origin(&parts.uri);
        parts.headers.insert(header::HOST, value);
    }
    Ok(())
}

/// A path as a rule has it.
pub fn changed(edit: &PathEdit, matched: &PathMatch, path: &str) -> String {
    match edit {
        PathEdit::Full(full) => full.clone(),
        PathEdit::Prefix(prefix) => matched.replace_prefix(path, prefix),
    }
}

/// Path and query alone.
pub fn origin(uri: &Uri) -> Uri {
    let path = uri.path_and_query().cloned();
    path.map_or_else(|| Uri::from_static("/"), Uri::from)
}

fn redirected(
    it: &Redirect,
    matched: &PathMatch,
    parts: &Parts,
    host: &str,
    begun: Begun,
) -> Response<Body> {
    let scheme = it.scheme.as_deref().unwrap_or("http");
    let asked = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let asked_port =
        asked.and_then(|host| host.rsplit_once(':')).and_then(|(_, port)| port.parse().ok());
    // Another scheme has another default port; the same keeps the one that was asked at.
    let port: Option<u16> = it.port.or(asked_port.filter(|_| it.scheme.is_none()));
    let host = it.hostname.as_deref().unwrap_or(host);
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let port = match (scheme, port) {
        ("http", Some(80)) | ("https", Some(443)) | (_, None) => String::new(),
        (_, Some(port)) => format!(":{port}"),
    };
    let path = it.path.as_ref().map(|edit| changed(edit, matched, parts.uri.path()));
    let path = path.as_deref().unwrap_or(parts.uri.path());
    let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let status = StatusCode::from_u16(it.status).unwrap_or(StatusCode::FOUND);
    let mut answer = own(status, "", begun);
    if let Ok(location) = HeaderValue::from_str(&format!("{scheme}://{host}{port}{path}{query}")) {
        answer.headers_mut().insert(header::LOCATION, location);
    }
    answer
}

/// An answer of our own.
pub fn own(status: StatusCode, text: &'static str, begun: Begun) -> Response<Body> {
    let mut answer = Response::new(Body::own(text, begun));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    answer
}
