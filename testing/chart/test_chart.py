"""The chart, as Helm renders it: see `make test-chart`."""

import getpass
import json
import re
import shutil
import socket
import subprocess
import tempfile
import unittest
from pathlib import Path

import jsonschema
import kubernetes_validate
import kubernetes_validate.utils
import yaml

import generate
from render import CHART, CHECKOUT, HERE, lint, merged, package, render, values

# In ascending order; each twice, because of the strict ones.
MINORS = list(dict.fromkeys(kubernetes_validate.utils.major_minor(v) for v in kubernetes_validate.utils.all_versions()))[-5:]
MINIMAL = values("minimal")
# Each is merged over minimal.yaml.
VARIANTS = {
    "minimal": {},
    "everything": values("everything"),
    "clamd as a service": {"clamd": {"mode": "service"}, "networkPolicy": {"enabled": True, "egress": [{}]}},
    "clamd as a service, without a volume": {
        "clamd": {"mode": "service", "persistence": {"enabled": False}},
        "replicaCount": 40,
    },
    "an engine elsewhere": {"clamd": {"mode": "external"}, "config": {"CLAMD_ENDPOINT": "clamav-rest"}},
    "scaled by CPU": {"autoscaling": {"enabled": True, "behavior": {"scaleDown": {"stabilizationWindowSeconds": 600}}}},
    "KEDA with an authentication of one's own": {
        "keda": {
            "enabled": True,
            "minReplicas": 0,
            "managementURL": "https://mq/api/",
            "authenticationRef": {"name": "mq", "kind": "ClusterTriggerAuthentication"},
        }
    },
    "OpenShift, one version at a time": {
        "podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None},
        "updateStrategy": {"type": "Recreate", "rollingUpdate": None},
    },
}
RULES = """# About alerts.
groups:
  - name: bucket-av-scanner
    rules:
      - alert: Example
        expr: absent(up{job="{{ x }}"})
        for: 5m
        labels: {severity: critical}
        annotations: {summary: "{{ $labels.instance }} is down"}
"""
DASHBOARD = '{"title": "{{ x }}", "panels": []}\n'


