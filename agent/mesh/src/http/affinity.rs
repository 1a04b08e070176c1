//! A client that stays with an endpoint: the first answer sets a cookie that names it,
//! and while that endpoint is well, requests with the cookie go there.

use std::sync::Arc;

use hyper::{
    HeaderMap,
    header::{self, HeaderValue},
};

use crate::{endpoint::Endpoint, target::Target};

/// Value of a cookie.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|it| it.to_str().ok());
    let mut pairs = lines.flat_map(|it| it.split(';')).filter_map(|it| it.trim().split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// The endpoint that a request's cookie names, if the service sets one.
pub fn named(target: &Target, headers: &HeaderMap) -> Option<Arc<Endpoint>> {
    let affinity = target.service.affinity.as_ref()?;
    target.named(cookie(headers, &affinity.cookie)?).cloned()
}

/// Sets the cookie, where the service sets one and the request named another endpoint.
pub fn name(
    target: &Target,
    endpoint: &Endpoint,
    asked: Option<&Arc<Endpoint>>,
    headers: &mut HeaderMap,
) {
    let Some(affinity) = &target.service.affinity else { return };
    if asked.is_some_and(|it| it.id == endpoint.id) {
        return;
    }
    let kept = affinity.max_age_s.map(|it| format!("; Max-Age={it}")).unwrap_or_default();
    let token = target.token(endpoint);
    let text = format!("{}={token}; Path=/; HttpOnly; SameSite=Lax{kept}", affinity.cookie);
    if let Ok(value) = HeaderValue::from_str(&text) {
        headers.append(header::SET_COOKIE, value);
    }
}
