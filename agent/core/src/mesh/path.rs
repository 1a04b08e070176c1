//! Path patterns: exact, prefix by whole segments (as the Gateway API has it), and
//! templates whose `{name}` segments match any one segment.

use alloc::string::String;
use core::cmp::Reverse;

/// What a path must be like. Every value begins with a slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// This path.
    Exact(String),
    /// This path and all below it; without a slash at its end, `/` being empty.
    Prefix(String),
    /// This path, where `{…}` stands for one segment that is not empty.
    Template(String),
}

impl Default for PathMatch {
    fn default() -> Self {
        PathMatch::Prefix(String::new())
    }
}

impl PathMatch {
    /// Whether a path, without its query, matches.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            PathMatch::Exact(exact) => exact == path,
            PathMatch::Prefix(prefix) => self.rest(path, prefix).is_some(),
            PathMatch::Template(template) => {
                let (mut wanted, mut given) = (template.split('/'), path.split('/'));
                loop {
                    match (wanted.next(), given.next()) {
                        (None, None) => return true,
                        (Some(wanted), Some(given)) if fits(wanted, given) => {}
                        _ => return false,
                    }
                }
            }
        }
    }

    fn rest<'p>(&self, path: &'p str, prefix: &str) -> Option<&'p str> {
        path.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The path with another prefix in place of the one that matched.
    pub fn replace_prefix(&self, path: &str, with: &str) -> String {
        let rest = match self {
            PathMatch::Prefix(prefix) => self.rest(path, prefix).unwrap_or(path),
            _ => "",
        };
        let mut replaced: String = with.trim_end_matches('/').into();
        replaced.push_str(rest);
        if replaced.is_empty() { "/".into() } else { replaced }
    }

    /// Sorts what is tried first to the front: exact, then more literal characters,
    /// then a template before a prefix.
    pub fn precedence(&self) -> impl Ord + use<> {
        let literal = |template: &str| {
            let literal = |segment: &str| if is_variable(segment) { 0 } else { segment.len() };
            template.split('/').map(|segment| 1 + literal(segment)).sum::<usize>() - 1
        };
        match self {
            PathMatch::Exact(path) => (0, Reverse(path.len()), 0),
            PathMatch::Template(template) => (1, Reverse(literal(template)), 0),
            PathMatch::Prefix(prefix) => (1, Reverse(prefix.len()), 1),
        }
    }
}

fn fits(wanted: &str, given: &str) -> bool {
    if is_variable(wanted) { !given.is_empty() } else { wanted == given }
}

/// Whether a template's segment stands for any one.
pub fn is_variable(segment: &str) -> bool {
    segment.len() >= 2 && segment.starts_with('{') && segment.ends_with('}')
}

/// Whether two readers could take a path for two different ones: it has a `.` or `..`
/// segment, as such or percent-encoded, a backslash or an encoded slash or NUL. Such a
/// request is refused: a rule that it passes here might not be the one that holds where
/// it arrives.
pub fn is_ambiguous(path: &str) -> bool {
    // Nearly every path has none of these bytes.
    if !path.bytes().any(|b| matches!(b, b'.' | b'%' | b'\\')) {
        return false;
    }
    let encoded =
        |code: &str| path.as_bytes().windows(3).any(|it| it.eq_ignore_ascii_case(code.as_bytes()));
    path.contains('\\')
        || ["%2f", "%5c", "%00"].into_iter().any(encoded)
        || path.split('/').any(is_dots)
}

fn is_dots(segment: &str) -> bool {
    let mut rest = segment;
    let mut dots = 0;
    while !rest.is_empty() {
        let dot = |code: &str| rest.get(..3).is_some_and(|it| it.eq_ignore_ascii_case(code));
        rest = match rest.strip_prefix('.') {
            Some(rest) => rest,
            None if dot("%2e") => &rest[3..],
            None => return false,
        };
        dots += 1;
    }
    (1..=2).contains(&dots)
}

#[cfg(test)]
mod tests {
    use super::{PathMatch::*, *};

    #[test]
    fn a_prefix_is_whole_segments() {
        let api = Prefix("/api".into());
        assert!(api.matches("/api") && api.matches("/api/") && api.matches("/api/v1"));
        assert!(!api.matches("/apis") && !api.matches("/") && !api.matches("/x/api"));
        assert!(PathMatch::default().matches("/") && PathMatch::default().matches("/x"));
    }

    #[test]
    fn a_template_is_segment_by_segment() {
        let order = Template("/users/{id}/orders".into());
        assert!(order.matches("/users/7/orders"));
        assert!(!order.matches("/users//orders") && !order.matches("/users/7/orders/1"));
        assert!(!order.matches("/users/7") && !order.matches("/users/7/orders/"));
    }

    #[test]
    fn a_prefix_is_replaced_as_the_gateway_api_says() {
        // The table in HTTPPathModifier's documentation.
        for (path, prefix, with, replaced) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "/", "/bar"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo/", "/foo", "", "/"),
        ] {
            assert_eq!(Prefix(prefix.into()).replace_prefix(path, with), replaced, "{path} {with}");
        }
    }

    #[test]
    fn what_two_readers_may_read_differently_is_seen() {
        for path in ["/a/../b", "/.", "/a/%2E./b", "/%2e%2E", "/a%2Fb", "/a\\b", "/a%5cb", "/a%00"]
        {
            assert!(is_ambiguous(path), "{path}");
        }
        for path in ["/", "/a.b/c", "/...", "/a/.hidden", "/%2ehidden", "/100%", "/%zz", "/é%2"] {
            assert!(!is_ambiguous(path), "{path}");
        }
    }
}
