//! Where the discovery service is, and where it sends its clients.

use core::fmt;
use core::str::FromStr;

/// Redirects that are followed before the service has to have been of use once.
const MAX_REDIRECTS: u32 = 5;
/// Failures in a row after which a place that was only pointed at is given up.
const MAX_FAILURES: u32 = 3;

/// A text that is no URL of a discovery service.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "`{0}` is no URL of a discovery service: write https://HOST[:PORT], or http:// for one without TLS"
)]
pub struct BadUrl(String);

/// The place of a discovery service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerUrl {
    authority: String,
    tls: bool,
}

impl ServerUrl {
    /// `host:port`, an IPv6 address in brackets.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Whether the connection is encrypted.
    #[must_use]
    pub const fn tls(&self) -> bool {
        self.tls
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority)
    }
}

impl FromStr for ServerUrl {
    type Err = BadUrl;

    /// Schemes `https`, `grpc` (both with TLS, port 443) and `http` (port 80). What follows the
    /// authority is dropped.
    fn from_str(text: &str) -> Result<Self, BadUrl> {
        let bad = || BadUrl(text.chars().take(128).collect());
        let (scheme, rest) = text.split_once("://").ok_or_else(bad)?;
        let tls = match scheme {
            "https" | "grpc" => true,
            "http" => false,
            _ => return Err(bad()),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let default_port = if tls { 443 } else { 80 };
        Ok(Self {
            authority: complete(authority, Some(default_port)).ok_or_else(bad)?,
            tls,
        })
    }
}

/// `host:port` of an authority; `None` where it is none.
fn complete(authority: &str, default_port: Option<u16>) -> Option<String> {
    // The last colon, unless it is one of an IPv6 address.
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let port = match port {
        None => default_port?,
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => port.parse().ok()?,
        Some(_) => return None,
    };
    let valid = match host.strip_prefix('[') {
        Some(rest) => rest
            .strip_suffix(']')
            .is_some_and(|ip| ip.parse::<core::net::Ipv6Addr>().is_ok()),
        None => {
            let of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            !host.is_empty() && host.len() <= 253 && host.bytes().all(of_a_name)
        }
    };
    (valid && port != 0).then(|| format!("{host}:{port}"))
}

/// Why a redirect is not followed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedirectError {
    /// Not a place.
    #[error("the discovery service redirects to `{0}`, which is no host:port")]
    Malformed(String),
    /// In a circle, or too far.
    #[error(
        "the discovery service has redirected {MAX_REDIRECTS} times in a row: back to the configured one"
    )]
    TooMany,
}

/// Where to connect to next: the configured place, or the one it redirects to.
///
/// Redirects are bounded, and a place that was only pointed at is left again when it fails.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    configured: ServerUrl,
    current: ServerUrl,
    redirects: u32,
    failures: u32,
}

impl Route {
    /// Starts at the configured place.
    #[must_use]
    pub fn new(configured: ServerUrl) -> Self {
        Self {
            current: configured.clone(),
            configured,
            redirects: 0,
            failures: 0,
        }
    }

    /// Where to connect to.
    #[must_use]
    pub const fn current(&self) -> &ServerUrl {
        &self.current
    }

    /// The service points to `host:port`. With or without TLS as configured.
    ///
    /// # Errors
    /// [`RedirectError`]; the next attempt then goes to the configured place.
    pub fn redirect(&mut self, target: &str) -> Result<(), RedirectError> {
        self.failures = 0;
        self.redirects += 1;
        let result = match complete(target, None) {
            None => Err(RedirectError::Malformed(
                target
                    .chars()
                    .filter(|char| !char.is_control())
                    .take(128)
                    .collect(),
            )),
            Some(_) if self.redirects > MAX_REDIRECTS => Err(RedirectError::TooMany),
            Some(authority) => {
                self.current.authority = authority;
                Ok(())
            }
        };
        if result.is_err() {
            self.restart();
        }
        result
    }

    /// An attempt has failed.
    pub fn failed(&mut self) {
        self.failures += 1;
        if self.failures >= MAX_FAILURES {
            self.restart();
        }
    }

    /// The current place has been of use.
    pub const fn worked(&mut self) {
        self.redirects = 0;
        self.failures = 0;
    }

    fn restart(&mut self) {
        self.current = self.configured.clone();
        self.redirects = 0;
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route() -> Route {
        Route::new("https://a.example".parse().unwrap())
    }

    #[test]
    fn a_circle_of_redirects_ends_where_it_began() {
        let mut route = route();
        for hop in 0..MAX_REDIRECTS {
            route.redirect(&format!("b{hop}.example:1")).unwrap();
            assert_eq!(
                route.current().to_string(),
                format!("https://b{hop}.example:1")
            );
        }
        assert_eq!(route.redirect("b.example:1"), Err(RedirectError::TooMany));
        assert_eq!(route.current().authority(), "a.example:443");
        // It may try again, and one that works may send further later on.
        for _ in 0..100 {
            route.redirect("b.example:1").unwrap();
            route.worked();
        }
    }

    #[test]
    fn a_redirect_to_nowhere_is_refused() {
        for target in [
            "", "b", "b:0", "b:70000", ":1", "b:1/x", "b c:1", "[::1:1", "x@b:1", "b:+1",
        ] {
            let mut route = route();
            assert!(
                matches!(route.redirect(target), Err(RedirectError::Malformed(_))),
                "{target}"
            );
            assert_eq!(route, self::route());
        }
        let mut route = route();
        route.redirect("[2001:db8::1]:443").unwrap();
        assert_eq!(route.current().to_string(), "https://[2001:db8::1]:443");
    }

    #[test]
    fn a_place_that_fails_is_left_for_the_configured_one() {
        let mut route = route();
        route.redirect("b.example:1").unwrap();
        route.failed();
        route.failed();
        assert_eq!(route.current().authority(), "b.example:1");
        route.failed();
        assert_eq!(route, self::route());
    }

    #[test]
    fn what_is_no_url_is_refused() {
        for url in [
            "",
            "a.example",
            "ftp://a",
            "https://",
            "https://:1",
            "https://a:b",
            "https://u@a",
        ] {
            let error = url.parse::<ServerUrl>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{url}`")), "{error}");
        }
        assert!("grpc://a".parse::<ServerUrl>().unwrap().tls());
    }
}
