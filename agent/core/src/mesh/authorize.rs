//! Who may ask for what. A service that other nodes reach through the tunnel is closed
//! until a rule opens it.

use alloc::{string::String, vec::Vec};

use super::path::PathMatch;
use crate::pattern;

/// What some may ask for. All that is given must match, and of a list one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allow {
    /// Names of who asks, with `*` for anything; never empty once checked.
    pub principals: Vec<String>,
    /// Methods; none: any.
    pub methods: Vec<String>,
    /// Paths; none: any.
    pub paths: Vec<PathMatch>,
}

impl Allow {
    fn names(&self, principal: &str) -> bool {
        self.principals.iter().any(|it| pattern::like(it, principal))
    }

    fn is_for_any_request(&self) -> bool {
        self.methods.is_empty() && self.paths.is_empty()
    }
}

/// Whether somebody may connect at all.
pub fn may_connect(rules: &[Allow], principal: &str) -> bool {
    rules.iter().any(|it| it.names(principal))
}

/// Whether somebody may ask for this.
pub fn may_ask(rules: &[Allow], principal: &str, method: &str, path: &str) -> bool {
    rules.iter().filter(|it| it.names(principal)).any(|it| {
        (it.methods.is_empty() || it.methods.iter().any(|it| it == method))
            && (it.paths.is_empty() || it.paths.iter().any(|it| it.matches(path)))
    })
}

/// Whether requests have to be looked at: a rule tells between them.
pub fn looks_at_requests(rules: &[Allow]) -> bool {
    !rules.iter().all(Allow::is_for_any_request)
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn allow(principal: &str, methods: &[&str], paths: &[&str]) -> Allow {
        Allow {
            principals: vec![principal.into()],
            methods: methods.iter().map(|it| (*it).into()).collect(),
            paths: paths.iter().map(|it| PathMatch::Prefix((*it).into())).collect(),
        }
    }

    #[test]
    fn what_no_rule_opens_is_closed() {
        let (a, b) = ("spiffe://r/node/a", "spiffe://r/node/b");
        assert!(!may_connect(&[], a) && !may_ask(&[], a, "GET", "/"));
        let rules = [allow(a, &[], &[]), allow("spiffe://r/node/*", &["GET"], &["/public"])];
        assert!(looks_at_requests(&rules) && !looks_at_requests(&rules[..1]));
        assert!(may_ask(&rules, a, "POST", "/x"));
        assert!(may_connect(&rules, b) && may_ask(&rules, b, "GET", "/public/x"));
        assert!(!may_ask(&rules, b, "POST", "/public/x") && !may_ask(&rules, b, "GET", "/x"));
        assert!(!may_connect(&rules, "spiffe://other/node/a"));
    }
}
