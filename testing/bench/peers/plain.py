#!/usr/bin/env python3
"""A scanner as one writes it in an afternoon: consume, download, scan, tag, acknowledge.

It stands beside the daemon in `make bench ONLY=peers`. It is meant to be plain and not to be used: it
retries nothing, compares nothing, drops the tags that others have set, and believes an engine that has
lost its database. Needs pika and boto3.
"""

import json
import os
import socket
from urllib.parse import unquote_plus

import boto3
import pika


def scan(body):
    with socket.socket(socket.AF_UNIX) as clamd:
        clamd.connect(os.environ["CLAMD_SOCKET"])
        clamd.sendall(b"zINSTREAM\0" + len(body).to_bytes(4, "big") + body + bytes(4))
        answer = clamd.makefile("rb").read().decode()
    return "infected" if answer.endswith("FOUND\0") else "clean"


def handle(channel, method, _properties, message):
    for record in json.loads(message)["Records"]:
        bucket = record["s3"]["bucket"]["name"]
        key = unquote_plus(record["s3"]["object"]["key"])
        body = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        tags = {"TagSet": [{"Key": "scanned", "Value": scan(body)}]}
        s3.put_object_tagging(Bucket=bucket, Key=key, Tagging=tags)
    channel.basic_ack(method.delivery_tag)


s3 = boto3.client("s3")
channel = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"])).channel()
channel.basic_qos(prefetch_count=1)
channel.basic_consume(os.environ["QUEUE"], handle)
channel.start_consuming()
