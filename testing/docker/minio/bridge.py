#!/usr/bin/env python3
"""MinIO's AMQP target, for a gateway that supports only webhooks.

Answers 200 when the broker has confirmed the message, else 503: the gateway then keeps the event in its
folder and repeats the request. Reads MinIO's own settings, so that the tests cover them.
"""

import json
import os
import ssl
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

import pika


def setting(name):
    return os.environ[f"MINIO_NOTIFY_AMQP_{name}_SCAN"]


class Target:
    """A connection to the broker, opened again after any fault."""

    def __init__(self):
        self.channel = None

    def publish(self, event):
        if self.channel is None:
            parameters = pika.URLParameters(setting("URL"))
            # Verifies the certificate and the host name with the authority of SSL_CERT_FILE.
            tls = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
            parameters.ssl_options = pika.SSLOptions(tls, parameters.host)
            parameters.socket_timeout = parameters.blocked_connection_timeout = 5
            parameters.heartbeat = 0
            self.channel = pika.BlockingConnection(parameters).channel()
            if setting("PUBLISHING_CONFIRMS") == "on":
                self.channel.confirm_delivery()
        self.channel.exchange_declare(
            setting("EXCHANGE"),
            setting("EXCHANGE_TYPE"),
            durable=setting("DURABLE") == "on",
        )
        properties = pika.BasicProperties(
            content_type="application/json",
            delivery_mode=int(setting("DELIVERY_MODE")),
            headers={
                "minio-bucket": event["Records"][0]["s3"]["bucket"]["name"],
                "minio-event": event["EventName"],
            },
        )
        body = json.dumps(event).encode()
        self.channel.basic_publish(
            setting("EXCHANGE"), setting("ROUTING_KEY"), body, properties
        )


class Handler(BaseHTTPRequestHandler):
    target = Target()

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status = 200
        # At its start the gateway sends one request without a body.
        event = json.loads(body) if body else {}
        if event.get("Records"):
            try:
                self.target.publish(event)
            except Exception as error:  # any error: the event is not delivered
                print(f"[bridge] {error!r}", file=sys.stderr)
                self.target.channel = None
                status = 503
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET = do_POST

    def log_message(self, *arguments):
        pass


HTTPServer(("127.0.0.1", 8000), Handler).serve_forever()
