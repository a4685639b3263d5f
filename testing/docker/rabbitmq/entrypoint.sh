#!/bin/bash
# Gives up root as the rabbitmq image does, and becomes the broker, so that signals reach it.
set -eu
chown -R rabbitmq:rabbitmq /var/lib/rabbitmq /var/log/rabbitmq
# The other containers want the processors too.
export HOME=/var/lib/rabbitmq RABBITMQ_ALLOW_INPUT=1 PATH=/usr/lib/rabbitmq/bin:$PATH
export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='+sbwt none +sbwtdcpu none +sbwtdio none'
exec setpriv --reuid rabbitmq --regid rabbitmq --init-groups "$@" -noinput
