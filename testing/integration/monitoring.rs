//! Alerts and dashboard: that they are well-formed, documented, and ask for what a daemon has to say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::{Child, Command};

use peers::eicar::eicar;
use peers::notification;
use rustix::process::Signal;
use serde_json::Value;
use stack::process::{Identity, tail, which};
use stack::{Daemon, Stack};
use tempfile::TempDir;
use url::Url;

use super::*;

const ALERTS: &str = include_str!("../../monitoring/prometheus/rules.yml");
const ALERT_TESTS: &str = include_str!("../../monitoring/prometheus/rules.test.yml");
const DASHBOARD: &str = include_str!("../../monitoring/grafana/dashboard.json");
const PAGE: &str = include_str!("../../docs/OPERATING.md");
/// Units that are used here, as Grafana calls them.
const UNITS: [&str; 5] = ["none", "short", "ops", "s", "Bps"];
/// Variables that Grafana itself sets, with what they stand for here.
const OWN_VARIABLES: [(&str, &str); 2] = [("$__rate_interval", "1m"), ("$__range", "5m")];

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

fn dashboard() -> Value {
    serde_json::from_str(DASHBOARD).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The alerts by name.
fn alerts() -> BTreeMap<String, Value> {
    let rules = yaml(ALERTS);
    let groups = list(&rules["groups"]).iter().flat_map(|group| list(&group["rules"]).to_vec());
    groups.map(|rule| (text(&rule["alert"]).to_owned(), rule)).collect()
}

/// Everything on the dashboard that has queries.
fn panels(dashboard: &Value) -> Vec<&Value> {
    list(&dashboard["panels"]).iter().filter(|panel| panel["type"] != "row").collect()
}

/// The selectors of our metrics in an expression, with their matchers.
fn selectors(expression: &str) -> Vec<&str> {
    let starts = expression.match_indices("avscan_").map(|(at, _)| &expression[at..]);
    starts
        .map(|rest| {
            let name = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let name = name.unwrap_or(rest.len());
            let matchers = rest[name..].starts_with('{').then(|| rest.find('}')).flatten();
            &rest[..matchers.map_or(name, |end| end + 1)]
        })
        .collect()
}

fn promtool(arguments: &[&str]) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("monitoring/prometheus");
    let output = Command::new("promtool").args(arguments).current_dir(folder).output();
    let output = output
        .unwrap_or_else(|error| panic!("promtool: {error}: testing/setup.sh --all installs it"));
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said));
}

#[test]
fn the_alerts_pass_their_tests_and_each_has_one_that_fires_and_one_that_does_not() {
    promtool(&["check", "config", "prometheus.yml"]);
    promtool(&["test", "rules", "rules.test.yml"]);
    let tests = yaml(ALERT_TESTS);
    let cases = || list(&tests["tests"]).iter().flat_map(|test| list(&test["alert_rule_test"]));
    let names = |fires: bool| -> BTreeSet<String> {
        let cases = cases().filter(|case| list(&case["exp_alerts"]).is_empty() != fires);
        cases.map(|case| text(&case["alertname"]).to_owned()).collect()
    };
    let alerts: BTreeSet<String> = alerts().into_keys().collect();
    assert_eq!(names(true), alerts);
    assert_eq!(names(false), alerts);
}

