//! What a proxied path means: the part that is the proxy's and the part that is the backend's. Pure. As upstream the
//! path is decoded, cleaned of `.`, `..` and doubled slashes, which so cannot lead out of the backend's root, and
//! encoded again.

use http::Uri;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

/// What Go leaves as it is in a path.
const KEPT: AsciiSet = NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b',')
    .remove(b'/')
    .remove(b':')
    .remove(b';')
    .remove(b'=')
    .remove(b'@');

/// A proxied request's path and query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// The whole path, decoded.
    whole: Vec<u8>,
    /// The backend's part of it; empty when the path ends with `proxy`.
    below: Vec<u8>,
    query: Option<String>,
}

impl Asked {
    /// `segments`: how many of the path's segments are the proxy's, the last of which is `proxy`. `None` when the path is
    /// of another form.
    pub(super) fn of(uri: &Uri, segments: usize) -> Option<Self> {
        let whole: Vec<u8> = percent_decode_str(uri.path()).collect();
        let trimmed = trim(&whole);
        let mut parts = trimmed.split(|byte| *byte == b'/');
        if parts.nth(segments.checked_sub(1)?)? != b"proxy" {
            return None;
        }
        let mut below = Vec::new();
        for part in parts {
            below.push(b'/');
            below.extend_from_slice(part);
        }
        if whole.ends_with(b"/") {
            below.push(b'/');
        }
        let below = if below.is_empty() { below } else { clean(&below) };
        Some(Self { whole, below, query: uri.query().map(str::to_owned) })
    }

    /// Where a browser has to go first, so that relative links work: the path ends with `proxy`.
    pub(super) fn with_slash(&self) -> Option<String> {
        let query = self.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
        self.below.is_empty().then(|| format!("{}/{query}", escape(&self.whole)))
    }

    /// The backend's path and query.
    pub(super) fn target(&self) -> String {
        let query = self.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
        format!("{}{query}", escape(self.root()))
    }

    fn root(&self) -> &[u8] {
        if self.below.is_empty() { b"/" } else { &self.below }
    }

    /// What goes before a path of the backend to reach it through the proxy.
    pub(super) fn prefix(&self) -> &[u8] {
        self.whole.strip_suffix(&*self.below).unwrap_or(&self.whole)
    }

    /// `X-Forwarded-Uri`
    pub(super) fn forwarded(&self) -> String {
        join(&String::from_utf8_lossy(self.prefix()), &escape(self.root()))
    }
}

/// Both in one, cleaned; a slash at the end stays.
pub(super) fn join(prefix: &str, path: &str) -> String {
    let joined = clean(format!("{prefix}/{path}").as_bytes());
    String::from_utf8_lossy(&joined).into_owned()
}

/// As Go writes a path.
pub(super) fn escape(path: &[u8]) -> String {
    percent_encode(path, &KEPT).to_string()
}

/// Whether a path can stay as it is written.
pub(super) fn is_escaped(path: &str) -> bool {
    path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:@[]%/".contains(&byte))
}

/// Of an absolute path: without `.`, `..` and empty segments; a slash at the end stays.
fn clean(path: &[u8]) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(kept.pop()),
            part => kept.push(part),
        }
    }
    let mut out = Vec::with_capacity(path.len());
    for part in kept {
        out.push(b'/');
        out.extend_from_slice(part);
    }
    if path.ends_with(b"/") || out.is_empty() {
        out.push(b'/');
    }
    out
}

fn trim(path: &[u8]) -> &[u8] {
    let is_slash = |byte: &u8| *byte == b'/';
    let start = path.iter().position(|byte| !is_slash(byte)).unwrap_or(path.len());
    let end = path.iter().rposition(|byte| !is_slash(byte)).map_or(start, |last| last + 1);
    &path[start..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "/api/v1/namespaces/n/pods/web:80/proxy";

    fn asked(below: &str) -> Asked {
        Asked::of(&format!("{POD}{below}").parse().unwrap(), 7).unwrap()
    }

    #[test]
    fn the_backend_gets_what_comes_after_proxy() {
        for (below, target) in [
            ("", "/"),
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("?x=1&y=%2F", "/?x=1&y=%2F"),
            ("/a?b=c%20d", "/a?b=c%20d"),
            ("/sp%20ace/%C3%A9", "/sp%20ace/%C3%A9"),
            ("/a:b;c=d,e@f$g&h+i", "/a:b;c=d,e@f$g&h+i"),
            ("/bang!", "/bang%21"),
            ("/q%3Fx", "/q%3Fx"),
        ] {
            assert_eq!(asked(below).target(), target, "{below}");
        }
    }

    #[test]
    fn no_path_leads_out() {
        for (below, target) in [
            ("/../../secrets", "/secrets"),
            ("/a/../../../b", "/b"),
            ("/%2e%2e/%2E%2e/x", "/x"),
            ("/a%2f..%2f..%2fb", "/b"),
            ("/..", "/"),
            ("//a//b", "/a/b"),
            ("/./a/.", "/a"),
            ("/..%5c..%5cx", "/..%5C..%5Cx"),
        ] {
            assert_eq!(asked(below).target(), target, "{below}");
        }
    }

    #[test]
    fn only_the_bare_form_is_sent_on() {
        assert_eq!(asked("").with_slash().unwrap(), format!("{POD}/"));
        assert_eq!(asked("?a=b").with_slash().unwrap(), format!("{POD}/?a=b"));
        assert_eq!(asked("/").with_slash(), None);
        assert_eq!(asked("/a").with_slash(), None);
    }

    #[test]
    fn the_prefix_is_what_links_of_the_backend_lack() {
        assert_eq!(asked("/a/b").prefix(), POD.as_bytes());
        assert_eq!(asked("/").prefix(), POD.as_bytes());
        assert_eq!(asked("/a/b/").forwarded(), format!("{POD}/a/b/"));
        assert_eq!(asked("").forwarded(), format!("{POD}/"));
    }

    #[test]
    fn another_path_is_none() {
        let uri: Uri = "/api/v1/nodes/n/proxy/x".parse().unwrap();
        assert!(Asked::of(&uri, 7).is_none());
        assert_eq!(Asked::of(&uri, 5).unwrap().target(), "/x");
        let hidden: Uri = "/api/v1/namespaces/n/pods/web%2Fproxy/x".parse().unwrap();
        assert_eq!(Asked::of(&hidden, 7).unwrap().target(), "/x");
    }
}
