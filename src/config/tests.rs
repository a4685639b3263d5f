use std::io::Write;

use super::*;

fn minimal() -> HashMap<String, String> {
    env(&[
        ("RABBITMQ_REGULAR_USER_NAME", "avscan"),
        ("RABBITMQ_REGULAR_USER_PASS", "pass-word-1"),
        ("MINIO_ACCESS_KEY_ID", "access-1"),
        ("MINIO_SECRET_ACCESS_KEY", "secret-key-1"),
    ])
}

fn env(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn with(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    let mut all = minimal();
    all.extend(env(pairs));
    all
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn problems(env: &HashMap<String, String>) -> String {
    load(env).expect_err("should be refused").to_string()
}

fn settings(env: &HashMap<String, String>) -> Settings {
    load(env).map_err(|p| p.to_string()).unwrap().settings
}

#[test]
fn the_originals_defaults_hold() {
    let s = settings(&minimal());
    assert_eq!(s.store.url.as_str(), "https://minio-service:9000/");
    assert_eq!(s.store.region, "eu-west-1");
    assert_eq!((s.broker.host.as_str(), s.broker.port), ("mq-service", 5672));
    assert_eq!(s.broker.queue, "s3minioqueue");
    assert_eq!(s.broker.routing_key, "bucket_notifications");
    assert_eq!(s.broker.exchange, "s3minioscan");
    let url = Url::parse("https://clamd-service:9443/").unwrap();
    assert_eq!(s.scanner.engine, EngineAddress::ClamavRest(url));
    assert!(s.policy.delete_file && s.policy.tag_files && !s.policy.report_clean);
    assert_eq!(s.policy.tag_key, "scanned");
    assert_eq!((s.store.max_object, s.store.spool), (2 * GIB, 4 * GIB));
    assert!(s.publish.is_none());
}

#[test]
fn all_problems_are_told_at_once_by_name_and_never_by_value() {
    let text = problems(&env(&[
        ("MINIO_SERVER_URL", "ftp://leak-1"),
        ("MINIO_ACCESS_KEY_ID", "leak-2"),
        ("SCAN_CONCURRENCY", "leak-3"),
        ("PUBLISH_SECRET", "leak-4!"),
        ("RETRY_DELAYS", "leak-5"),
        ("LOG_LEVEL", "leak-6"),
    ]));
    for name in [
        "MINIO_SERVER_URL",
        "MINIO_SECRET_ACCESS_KEY",
        "RABBITMQ_REGULAR_USER_NAME",
        "RABBITMQ_REGULAR_USER_PASS",
        "SCAN_CONCURRENCY",
        "PUBLISH_SECRET",
        "RETRY_DELAYS",
        "LOG_LEVEL",
    ] {
        assert!(text.contains(name), "{name} is missing in:\n{text}");
    }
    assert!(!text.contains("leak"), "{text}");
}

#[test]
fn the_environment_wins_over_the_file_and_empty_variables_do_not_count() {
    let file = file("tag_key: from-file\nminio_region: from-file\n");
    let path = file.path().to_str().unwrap();
    let s =
        settings(&with(&[("AVSCAN_CONFIG", path), ("TAG_KEY", "from-env"), ("MINIO_REGION", "")]));
    assert_eq!(s.policy.tag_key, "from-env");
    assert_eq!(s.store.region, "from-file");
}

#[test]
fn the_originals_file_is_understood_with_warnings() {
    let file = file(
        "delete: false\nreport_clean: true\nmq_topic: t\nmq_port: 5673\nmq_endpoint: q\n\
         minio_endpoint: http://m:9000\nmq_user_name: u\nmq_user_password: 'p'\n\
         volume_size: 3\npublish_endpoint:\n",
    );
    let loaded = load(&env(&[("AVSCAN_CONFIG", file.path().to_str().unwrap())])).unwrap();
    let s = &loaded.settings;
    assert!(!s.policy.delete_file && s.policy.report_clean);
    assert_eq!((s.broker.exchange.as_str(), s.broker.port), ("t", 5673));
    assert_eq!(s.store.url.as_str(), "http://m:9000/");
    assert_eq!(s.store.max_object, 3 * GIB);
    assert!(loaded.warnings.iter().any(|w| w.contains("mq_topic")));
}

#[test]
fn unknown_keys_of_the_file_are_problems() {
    let file = file("tag_kye: x\n");
    let text = problems(&with(&[("AVSCAN_CONFIG", file.path().to_str().unwrap())]));
    assert!(text.contains("tag_kye"), "{text}");
}

#[test]
fn a_missing_or_broken_file_is_a_problem_that_quotes_nothing() {
    assert!(problems(&with(&[("AVSCAN_CONFIG", "/nowhere/x")])).contains("/nowhere/x"));
    let file = file("rabbitmq_regular_user_pass: \"leak\nfoo: [");
    let text = problems(&with(&[("AVSCAN_CONFIG", file.path().to_str().unwrap())]));
    assert!(text.contains("YAML") && !text.contains("leak"), "{text}");
}

#[test]
fn a_password_that_yaml_would_read_as_a_number_is_refused() {
    for value in ["00123", "1e5", "123", "1.50"] {
        let file = file(&format!("rabbitmq_regular_user_pass: {value}\n"));
        let mut env = minimal();
        env.remove("RABBITMQ_REGULAR_USER_PASS");
        env.insert("AVSCAN_CONFIG".into(), file.path().to_str().unwrap().into());
        let text = problems(&env);
        assert!(text.contains("quotes") && !text.contains(value), "{text}");
    }
}

#[test]
fn a_numeric_password_in_the_environment_is_taken_as_it_is() {
    use secrecy::ExposeSecret;
    let s = settings(&with(&[("RABBITMQ_REGULAR_USER_PASS", "00123")]));
    assert_eq!(s.broker.password.held().expose_secret(), "00123");
}

#[test]
fn secrets_come_from_files_without_their_trailing_newline() {
    use secrecy::ExposeSecret;
    let secret = file(" p w \n");
    let path = secret.path().to_str().unwrap();
    let mut env = minimal();
    env.remove("RABBITMQ_REGULAR_USER_PASS");
    env.insert("RABBITMQ_REGULAR_USER_PASS_FILE".into(), path.into());
    assert_eq!(settings(&env).broker.password.held().expose_secret(), " p w ");
    let both = with(&[("RABBITMQ_REGULAR_USER_PASS_FILE", path)]);
    assert!(problems(&both).contains("keep one"));
    let missing = with(&[("PUBLISH_SECRET_FILE", "/nowhere/x")]);
    assert!(problems(&missing).contains("PUBLISH_SECRET_FILE"));
}

#[test]
fn secrets_never_show_in_debug_or_in_the_effective_settings() {
    let loaded = load(&with(&[
        ("PUBLISH_URL", "https://hooks.example.com/token-1?key=token-2"),
        ("PUBLISH_SECRET", "whsec_bGVhazFsZWFrMWxlYWsxbGVhazFsZWFrMWxlYWsx"),
        ("PUBLISH_AUTHORIZATION", "Bearer token-3"),
    ]))
    .unwrap();
    let text = format!("{:?} {:?}", loaded.settings, loaded.effective);
    for leak in ["pass-word-1", "secret-key-1", "access-1", "bGVhazE", "token-3"] {
        assert!(!text.contains(leak), "{leak} in {text}");
    }
    assert_eq!(loaded.effective["PUBLISH_URL"], "https://hooks.example.com/***");
}

#[test]
fn a_broker_url_with_a_password_is_no_host_and_a_short_secret_no_secret() {
    let text = problems(&with(&[
        ("RABBITMQ_ENDPOINT", "amqp://user:leak@h"),
        ("PUBLISH_SECRET", "whsec_"),
    ]));
    assert!(text.contains("RABBITMQ_ENDPOINT") && text.contains("PUBLISH_SECRET"), "{text}");
    assert!(!text.contains("leak"), "{text}");
}

#[test]
fn one_key_alone_is_refused_and_none_means_the_credential_chain() {
    let mut env = minimal();
    env.remove("MINIO_ACCESS_KEY_ID");
    assert!(problems(&env).contains("MINIO_ACCESS_KEY_ID"));
    env.remove("MINIO_SECRET_ACCESS_KEY");
    let loaded = load(&env).unwrap();
    assert!(loaded.settings.store.keys.is_none());
    assert!(loaded.warnings.iter().any(|w| w.contains("credential chain")));
}

#[test]
fn the_engine_address_takes_hosts_urls_and_sockets() {
    let engine = |pairs: &[(&str, &str)]| settings(&with(pairs)).scanner.engine;
    let rest = |url: &str| EngineAddress::ClamavRest(Url::parse(url).unwrap());
    let tcp = |host: &str, port| EngineAddress::Clamd(ClamdAddress::Tcp(host.to_owned(), port));
    let clamd = ("SCANNER", "clamd");
    assert_eq!(engine(&[("CLAMD_ENDPOINT", "h")]), rest("https://h:9443"));
    assert_eq!(engine(&[("CLAMD_ENDPOINT", "h"), ("CLAMD_PORT", "1")]), rest("https://h:1"));
    assert_eq!(engine(&[("CLAMD_ENDPOINT", "h:7")]), rest("https://h:7"));
    assert_eq!(engine(&[("CLAMD_ENDPOINT", "http://h:80")]), rest("http://h"));
    assert_eq!(engine(&[("CLAMD_ENDPOINT", "https://h/av")]), rest("https://h:9443/av"));
    assert_eq!(engine(&[clamd, ("CLAMD_ENDPOINT", "h")]), tcp("h", 3310));
    assert_eq!(engine(&[clamd, ("CLAMD_ENDPOINT", "tcp://h:9")]), tcp("h", 9));
    assert_eq!(engine(&[clamd, ("CLAMD_ENDPOINT", "tcp://[::1]:9")]), tcp("::1", 9));
    let unix = EngineAddress::Clamd(ClamdAddress::Unix("/run/clamd.sock".into()));
    assert_eq!(engine(&[clamd, ("CLAMD_ENDPOINT", "unix:///run/clamd.sock")]), unix);
    assert!(problems(&with(&[("CLAMD_ENDPOINT", "ftp://h")])).contains("CLAMD_ENDPOINT"));
    assert!(problems(&with(&[clamd, ("CLAMD_ENDPOINT", "unix://x")])).contains("CLAMD_ENDPOINT"));
    assert!(problems(&with(&[clamd, ("CLAMD_ENDPOINT", "https://h")])).contains("CLAMD_ENDPOINT"));
}

#[test]
fn retry_delays_grow_and_have_units() {
    let delays =
        |text: &str| load(&with(&[("RETRY_DELAYS", text)])).map(|l| l.settings.ladder.tiers);
    let tiers = delays("10s, 1m,2h").unwrap();
    assert_eq!(tiers.iter().map(|t| t.delay.as_secs()).collect::<Vec<_>>(), [10, 60, 7200]);
    assert_eq!(tiers[1].name, "1m");
    for bad in ["", "10", "0s", "1m,1m", "1m,10s", "99h", "1d", "+1s", "é", "-1s", "01s"] {
        assert!(bad.is_empty() || delays(bad).is_err(), "{bad} was taken");
    }
}

#[test]
fn a_ca_file_without_readable_certificates_is_refused() {
    let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for text in ["", "hello", junk] {
        let file = file(text);
        let text = problems(&with(&[("TLS_CA_FILE", file.path().to_str().unwrap())]));
        assert!(text.contains("TLS_CA_FILE"), "{text}");
    }
}

#[test]
fn a_service_link_of_kubernetes_is_ignored_with_a_warning() {
    for link in ["tcp://10.0.0.7:5672", "udp://10.0.0.7:1", "tcp://[fd00::7]:5672"] {
        for name in ["RABBITMQ_PORT", "CLAMD_PORT"] {
            let loaded = load(&with(&[(name, link)])).unwrap();
            let EngineAddress::ClamavRest(engine) = &loaded.settings.scanner.engine else {
                panic!("clamav-rest is the default");
            };
            assert_eq!((loaded.settings.broker.port, engine.port()), (5672, Some(9443)));
            let of_it: Vec<_> = loaded.warnings.iter().filter(|w| w.contains(name)).collect();
            assert_eq!(of_it.len(), 1, "{:?}", loaded.warnings);
            assert!(of_it[0].contains("enableServiceLinks: false"), "{of_it:?}");
            // A port from the file is not lost over it.
            let file = file(&format!("{name}: 77\n"));
            let path = file.path().to_str().unwrap();
            let s = settings(&with(&[(name, link), ("AVSCAN_CONFIG", path)]));
            assert!(s.broker.port == 77 || format!("{:?}", s.scanner.engine).contains("77"));
        }
    }
    // Anything else that is no port was set by somebody, and is wrong.
    for bad in
        ["tcp://", "tcp://10.0.0.7", "tcp://10.0.0.7:", "tcp://10.0.0.7:x", "tcp://rabbit:5672"]
    {
        assert!(problems(&with(&[("RABBITMQ_PORT", bad)])).contains("RABBITMQ_PORT"), "{bad}");
    }
    for bad in ["http://10.0.0.7:1", "10.0.0.7:5672", "0", "65536", "tcp://10.0.0.7:5672/x"] {
        assert!(problems(&with(&[("CLAMD_PORT", bad)])).contains("CLAMD_PORT"), "{bad}");
    }
    // Where no Service can have put it.
    assert!(problems(&with(&[("SCAN_TIMEOUT", "tcp://10.0.0.7:1")])).contains("SCAN_TIMEOUT"));
    let file = file("rabbitmq_port: tcp://10.0.0.7:5672\n");
    let path = file.path().to_str().unwrap();
    assert!(problems(&with(&[("AVSCAN_CONFIG", path)])).contains("RABBITMQ_PORT"));
}

#[test]
fn the_broker_is_a_name_or_an_address_of_either_kind() {
    let host = |text: &str| {
        load(&with(&[("RABBITMQ_ENDPOINT", text)])).map(|loaded| loaded.settings.broker.host)
    };
    for (text, means) in [
        ("mq", "mq"),
        ("10.0.0.7", "10.0.0.7"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("[2001:db8::7]", "2001:db8::7"),
    ] {
        assert_eq!(host(text).as_deref(), Ok(means));
    }
    for bad in ["mq:5672", "[::1]:5672", "[mq]", "[", "::x", "amqp://mq", "u@mq", "10.0.0.7:1"] {
        assert!(host(bad).is_err(), "{bad} was taken");
    }
}

#[test]
fn without_an_address_the_admin_server_is_everywhere() {
    assert_eq!(settings(&minimal()).health_addr, AdminAddress::Everywhere);
    for text in ["0.0.0.0:8080", "[::]:8080", "[::1]:1"] {
        let at = AdminAddress::At(text.parse().unwrap());
        assert_eq!(settings(&with(&[("HEALTH_ADDR", text)])).health_addr, at);
    }
}

#[test]
fn a_proxy_that_is_not_used_for_the_store_is_remembered() {
    let variable = |pairs: &[(&str, &str)]| settings(&with(pairs)).store.proxy_variable;
    let proxy = "http://proxy:3128";
    assert_eq!(variable(&[]), None);
    assert_eq!(variable(&[("HTTPS_PROXY", proxy)]), Some("HTTPS_PROXY"));
    assert_eq!(variable(&[("HTTPS_PROXY", "")]), None);
    let plain = ("MINIO_SERVER_URL", "http://minio:9000");
    assert_eq!(variable(&[plain, ("HTTPS_PROXY", proxy)]), None);
    assert_eq!(variable(&[plain, ("http_proxy", proxy)]), Some("http_proxy"));
}

#[test]
fn the_intake_is_off_unless_it_has_an_address_and_then_needs_a_token() {
    assert!(settings(&minimal()).intake.is_none());
    // What belongs to it alone is not looked at without it.
    assert!(settings(&with(&[("INTAKE_TOKEN", "t")])).intake.is_none());
    for (pairs, name) in [
        (&[("INTAKE_ADDR", "127.0.0.1:1")][..], "INTAKE_TOKEN is required"),
        (&[("INTAKE_ADDR", "127.0.0.1:1"), ("INTAKE_TOKEN", "  ")], "INTAKE_TOKEN must"),
        (&[("INTAKE_ADDR", "127.0.0.1:1"), ("INTAKE_TOKEN", "tök")], "INTAKE_TOKEN must"),
        (&[("INTAKE_ADDR", "127.0.0.1"), ("INTAKE_TOKEN", "t")], "INTAKE_ADDR must"),
        (&[("INTAKE_ADDR", "localhost:1"), ("INTAKE_TOKEN", "t")], "INTAKE_ADDR must"),
        (
            &[("INTAKE_ADDR", "[::]:1"), ("INTAKE_TOKEN", "t"), ("INTAKE_TLS_CERT_FILE", "/x")],
            "INTAKE_TLS_KEY_FILE is missing",
        ),
        (
            &[("INTAKE_ADDR", "[::]:1"), ("INTAKE_TOKEN", "t"), ("INTAKE_TLS_KEY_FILE", "/x")],
            "INTAKE_TLS_CERT_FILE is missing",
        ),
    ] {
        let text = problems(&with(pairs));
        assert!(text.starts_with(name) && text.lines().count() == 1, "{text}");
        assert!(!text.contains("tök"), "{text}");
    }
    let warnings = |pairs: &[(&str, &str)]| load(&with(pairs)).unwrap().warnings.join("\n");
    let long = "0123456789abcdef";
    let local = warnings(&[("INTAKE_ADDR", "127.0.0.1:1"), ("INTAKE_TOKEN", long)]);
    assert!(!local.contains("INTAKE"), "{local}");
    let open = warnings(&[("INTAKE_ADDR", "0.0.0.0:1"), ("INTAKE_TOKEN", long)]);
    assert!(open.contains("plain http"), "{open}");
    let short = warnings(&[("INTAKE_ADDR", "127.0.0.1:1"), ("INTAKE_TOKEN", "0123456789abcdef t")]);
    assert!(short.contains("can be guessed") && !short.contains("cdef"), "{short}");
}

#[test]
fn a_status_page_that_others_can_reach_is_warned_of() {
    let warnings = |address| load(&with(&[("STATUS_ADDR", address)])).unwrap().warnings.join("\n");
    for local in ["127.0.0.1:8081", "[::1]:8081", "[::ffff:127.0.0.1]:8081", ""] {
        assert!(!warnings(local).contains("STATUS_ADDR"), "{local}");
    }
    for open in ["0.0.0.0:8081", "[::]:8081", "192.0.2.1:8081"] {
        assert!(warnings(open).contains("names objects and has no login"), "{open}");
    }
}

#[test]
fn the_canary_needs_buckets_and_a_deadline_that_is_shorter_than_its_interval() {
    let canary = |pairs: &[(&str, &str)]| settings(&with(pairs)).canary;
    let (every, buckets) = (("CANARY_EVERY", "5m"), ("CANARY_BUCKETS", "a-1, b.2"));
    assert_eq!(canary(&[]), None);
    let on = canary(&[every, buckets]).unwrap();
    assert_eq!((on.every.as_secs(), on.deadline.as_secs(), on.report), (300, 60, false));
    assert_eq!(on.buckets, ["a-1", "b.2"]);
    let short = canary(&[("CANARY_EVERY", "20s"), buckets]).unwrap();
    assert_eq!(short.deadline.as_secs(), 10);
    assert!(problems(&with(&[every])).contains("CANARY_BUCKETS is required"));
    let deadline = |text| problems(&with(&[every, buckets, ("CANARY_DEADLINE", text)]));
    for bad in ["5m", "6m", "0s", "1"] {
        assert!(deadline(bad).contains("CANARY_DEADLINE"), "{bad}");
    }
    for bad in ["9s", "25h", "often"] {
        assert!(problems(&with(&[("CANARY_EVERY", bad), buckets])).contains("CANARY_EVERY"));
    }
    for bad in ["a,,b", "a,a", "a/b", ","] {
        assert!(problems(&with(&[every, ("CANARY_BUCKETS", bad)])).contains("CANARY_BUCKETS"));
    }
}

#[test]
fn what_has_no_effect_is_warned_about() {
    let warnings = |pairs: &[(&str, &str)]| load(&with(pairs)).unwrap().warnings.join("\n");
    let nothing = warnings(&[("REPORT_CANARY", "no")]);
    assert!(!nothing.contains("CANARY") && !nothing.contains("INTAKE"), "{nothing}");
    for name in [
        "CANARY_BUCKETS",
        "CANARY_DEADLINE",
        "REPORT_CANARY",
        "INTAKE_TOKEN",
        "INTAKE_TLS_CERT_FILE",
        "INTAKE_TLS_KEY_FILE",
    ] {
        let text = warnings(&[(name, "true")]);
        let switch = if name.contains("CANARY") { "CANARY_EVERY" } else { "INTAKE_ADDR" };
        assert!(text.contains(&format!("{name} without {switch}")), "{text}");
    }
    let several = warnings(&[("CANARY_BUCKETS", "a"), ("CANARY_DEADLINE", "1m")]);
    assert!(several.contains("CANARY_BUCKETS, CANARY_DEADLINE without"), "{several}");
}

#[test]
fn traces_are_off_without_a_collector_and_wrong_values_are_refused_all_the_same() {
    assert!(settings(&minimal()).traces.is_none());
    let on = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel:4318");
    let traces = settings(&with(&[on])).traces.unwrap();
    assert_eq!(traces.url.as_str(), "http://otel:4318/v1/traces");
    assert_eq!(traces.service, "bucket-av-scanner");
    assert_eq!(traces.sampler, TraceSampler { parent_based: true, ratio: 1.0 });
    let ratio = [("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0.25")];
    let traces = settings(&with(&[on, ratio[0], ratio[1]])).traces.unwrap();
    assert_eq!(traces.sampler, TraceSampler { parent_based: false, ratio: 0.25 });
    for (name, wrong) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "otel:4318"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "grpc://leak"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://u:leak@otel"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "leak"),
        ("OTEL_TRACES_SAMPLER", "leak"),
        ("OTEL_TRACES_SAMPLER_ARG", "1.01"),
        ("OTEL_TRACES_SAMPLER_ARG", "-0.1"),
        ("OTEL_TRACES_SAMPLER_ARG", "NaN"),
        ("OTEL_TRACES_SAMPLER_ARG", "leak"),
    ] {
        let text = problems(&with(&[(name, wrong)]));
        assert!(text.starts_with(name) && text.lines().count() == 1, "{wrong}: {text}");
        assert!(!text.contains("leak"), "{text}");
    }
    let loaded = load(&with(&[ratio[1]])).unwrap();
    assert!(loaded.warnings.iter().any(|w| w.contains("nothing is traced")));
}
