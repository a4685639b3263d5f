//! Settings that have no effect, because what they belong to is off.

use super::Settings;
use super::reader::flag;
use super::source::Texts;

impl Settings {
    pub(super) fn warn_of_idle(&self, texts: &Texts, warnings: &mut Vec<String>) {
        let given = |name: &&str| texts.values.contains_key(*name);
        let mut warn = |names: Vec<&str>, switch: &str, follows: &str| {
            if !names.is_empty() {
                warnings.push(format!("{} without {switch}: {follows}", names.join(", ")));
            }
        };
        if self.canary.is_none() {
            let mut names = vec!["CANARY_BUCKETS", "CANARY_DEADLINE"];
            names.retain(given);
            // It has a default.
            let report = texts.values.get("REPORT_CANARY").and_then(|text| flag(text.trim()));
            if report == Some(true) {
                names.push("REPORT_CANARY");
            }
            warn(names, "CANARY_EVERY", "no canary is sent");
        }
        if self.traces.is_none() {
            let mut names = vec!["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_TRACES_SAMPLER_ARG"];
            names.retain(given);
            warn(names, "OTEL_EXPORTER_OTLP_ENDPOINT", "nothing is traced");
        }
        if self.intake.is_none() {
            let mut names = vec!["INTAKE_TOKEN", "INTAKE_TLS_CERT_FILE", "INTAKE_TLS_KEY_FILE"];
            names.retain(given);
            warn(names, "INTAKE_ADDR", "no webhook is taken");
        }
    }
}
