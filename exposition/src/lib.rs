//! What a scrape of `/metrics` is answered, for both daemons: the text format that every tool of the last ten years reads
//! (`text/plain; version=0.0.4`), or OpenMetrics for who prefers it.
//!
//! In: a registry and the request's `Accept`. Out: the text and its type. Never: HTTP, or metrics of its own.

use std::fmt::{self, Write as _};

use prometheus_client::{encoding::text::encode, registry::Registry};

/// The type of the classic text format.
pub const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";
/// The type of OpenMetrics' text format.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A body and its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// For `Content-Type`.
    pub content_type: &'static str,
    /// For the body.
    pub text: String,
}

/// The registry in the format that `accept`, the header's value, prefers.
pub fn answer(registry: &Registry, accept: Option<&str>) -> Result<Answer, fmt::Error> {
    let mut text = String::new();
    encode(&mut text, registry)?;
    if prefers_open_metrics(accept.unwrap_or_default()) {
        return Ok(Answer { content_type: OPEN_METRICS, text });
    }
    Ok(Answer { content_type: CLASSIC, text: classic(&text)? })
}

/// Whether OpenMetrics is named, and not below plain text.
fn prefers_open_metrics(accept: &str) -> bool {
    let weight = |types: &[&str]| {
        let ranges = accept.split(',').filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let named = parts.next().is_some_and(|name| types.contains(&name));
            let quality =
                parts.find_map(|part| part.strip_prefix("q=")).map_or(Some(1.0), |q| q.parse::<f32>().ok());
            quality.filter(|_| named)
        });
        ranges.fold(0.0, f32::max)
    };
    let open = weight(&["application/openmetrics-text"]);
    open > 0.0 && open >= weight(&["text/plain", "text/*", "*/*"])
}

/// OpenMetrics as the classic format: there a family is called what its samples are called, and knows neither units nor
/// an end.
fn classic(open: &str) -> Result<String, fmt::Error> {
    let mut out = String::with_capacity(open.len());
    let mut help = None;
    for line in open.lines() {
        let Some(comment) = line.strip_prefix("# ") else {
            writeln!(out, "{line}")?;
            continue;
        };
        let (word, rest) = comment.split_once(' ').unwrap_or((comment, ""));
        let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        match word {
            // What it is called depends on its type, which comes next.
            "HELP" => help = Some(rest),
            "TYPE" => {
                let (suffix, kind) = match rest {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    "stateset" => ("", "gauge"),
                    "unknown" => ("", "untyped"),
                    kind => ("", kind),
                };
                if let Some(help) = help.take() {
                    writeln!(out, "# HELP {name}{suffix} {help}")?;
                }
                writeln!(out, "# TYPE {name}{suffix} {kind}")?;
            }
            _ => {}
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use prometheus_client::{
        metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
        registry::Unit,
    };

    use super::*;

    fn registry() -> Registry {
        let mut registry = Registry::default();
        let counts: Family<Vec<(&str, &str)>, Counter> = Family::default();
        counts.get_or_create(&vec![("path", "/a b")]).inc();
        registry.register("gantry_things", "Things", counts);
        registry.register("gantry_level", "How much", Gauge::<i64>::default());
        registry.register("gantry_build", "What runs", Info::new(vec![("version", "1")]));
        registry.register_with_unit("gantry_wait", "How long", Unit::Seconds, Histogram::new([0.5]));
        registry
    }

    #[test]
    fn without_a_wish_it_is_the_classic_format() {
        let answer = answer(&registry(), None).unwrap();
        assert_eq!(answer.content_type, CLASSIC);
        let expected = "\
            # HELP gantry_things_total Things.\n# TYPE gantry_things_total counter\n\
            gantry_things_total{path=\"/a b\"} 1\n\
            # HELP gantry_level How much.\n# TYPE gantry_level gauge\ngantry_level 0\n\
            # HELP gantry_build_info What runs.\n# TYPE gantry_build_info gauge\n\
            gantry_build_info{version=\"1\"} 1\n\
            # HELP gantry_wait_seconds How long.\n# TYPE gantry_wait_seconds histogram\n\
            gantry_wait_seconds_sum 0.0\ngantry_wait_seconds_count 0\n\
            gantry_wait_seconds_bucket{le=\"0.5\"} 0\ngantry_wait_seconds_bucket{le=\"+Inf\"} 0\n";
        assert_eq!(answer.text, expected);
    }

    #[test]
    fn openmetrics_is_for_who_asks_for_it() {
        // What Prometheus sends.
        let scrape =
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.3";
        for accept in [scrape, "application/openmetrics-text", "application/openmetrics-text, */*"] {
            let answer = answer(&registry(), Some(accept)).unwrap();
            assert_eq!(answer.content_type, OPEN_METRICS, "{accept}");
            assert!(answer.text.ends_with("# EOF\n"));
        }
        let refused = "application/openmetrics-text;q=0";
        let below = "text/plain;q=0.9,application/openmetrics-text;q=0.8";
        for accept in
            ["*/*", "text/plain", "text/html", refused, below, "application/openmetrics-text;q=x", ""]
        {
            assert_eq!(answer(&registry(), Some(accept)).unwrap().content_type, CLASSIC, "{accept}");
        }
    }
}
