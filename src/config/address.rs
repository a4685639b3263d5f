//! Parses hosts, ports and URLs.

use std::path::PathBuf;

use url::Url;

use super::ClamdAddress;

/// A host name, an IPv4 address, or an IPv6 address with or without brackets; never with a port.
pub(super) fn broker_host(text: &str) -> Option<String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    if bare.is_some() || text.contains(':') {
        let address: std::net::Ipv6Addr = bare.unwrap_or(text).parse().ok()?;
        return Some(address.to_string());
    }
    let plain = !text.is_empty() && !text.contains(['/', '@', '?', ' ', '[', ']']);
    plain.then(|| text.to_owned())
}

/// An http or https URL without user, password and fragment.
pub(super) fn http_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    (matches!(url.scheme(), "http" | "https") && url.has_host() && plain).then_some(url)
}

/// The base URL of clamav-rest. A bare host means https; a port in the text wins over `port`.
pub(super) fn clamav_rest_url(text: &str, port: u16) -> Option<Url> {
    let text = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let mut url = http_url(&text).filter(|url| url.query().is_none())?;
    // The parser drops a port that is the scheme's default, so it is looked for in the text.
    let authority = text.split("://").nth(1)?.split('/').next()?;
    let has_port = authority
        .rsplit_once(':')
        .is_some_and(|(_, p)| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
    if !has_port {
        url.set_port(Some(port)).ok()?;
    }
    Some(url)
}

/// The address of clamd: `host`, `tcp://host`, either with a port, or `unix:///path`.
pub(super) fn clamd_address(text: &str, port: u16) -> Option<ClamdAddress> {
    if let Some(path) = text.strip_prefix("unix://") {
        return path.starts_with('/').then(|| ClamdAddress::Unix(PathBuf::from(path)));
    }
    let host = text.strip_prefix("tcp://").unwrap_or(text);
    if host.is_empty() || host.contains('/') {
        return None;
    }
    // The URL parser reads hosts, IPv6 in brackets and ports.
    let url = Url::parse(&format!("tcp://{host}")).ok()?;
    let name = url.host_str()?.trim_start_matches('[').trim_end_matches(']');
    (url.username().is_empty() && url.path().is_empty())
        .then(|| ClamdAddress::Tcp(name.to_owned(), url.port().unwrap_or(port)))
}