#[test]
fn each_alert_has_a_runbook_and_each_runbook_an_alert() {
    let alerts = alerts();
    let section = PAGE.split("\n## Alerts\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let runbooks: BTreeMap<&str, &str> = section
        .split("\n### ")
        .skip(1)
        .map(|paragraph| paragraph.split_once("\n\n").unwrap())
        .collect();
    let names: Vec<&str> = alerts.keys().map(String::as_str).collect();
    assert_eq!(runbooks.keys().copied().collect::<Vec<_>>(), names);
    for (name, alert) in &alerts {
        let severity = text(&alert["labels"]["severity"]);
        let word = match severity {
            "critical" => "Critical. ",
            "warning" => "Warning. ",
            _ => panic!("{name}: severity {severity}"),
        };
        assert!(runbooks[name.as_str()].starts_with(word), "{name}");
        let annotations = &alert["annotations"];
        for annotation in ["summary", "description"] {
            assert!(!text(&annotations[annotation]).is_empty(), "{name}: {annotation}");
        }
        let runbook = format!("docs/OPERATING.md#{}", name.to_lowercase());
        assert_eq!(text(&annotations["runbook_url"]), runbook);
    }
}

/// Against the classic model of Grafana's documentation:
/// <https://grafana.com/docs/grafana/latest/visualizations/dashboards/build-dashboards/view-dashboard-json-model/>
#[test]
fn the_dashboard_is_what_grafana_imports() {
    let dashboard = dashboard();
    assert!(dashboard["id"].is_null());
    assert_eq!(
        (text(&dashboard["uid"]), dashboard["schemaVersion"].as_u64()),
        ("bucket-av-scanner", Some(39))
    );
    let variables = list(&dashboard["templating"]["list"]);
    let names: Vec<&str> = variables.iter().map(|variable| text(&variable["name"])).collect();
    assert_eq!(names, ["datasource", "job", "replica", "queue"]);
    assert_eq!(
        (text(&variables[0]["type"]), text(&variables[0]["query"])),
        ("datasource", "prometheus")
    );
    let source = serde_json::json!({"type": "prometheus", "uid": "${datasource}"});
    for variable in &variables[1..] {
        assert_eq!((text(&variable["type"]), &variable["datasource"]), ("query", &source));
    }
    let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
    for panel in list(&dashboard["panels"]) {
        let title = text(&panel["title"]);
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is used twice");
        let [x, y, w, h] =
            ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
        assert!(w > 0 && h > 0 && x + w <= 24, "{title}: {x} {y} {w} {h}");
        for place in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(place), "{title} lies over another panel");
        }
        if panel["type"] == "row" {
            assert_eq!((w, panel["collapsed"].as_bool()), (24, Some(false)), "{title}");
        }
    }
    for panel in panels(&dashboard) {
        let title = text(&panel["title"]);
        assert!(["stat", "timeseries"].contains(&text(&panel["type"])), "{title}");
        assert!(!title.is_empty() && !text(&panel["description"]).is_empty(), "{title}");
        let unit = text(&panel["fieldConfig"]["defaults"]["unit"]);
        assert!(UNITS.contains(&unit), "{title}: unit {unit}");
        assert_eq!(panel["datasource"], source, "{title}");
        let mut references = BTreeSet::new();
        for target in list(&panel["targets"]) {
            let expression = text(&target["expr"]);
            assert_eq!(target["datasource"], source, "{title}");
            assert!(references.insert(text(&target["refId"])), "{title}");
            for selector in selectors(expression) {
                assert!(selector.contains("{job=~\"$job\""), "{title}: {selector}");
            }
            for used in expression.split('$').skip(1) {
                let end = used.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                let used = &used[..end.unwrap_or(used.len())];
                let own = OWN_VARIABLES.iter().any(|(name, _)| name[1..] == *used);
                assert!(own || names.contains(&used), "{title}: ${used} is not defined");
            }
        }
        assert!(!references.is_empty(), "{title}");
    }
}

/// Where the files lie in the containers, and under which names services find each other.
#[test]
fn grafana_and_prometheus_of_the_deployment_find_their_files() {
    let read = |path: &str| {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(root.join(path)).unwrap()
    };
    let compose = read("docker-compose/docker-compose.yml");
    let provider = yaml(&read("monitoring/grafana/provisioning/dashboards/bucket-av-scanner.yml"));
    let folder = text(&provider["providers"][0]["options"]["path"]);
    let mounted = format!("../monitoring/grafana/dashboard.json:{folder}/dashboard.json:ro");
    assert!(compose.contains(&mounted), "{mounted}");
    let source = yaml(&read("monitoring/grafana/provisioning/datasources/prometheus.yml"));
    let url = Url::parse(text(&source["datasources"][0]["url"])).unwrap();
    let service = format!("\n  {}:\n", url.host_str().unwrap());
    assert!(compose.contains(&service) && url.port() == Some(9090));
    let scraped = yaml(&read("monitoring/prometheus/prometheus.yml"));
    let target = &scraped["scrape_configs"][0]["dns_sd_configs"][0];
    let service = format!("\n  {}:\n", text(&target["names"][0]));
    assert!(compose.contains(&service) && target["port"] == 8080);
}

