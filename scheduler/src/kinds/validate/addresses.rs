//! Addresses of endpoints and ranges of addresses as fields hold them: what is refused, and what only earns a warning.
//! Plain addresses are judged in [`super::ip`].

use std::net::{IpAddr, Ipv6Addr};

use super::{Path, Problems, ip};

const BAD_RANGE: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// Whether the text is an address at all.
pub(in crate::kinds) fn parse(text: &str) -> Option<IpAddr> {
    ip::sloppy(text).map(|ip| ip.to_canonical())
}

/// The address that a field of old means, in its one form.
pub(crate) fn meant_address(text: &str) -> Option<String> {
    parse(text).map(|address| address.to_string())
}

/// The range that a field of old means, in its one form: blanks around it are let pass there, and whoever reads it as it
/// stands would find none.
pub(crate) fn meant_range(text: &str) -> Option<String> {
    let found = range(text.trim())?;
    Some(format!("{}/{}", found.network(), found.length))
}

/// An address in a field of old, where the form is free; what the field held before stays legal.
pub(in crate::kinds) fn legacy_ip(text: &str, before: &[&str], path: &Path, problems: &mut Problems) -> bool {
    let found = problems.count();
    if !before.contains(&text) {
        ip::check(text, path, problems);
    }
    problems.count() == found
}

/// An address in a newer field, where it has one form.
pub(in crate::kinds) fn canonical_ip(text: &str, path: &Path, problems: &mut Problems) -> bool {
    let complaint = canonical_complaint(text);
    if let Some(why) = &complaint {
        problems.invalid(path, text, why);
    }
    complaint.is_none()
}

/// Why the text is not an address in its one form; nothing when it is.
pub(in crate::kinds) fn canonical_complaint(text: &str) -> Option<String> {
    if let Some(why) = ip::complaint(text) {
        return Some(why.to_owned());
    }
    let canonical = text.parse::<IpAddr>().map(|ip| ip.to_string()).unwrap_or_default();
    (canonical != text).then(|| format!("must be in canonical form ({canonical:?})"))
}

