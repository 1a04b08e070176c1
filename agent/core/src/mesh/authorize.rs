//! Who may ask for what. A service that other nodes reach through the tunnel is closed
//! until a rule opens it.

use alloc::{
    string::{String, ToString},
    vec::Vec,
};
use core::fmt;

use super::{
    jwt::{Jwt, Refused},
    path::PathMatch,
    spiffe::Id,
    workload::Workload,
};
use crate::pattern::like;

/// Who asks: a name that a certificate proves, and below it a workload that its node speaks
/// for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    proved: String,
    below: Option<String>,
}

impl Principal {
    /// Of a certificate's name; it may speak for workloads of its own node alone.
    pub fn new(id: &Id, workload: Option<&Workload>) -> Self {
        Self { proved: id.to_string(), below: workload.map(ToString::to_string) }
    }

    /// Whether which workload it is, is known.
    pub fn has_workload(&self) -> bool {
        self.below.is_some()
    }

    /// Whether a pattern means it. One that names no workload means all of its node's.
    fn is(&self, pattern: &str) -> bool {
        like(pattern, &self.proved)
            || self.below.as_ref().is_some_and(|below| {
                let parts = of_workloads(pattern);
                parts.is_some_and(|(node, name)| like(node, &self.proved) && like(name, below))
            })
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.proved)?;
        self.below.iter().try_for_each(|below| write!(f, "/{below}"))
    }
}

/// What a pattern says of the node and of its workloads; `None` if it names none. No `*`
/// stands for something of both.
pub fn of_workloads(pattern: &str) -> Option<(&str, &str)> {
    let rest = pattern.strip_prefix("spiffe://")?;
    // RACK/node/NODE
    let (at, _) = rest.match_indices('/').nth(2)?;
    let (node, name) = pattern.split_at(pattern.len() - rest.len() + at);
    let name = &name[1..];
    Workload::is_kind(name).then_some((node, name))
}

/// What some may ask for. All that is given must match, and of a list one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allow {
    /// Names of who asks, with `*` for anything; never empty once checked.
    pub principals: Vec<String>,
    /// Methods; none: any.
    pub methods: Vec<String>,
    /// Paths; none: any.
    pub paths: Vec<PathMatch>,
    /// The token that a request must have.
    pub jwt: Option<Jwt>,
}

impl Allow {
    fn names(&self, principal: &Principal) -> bool {
        self.principals.iter().any(|it| principal.is(it))
    }

    fn is_for_any_request(&self) -> bool {
        self.methods.is_empty() && self.paths.is_empty() && self.jwt.is_none()
    }
}

/// Whether somebody may connect at all.
pub fn may_connect(rules: &[Allow], principal: &Principal) -> bool {
    rules.iter().any(|it| it.names(principal))
}

/// Whether somebody may ask for this; if not, what is wrong with the token that would open
/// it, where one would. `token` says whether the request has one.
pub fn may_ask(
    rules: &[Allow],
    principal: &Principal,
    method: &str,
    path: &str,
    mut token: impl FnMut(&Jwt) -> Result<(), Refused>,
) -> Result<(), Option<Refused>> {
    let are_for = |it: &&Allow| {
        it.names(principal)
            && (it.methods.is_empty() || it.methods.iter().any(|it| it == method))
            && (it.paths.is_empty() || it.paths.iter().any(|it| it.matches(path)))
    };
    let mut refused = None;
    for rule in rules.iter().filter(are_for) {
        match rule.jwt.as_ref().map_or(Ok(()), &mut token) {
            Ok(()) => return Ok(()),
            // The last reason in their order is the one that came closest.
            Err(why) => refused = refused.max(Some(why)),
        }
    }
    Err(refused)
}

/// Whether requests have to be looked at: a rule tells between them.
pub fn looks_at_requests(rules: &[Allow]) -> bool {
    !rules.iter().all(Allow::is_for_any_request)
}

