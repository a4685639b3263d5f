"""A RabbitMQ of our own with its management API, on loopback and on free ports."""

import base64
import hashlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

# Where the packages put the scripts that do not switch to the user `rabbitmq`.
SCRIPTS = Path("/usr/lib/rabbitmq/bin")
START = 90
PASSWORD = "only for this test: 100% & more"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Broker:
    """`users`: name, tags and permissions (configure, write, read) on each virtual host."""

    def __init__(self, vhosts, users):
        assert (SCRIPTS / "rabbitmq-server").exists(), "RabbitMQ is missing: run testing/setup.sh"
        self.amqp, self.http = free_port(), free_port()
        self.folder = Path(tempfile.mkdtemp())
        epmd = str(free_port())
        (self.folder / "definitions.json").write_text(json.dumps(definitions(vhosts, users)))
        (self.folder / "env.conf").write_text("")
        (self.folder / "enabled_plugins").write_text("[rabbitmq_management].\n")
        (self.folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.amqp}\n"
            f"management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {self.http}\n"
            f"load_definitions = {self.folder}/definitions.json\n"
            "log.file = false\nlog.console = true\ndisk_free_limit.absolute = 100MB\n"
        )
        at = {name: str(self.folder / name) for name in os.listdir(self.folder)}
        environment = {
            "PATH": f"{SCRIPTS}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "ERL_EPMD_PORT": epmd,
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_NODENAME": f"avscan-chart-{os.getpid()}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.amqp),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq"),
            "RABBITMQ_CONF_ENV_FILE": at["env.conf"],
            "RABBITMQ_ENABLED_PLUGINS_FILE": at["enabled_plugins"],
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }
        self.log = open(self.folder / "log", "w+")
        arguments = {"env": environment, "stdin": subprocess.DEVNULL, "stdout": self.log, "stderr": subprocess.STDOUT}
        self.epmd = subprocess.Popen(["epmd", "-address", "127.0.0.1", "-port", epmd], **arguments)
        # With input allowed, the script becomes the node instead of staying its parent.
        self.node = subprocess.Popen([SCRIPTS / "rabbitmq-server", "-noinput"], **arguments)
        try:
            self.wait()
        except BaseException:
            self.stop()
            raise

    def wait(self):
        end = time.monotonic() + START
        while time.monotonic() < end and self.node.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.http}/api/overview", timeout=5).close()
            except urllib.error.HTTPError as answer:
                answer.close()
                return  # It asks who we are.
            except OSError:
                time.sleep(0.2)
        self.log.seek(0)
        raise AssertionError(f"RabbitMQ did not start:\n{self.log.read()[-2000:]}")

    def stop(self):
        for process in self.node, self.epmd:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.log.close()
        shutil.rmtree(self.folder)


def definitions(vhosts, users):
    salt = os.urandom(4)
    hashed = base64.b64encode(salt + hashlib.sha256(salt + PASSWORD.encode()).digest()).decode()
    return {
        "vhosts": [{"name": name} for name in vhosts],
        "users": [
            {
                "name": name,
                "password_hash": hashed,
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": tags,
            }
            for name, (tags, _) in users.items()
        ],
        "permissions": [
            {"user": name, "vhost": vhost, "configure": configure, "write": write, "read": read}
            for name, (_, (configure, write, read)) in users.items()
            for vhost in vhosts
        ],
    }