/// What an endpoint's address may not be.
pub(in crate::kinds) fn endpoint_ip(text: &str, path: &Path, problems: &mut Problems) {
    let Some(ip) = parse(text) else {
        return problems.invalid(path, text, "must be a valid IP address");
    };
    let (link_local, link_multicast) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(ip) => (ip.is_unicast_link_local(), link_local_multicast(ip)),
    };
    if ip.is_unspecified() {
        problems.invalid(path, text, format!("may not be unspecified ({text})"));
    }
    if ip.is_loopback() {
        problems.invalid(path, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    if link_local {
        problems.invalid(path, text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if link_multicast {
        let why = "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)";
        problems.invalid(path, text, why);
    }
}

fn link_local_multicast(ip: Ipv6Addr) -> bool {
    ip.segments()[0] & 0xff0f == 0xff02
}

/// A range in a field of old.
pub(in crate::kinds) fn legacy_range(text: &str, before: &[&str], path: &Path, problems: &mut Problems) {
    if !before.contains(&text)
        && let Err(why) = network(text)
    {
        problems.invalid(path, text, why);
    }
}

/// A range in a newer field, where it has one form.
pub(in crate::kinds) fn canonical_range(text: &str, path: &Path, problems: &mut Problems) {
    match network(text) {
        Err(why) => problems.invalid(path, text, why),
        Ok(found) => {
            let canonical = format!("{}/{}", found.ip, found.length);
            if canonical != text {
                problems.invalid(path, text, format!("must be in canonical form ({canonical:?})"));
            }
        }
    }
}

/// Whether a range, however it is written, is of IPv6; nothing when it is none.
pub(in crate::kinds) fn range_is_v6(text: &str) -> Option<bool> {
    range(text).map(|found| found.ip.to_canonical().is_ipv6())
}

/// The range that the text is, or why it is none.
fn network(text: &str) -> Result<Range, &'static str> {
    match range(text) {
        None => Err(BAD_RANGE),
        Some(found) if found.zeros => Err("must not have leading 0s in IP or prefix length"),
        Some(found) if ip::mapped(found.ip).is_some() => Err("must not have an IPv4-mapped IPv6 address"),
        Some(found) if found.network() != found.ip => Err("must not have bits set beyond the prefix length"),
        Some(found) => Ok(found),
    }
}

/// The first of `ranges` that is none, with its place.
pub(in crate::kinds) fn first_unreadable(ranges: &[serde_json::Value]) -> Option<(usize, &str)> {
    let texts = ranges.iter().filter_map(serde_json::Value::as_str).enumerate();
    texts.into_iter().find(|(_, text)| range(text).is_none())
}

/// The network that a field of old names, whatever else may be said of its form; `None` for what is none.
#[cfg(test)]
pub(in crate::kinds) fn meant_network(text: &str) -> Option<ipnet::IpNet> {
    let found = range(text)?;
    ipnet::IpNet::new(found.network(), found.length).ok()
}

struct Range {
    ip: IpAddr,
    length: u8,
    zeros: bool,
}

impl Range {
    fn network(&self) -> IpAddr {
        ipnet::IpNet::new(self.ip, self.length).map_or(self.ip, |net| net.network())
    }
}

fn range(text: &str) -> Option<Range> {
    let (ip, length) = text.split_once('/')?;
    let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
    let number: u8 = length.parse().ok().filter(|_| digits)?;
    let address = ip::sloppy(ip)?;
    let zeros = ip.parse::<IpAddr>().is_err() || (length.len() > 1 && length.starts_with('0'));
    let most = if address.is_ipv4() { 32 } else { 128 };
    (number <= most).then_some(Range { ip: address, length: number, zeros })
}

/// Warnings about a range that was accepted in a form that should not be used.
pub(in crate::kinds) fn range_warnings(path: &Path, text: &str) -> Vec<String> {
    let Some(found) = range(text) else { return Vec::new() };
    let mut warnings = Vec::new();
    let (network, length) = (found.network(), found.length);
    let plain = format!("{network}/{length}");
    if network != found.ip {
        let most = if found.ip.is_ipv4() { 32 } else { 128 };
        let one = format!("{}/{most}", found.ip);
        let why = format!("is ambiguous in this context (should be {plain:?} or {one:?}?)");
        warnings.push(format!("{path}: CIDR value {text:?} {why}"));
    }
    if found.zeros || ip::mapped(found.ip).is_some() {
        warnings.push(format!("{path}: non-standard CIDR value {text:?} is invalid: use {plain:?}"));
    }
    let canonical = format!("{}/{length}", found.ip);
    if warnings.is_empty() && found.ip.is_ipv6() && canonical != text {
        let why = format!("should be in RFC 5952 canonical format ({canonical:?})");
        warnings.push(format!("{path}: IPv6 CIDR value {text:?} {why}"));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(check: impl Fn(&Path, &mut Problems)) -> Vec<String> {
        let mut problems = Problems::default();
        check(&Path::new("ip"), &mut problems);
        problems.into_causes().into_iter().map(|cause| cause.message).collect()
    }

    #[test]
    fn addresses_are_told_from_their_sloppy_forms() {
        let ip = |text: &str| {
            said(|path, problems| assert_ne!(legacy_ip(text, &[], path, problems), !problems.is_empty()))
        };
        assert!(ip("10.0.0.1").is_empty() && ip("2001:DB8::1").is_empty());
        assert!(ip("a")[0].contains("must be a valid IP address, (e.g."));
        assert!(ip("010.0.0.1")[0].ends_with("must not have leading 0s"));
        assert!(ip("::ffff:1.2.3.4")[0].ends_with("must not be an IPv4-mapped IPv6 address"));
        assert!(said(|path, problems| assert!(legacy_ip("a", &["a"], path, problems))).is_empty());
        let strict = |text: &str| said(|path, problems| assert!(!canonical_ip(text, path, problems)));
        assert!(strict("2001:DB8::1")[0].ends_with("must be in canonical form (\"2001:db8::1\")"));
    }

    #[test]
    fn endpoints_are_not_in_ranges_of_one_host_or_link() {
        let ip = |text: &str| said(|path, problems| endpoint_ip(text, path, problems));
        for (text, why) in [
            ("0.0.0.0", "may not be unspecified (0.0.0.0)"),
            ("127.0.0.1", "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
            ("169.254.1.1", "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
            ("224.0.0.1", "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
        ] {
            assert!(ip(text)[0].ends_with(why), "{text}: {:?}", ip(text));
        }
        assert!(ip("10.1.2.3").is_empty());
    }

    #[test]
    fn ranges_are_networks() {
        let cidr = |text: &str| said(|path, problems| legacy_range(text, &[], path, problems));
        assert!(cidr("10.0.0.0/8").is_empty() && cidr("FD00::/64").is_empty());
        let strict = |text: &str| said(|path, problems| canonical_range(text, path, problems));
        assert!(strict("fd00::/64").is_empty());
        assert!(strict("FD00::/64")[0].ends_with("must be in canonical form (\"fd00::/64\")"));
        assert!(strict("::ffff:10.0.0.0/104")[0].ends_with("must not have an IPv4-mapped IPv6 address"));
        assert!(cidr("10.0.0.1")[0].contains("must be a valid CIDR value"));
        assert!(cidr("10.0.0.1/8")[0].ends_with("must not have bits set beyond the prefix length"));
        assert!(cidr("10.0.0.0/08")[0].ends_with("must not have leading 0s in IP or prefix length"));
        let path = Path::new("r");
        assert_eq!(
            range_warnings(&path, "10.0.0.1/8"),
            [
                "r: CIDR value \"10.0.0.1/8\" is ambiguous in this context (should be \"10.0.0.0/8\" or \"10.0.0.1/32\"?)"
            ]
        );
    }
}
