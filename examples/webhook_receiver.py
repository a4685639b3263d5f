#!/usr/bin/env python3
"""Receives reports of bucket-av-scanner: verifies the signature, answers at once, drops duplicates.

    pip install standardwebhooks
    WEBHOOK_SECRET=whsec_… LISTEN=127.0.0.1:8000 python3 examples/webhook_receiver.py

The daemon is given the same secret as PUBLISH_SECRET, and PUBLISH_URL=http://127.0.0.1:8000/.
Each report is printed once. What waits and what was seen is kept in memory: a receiver that must
not lose a report stores it before it answers, with `webhook-id` as a unique key.
"""

import json
import os
import queue
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

# Reports are smaller: the longest key has 1024 bytes.
MAX_BODY_BYTES = 64 * 1024
# Reports that are taken and not yet worked on.
MAX_WAITING = 1_000
# Ids that are remembered; the oldest is forgotten first.
MAX_REMEMBERED = 10_000

waiting = queue.Queue(MAX_WAITING)
# A dict keeps the order in which its keys came.
seen = {}
seen_lock = threading.Lock()


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Seconds without a byte after which a connection is closed.
    timeout = 10
    webhook = None

    def do_POST(self):
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{1,9}", length) or int(length) > MAX_BODY_BYTES:
            # Where the next request begins is not known.
            self.close_connection = True
            self.answer(413 if length else 411)
            return
        self.answer(self.take(self.rfile.read(int(length))))

    def take(self, body):
        """The status says what the daemon does next: docs/REPORTS.md, "The webhook"."""
        # Before anything of it is believed. Also refuses what is more than five minutes old.
        try:
            self.webhook.verify(body, dict(self.headers.items()), json_parse=False)
        except (WebhookVerificationError, ValueError) as error:
            print(f"refused: {error}", flush=True)
            # The daemon reads its secret again, keeps the report and sends it later.
            return 401
        try:
            report = json.loads(body)
        except ValueError:
            report = None
        if not isinstance(report, dict):
            # The daemon parks this report: it is no better the next time.
            return 400
        identity = self.headers["webhook-id"]
        with seen_lock:
            if identity in seen:
                return 204
            try:
                waiting.put_nowait(report)
            except queue.Full:
                # The daemon waits a few seconds with all reports.
                return 429
            seen[identity] = None
            if len(seen) > MAX_REMEMBERED:
                del seen[next(iter(seen))]
        return 204

    def answer(self, status):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def work():
    """The work happens here, after the answer."""
    while True:
        report = waiting.get()
        # Uploaders choose keys: as JSON, no key can break the line.
        fields = (report.get(name) for name in ("id", "status", "bucket", "key", "signature"))
        print("report", *map(json.dumps, fields), flush=True)


def main():
    secret = os.environ.get("WEBHOOK_SECRET")
    if not secret:
        sys.exit("WEBHOOK_SECRET is not set")
    Receiver.webhook = Webhook(secret)
    host, _, port = os.environ.get("LISTEN", "127.0.0.1:8000").rpartition(":")
    server = ThreadingHTTPServer((host, int(port)), Receiver)
    threading.Thread(target=work, daemon=True).start()
    print("listening on {}:{}".format(*server.server_address), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
