//! Content negotiation: which form of an object or list the client asked for, and in which bytes.

use http::{HeaderMap, Method, header};

use super::body;
use crate::model::{ApiError, Reason};

/// The bytes of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Media {
    /// `application/json`: what is stored.
    #[default]
    Json,
    /// `application/yaml`
    Yaml,
    /// `application/vnd.kubernetes.protobuf`
    Protobuf,
}

impl Media {
    /// All of them in upstream's order of preference, for a client that takes any.
    const ALL: [Self; 3] = [Self::Json, Self::Yaml, Self::Protobuf];

    /// The content type.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Form {
    /// The object as it is.
    #[default]
    Plain,
    /// `meta.k8s.io` Table.
    Table,
    /// The metadata of one object.
    Partial,
    /// The metadata of the objects of a list.
    PartialList,
}

/// What was agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Accepted {
    pub(super) form: Form,
    /// Of the version `v1beta1` of `meta.k8s.io`, which has the same fields.
    pub(super) beta: bool,
    pub(super) media: Media,
    /// `pretty=1` beside the media type.
    pub(super) pretty: bool,
}

impl Accepted {
    /// The version of tables and metadata.
    pub(super) const fn version(self) -> &'static str {
        if self.beta { "meta.k8s.io/v1beta1" } else { "meta.k8s.io/v1" }
    }
}

/// What an endpoint can give besides its own objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// Objects of a kind: also their tables and metadata.
    Kind,
    /// Reviews: metadata, but no tables.
    Review,
    /// Something that has neither: failures, discovery.
    Bare,
}

/// The best clause of the `Accept` header that can be served, as upstream chooses; plain JSON without one. Where a client
/// takes JSON as well as protobuf it gets JSON, because that is what is stored.
pub(super) fn accepted(headers: &HeaderMap, offer: Offer) -> Result<Accepted, ApiError> {
    let header = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    if header.is_empty() {
        return Ok(Accepted::default());
    }
    let clauses = clauses(header);
    let mut served = clauses.iter().filter_map(|clause| clause.served(offer));
    let Some(first) = served.next() else { return Err(not_acceptable()) };
    if first.media == Media::Protobuf && first.form == Form::Plain {
        let json = served.find(|other| other.media == Media::Json && other.form == Form::Plain);
        return Ok(json.unwrap_or(first));
    }
    Ok(first)
}

/// What upstream's router checks before anything else: that one of the media types in `Accept` is produced at all (it
/// knows no `application/*`), and that a patch says what it is.
pub(super) fn check_media(method: &Method, headers: &HeaderMap, streams: bool) -> Result<(), ApiError> {
    if *method == Method::PATCH && !body::PATCHES.contains(&body::media_type(headers)) {
        return Err(ApiError::generic(Reason::UnsupportedMediaType, "415: Unsupported Media Type"));
    }
    check_produced(headers, &if streams { STREAMS.to_vec() } else { Media::ALL.map(Media::name).to_vec() })
}

/// The representations of what can be watched.
const STREAMS: [&str; 5] = [
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];

/// 406 when `Accept` names none of the media types that a path has.
pub(super) fn check_produced(headers: &HeaderMap, produced: &[&str]) -> Result<(), ApiError> {
    let header = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    let mut ranges = header.split(',').map(|range| range.split(';').next().unwrap_or("").trim());
    if header.is_empty() || ranges.any(|range| range == "*/*" || produced.contains(&range)) {
        return Ok(());
    }
    let message = format!("406: Not Acceptable\n\nAvailable representations: {}", produced.join(", "));
    Err(ApiError::generic(Reason::NotAcceptable, message))
}

/// 406.
pub(super) fn not_acceptable() -> ApiError {
    let names = Media::ALL.map(Media::name).join(", ");
    ApiError::new(Reason::NotAcceptable, format!("only the following media types are accepted: {names}"))
}

/// One clause of an `Accept` header: a media type with parameters.
#[derive(Debug)]
pub(super) struct Clause<'a> {
    main: &'a str,
    sub: &'a str,
    quality: f32,
    parameters: Vec<(&'a str, &'a str)>,
}

/// The clauses of an `Accept` header, the best first.
pub(super) fn clauses(header: &str) -> Vec<Clause<'_>> {
    let mut out: Vec<Clause<'_>> = header.split(',').filter_map(Clause::parse).collect();
    let rank = |clause: &Clause<'_>| (clause.main == "*", clause.sub == "*");
    out.sort_by(|a, b| b.quality.total_cmp(&a.quality).then(rank(a).cmp(&rank(b))));
    out
}

