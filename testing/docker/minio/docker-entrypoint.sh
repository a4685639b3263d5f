#!/bin/bash
# Takes `server /data … --certs-dir FOLDER` and settings from MINIO_CONFIG_ENV_FILE, as MinIO does.
set -eu
[ "$1" = server ] || exec "$@"
data=$2
certs=
while [ $# -gt 1 ]; do
    [ "$1" = --certs-dir ] && certs=$2
    shift
done
set -a
# shellcheck disable=SC1090  # made by openssl-init
. "$MINIO_CONFIG_ENV_FILE"
set +a

export HOME=/tmp/home
mkdir -p $HOME/.minio "$data/objects" /tmp/cache
ln -sfn "$certs" $HOME/.minio/certs

# The gateway sends its events to a bridge by webhook, and keeps them in MinIO's folder of events. The bridge
# does what MinIO's AMQP target does.
export MINIO_NOTIFY_WEBHOOK_ENABLE_SCAN=on
export MINIO_NOTIFY_WEBHOOK_ENDPOINT_SCAN=http://127.0.0.1:8000/
export MINIO_NOTIFY_WEBHOOK_QUEUE_DIR_SCAN=$MINIO_NOTIFY_AMQP_QUEUE_DIR_SCAN
export MINIO_NOTIFY_WEBHOOK_QUEUE_LIMIT_SCAN=$MINIO_NOTIFY_AMQP_QUEUE_LIMIT_SCAN
bridge.py &

volume=sqlite3://$data/meta.db
[ -e "$data/meta.db" ] || juicefs format --no-color --storage file --bucket "$data/objects/" \
    "$volume" avscan > /dev/null 2>&1
exec juicefs gateway --no-color --multi-buckets --object-tag --object-meta --keep-etag \
    --no-usage-report --no-bgjob --backup-meta 0 --cache-size 512 --cache-dir /tmp/cache \
    --refresh-iam-interval 10s "$volume" 0.0.0.0:9000
