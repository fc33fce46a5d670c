//! Addresses in fields that are older than strict parsing: a leading zero and an IPv4 address within an IPv6 one
//! are refused by name, other ways of writing an address are only warned about.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Path, Problems};
use crate::model::go;

/// Complains about what is no address.
pub(in crate::kinds) fn check(text: &str, path: &Path, problems: &mut Problems) {
    if let Some(why) = complaint(text) {
        problems.invalid(path, text, why);
    }
}

/// Why the text is no address; nothing when it is one.
pub(super) fn complaint(text: &str) -> Option<&'static str> {
    let Some(address) = sloppy(text) else {
        return Some("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
    };
    if text.parse::<IpAddr>().is_err() {
        return Some("must not have leading 0s");
    }
    mapped(address).map(|_| "must not be an IPv4-mapped IPv6 address")
}

/// What kubectl shows about an address that is written in an unusual way.
pub(in crate::kinds) fn warning(text: &str, path: &Path) -> Option<String> {
    let address = sloppy(text)?;
    if text.parse::<IpAddr>().is_err() || mapped(address).is_some() {
        let plain = mapped(address).map_or(address, IpAddr::V4);
        let (text, plain) = (go::quote(text), go::quote(&plain.to_string()));
        return Some(format!("{path}: non-standard IP address {text} is invalid: use {plain}"));
    }
    (address.is_ipv6() && address.to_string() != text).then(|| {
        let (text, plain) = (go::quote(text), go::quote(&address.to_string()));
        format!("{path}: IPv6 address {text} should be in RFC 5952 canonical format ({plain})")
    })
}

/// An address, whose IPv4 numbers may have leading zeros.
pub(super) fn sloppy(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        let (head, tail) = text.rsplit_once(':')?;
        if !tail.contains('.') {
            return text.parse().ok().map(IpAddr::V6);
        }
        let plain = format!("{head}:{}", sloppy_v4(tail)?);
        return plain.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    }
    sloppy_v4(text).map(IpAddr::V4)
}

fn sloppy_v4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0_u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next().filter(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))?;
        *octet = part.parse().ok()?;
    }
    parts.next().is_none().then_some(octets.into())
}

pub(super) fn mapped(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V6(address) => address.to_ipv4_mapped(),
        IpAddr::V4(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_judged_as_upstream_judges_them() {
        let judged = |text: &str| {
            let mut problems = Problems::default();
            check(text, &Path::new("ip"), &mut problems);
            problems.into_causes().first().map(|cause| cause.message.rsplit(": ").next().map(str::to_owned))
        };
        for good in ["10.0.0.1", "::1", "FE80:0:0:0:0:0:0:0abc"] {
            assert_eq!(judged(good), None, "{good}");
        }
        for (bad, why) in [
            ("a", "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
            ("1.2.3", "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
            ("010.2.3.4", "must not have leading 0s"),
            ("::ffff:1.2.3.4", "must not be an IPv4-mapped IPv6 address"),
        ] {
            assert_eq!(judged(bad), Some(Some(why.to_owned())), "{bad}");
        }
    }

    #[test]
    fn unusual_ways_of_writing_are_warned_about() {
        let warned = |text: &str| warning(text, &Path::new("ip"));
        assert_eq!(warned("10.0.0.1"), None);
        assert_eq!(
            warned("FE80::0abc").unwrap(),
            "ip: IPv6 address \"FE80::0abc\" should be in RFC 5952 canonical format (\"fe80::abc\")"
        );
        assert_eq!(
            warned("010.2.3.4").unwrap(),
            "ip: non-standard IP address \"010.2.3.4\" is invalid: use \"10.2.3.4\""
        );
        assert_eq!(
            warned("::ffff:1.2.3.4").unwrap(),
            "ip: non-standard IP address \"::ffff:1.2.3.4\" is invalid: use \"1.2.3.4\""
        );
    }
}
