#!/bin/bash
# Writes the file from which the broker loads its users, permissions, exchange and queue at each start
# (load_definitions in rabbitmq.conf), so that they exist before its first connection.
set -euo pipefail
umask 077

vhost=${RABBITMQ_VHOST:-/}
queue=$RABBITMQ_QUEUE_NAME
exchange=$RABBITMQ_TOPIC
draft=$(mktemp -d)

# Escapes a word for a regular expression inside a JSON string.
# shellcheck disable=SC2001  # a pattern of this kind reads better in sed
escaped() { sed 's/[][().*+?{}|^$]/\\\\&/g' <<< "$1"; }

# RabbitMQ's hash of a password: a salt, and the SHA-256 of salt and password.
hashed() {
    openssl rand 4 > "$draft/salt"
    printf %s "$(< "/secrets/passwords/$1")" | cat "$draft/salt" - \
        | openssl dgst -sha256 -binary | cat "$draft/salt" - | base64 -w 0
}

user() {
    printf '{"name": "%s", "password_hash": "%s", "tags": "%s",
     "hashing_algorithm": "rabbit_password_hashing_sha256"}' "$1" "$(hashed "$2")" "$3"
}

permissions() {
    printf '{"user": "%s", "vhost": "%s", "configure": "%s", "write": "%s", "read": "%s"}' \
        "$1" "$vhost" "$2" "$3" "$4"
}

# All names of the worker start with its queue's name. To bind its queue it needs read on the exchange.
own="^$(escaped "$queue")(\\\\..*)?\$"
theirs="^$(escaped "$exchange")\$"
either="^($(escaped "$queue")(\\\\..*)?|$(escaped "$exchange"))\$"
nothing='^$'

cat > "$draft/definitions.json" << END
{
  "vhosts": [{"name": "$vhost"}],
  "users": [
    $(user admin rabbitmq_admin administrator),
    $(user "$RABBITMQ_REGULAR_USER_NAME" rabbitmq_avscan ''),
    $(user minio rabbitmq_minio '')
  ],
  "permissions": [
    $(permissions admin '.*' '.*' '.*'),
    $(permissions "$RABBITMQ_REGULAR_USER_NAME" "$own" "$own" "$either"),
    $(permissions minio "$theirs" "$theirs" "$nothing")
  ],
  "exchanges": [
    {"name": "$exchange", "vhost": "$vhost", "type": "$RABBITMQ_TOPIC_TYPE",
     "durable": true, "auto_delete": false, "internal": false, "arguments": {}}
  ],
  "queues": [
    {"name": "$queue", "vhost": "$vhost", "durable": true, "auto_delete": false,
     "arguments": {"x-queue-type": "quorum", "x-delivery-limit": 1000000000}}
  ],
  "bindings": [
    {"source": "$exchange", "vhost": "$vhost", "destination": "$queue", "destination_type": "queue",
     "routing_key": "$RABBITMQ_QUEUE_ROUTING_KEY", "arguments": {}}
  ]
}
END
mv "$draft/definitions.json" /secrets/mq-service/
chown -R rabbitmq:rabbitmq /secrets/mq-service
chmod -R u=rX,go= /secrets/mq-service
echo "[mq-service-init] done: exchange $exchange, queue $queue, users $RABBITMQ_REGULAR_USER_NAME and minio"