/// Whether a rule tells a node's workloads apart.
pub fn names_workloads(rules: &[Allow]) -> bool {
    rules.iter().flat_map(|it| &it.principals).any(|it| of_workloads(it).is_some())
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn who(id: &str, workload: &str) -> Principal {
        Principal::new(&Id::parse(id).expect(id), Workload::parse(workload).as_ref())
    }

    fn allow(principal: &str, methods: &[&str], paths: &[&str]) -> Allow {
        Allow {
            principals: vec![principal.into()],
            methods: methods.iter().map(|it| (*it).into()).collect(),
            paths: paths.iter().map(|it| PathMatch::Prefix((*it).into())).collect(),
            jwt: None,
        }
    }

    fn may(rules: &[Allow], principal: &Principal, method: &str, path: &str) -> bool {
        let token = |_: &_| panic!("no rule wants one");
        may_ask(rules, principal, method, path, token).is_ok()
    }

    #[test]
    fn what_no_rule_opens_is_closed() {
        let (a, b) = (&who("spiffe://r/node/a", ""), &who("spiffe://r/node/b", ""));
        assert!(!may_connect(&[], a) && !may(&[], a, "GET", "/"));
        let rules = [
            allow("spiffe://r/node/a", &[], &[]),
            allow("spiffe://r/node/*", &["GET"], &["/public"]),
        ];
        assert!(looks_at_requests(&rules) && !looks_at_requests(&rules[..1]));
        assert!(may(&rules, a, "POST", "/x"));
        assert!(may_connect(&rules, b) && may(&rules, b, "GET", "/public/x"));
        assert!(!may(&rules, b, "POST", "/public/x") && !may(&rules, b, "GET", "/x"));
        assert!(!may_connect(&rules, &who("spiffe://other/node/a", "")));
    }

    #[track_caller]
    fn check(pattern: &str, id: &str, workload: &str, expected: bool) {
        assert_eq!(who(id, workload).is(pattern), expected, "{pattern}, {id}, {workload}");
    }

    #[test]
    fn a_rule_that_names_workloads_means_these_alone() {
        let (a, b) = ("spiffe://r/node/a", "spiffe://r/node/b");
        let one = "spiffe://r/node/*/workload/shop/checkout";
        check(one, a, "workload/shop/checkout", true);
        check(one, b, "workload/shop/checkout", true);
        check(one, a, "workload/shop/checkout-2", false);
        check(one, a, "workload/other/checkout", false);
        check(one, a, "container/checkout", false);
        check(one, a, "", false);
        check(one, "spiffe://other/node/a", "workload/shop/checkout", false);
        check("spiffe://r/node/a/workload/shop/*", b, "workload/shop/checkout", false);
        check("spiffe://r/node/a/workload/shop/*", a, "workload/shop/checkout", true);
        check("spiffe://r/node/a/unit/app.service/*", a, "unit/app.service/blue", true);
        check("spiffe://r/node/a/unit/app.service", a, "unit/app.service/blue", false);
        assert!(names_workloads(&[allow(a, &[], &[]), allow(one, &[], &[])]));
    }

    #[test]
    fn a_rule_that_names_nodes_means_what_it_meant_before_there_were_workloads() {
        let a = "spiffe://r/node/a";
        for workload in ["", "workload/shop/checkout", "unit/x-edge.service"] {
            for pattern in [a, "spiffe://r/node/*", "spiffe://r/*", "spiffe://*"] {
                check(pattern, a, workload, true);
            }
            // What stands for a part of a node's name is no part of a workload's.
            for pattern in ["spiffe://r/node/*-edge.service", "spiffe://r/node/*checkout"] {
                check(pattern, a, workload, false);
            }
            check("spiffe://r/node/a/service/s", a, workload, false);
        }
        assert!(!names_workloads(&[allow("spiffe://r/node/*", &[], &[])]));
        // A node of that name.
        check("spiffe://r/node/unit", "spiffe://r/node/unit", "unit/x.service", true);
        check("spiffe://r/node/unit/unit/*", "spiffe://r/node/unit", "unit/x.service", true);
    }

    #[test]
    fn a_token_opens_what_is_closed_without_it() {
        let a = "spiffe://r/node/a";
        let of = |issuer: &str| Some(Jwt { issuers: vec![issuer.into()], claims: vec![] });
        let rules = [
            allow(a, &["GET"], &["/public"]),
            Allow { jwt: of("corp"), ..allow(a, &[], &["/orders"]) },
            Allow { jwt: of("shop"), ..allow(a, &[], &["/orders"]) },
        ];
        assert!(looks_at_requests(&rules[1..2]), "a token is in a request");
        let asked = |path, corp, shop| {
            let token = |jwt: &Jwt| if jwt.issuers[0] == "corp" { corp } else { shop };
            may_ask(&rules, &who(a, ""), "GET", path, token)
        };
        let (none, claims) = (Err(Refused::Missing), Err(Refused::Claims));
        assert_eq!(asked("/public", none, none), Ok(()));
        assert_eq!(asked("/orders", none, none), Err(Some(Refused::Missing)));
        assert_eq!(asked("/orders", claims, Err(Refused::Issuer)), Err(Some(Refused::Claims)));
        assert_eq!(asked("/orders", Err(Refused::Issuer), Ok(())), Ok(()));
        assert_eq!(asked("/else", Ok(()), Ok(())), Err(None), "no rule, whatever the token");
    }
}