class Chart(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        # Files of our own, so that what the templates do to them is known.
        cls.folder = tempfile.TemporaryDirectory()
        cls.chart = Path(cls.folder.name) / CHART.name
        shutil.copytree(CHART, cls.chart)
        (cls.chart / "files").mkdir(exist_ok=True)
        (cls.chart / "files" / "rules.yml").write_text(RULES)
        (cls.chart / "files" / "dashboard.json").write_text(DASHBOARD)
        cls.rendered = {name: cls.render(over) for name, over in VARIANTS.items()}

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    @classmethod
    def render(cls, over, minor=MINORS[0]):
        return render(merged(MINIMAL, over), minor, cls.chart)

    def each(self):
        for name, rendered in self.rendered.items():
            with self.subTest(name):
                yield rendered

    # --- what is derived ---

    def test_generated_files_are_up_to_date(self):
        for path, text in generate.wanted().items():
            with self.subTest(path.name):
                present = path.read_text() if path.exists() else None
                self.assertTrue(present == text, f"{path}: not as generated; run make test-chart BLESS=1")

    def test_default_rendering_is_the_golden_one(self):
        self.maxDiff = None
        golden = (HERE / "golden.yaml").read_text()
        self.assertEqual(golden, generate.golden(), "if this is meant, run make test-chart BLESS=1")

    def test_versions_are_those_of_the_program(self):
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        cargo = (CHECKOUT / "Cargo.toml").read_text()
        version = re.search(r'^\[workspace\.package\].*?^version = "(.*?)"', cargo, re.MULTILINE | re.DOTALL)[1]
        self.assertEqual([version, version], [chart["version"], chart["appVersion"]])

    def test_every_value_is_in_the_schema(self):
        schema = json.loads((CHART / "values.schema.json").read_text())

        def closed(part):
            """The part, if it is a map in which no name is free."""
            if "$ref" in part:
                part = schema["definitions"][part["$ref"].split("/")[-1]]
            return part if part.get("additionalProperties") is False else None

        def compare(part, given, path):
            part = closed(part)
            if part and given and isinstance(given, dict) and path not in ("config", "secrets", "resources"):
                self.assertEqual(set(given), set(part["properties"]) - {"global"}, path)
                for key, value in given.items():
                    compare(part["properties"][key], value, key)

        compare(schema, yaml.safe_load((CHART / "values.yaml").read_text()), "")

    # --- Helm and Kubernetes ---

    def test_lint(self):
        for name, over in VARIANTS.items():
            with self.subTest(name):
                # 1 is information: that the chart has no icon.
                self.assertEqual([], [m for m in lint(merged(MINIMAL, over), self.chart) if m["Severity"] > 1])

    def test_lint_finds_faults(self):
        self.assertTrue([m for m in lint({}, self.chart) if m["Severity"] == 3], "no image, and the linter was content")

    def test_kinds_of_kubernetes_are_valid(self):
        self.assertEqual(5, len(MINORS))
        for minor in MINORS:
            for name, over in VARIANTS.items():
                with self.subTest(name, minor=minor):
                    objects = self.render(over, minor).objects
                    self.assertTrue(objects)
                    for found in objects:
                        if not (HERE / "kinds" / f"{found['kind']}.json").exists():
                            kubernetes_validate.validate(found, minor, strict=True)

    def test_the_validation_is_strict(self):
        found = self.rendered["minimal"].get("Deployment")
        wrong = merged(found, {"spec": {"template": {"spec": {"enableServiceLink": False}}}})
        with self.assertRaises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(wrong, MINORS[-1], strict=True)

    def test_kinds_of_others_are_valid(self):
        seen = set()
        for rendered in self.each():
            for found in rendered.objects:
                path = HERE / "kinds" / f"{found['kind']}.json"
                if path.exists():
                    seen.add(found["kind"])
                    jsonschema.validate(found, json.loads(path.read_text()))
        self.assertEqual({path.stem for path in (HERE / "kinds").iterdir()}, seen)

    def test_the_archive_renders_alike(self):
        archive = package(self.chart, self.folder.name)
        self.assertEqual(f"{CHART.name}-", archive.name[: len(CHART.name) + 1])
        given = merged(MINIMAL, VARIANTS["everything"])
        self.assertEqual(self.rendered["everything"].manifest, render(given, MINORS[0], archive).manifest)

    def test_older_kubernetes_is_refused(self):
        with self.assertRaisesRegex(Exception, "1.28.0"):
            self.render({}, "1.28")

    # --- what the objects are ---

    def test_pods_are_restricted(self):
        """The restricted Pod Security Standard, a read-only root, and no token."""
        volumes = {"configMap", "emptyDir", "projected", "secret", "ephemeral", "persistentVolumeClaim"}
        for rendered in self.each():
            for name, pod in rendered.pods():
                with self.subTest(name):
                    self.assertIs(pod["automountServiceAccountToken"], False)
                    self.assertIs(pod["enableServiceLinks"], False)
                    self.assertIs(pod["securityContext"]["runAsNonRoot"], True)
                    self.assertEqual("RuntimeDefault", pod["securityContext"]["seccompProfile"]["type"])
                    self.assertFalse({"hostNetwork", "hostPID", "hostIPC"} & set(pod))
                    for volume in pod["volumes"]:
                        self.assertLessEqual(set(volume) - {"name"}, volumes)
                    for container in pod["containers"] + pod.get("initContainers", []):
                        context = container["securityContext"]
                        self.assertIs(context["allowPrivilegeEscalation"], False)
                        self.assertIs(context["readOnlyRootFilesystem"], True)
                        self.assertEqual({"drop": ["ALL"]}, context["capabilities"])
                        self.assertTrue(container["resources"]["limits"]["memory"])
        account = self.rendered["minimal"].get("ServiceAccount")
        self.assertIs(account["automountServiceAccountToken"], False)

    def test_every_volume_is_there_and_used(self):
        for rendered in self.each():
            for name, pod in rendered.pods():
                with self.subTest(name):
                    containers = pod["containers"] + pod.get("initContainers", [])
                    mounted = {mount["name"] for container in containers for mount in container["volumeMounts"]}
                    there = {volume["name"] for volume in pod["volumes"]}
                    claimed = {
                        claim["metadata"]["name"]
                        for found in rendered.objects
                        if found["kind"] == "StatefulSet"
                        for claim in found["spec"].get("volumeClaimTemplates", [])
                    } & mounted
                    self.assertEqual(there | claimed, mounted)

    def test_selectors_find_the_pods(self):
        for rendered in self.each():
            templates = [
                (found["kind"], found["spec"]["selector"]["matchLabels"], found["spec"]["template"]["metadata"]["labels"])
                for found in rendered.objects
                if found["kind"] in ("Deployment", "StatefulSet")
            ]
            for _, selector, labels in templates:
                self.assertLessEqual(selector.items(), labels.items())
            for found in rendered.objects:
                spec = found.get("spec", {})
                selector = spec.get("selector") or spec.get("podSelector")
                if found["kind"] in ("Service", "PodDisruptionBudget", "PodMonitor", "NetworkPolicy"):
                    wanted = selector.get("matchLabels", selector) if isinstance(selector, dict) else {}
                    hits = [kind for kind, _, labels in templates if wanted.items() <= labels.items()]
                    with self.subTest(f"{found['kind']} {found['metadata']['name']}"):
                        self.assertTrue(hits)

    def test_settings_are_those_of_the_program(self):
        names = generate.variables()
        known = {f"{name}_FILE" if secret else name for name, secret in names.items()}
        for rendered in self.each():
            for name, pod in rendered.pods():
                for container in pod["containers"]:
                    env = [variable["name"] for variable in container.get("env", [])]
                    with self.subTest(f"{name} {container['name']}"):
                        self.assertEqual(sorted(set(env)), sorted(env), "twice")
                        self.assertLessEqual(set(env) - {"HTTPS_PROXY", "AWS_SESSION_TOKEN"}, known)

    def test_every_setting_can_be_set(self):
        names = generate.variables()
        over = {
            "clamd": {"mode": "external"},
            "config": {name: "1" for name, secret in names.items() if not secret},
            "secrets": {name: {"name": "s", "key": "k"} for name, secret in names.items() if secret},
        }
        del over["config"]["RABBITMQ_REGULAR_USER_NAME"]
        env = self.render(over).get("Deployment")["spec"]["template"]["spec"]["containers"][0]["env"]
        expected = {f"{name}_FILE" if secret else name for name, secret in names.items()}
        self.assertEqual(expected, {variable["name"] for variable in env})

    def test_values_of_settings(self):
        def env(config):
            pod = self.render({"config": config}).get("Deployment")["spec"]["template"]["spec"]
            return {v["name"]: v.get("value") for v in pod["containers"][0]["env"]}

        found = env({"SURGE_LIMIT": 1000000, "TAG_FILES": False, "LOG_FORMAT": None, "TAG_KEY": 'a"b', "QUARANTINE_BUCKET": ""})
        self.assertEqual("1000000", found["SURGE_LIMIT"])
        self.assertEqual("false", found["TAG_FILES"])
        self.assertNotIn("LOG_FORMAT", found)
        self.assertEqual('a"b', found["TAG_KEY"])
        self.assertEqual("", found["QUARANTINE_BUCKET"])

    def test_secrets_are_files_by_reference(self):
        rendered = self.rendered["everything"]
        self.assertFalse(rendered.has("Secret"))
        pod = rendered.get("Deployment")["spec"]["template"]["spec"]
        sources = next(v for v in pod["volumes"] if v["name"] == "secrets")["projected"]["sources"]
        paths = {item["path"] for source in sources for item in source["secret"]["items"]}
        env = {v["name"]: v for v in pod["containers"][0]["env"]}
        for path in paths:
            self.assertEqual(f"/etc/bucket-av-scanner/secrets/{path}", env[f"{path}_FILE"]["value"])
        expected = {"RABBITMQ_REGULAR_USER_PASS", *VARIANTS["everything"]["secrets"]}
        self.assertEqual(expected, paths)
        reference = env["RABBITMQ_REGULAR_USER_NAME"]["valueFrom"]["secretKeyRef"]
        self.assertEqual({"name": "broker", "key": "username"}, reference)

    def test_the_daemon_has_time_to_stop(self):
        for name, grace in ("minimal", 30), ("everything", 120):
            pod = self.rendered[name].get("Deployment")["spec"]["template"]["spec"]
            self.assertGreaterEqual(pod["terminationGracePeriodSeconds"], grace + 15)

    def test_the_engine_beside_the_daemon_outlives_it(self):
        pod = self.rendered["minimal"].get("Deployment")["spec"]["template"]["spec"]
        self.assertEqual(["scanner"], [c["name"] for c in pod["containers"]])
        # In this order: clamd needs the databases.
        self.assertEqual(["freshclam", "clamd"], [c["name"] for c in pod["initContainers"]])
        for container in pod["initContainers"]:
            self.assertEqual("Always", container["restartPolicy"])
            self.assertIn("startupProbe", container)
        probes = (container["startupProbe"] for container in pod["initContainers"])
        patience = sum(probe["periodSeconds"] * probe["failureThreshold"] for probe in probes)
        deadline = self.rendered["minimal"].get("Deployment")["spec"]["progressDeadlineSeconds"]
        self.assertGreater(deadline, patience)

    def test_probes_ask_the_port_of_the_daemon(self):
        for name, port in ("minimal", 8080), ("everything", 9090):
            daemon = self.rendered[name].get("Deployment")["spec"]["template"]["spec"]["containers"][0]
            ports = {p["name"]: p["containerPort"] for p in daemon["ports"]}
            self.assertEqual(port, ports["health"])
            for probe, path in ("livenessProbe", "/livez"), ("readinessProbe", "/readyz"):
                self.assertEqual({"path": path, "port": "health"}, daemon[probe]["httpGet"])
        self.assertEqual(8082, ports["intake"])
        # The paths that the daemon answers.
        admin = (CHECKOUT / "src" / "admin.rs").read_text()
        for path in "/livez", "/readyz", "/metrics":
            self.assertIn(f'"{path}" =>', admin)
        monitor = self.rendered["everything"].get("PodMonitor")["spec"]["podMetricsEndpoints"][0]
        self.assertEqual(("health", "/metrics"), (monitor["port"], monitor["path"]))

    def test_limits_of_the_engine_follow_from_the_settings(self):
        def conf(name):
            return self.rendered[name].get("ConfigMap", "-clamd")["data"]["clamd.conf"].splitlines()

        small = conf("everything")
        for line in "MaxFileSize 1073741824", "MaxScanSize 4294967296", "MaxScanTime 480000", "MaxThreads 200":
            self.assertIn(line, small)
        for line in "MaxRecursion 20", "ExcludePUA NetTool", "ExcludePUA PWTool", "HeuristicAlerts no":
            self.assertIn(line, small)
        self.assertNotIn("TCPSocket 3310", small)
        shared = conf("clamd as a service, without a volume")
        # 40 replicas with four objects each, twice.
        for line in "MaxThreads 320", "TCPSocket 3310", "StreamMaxLength 2147483645":
            self.assertIn(line, shared)

    def test_one_engine_serves_all_replicas(self):
        rendered = self.rendered["clamd as a service"]
        self.assertEqual(1, rendered.get("StatefulSet")["spec"]["replicas"])
        service = rendered.get("Service")["metadata"]["name"]
        pod = rendered.get("Deployment")["spec"]["template"]["spec"]
        self.assertNotIn("initContainers", pod)
        env = {v["name"]: v.get("value") for v in pod["containers"][0]["env"]}
        self.assertEqual(f"tcp://{service}:3310", env["CLAMD_ENDPOINT"])

    def test_pods_are_replaced_when_what_they_read_changes(self):
        def annotations(over):
            return self.render(over).get("Deployment")["spec"]["template"]["metadata"]["annotations"]

        before = annotations({})
        self.assertNotEqual(before, annotations({"clamd": {"config": {"MaxRecursion": 9}}}))
        self.assertNotEqual(before, annotations({"clamd": {"freshclam": {"config": {"Checks": 9}}}}))
        rules = annotations({"rules": [{"signature": "a", "infected": "tag"}]})
        self.assertNotEqual(rules, annotations({"rules": [{"signature": "b", "infected": "tag"}]}))

    def test_scalers_own_the_number_of_replicas(self):
        for name in "everything", "scaled by CPU":
            self.assertNotIn("replicas", self.rendered[name].get("Deployment")["spec"])
        self.assertEqual(1, self.rendered["minimal"].get("Deployment")["spec"]["replicas"])
        for name, kind in ("everything", "ScaledObject"), ("scaled by CPU", "HorizontalPodAutoscaler"):
            target = self.rendered[name].get(kind)["spec"]["scaleTargetRef"]["name"]
            self.assertEqual(self.rendered[name].get("Deployment")["metadata"]["name"], target)
        trigger = self.rendered["everything"].get("ScaledObject")["spec"]["triggers"][0]["metadata"]
        self.assertEqual(("av", "uploads", "http"), (trigger["vhostName"], trigger["queueName"], trigger["protocol"]))

    def test_what_is_off_by_default_is_not_there(self):
        kinds = {found["kind"] for found in self.rendered["minimal"].objects}
        self.assertEqual({"ConfigMap", "Deployment", "PodDisruptionBudget", "ServiceAccount"}, kinds)

    def test_jobs_run_the_commands(self):
        def job(command):
            spec = self.rendered["everything"].get("CronJob", f"-{command}")["spec"]
            return spec, spec["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]

        spec, container = job("sweep")
        self.assertEqual(["sweep", "--detach", "uploads", "media/new"], container["args"])
        self.assertEqual(("Europe/Berlin", "Forbid"), (spec["timeZone"], spec["concurrencyPolicy"]))
        _, container = job("audit")
        self.assertEqual(["audit", "--current-only", "uploads"], container["args"])
        # There is no engine beside a job; an audit then says that it did not judge ages.
        self.assertNotIn("CLAMD_ENDPOINT", [v["name"] for v in container["env"]])

    def test_monitoring_is_passed_on_untouched(self):
        everything = self.rendered["everything"]
        self.assertEqual(yaml.safe_load(RULES), everything.get("PrometheusRule")["spec"])
        dashboard = everything.get("ConfigMap", "-dashboard")
        self.assertEqual({"bucket-av-scanner.json": DASHBOARD}, dashboard["data"])
        self.assertEqual("1", dashboard["metadata"]["labels"]["grafana_dashboard"])

    def test_monitoring_of_the_chart_is_valid(self):
        for copy, source in generate.COPIES.items():
            with self.subTest(copy):
                self.assertEqual((CHECKOUT / source).exists(), (CHART / copy).exists(), f"{source} and its copy")
        if (CHART / "files" / "rules.yml").exists():
            found = render(merged(MINIMAL, {"prometheusRule": {"enabled": True}})).get("PrometheusRule")
            jsonschema.validate(found, json.loads((HERE / "kinds" / "PrometheusRule.json").read_text()))
        if (CHART / "files" / "dashboard.json").exists():
            found = render(merged(MINIMAL, {"dashboard": {"enabled": True}})).get("ConfigMap", "-dashboard")
            json.loads(found["data"]["bucket-av-scanner.json"])

    def test_policies_lead_to_the_engine(self):
        rendered = self.rendered["clamd as a service"]
        engine = rendered.get("NetworkPolicy", "-clamd")["spec"]
        daemon = next(o for o in rendered.objects if o["kind"] == "NetworkPolicy" and o["spec"] != engine)["spec"]
        labels = engine["podSelector"]["matchLabels"]
        self.assertIn({"to": [{"podSelector": {"matchLabels": labels}}], "ports": [{"port": 3310}]}, daemon["egress"])
        self.assertEqual(["clamd"], [port["port"] for rule in engine["ingress"] for port in rule["ports"]])
        source = engine["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
        pod = rendered.get("Deployment")["spec"]["template"]["metadata"]["labels"]
        self.assertLessEqual(source.items(), pod.items())
        # What is open to everybody without a peer, and to nobody else with one.
        self.assertEqual([{"ports": [{"port": "health"}]}], daemon["ingress"])
        health, intake = self.rendered["everything"].get("NetworkPolicy")["spec"]["ingress"]
        self.assertEqual((1, 1), (len(health["from"]), len(intake["from"])))

    def test_further_objects_are_rendered(self):
        self.assertEqual({"note": "kept"}, self.rendered["everything"].get("ConfigMap", "release-extra")["data"])

    def test_notes_warn_of_deletions(self):
        words = "deleted for good"
        self.assertIn(words, self.rendered["minimal"].notes)
        for config in {"QUARANTINE_BUCKET": "q"}, {"DELETE_FILE": False}:
            self.assertNotIn(words, self.render({"config": config}).notes)

    def test_long_names_are_cut(self):
        rendered = render(merged(MINIMAL, VARIANTS["everything"]), chart=self.chart, release="r" * 53)
        for found in rendered.objects:
            # A CronJob adds eleven characters.
            most = 52 if found["kind"] == "CronJob" else 63
            self.assertLessEqual(len(found["metadata"]["name"]), most, found["kind"])

    # --- what is refused ---

    def test_mistakes_are_refused(self):
        keda = {"enabled": True, "managementURL": "http://mq:15672", "secret": {"name": "mq"}}
        mistakes = {
            "no image": ({"image": {"repository": ""}}, "/image/repository"),
            "no store": ({"config": {"MINIO_SERVER_URL": None}}, "MINIO_SERVER_URL"),
            "no password": ({"secrets": {"RABBITMQ_REGULAR_USER_PASS": None}}, "RABBITMQ_REGULAR_USER_PASS"),
            "no user": ({"secrets": {"RABBITMQ_REGULAR_USER_NAME": None}}, "RABBITMQ_REGULAR_USER_NAME"),
            "two users": ({"config": {"RABBITMQ_REGULAR_USER_NAME": "x"}}, "/config/RABBITMQ_REGULAR_USER_NAME"),
            "a misspelt setting": ({"config": {"SCAN_CONCURENCY": 8}}, "SCAN_CONCURENCY"),
            "a misspelt value": ({"replicas": 2}, "replicas"),
            "a misspelt value further down": ({"clamd": {"mod": "service"}}, "mod"),
            "a list as a setting": ({"config": {"SWEEP_BUCKETS": ["a"]}}, "/config/SWEEP_BUCKETS"),
            "a secret among the settings": ({"config": {"RECEIPT_KEY": "x"}}, "RECEIPT_KEY"),
            "a secret that is given": ({"secrets": {"PUBLISH_SECRET": "whsec_x"}}, "/secrets/PUBLISH_SECRET"),
            "a secret with a value": (
                {"secrets": {"PUBLISH_SECRET": {"name": "x", "key": "y", "value": "z"}}},
                "/secrets/PUBLISH_SECRET",
            ),
            "a secret that is none": ({"secrets": {"LOG_LEVEL": {"name": "x", "key": "y"}}}, "LOG_LEVEL"),
            "a password in a URL": ({"config": {"PUBLISH_URL": "https://me:pass@hook"}}, "/config/PUBLISH_URL"),
            "a password in KEDA's URL": (
                {"keda": keda | {"managementURL": "http://u:p@mq:15672"}},
                "/keda/managementURL",
            ),
            "a password of ClamAV's": (
                {"clamd": {"freshclam": {"config": {"HTTPProxyPassword": "x"}}}},
                "/clamd/freshclam/config/HTTPProxyPassword",
            ),
            "a secret as a variable": (
                {"extraEnv": [{"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}]},
                "/extraEnv/0",
            ),
            "a setting as a variable": ({"extraEnv": [{"name": "SCAN_TIMEOUT", "value": "9"}]}, "/extraEnv/0/name"),
            "KEDA and HPA": ({"keda": keda, "autoscaling": {"enabled": True}}, "/autoscaling/enabled"),
            "HPA without an engine beside": (
                {"autoscaling": {"enabled": True}, "clamd": {"mode": "service"}},
                "/clamd/mode",
            ),
            "KEDA without an address": ({"keda": keda | {"managementURL": ""}}, "/keda/managementURL"),
            "KEDA without a user": ({"keda": keda | {"secret": {"name": ""}}}, "/keda"),
            "KEDA to zero with sweeps": (
                {"keda": keda | {"minReplicas": 0}, "config": {"SWEEP_EVERY": "1d"}},
                "/config/SWEEP_EVERY",
            ),
            "KEDA to zero with a job": (
                {"keda": keda | {"minReplicas": 0}, "sweep": {"enabled": True, "buckets": ["a"]}},
                "/sweep/enabled",
            ),
            "an engine elsewhere, unnamed": ({"clamd": {"mode": "external"}}, "CLAMD_ENDPOINT"),
            "two engines": ({"config": {"CLAMD_ENDPOINT": "clamd"}}, "/config/CLAMD_ENDPOINT"),
            "a policy that denies everything": ({"networkPolicy": {"enabled": True}}, "/networkPolicy/egress"),
            "a sweep of nothing": ({"sweep": {"enabled": True}}, "/sweep/buckets"),
            "an audit without a key": ({"audit": {"enabled": True, "buckets": ["a"]}}, "RECEIPT_KEY"),
            "a digest that is none": ({"image": {"digest": "latest"}}, "/image/digest"),
        }
        for name, (over, words) in mistakes.items():
            with self.subTest(name):
                given = merged(MINIMAL, over)
                # A null that stands for a missing key.
                for part in "config", "secrets":
                    given[part] = {key: value for key, value in given[part].items() if value is not None}
                with self.assertRaises(Exception) as refusal:
                    render(given, chart=self.chart)
                self.assertIn("values don't meet the specifications of the schema", str(refusal.exception))
                self.assertIn(words, str(refusal.exception))

    def test_missing_monitoring_says_what_to_do(self):
        chart = Path(self.folder.name) / "bare" / CHART.name
        shutil.copytree(self.chart, chart)
        shutil.rmtree(chart / "files")
        for over, words in (
            ({"prometheusRule": {"enabled": True}}, "copy monitoring/prometheus/rules.yml there"),
            ({"dashboard": {"enabled": True}}, "copy monitoring/grafana/dashboard.json there"),
        ):
            with self.assertRaisesRegex(Exception, words):
                render(merged(MINIMAL, over), chart=chart)

    # --- documents ---

    def test_values_in_the_documents_are_accepted(self):
        """Whole sets begin with `image`; the others are parts of one. What is no part of the values is somebody else's."""
        known = set(yaml.safe_load((CHART / "values.yaml").read_text()))
        wholes = parts = 0
        for page in CHART / "README.md", CHECKOUT / "docs" / "KUBERNETES.md":
            for block in re.findall(r"(?:^```yaml|<<'END')\n(.*?)^(?:```|END)", page.read_text(), re.MULTILINE | re.DOTALL):
                for given in yaml.safe_load_all(block):
                    with self.subTest(block):
                        if "image" in given:
                            wholes += 1
                            render(given, chart=self.chart)
                        elif set(given) <= known:
                            parts += 1
                            render(merged(MINIMAL, given), chart=self.chart)
        self.assertEqual((2, 2), (wholes, parts), "sets of values that were found")


class Clamd(unittest.TestCase):
    """The configuration that the chart writes, read by ClamAV itself."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        rendered = render(merged(MINIMAL, VARIANTS["clamd as a service, without a volume"]))
        self.files = rendered.get("ConfigMap", "-clamd")["data"]
        self.pod = rendered.get("StatefulSet")["spec"]["template"]["spec"]

    def place(self, name, *more):
        """Writes a file with the paths of this machine, and returns its path."""
        here = self.folder.name
        text = self.files[name]
        folders = ["/var/lib/clamav", "/run/clamav", "/tmp", "/etc/bucket-av-scanner/clamav"]
        for folder in folders:
            Path(here + folder).mkdir(parents=True, exist_ok=True)
        text = re.sub(rf" ({'|'.join(folders)})\b", rf" {here}\1", text)
        target = Path(f"{here}/etc/bucket-av-scanner/clamav/{name}")
        target.write_text("\n".join([text.replace("TCPSocket 3310", "TCPSocket 0"), *more]) + "\n")
        return target

    def test_clamd_accepts_it_and_scans(self):
        conf = self.place("clamd.conf")
        here = self.folder.name
        # EICAR's first bytes are enough of a database.
        Path(f"{here}/var/lib/clamav/test.ndb").write_text("Eicar:0:0:58354f2150254041505b345c505a58\n")
        command = self.pod["containers"][0]["command"]
        self.assertEqual("clamd", command[0])
        daemon = subprocess.Popen(
            [shutil.which("clamd", path="/usr/sbin:/usr/bin:/usr/local/sbin"), f"--config-file={conf}"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        try:
            log = ""
            for line in daemon.stdout:
                log += line
                if "Self checking" in line:
                    break
            self.assertIsNone(daemon.poll(), log)
            self.assertIn("Limits: ", log)
            eicar = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
            self.assertEqual(b"PONG\0", talk(f"{here}/run/clamav/clamd.sock", b"zPING\0"))
            stream = len(eicar).to_bytes(4) + eicar + bytes(4)
            answer = talk(f"{here}/run/clamav/clamd.sock", b"zINSTREAM\0" + stream)
            self.assertEqual(b"stream: Eicar.UNOFFICIAL FOUND\0", answer)
        finally:
            daemon.terminate()
            daemon.stdout.close()
            daemon.wait(30)

    def test_freshclam_accepts_it(self):
        def run(*more):
            # Nobody listens there, and one attempt is enough to see that.
            conf = self.place("freshclam.conf", f"DatabaseOwner {getpass.getuser()}", "MaxAttempts 1",
                              "PrivateMirror http://127.0.0.1:9", *more)
            program = shutil.which("freshclam", path="/usr/bin:/usr/local/bin")
            return subprocess.run([program, f"--config-file={conf}"], capture_output=True, text=True, timeout=60)

        done = run()
        self.assertIn("127.0.0.1:9", done.stdout + done.stderr)
        self.assertNotIn("Parse error", done.stderr)
        self.assertIn("Parse error", run("Nonsense yes").stderr)


def talk(path, words):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(path)
        connection.sendall(words)
        answer = b""
        while part := connection.recv(4096):
            answer += part
        return answer


if __name__ == "__main__":
    unittest.main()
