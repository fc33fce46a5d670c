//! Links of a backend that thinks it is at the root: `Location` headers and the links of HTML pages get the proxy's path
//! in front. Pure. A link to somewhere else, and one that is relative, stays as it is.

use std::borrow::Cow;

use html5gum::{
    Span, Tokenizer,
    emitters::callback::{Callback, CallbackEmitter, CallbackEvent},
};
use percent_encoding::percent_decode_str;

use super::path;

/// The attributes that hold a link, by element.
const LINKS: [(&str, &[&str]); 25] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Of one answer.
pub(super) struct Rewriter {
    /// The proxy's path, without the backend's.
    pub(super) prefix: String,
    /// The backend, as its links may name it.
    pub(super) backend: String,
    /// The host that the client asked, as the backend's links may name it: it gets to see it.
    pub(super) asked: String,
}

impl Rewriter {
    /// One link.
    pub(super) fn link<'a>(&self, link: &'a str) -> Cow<'a, str> {
        let parts = Parts::of(link);
        let elsewhere = !parts.host.is_empty() && parts.host != self.backend && parts.host != self.asked;
        if elsewhere || !parts.path.starts_with('/') {
            // A path that nobody should write so is written as it should be, as upstream.
            return match path::is_escaped(parts.path) || parts.is_opaque() {
                true => Cow::Borrowed(link),
                false => Cow::Owned(format!("{}{}{}", parts.front, escaped(parts.path), parts.rest)),
            };
        }
        // The client's own host stays in front; the backend's is not for the client to reach.
        let front = if parts.host == self.asked { parts.front } else { "" };
        let decoded: Vec<u8> = percent_decode_str(parts.path).collect();
        let path = if decoded.starts_with(self.prefix.as_bytes()) {
            if path::is_escaped(parts.path) { parts.path.to_owned() } else { escaped(parts.path) }
        } else {
            path::escape(path::join(&self.prefix, &String::from_utf8_lossy(&decoded)).as_bytes())
        };
        Cow::Owned(format!("{front}{path}{}", parts.rest))
    }

    /// A page. Of what is not a start tag every byte stays.
    pub(super) fn page(&self, page: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(page.len() + page.len() / 8);
        let mut copied = 0;
        let mut emitter = CallbackEmitter::new(Tags::default());
        // In scripts and styles nothing is a tag.
        emitter.naively_switch_states(true);
        for Ok(tag) in Tokenizer::new_with_emitter(page, emitter) {
            let (start, end) = (tag.span.start, tag.span.end);
            if start < copied || end > page.len() || page.get(start) != Some(&b'<') {
                continue;
            }
            out.extend_from_slice(&page[copied..start]);
            self.tag(&tag, &mut out);
            copied = end;
        }
        out.extend_from_slice(&page[copied..]);
        out
    }

    fn tag(&self, tag: &Tag, out: &mut Vec<u8>) {
        let links = LINKS.iter().find(|(name, _)| name.as_bytes() == tag.name).map_or(&[][..], |(_, l)| *l);
        out.push(b'<');
        out.extend_from_slice(&tag.name);
        for (key, value) in &tag.attributes {
            out.push(b' ');
            out.extend_from_slice(key);
            out.extend_from_slice(b"=\"");
            let is_link = links.iter().any(|link| link.as_bytes() == key);
            match std::str::from_utf8(value) {
                Ok(link) if is_link => quote(self.link(link).as_bytes(), out),
                _ => quote(value, out),
            }
            out.push(b'"');
        }
        out.extend_from_slice(if tag.self_closing { b"/>" } else { b">" });
    }
}

fn escaped(path: &str) -> String {
    path::escape(&percent_decode_str(path).collect::<Vec<u8>>())
}

fn quote(value: &[u8], out: &mut Vec<u8>) {
    for byte in value {
        match byte {
            b'&' => out.extend_from_slice(b"&amp;"),
            b'\'' => out.extend_from_slice(b"&#39;"),
            b'<' => out.extend_from_slice(b"&lt;"),
            b'>' => out.extend_from_slice(b"&gt;"),
            b'"' => out.extend_from_slice(b"&#34;"),
            b'\r' => out.extend_from_slice(b"&#13;"),
            byte => out.push(*byte),
        }
    }
}

/// A link's parts, all of them slices of it.
struct Parts<'a> {
    /// `http://user@host:1`
    front: &'a str,
    /// `host:1`
    host: &'a str,
    path: &'a str,
    /// `?query#fragment`
    rest: &'a str,
}

impl<'a> Parts<'a> {
    /// `mailto:a@b.c`: has a scheme and nothing that is a path.
    fn is_opaque(&self) -> bool {
        self.front.ends_with(':') && !self.path.starts_with('/')
    }

