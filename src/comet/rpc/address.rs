//! The address of an RPC.

use std::net::IpAddr;

/// A URL, or what was meant for one, without what may be a key.
pub(super) fn without_secrets(url: &str) -> String {
    let (scheme, rest) = url
        .split_once("://")
        .map_or(("", url), |(scheme, rest)| (scheme, rest));
    let (place, behind) = match rest.find(['/', '?', '#']) {
        Some(end) => rest.split_at(end),
        None => (rest, ""),
    };
    let (user, host) = place
        .rsplit_once('@')
        .map_or(("", place), |(user, host)| (user, host));
    let mut shown = String::new();
    if !scheme.is_empty() {
        shown = format!("{scheme}://");
    }
    if !user.is_empty() {
        shown += "***@";
    }
    shown += host;
    if !matches!(behind, "" | "/") {
        shown += "/***";
    }
    shown
}

/// Whether it is on this machine.
pub(super) fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_what_may_be_a_key() {
        for (url, shown) in [
            ("http://127.0.0.1:1", "http://127.0.0.1:1"),
            ("https://rpc.example/", "https://rpc.example"),
            ("https://rpc.example/v1/KEY", "https://rpc.example/***"),
            ("https://rpc.example?key=KEY", "https://rpc.example/***"),
            (
                "https://KEY:KEY@rpc.example:1/",
                "https://***@rpc.example:1",
            ),
            ("KEY@rpc.example:1#KEY", "***@rpc.example:1/***"),
            ("ftp://KEY@[::1]:1", "ftp://***@[::1]:1"),
            ("", ""),
        ] {
            assert_eq!(without_secrets(url), shown);
        }
    }
}
