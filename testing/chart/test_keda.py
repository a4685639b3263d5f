"""What KEDA asks RabbitMQ, by the objects that the chart renders, and what a real RabbitMQ answers."""

import base64
import json
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request

import pika

from broker import PASSWORD, Broker
from render import merged, render, values

# The management API is up to five seconds behind.
PATIENCE = 20


class Keda(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        users = {
            "scanner": ("", (".*", ".*", ".*")),
            # The rights that values.yaml asks for: nothing but to see the virtual host.
            "keda": ("management", ("^$", "^$", "^$")),
            "nobody": ("", ("^$", "^$", "^$")),
        }
        cls.broker = Broker(["/", "av/scan"], users)
        cls.addClassCleanup(cls.broker.stop)

    def trigger(self, vhost, queue):
        """The chart's trigger, and its parameters that come from a secret."""
        url = f"http://127.0.0.1:{self.broker.http}"
        over = {
            "config": {"RABBITMQ_VHOST": vhost, "RABBITMQ_QUEUE_NAME": queue},
            "keda": {"enabled": True, "managementURL": url, "secret": {"name": "keda-broker"}},
        }
        rendered = render(merged(values("minimal"), over))
        authentication = rendered.get("TriggerAuthentication")
        trigger = rendered.get("ScaledObject")["spec"]["triggers"][0]
        self.assertEqual(authentication["metadata"]["name"], trigger["authenticationRef"]["name"])
        parameters = {target["parameter"] for target in authentication["spec"]["secretTargetRef"]}
        self.assertEqual({"username", "password"}, parameters)
        return trigger["metadata"]

    def ask(self, metadata, user="keda"):
        """KEDA's request, as its RabbitMQ scaler makes it (pkg/scalers/rabbitmq_scaler.go, read in 2026): a GET of
        /api/queues/VHOST/QUEUE, both query-escaped, with user and password, of which `messages` counts in mode
        QueueLength unless excludeUnacknowledged is set."""
        self.assertEqual(("http", "QueueLength"), (metadata["protocol"], metadata["mode"]))
        self.assertNotIn("excludeUnacknowledged", metadata)
        escaped = (urllib.parse.quote_plus(metadata[name]) for name in ("vhostName", "queueName"))
        request = urllib.request.Request(f"{metadata['host'].rstrip('/')}/api/queues/{'/'.join(escaped)}")
        login = base64.b64encode(f"{user}:{PASSWORD}".encode()).decode()
        request.add_header("Authorization", f"Basic {login}")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def wait_for(self, metadata, **counts):
        end = time.monotonic() + PATIENCE
        seen = {}
        while time.monotonic() < end:
            answer = self.ask(metadata)
            seen = {name: answer.get(name) for name in counts}
            if seen == counts:
                return
            time.sleep(0.5)
        self.fail(f"wanted {counts}, the last answer was {seen}")

    def test_messages_in_work_count(self):
        for vhost, queue in ("/", "s3minioqueue"), ("av/scan", "up+loads"):
            with self.subTest(vhost):
                self.one(vhost, queue)

    def one(self, vhost, queue):
        metadata = self.trigger(vhost, queue)
        login = pika.PlainCredentials("scanner", PASSWORD)
        with pika.BlockingConnection(
            pika.ConnectionParameters("127.0.0.1", self.broker.amqp, vhost, login)
        ) as connection:
            channel = connection.channel()
            channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
            channel.confirm_delivery()
            for number in range(3):
                channel.basic_publish("", queue, f"{number}".encode(), pika.BasicProperties(delivery_mode=2))
            self.wait_for(metadata, messages=3, messages_ready=3)

            # All are in work, as in the middle of long scans.
            held = [method.delivery_tag for method, _, _ in self.take(channel, queue, 3)]
            self.wait_for(metadata, messages=3, messages_ready=0, messages_unacknowledged=3)
            # This is all that KEDA would see by AMQP: it would stop the last replica now.
            passive = connection.channel().queue_declare(queue, passive=True)
            self.assertEqual(0, passive.method.message_count)

            for tag in held:
                channel.basic_ack(tag)
            self.wait_for(metadata, messages=0, messages_unacknowledged=0)

    def take(self, channel, queue, count):
        channel.basic_qos(prefetch_count=count)
        taken = []
        for delivery in channel.consume(queue, inactivity_timeout=10):
            self.assertIsNotNone(delivery[0], f"{len(taken)} of {count} messages came")
            taken.append(delivery)
            if len(taken) == count:
                return taken

    def test_a_user_without_the_tag_is_refused(self):
        with self.assertRaises(urllib.error.HTTPError) as refusal:
            self.ask(self.trigger("/", "s3minioqueue"), user="nobody")
        self.assertEqual(401, refusal.exception.code)
        refusal.exception.close()

    def test_a_queue_that_is_not_there_is_an_error(self):
        """So KEDA cannot begin with zero replicas before the daemon's first start."""
        with self.assertRaises(urllib.error.HTTPError) as refusal:
            self.ask(self.trigger("/", "never-declared"))
        self.assertEqual(404, refusal.exception.code)
        refusal.exception.close()


if __name__ == "__main__":
    unittest.main()
