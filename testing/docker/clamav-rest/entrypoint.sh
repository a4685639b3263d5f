#!/bin/bash
# Starts clamd, and the double's http and https. As in the clamav-rest image, the container goes on when
# clamd dies.
set -eu
cp /etc/clamav/clamd.conf /clamav/etc/
clamd --config-file=/clamav/etc/clamd.conf 2>&1 | tee -a /var/log/clamav/clamav.log &
stack clamav-rest --listen 0.0.0.0:9000 --clamd 127.0.0.1:3310 &
rest=$!
stack tls --listen 0.0.0.0:9443 --target 127.0.0.1:9000 \
    --certificate /etc/ssl/clamav-rest/server.crt --key /etc/ssl/clamav-rest/server.key &
trap 'kill 0' TERM INT
wait $rest
