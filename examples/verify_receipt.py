#!/usr/bin/env python3
"""Verify the receipt of one object. Needs the package "cryptography".

    verify_receipt.py PUBLIC_KEY.pem RECEIPT BUCKET KEY LENGTH VERSION_ID
    verify_receipt.py PUBLIC_KEY.pem RECEIPT BUCKET KEY LENGTH ETAG LAST_MODIFIED

The receipt is the value of the object's tag; all else is what HEAD answers: Content-Length, and the
version id or, without one, the ETag without quotes and Last-Modified. Prints the receipt's status
and the SHA-256 of the bytes that it is about. Exit code 0: the receipt is valid; 1: it is not.
"""

import base64
import email.utils
import hashlib
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_public_key


def decode(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def netstring(text):
    data = text.encode()
    return str(len(data)).encode() + b":" + data + b","


def main(public_key, receipt, bucket, key, length, pin, modified=None):
    signed, _, signature = receipt.rpartition(":")
    version, _key_id, status, _began, binds, _database, sha256, of_object = signed.split(":")
    if version != "1":
        sys.exit("a receipt of another format")
    with open(public_key, "rb") as file:
        trusted = load_pem_public_key(file.read())
    try:
        trusted.verify(decode(signature), b"bucket-av-scanner receipt\n" + signed.encode())
    except InvalidSignature:
        sys.exit("not signed by this key")

    if binds not in ("vl", "eml", "el"):
        sys.exit("a receipt that binds " + binds)
    if ("v" in binds) == (modified is not None):
        sys.exit("about an object with a version id, or about one without: not about this one")
    fields = [bucket, key, pin]
    if "m" in binds:
        fields.append(str(int(email.utils.parsedate_to_datetime(modified).timestamp())))
    fields.append(length)
    digest = hashlib.sha256(b"".join(map(netstring, fields))).digest()
    if digest != decode(of_object):
        sys.exit("about another object, or about other bytes")
    print(status, decode(sha256).hex() or "-")


if __name__ == "__main__":
    if len(sys.argv) not in (7, 8):
        sys.exit(__doc__)
    main(*sys.argv[1:])
