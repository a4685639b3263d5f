//! The settings of traces, under the names that OpenTelemetry gives them.
//! Source: <https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>

use percent_encoding::percent_decode_str;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

use super::Secret;
use super::reader::Reader;

/// Where spans go, and which.
#[derive(Debug, Clone)]
pub(crate) struct TraceSettings {
    /// Where they are POSTed.
    pub(crate) url: Url,
    /// Headers that go with them, as [`header_list`] reads them.
    pub(crate) headers: Option<Secret>,
    /// Which traces are sent.
    pub(crate) sampler: TraceSampler,
    /// The name of the service that they are of.
    pub(crate) service: String,
}

/// Which traces are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct TraceSampler {
    /// What comes with a trace is sampled as that was.
    pub(crate) parent_based: bool,
    /// The share of all others, from 0 to 1.
    pub(crate) ratio: f64,
}

impl Reader<'_> {
    /// The outer `None` is a problem; the inner one means that nothing is traced.
    #[expect(clippy::option_option, reason = "see above")]
    pub(super) fn traces(&mut self) -> Option<Option<TraceSettings>> {
        let ratio = match self.optional("OTEL_TRACES_SAMPLER_ARG") {
            Some(_) => self.parse("OTEL_TRACES_SAMPLER_ARG", "a number from 0 to 1", |text| {
                text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio))
            }),
            None => Some(1.0),
        };
        let sampler = self.parse(
            "OTEL_TRACES_SAMPLER",
            "always_on, always_off, traceidratio, or one of them after parentbased_",
            |text| sampler(text, ratio.unwrap_or_default()),
        );
        let headers = self.secret("OTEL_EXPORTER_OTLP_HEADERS", is_header_list);
        if self.optional("OTEL_EXPORTER_OTLP_HEADERS").is_some_and(|text| !is_header_list(text)) {
            let expected = "must be name=value pairs, separated by commas, percent-encoded";
            self.problem("OTEL_EXPORTER_OTLP_HEADERS", expected);
        }
        let service = self.short("OTEL_SERVICE_NAME", 255);
        let url = match self.optional("OTEL_EXPORTER_OTLP_ENDPOINT") {
            Some(_) => Some(traces_url(self.url("OTEL_EXPORTER_OTLP_ENDPOINT")?)),
            None => None,
        };
        let (sampler, service, _) = (sampler?, service?, ratio?);
        Some(url.map(|url| TraceSettings { url, headers, sampler, service }))
    }
}

fn sampler(text: &str, ratio: f64) -> Option<TraceSampler> {
    let (parent_based, root) = match text.strip_prefix("parentbased_") {
        Some(root) => (true, root),
        None => (false, text),
    };
    let ratio = match root {
        "always_on" => 1.0,
        "always_off" => 0.0,
        "traceidratio" => ratio,
        _ => return None,
    };
    Some(TraceSampler { parent_based, ratio })
}

/// The address for spans, below that for all signals.
/// Source: <https://opentelemetry.io/docs/specs/otel/protocol/exporter/#endpoint-urls-for-otlphttp>
fn traces_url(mut base: Url) -> Url {
    if let Ok(mut path) = base.path_segments_mut() {
        path.pop_if_empty().extend(["v1", "traces"]);
    }
    base
}

/// The headers of `name=value,name=value`, values percent-encoded; `None` if one is none.
pub(crate) fn header_list(text: &str) -> Option<HeaderMap> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=')?;
            let value: Vec<u8> = percent_decode_str(value.trim()).collect();
            let mut value = HeaderValue::from_bytes(&value).ok()?;
            value.set_sensitive(true);
            Some((HeaderName::from_bytes(name.trim().as_bytes()).ok()?, value))
        })
        .collect()
}

fn is_header_list(text: &str) -> bool {
    header_list(text).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_samplers_of_opentelemetry_are_known_and_no_others() {
        let table = [
            ("always_on", Some((false, 1.0))),
            ("always_off", Some((false, 0.0))),
            ("traceidratio", Some((false, 0.25))),
            ("parentbased_always_on", Some((true, 1.0))),
            ("parentbased_always_off", Some((true, 0.0))),
            ("parentbased_traceidratio", Some((true, 0.25))),
            ("jaeger_remote", None),
            ("parentbased_", None),
            ("ALWAYS_ON", None),
        ];
        for (text, expected) in table {
            let found = sampler(text, 0.25).map(|sampler| (sampler.parent_based, sampler.ratio));
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn spans_go_below_the_address_of_all_signals() {
        for (base, expected) in [
            ("http://otel:4318", "http://otel:4318/v1/traces"),
            ("http://otel:4318/", "http://otel:4318/v1/traces"),
            ("https://otel/api/otlp/", "https://otel/api/otlp/v1/traces"),
            ("https://otel/api?tenant=a", "https://otel/api/v1/traces?tenant=a"),
        ] {
            assert_eq!(traces_url(base.parse().unwrap()).as_str(), expected);
        }
    }

    #[test]
    fn headers_are_pairs_with_encoded_values() {
        let headers = header_list("Authorization=Basic%20YTpi, x-tenant = a=b,").unwrap();
        assert_eq!(headers["authorization"], "Basic YTpi");
        assert_eq!(headers["x-tenant"], "a=b");
        assert_eq!(headers.len(), 2);
        assert!(headers["authorization"].is_sensitive());
        for wrong in ["a", "=b", "a b=c", "a=%0a", "a=b,c"] {
            assert!(header_list(wrong).is_none(), "{wrong}");
        }
    }
}