impl<'a> Clause<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (media, rest) = text.split_once(';').unwrap_or((text, ""));
        let (main, sub) = match media.split_once('/') {
            Some((main, sub)) if !sub.contains('/') => (main.trim(), sub.trim()),
            None if media.trim() == "*" => ("*", "*"),
            _ => return None,
        };
        let mut clause = Self { main, sub, quality: 1.0, parameters: Vec::new() };
        for (name, value) in rest.split(';').filter_map(|p| p.split_once('=')) {
            match (name.trim(), value.trim()) {
                (_, value) if value.is_empty() || value.contains('=') => {}
                ("q", value) => clause.quality = value.parse().unwrap_or(0.0),
                parameter => clause.parameters.push(parameter),
            }
        }
        Some(clause)
    }

    /// A parameter, empty when it is missing.
    pub(super) fn parameter(&self, name: &str) -> &'a str {
        self.parameters.iter().rev().find(|(n, _)| *n == name).map_or("", |(_, value)| value)
    }

    /// Whether it takes this media type.
    pub(super) fn takes(&self, media: &str) -> bool {
        let (main, sub) = media.split_once('/').unwrap_or((media, ""));
        match (self.main, self.sub) {
            ("*", "*") => true,
            (own, "*") => own == main,
            own => own == (main, sub),
        }
    }

    /// Whether it asks for another form than the endpoint's own.
    pub(super) fn converts(&self) -> bool {
        ["as", "g", "v"].iter().any(|name| self.parameters.iter().any(|(n, _)| n == name))
    }

    fn served(&self, offer: Offer) -> Option<Accepted> {
        Media::ALL.into_iter().filter(|media| self.takes(media.name())).find_map(|media| {
            let (form, beta) = self.form(offer, media)?;
            let stream = self.parameter("stream");
            let version = self.parameter("sv");
            let legal = matches!(stream, "" | "watch")
                && (version.is_empty() || (offer != Offer::Bare && version == "v1"));
            legal.then(|| Accepted { form, beta, media, pretty: self.parameter("pretty") == "1" })
        })
    }

    fn form(&self, offer: Offer, media: Media) -> Option<(Form, bool)> {
        if !self.converts() {
            return Some((Form::Plain, false));
        }
        let beta = match (self.parameter("g"), self.parameter("v")) {
            ("meta.k8s.io", "v1") => false,
            ("meta.k8s.io", "v1beta1") => true,
            _ => return None,
        };
        let form = match self.parameter("as") {
            "Table" if media != Media::Protobuf && offer == Offer::Kind => Form::Table,
            "PartialObjectMetadata" => Form::Partial,
            "PartialObjectMetadataList" => Form::PartialList,
            _ => return None,
        };
        (offer != Offer::Bare).then_some((form, beta))
    }
}

/// Whether the client takes gzip.
pub(super) fn gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).any(|e| {
        let mut parts = e.split(';').map(str::trim);
        parts.next() == Some("gzip") && !parts.any(|p| p == "q=0")
    })
}

/// Whether the client is read by people: upstream indents for these programs.
pub(super) fn is_for_eyes(headers: &HeaderMap) -> bool {
    let agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("");
    ["curl", "Wget", "Mozilla/5.0"].iter().any(|program| agent.starts_with(program))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(value: &str, offer: Offer) -> Result<(Form, Media), Reason> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, value.parse().unwrap());
        accepted(&headers, offer).map(|a| (a.form, a.media)).map_err(|e| e.reason)
    }

    #[test]
    fn the_best_clause_that_can_be_served_wins() {
        assert_eq!(accepted(&HeaderMap::new(), Offer::Kind).unwrap(), Accepted::default());
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        for (value, form, media) in [
            (format!("{table},application/json").as_str(), Form::Table, Media::Json),
            ("application/json;as=Table;v=v9;g=meta.k8s.io, application/json", Form::Plain, Media::Json),
            (
                "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
                Form::PartialList,
                Media::Json,
            ),
            ("application/vnd.kubernetes.protobuf, application/json", Form::Plain, Media::Json),
            ("application/vnd.kubernetes.protobuf", Form::Plain, Media::Protobuf),
            ("application/json;q=0.1, application/yaml;q=0.9", Form::Plain, Media::Yaml),
            ("text/html, */*", Form::Plain, Media::Json),
            ("application/yaml;as=Table;v=v1;g=meta.k8s.io", Form::Table, Media::Yaml),
        ] {
            assert_eq!(accept(value, Offer::Kind), Ok((form, media)), "{value}");
        }
        for value in [
            "text/html",
            "application/cbor",
            "application/json;as=Table",
            "application/json;stream=x",
            "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1",
        ] {
            assert_eq!(accept(value, Offer::Kind), Err(Reason::NotAcceptable), "{value}");
        }
    }

    #[test]
    fn what_has_no_table_is_not_acceptable_as_one() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        assert_eq!(accept(table, Offer::Bare), Err(Reason::NotAcceptable));
        assert_eq!(accept(table, Offer::Review), Err(Reason::NotAcceptable));
        let partial = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
        assert_eq!(accept(partial, Offer::Review), Ok((Form::Partial, Media::Json)));
        let both = format!("{table}, application/json");
        assert_eq!(accept(&both, Offer::Bare), Ok((Form::Plain, Media::Json)));
    }

    #[test]
    fn tables_come_in_both_versions() {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, "application/json;as=Table;v=v1beta1;g=meta.k8s.io".parse().unwrap());
        let accepted = accepted(&headers, Offer::Kind).unwrap();
        assert_eq!((accepted.form, accepted.version()), (Form::Table, "meta.k8s.io/v1beta1"));
    }

    #[test]
    fn gzip_is_taken_from_the_list() {
        let mut headers = HeaderMap::new();
        assert!(!gzip(&headers));
        headers.insert(header::ACCEPT_ENCODING, "br, gzip;q=0.5".parse().unwrap());
        assert!(gzip(&headers));
        headers.insert(header::ACCEPT_ENCODING, "gzip;q=0".parse().unwrap());
        assert!(!gzip(&headers));
    }
}