    fn of(link: &'a str) -> Self {
        let (before, rest) = link.split_at(link.find(['?', '#']).unwrap_or(link.len()));
        let scheme = before.find(':').filter(|end| {
            let name = &before[..*end];
            name.starts_with(|c: char| c.is_ascii_alphabetic())
                && name.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
        });
        let after = scheme.map_or(0, |end| end + 1);
        if !before[after..].starts_with("//") {
            return Self { front: &before[..after], host: "", path: &before[after..], rest };
        }
        let authority = after + 2;
        let end = before[authority..].find('/').map_or(before.len(), |slash| authority + slash);
        let host = before[authority..end].rsplit('@').next().unwrap_or_default();
        Self { front: &before[..end], host, path: &before[end..], rest }
    }
}

#[derive(Default)]
struct Tag {
    name: Vec<u8>,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
    self_closing: bool,
    span: Span<usize>,
}

/// Puts start tags together, with their attributes in the order of the page.
#[derive(Default)]
struct Tags {
    open: Option<Tag>,
}

impl Callback<Tag, usize> for Tags {
    fn handle_event(&mut self, event: CallbackEvent<'_>, span: Span<usize>) -> Option<Tag> {
        match event {
            CallbackEvent::OpenStartTag { name } => {
                self.open = Some(Tag { name: name.to_vec(), span, ..Tag::default() });
            }
            CallbackEvent::AttributeName { name } => {
                self.open.as_mut()?.attributes.push((name.to_vec(), Vec::new()));
            }
            CallbackEvent::AttributeValue { value } => {
                self.open.as_mut()?.attributes.last_mut()?.1.extend_from_slice(value);
            }
            CallbackEvent::CloseStartTag { self_closing } => {
                let mut tag = self.open.take()?;
                tag.self_closing = self_closing;
                tag.span.end = span.end;
                return Some(tag);
            }
            CallbackEvent::EndTag { .. } => self.open = None,
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "/api/v1/namespaces/n/pods/web/proxy";

    fn rewriter() -> Rewriter {
        Rewriter { prefix: PREFIX.into(), backend: "10.0.0.1:80".into(), asked: "127.0.0.1:6443".into() }
    }

    #[test]
    fn absolute_links_to_the_backend_go_through_the_proxy() {
        let rewriter = rewriter();
        for (link, through) in [
            ("/", "/"),
            ("/a/b?c=d#e", "/a/b?c=d#e"),
            ("http://10.0.0.1:80/a", "/a"),
            ("//10.0.0.1:80/a/", "/a/"),
            ("/sp%20ace", "/sp%20ace"),
            ("/sp ace", "/sp%20ace"),
        ] {
            assert_eq!(rewriter.link(link), format!("{PREFIX}{through}"), "{link}");
        }
        let own = format!("https://127.0.0.1:6443{PREFIX}/a");
        assert_eq!(rewriter.link("https://127.0.0.1:6443/a"), own);
        assert_eq!(rewriter.link(&own), own, "once is enough");
        let through = format!("{PREFIX}/x");
        assert_eq!(rewriter.link(&through), through);
    }

    #[test]
    fn other_links_stay() {
        let rewriter = rewriter();
        for link in [
            "",
            "a/b",
            "#top",
            "?q=/x",
            "mailto:a@b.c",
            "javascript:alert('/x')",
            "http://example.com/a",
            "//example.com/a",
            "http://10.0.0.1:80",
            "http://10.0.0.1/a",
            "data:text/html,/x",
        ] {
            assert_eq!(rewriter.link(link), link);
        }
    }

    #[test]
    fn pages_keep_all_but_their_links() {
        let page = |text: &str| String::from_utf8(rewriter().page(text.as_bytes())).unwrap();
        assert_eq!(
            page("<a href=\"/rewriteme\">test</a>"),
            format!("<a href=\"{PREFIX}/rewriteme\">test</a>")
        );
        assert_eq!(
            page(
                "<!DOCTYPE html>\n<IMG Alt=x src='/i.png?a=1&amp;b=2'/><p>1 &lt; 2 é</p><!-- <a href=\"/no\"> -->"
            ),
            format!(
                "<!DOCTYPE html>\n<img alt=\"x\" src=\"{PREFIX}/i.png?a=1&amp;b=2\"/><p>1 &lt; 2 é</p><!-- <a href=\"/no\"> -->"
            )
        );
        assert_eq!(page("<a href=\"a b\" disabled>"), "<a href=\"a%20b\" disabled=\"\">");
        let script = "<script>if (a<b) document.write('<a href=\"/x\">')</script>";
        assert_eq!(page(script), script);
        for same in ["", "plain", "<", "<a", "a < b > c", "</p>", "<a href=\"rel\" title=\"/x\">"] {
            assert_eq!(page(same), same);
        }
    }
}