/// Has promtool look at the names and units. It reads the older text format, in which the names of the
/// families have the suffixes of their samples.
fn follows_the_conventions(page: &str) {
    let mut older = String::new();
    for line in page.lines().filter(|line| !line.starts_with("# UNIT") && *line != "# EOF") {
        let kind = |name: &str| {
            let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
            types.filter_map(|line| line.split_once(' ')).find(|(of, _)| *of == name).unwrap().1
        };
        let line = match line.splitn(4, ' ').collect::<Vec<_>>()[..] {
            ["#", what, name, rest] => match kind(name) {
                "counter" => format!("# {what} {name}_total {rest}"),
                "info" => format!("# {what} {name}_info {}", rest.replace("info", "gauge")),
                _ => line.to_owned(),
            },
            _ => line.to_owned(),
        };
        older.push_str(&line);
        older.push('\n');
    }
    let file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut &file, older.as_bytes()).unwrap();
    std::io::Seek::rewind(&mut &file).unwrap();
    let output = Command::new("promtool").args(["check", "metrics"]).stdin(file).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

/// A Prometheus that scrapes one daemon every second.
struct Prometheus {
    child: Child,
    url: String,
    folder: TempDir,
}

impl Prometheus {
    async fn start(target: &str) -> Self {
        assert!(which("prometheus").is_some(), "no prometheus: testing/setup.sh --all installs it");
        let folder = tempfile::tempdir().unwrap();
        let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/monitoring/prometheus/rules.yml");
        let configuration = serde_json::json!({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [rules],
            "scrape_configs": [{"job_name": "av", "static_configs": [{"targets": [target]}]}],
        });
        // JSON is YAML.
        std::fs::write(folder.path().join("prometheus.yml"), configuration.to_string()).unwrap();
        let address = format!("127.0.0.1:{}", stack::ports::free_port());
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        // `timeout` ends it if this process does not live to do it.
        let child = Command::new("timeout")
            .args(["300", "prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .arg(format!("--web.listen-address={address}"))
            .current_dir(folder.path())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let prometheus = Self { child, url: format!("http://{address}"), folder };
        eventually("Prometheus is ready", || async {
            reqwest::get(format!("{}/-/ready", prometheus.url))
                .await
                .is_ok_and(|r| r.status() == 200)
        })
        .await;
        prometheus
    }

    async fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let url = Url::parse_with_params(&format!("{}/api/v1/{path}", self.url), parameters);
        let answer = reqwest::get(url.unwrap()).await.unwrap().text().await.unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let log = || tail(&self.folder.path().join("log"), 20);
        assert_eq!(text(&answer["status"]), "success", "{parameters:?}: {answer}\n{}", log());
        answer["data"].clone()
    }

    /// The series that a query returns with a number.
    async fn query(&self, query: &str) -> Vec<Value> {
        let found = self.ask("query", &[("query", query)]).await;
        let is_number =
            |series: &&Value| text(&series["value"][1]).parse().is_ok_and(|n: f64| !n.is_nan());
        list(&found["result"])
            .iter()
            .filter(is_number)
            .map(|series| series["metric"].clone())
            .collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        if let Some(process) = Identity::of(self.child.id()) {
            let _ended = process.signal(Signal::TERM);
        }
        drop(self.child.wait());
    }
}

/// A daemon that does something of everything.
async fn busy() -> Daemon {
    let overrides = [
        ("REPORT_CLEAN", "true"),
        ("RETRY_DELAYS", "1s"),
        ("RETRY_LIMIT", "1"),
        ("CANARY_EVERY", "10s"),
        ("CANARY_DEADLINE", "2s"),
        ("SWEEP_EVERY", "1h"),
    ];
    let mut daemon = Daemon::prepare(&Stack::from_env(), binary(), &overrides).await.unwrap();
    let bucket = daemon.names.bucket.clone();
    let old = daemon.s3().with_bucket(&format!("{bucket}-old"));
    old.create_bucket().await.unwrap();
    old.put("was there before", "x").await.unwrap();
    daemon.set_env("CANARY_BUCKETS", &bucket);
    daemon.set_env("SWEEP_BUCKETS", &old.bucket);
    daemon.spawn().unwrap();
    daemon.wait_ready(SOON).await.unwrap();
    daemon
}

/// Uploads, an object that is not there, and a message that says nothing.
async fn traffic(daemon: &Daemon, round: u32) {
    daemon.s3().put(&format!("clean {round}"), "x").await.unwrap();
    daemon.s3().put(&format!("bad {round}"), eicar()).await.unwrap();
    let missing = notification::put(&daemon.names.bucket, &format!("missing {round}"), None, None);
    notify(daemon, missing.to_string().as_bytes()).await;
    notify(daemon, b"nothing known").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_of_the_dashboard_and_of_the_alerts_finds_data() {
    let daemon = busy().await;
    let prometheus = Prometheus::start(&daemon.env()["HEALTH_ADDR"]).await;
    let dashboard = dashboard();
    let mut wanted: BTreeSet<String> = BTreeSet::new();
    for target in panels(&dashboard).into_iter().flat_map(|panel| list(&panel["targets"])) {
        let own =
            OWN_VARIABLES.iter().fold(text(&target["expr"]).to_owned(), |query, (name, value)| {
                query.replace(name, value)
            });
        let all = ["$job", "$replica", "$queue"].into_iter();
        wanted.insert(all.fold(own, |query, name| query.replace(&format!("\"{name}\""), "\".*\"")));
    }
    // The choices of each variable: `label_values(SELECTOR, LABEL)`.
    for variable in &list(&dashboard["templating"]["list"])[1..] {
        let query = text(&variable["query"]["query"]).replace("$job", ".*");
        let inside = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
        let (selector, label) = inside.unwrap().rsplit_once(", ").unwrap();
        wanted.insert(format!("count by ({label}) ({selector}) unless count({selector})"));
    }
    // What an alert asks about has to be there, also while nothing is wrong.
    for alert in alerts().values() {
        wanted.extend(selectors(text(&alert["expr"])).into_iter().map(str::to_owned));
    }
    let started = Instant::now();
    for round in 0.. {
        traffic(&daemon, round).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let mut without = BTreeSet::new();
        for query in wanted {
            if prometheus.query(&query).await.is_empty() {
                without.insert(query);
            }
        }
        if without.is_empty() {
            break;
        }
        assert!(
            started.elapsed() < 3 * SOON,
            "without data: {without:#?}\n{}\n{}",
            daemon.page("/metrics").await.unwrap(),
            daemon.output()
        );
        wanted = without;
    }
    let rules = prometheus.ask("rules", &[]).await;
    let rules: Vec<&Value> =
        list(&rules["groups"]).iter().flat_map(|group| list(&group["rules"])).collect();
    assert_eq!(rules.len(), alerts().len());
    for rule in rules {
        assert_eq!(text(&rule["health"]), "ok", "{rule}");
    }
    let page = daemon.page("/metrics").await.unwrap();
    follows_the_conventions(&page);
    // What this daemon shows is in the table of the documentation.
    for family in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = family.split_once(' ').unwrap();
        let suffix = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        assert!(PAGE.contains(&format!("`{name}{suffix}`")), "{name}{suffix}");
    }
}
