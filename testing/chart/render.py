"""Helm renders and lints the chart here; there is no cluster.

Helm has no offline rendering as a library, so it installs into a stand-in of the API server that says which kinds
it knows, accepts everything, and records it.
"""

import asyncio
import copy
import json
import shutil
import tempfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import helm_sdkpy
import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
CHART = CHECKOUT / "kubernetes" / "bucket-av-scanner"
HERE = Path(__file__).resolve().parent
NAMESPACE = "av"
RELEASE = "release"

# Kinds that the stand-in knows, by group and version.
KINDS = {
    "v1": ["ConfigMap", "Service", "ServiceAccount", "Secret"],
    "apps/v1": ["Deployment", "StatefulSet"],
    "autoscaling/v2": ["HorizontalPodAutoscaler"],
    "batch/v1": ["CronJob"],
    "networking.k8s.io/v1": ["NetworkPolicy"],
    "policy/v1": ["PodDisruptionBudget"],
    "monitoring.coreos.com/v1": ["PodMonitor", "PrometheusRule"],
    "keda.sh/v1alpha1": ["ScaledObject", "TriggerAuthentication"],
}


def plural(kind):
    return kind.lower().removesuffix("y") + "ies" if kind.endswith("y") else kind.lower() + "s"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # An answer in one piece: otherwise its second half waits 40 ms for an acknowledgement.
    wbufsize = -1

    def log_message(self, *_):
        pass

    def answer(self, status, body, kind="application/json"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer_json(self, status, value):
        self.answer(status, json.dumps(value).encode())

    def do_GET(self):
        path = self.path.partition("?")[0].strip("/")
        found = self.found(path)
        if found is not None:
            self.answer_json(200, found)
        else:
            gone = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
            self.answer_json(404, gone)

    def found(self, path):
        if path == "version":
            minor = self.server.minor
            return {"major": "1", "minor": minor.split(".")[1], "gitVersion": f"v{minor}.0"}
        if path == "api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        if path == "apis":
            versions = [{"groupVersion": v, "version": v.split("/")[1]} for v in KINDS if "/" in v]
            groups = [
                {"name": v["groupVersion"].split("/")[0], "versions": [v], "preferredVersion": v} for v in versions
            ]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
        version = path.removeprefix("apis/").removeprefix("api/")
        if version in KINDS:
            resources = [
                {"name": plural(kind), "singularName": kind.lower(), "kind": kind, "namespaced": True, "verbs": ["get"]}
                for kind in KINDS[version]
            ]
            return {"kind": "APIResourceList", "groupVersion": version, "resources": resources}
        if path.endswith("/secrets"):
            # Helm looks for earlier releases.
            return {"kind": "SecretList", "apiVersion": "v1", "items": []}
        return None

    def accept(self, status):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        kind = self.headers["Content-Type"]
        # Helm's own record of the release is sent in another encoding.
        if kind == "application/json":
            self.server.recorded.append(json.loads(body))
        self.answer(status, body, kind)

    def do_POST(self):
        self.accept(201)

    def do_PUT(self):
        self.accept(200)


def merged(base, over):
    """Values as Helm merges them: maps key by key, everything else replaced."""
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return copy.deepcopy(over)
    return {key: merged(base.get(key), over[key]) if key in over else base[key] for key in {**base, **over}}


def values(name):
    return yaml.safe_load((HERE / f"{name}.yaml").read_text())


class Rendered:
    """Objects as the API server gets them, the manifest as Helm writes it, and the notes."""

    def __init__(self, objects, release):
        self.objects = objects
        self.manifest = release["manifest"].strip() + "\n"
        self.notes = release["info"]["notes"]

    def get(self, kind, suffix=""):
        """The one object of this kind whose name ends so."""
        names = [o["metadata"]["name"] for o in self.objects if o["kind"] == kind]
        found = [o for o in self.objects if o["kind"] == kind and o["metadata"]["name"].endswith(suffix)]
        assert len(found) == 1, f"{kind} …{suffix}: {names}"
        return found[0]

    def has(self, kind):
        return any(o["kind"] == kind for o in self.objects)

    def pods(self):
        """Kind and name of what makes pods, and their specification."""
        for o in self.objects:
            spec = o.get("spec", {})
            template = spec.get("jobTemplate", {}).get("spec", spec).get("template")
            if template:
                yield f"{o['kind']} {o['metadata']['name']}", template["spec"]


def render(given, minor="1.33", chart=CHART, release=RELEASE):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.minor = minor
    server.recorded = []
    Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    try:
        kubeconfig = yaml.safe_dump({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
            "users": [{"name": "here", "user": {}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "here"}}],
            "current-context": "here",
        })
        helm = helm_sdkpy.Install(helm_sdkpy.Configuration(namespace=NAMESPACE, kubeconfig=kubeconfig))
        result = asyncio.run(helm.run(release, str(chart), values=given, wait=False))
        return Rendered(server.recorded, result)
    finally:
        server.shutdown()
        server.server_close()


def package(source, folder):
    """The archive that Helm makes of the chart."""
    helm = helm_sdkpy.Package(helm_sdkpy.Configuration(namespace=NAMESPACE))
    return Path(asyncio.run(helm.run(str(source), dest_dir=str(folder))))


def lint(given, source=CHART):
    """What Helm's linter says of the chart with these values: (severity, path, text) each."""
    # As a library, it takes no values beside those of the chart.
    with tempfile.TemporaryDirectory() as folder:
        chart = Path(folder) / source.name
        shutil.copytree(source, chart)
        defaults = yaml.safe_load((chart / "values.yaml").read_text())
        (chart / "values.yaml").write_text(yaml.safe_dump(merged(defaults, given)))
        helm = helm_sdkpy.Lint(helm_sdkpy.Configuration(namespace=NAMESPACE))
        result = asyncio.run(helm.run(str(chart)))
        return result["Messages"] or []
