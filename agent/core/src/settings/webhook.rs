//! Where on site something is posted to.

use alloc::{format, string::String};
use core::{fmt, str::FromStr};

use super::{Impossible, split_host};

/// `http://HOST[:PORT][/PATH]`. There is no TLS: it is for the site's own network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// Name or address, an IPv6 address without its brackets.
    pub host: String,
    /// TCP port; 80 where none was given.
    pub port: u16,
    /// Path and query, from `/` on.
    pub path: String,
}

impl Webhook {
    /// As the `Host` header has it, and as an address to connect to.
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl FromStr for Webhook {
    type Err = Impossible;
    fn from_str(text: &str) -> Result<Self, Impossible> {
        let impossible = |hint: &str| Impossible {
            limit: "http://HOST[:PORT][/PATH]".into(),
            hint: hint.into(),
        };
        let rest = text.strip_prefix("http://").ok_or_else(|| impossible("start with http://"))?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = split_host(authority).map_err(impossible)?;
        let is_plain = |b: u8| b.is_ascii_graphic() && b != b'#';
        if !path.bytes().all(is_plain) {
            return Err(impossible("escape what is no plain character of a path (%20)"));
        }
        let path = if path.is_empty() { "/" } else { path };
        Ok(Self { host: host.into(), port: port.unwrap_or(80), path: path.into() })
    }
}

impl fmt::Display for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString as _;

    use super::*;

    #[test]
    fn a_webhook_is_written_as_it_was_read() {
        for (text, written) in [
            ("http://desk", "http://desk:80/"),
            ("http://desk:9093/api/hook?x=1", "http://desk:9093/api/hook?x=1"),
            ("http://[::1]:8080/a", "http://[::1]:8080/a"),
        ] {
            assert_eq!(text.parse::<Webhook>().expect(text).to_string(), written);
        }
        for text in [
            "https://desk",
            "desk",
            "http://",
            "http://u@desk",
            "http://desk:0/",
            "http://desk/a b",
        ] {
            assert!(text.parse::<Webhook>().is_err(), "{text}");
        }
    }
}
