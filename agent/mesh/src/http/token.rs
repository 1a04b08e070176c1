//! The token that a request shows, and how it is told that it has none, or not as it must
//! be (RFC 6750).

use hyper::{
    HeaderMap, Response, StatusCode,
    header::{self, HeaderValue},
};
use purlin_core::mesh::jwt::Refused;

use super::{Body, body::Request as Begun, handle::own};
use crate::counters::Counters;

/// The one token that a request shows.
pub fn shown(headers: &HeaderMap) -> Result<&str, Refused> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let one = all.next().ok_or(Refused::Missing)?;
    if all.next().is_some() {
        return Err(Refused::Malformed);
    }
    bearer(one.to_str().map_err(|_| Refused::Malformed)?)
}

/// What stands after the scheme, if that is it.
pub fn bearer(value: &str) -> Result<&str, Refused> {
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    match scheme.eq_ignore_ascii_case("bearer") {
        true => Ok(token.trim_matches(' ')),
        false => Err(Refused::Missing),
    }
}

/// The answer to one that has none, or not as it must be. A client of gRPC is told by the
/// status, as it is of all that a proxy refuses.
pub fn refuse(counters: &Counters, why: Refused, begun: Begun) -> Response<Body> {
    Counters::one(&counters.tokens[why as usize]);
    let text = why.text();
    let error = match why {
        Refused::Missing => String::new(),
        Refused::Claims => ", error=\"insufficient_scope\"".into(),
        _ => format!(", error=\"invalid_token\", error_description=\"{}\"", text.trim_end()),
    };
    let status = StatusCode::from_u16(why.status()).unwrap_or(StatusCode::FORBIDDEN);
    let mut answer = own(status, text, begun);
    if let Ok(value) = HeaderValue::from_str(&format!("Bearer realm=\"mesh\"{error}")) {
        answer.headers_mut().insert(header::WWW_AUTHENTICATE, value);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(values: &[&str]) -> HeaderMap {
        let value = |it: &&str| (header::AUTHORIZATION, it.parse().expect("a value"));
        values.iter().map(value).collect()
    }

    #[test]
    fn one_token_is_shown_as_rfc_6750_has_it() {
        for value in ["Bearer a.b.c", "bearer a.b.c", "BEARER   a.b.c "] {
            assert_eq!(shown(&map(&[value])), Ok("a.b.c"), "{value}");
        }
        for value in ["Basic a.b.c", "Bearera.b.c", ""] {
            assert_eq!(shown(&map(&[value])), Err(Refused::Missing), "{value}");
        }
        assert_eq!(shown(&map(&[])), Err(Refused::Missing));
        assert_eq!(shown(&map(&["Bearer a", "Bearer b"])), Err(Refused::Malformed), "two");
    }
}
