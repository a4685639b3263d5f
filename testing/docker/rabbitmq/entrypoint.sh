#!/bin/bash
# Drops root as the rabbitmq image does, and replaces itself with the broker, so that signals reach it.
set -eu
chown -R rabbitmq:rabbitmq /var/lib/rabbitmq /var/log/rabbitmq
# No busy waiting (+sbwt): the other containers need the processors too.
export HOME=/var/lib/rabbitmq RABBITMQ_ALLOW_INPUT=1 PATH=/usr/lib/rabbitmq/bin:$PATH
export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='+sbwt none +sbwtdcpu none +sbwtdio none'
exec setpriv --reuid rabbitmq --regid rabbitmq --init-groups "$@" -noinput
