#!/usr/bin/env bash
# Manages the deployment of docker-compose.yml; `make` calls it.
#
#   docker-compose/manage.sh up | status | scale N | logs [SERVICE…] | secrets | down
#
# Settings come from the environment and from docker-compose/.env, as for docker-compose itself.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# docker-compose reads this file as well; the environment has priority.
if [ -f .env ]; then
    while IFS='=' read -r name value; do
        if [[ $name =~ ^[A-Z][A-Z0-9_]*$ && -z ${!name+set} ]]; then
            export "$name=$value"
        fi
    done < .env
fi

patience=${DEPLOY_TIMEOUT:-900}
inits=(openssl-init mq-service-init minio-service-init)
services=(mq-service minio-service clamd-service avscan)
[[ ",${COMPOSE_PROFILES:-}," != *,monitoring,* ]] || services+=(prometheus grafana)
start=$SECONDS

say() { printf '[docker] %4d s  %s\n' $((SECONDS - start)) "$*"; }
fail() { printf '[docker] %s\n' "$*" >&2; exit 1; }

docker version > /dev/null 2>&1 || fail "no Docker Engine answers (docker version)"
if docker compose version > /dev/null 2>&1; then
    compose() { docker compose "$@"; }
elif docker-compose version > /dev/null 2>&1; then
    compose() { docker-compose "$@"; }
else
    fail "neither 'docker compose' nor 'docker-compose' is installed"
fi

# The containers of a service, including stopped ones.
containers() { compose ps -a -q "$1" 2> /dev/null; }

# state CONTAINER: healthy, starting, unhealthy, running, waiting, or "ended with N" (the exit code).
state() {
    docker inspect --format '{{if .State.Running}}{{if .State.Health}}{{.State.Health.Status}}{{else}}running{{end}}{{else}}{{if eq .State.Status "created"}}waiting{{else}}ended with {{.State.ExitCode}}{{end}}{{end}}' "$1" 2> /dev/null
}

# The states of all containers of a service, in one line.
states() {
    local container now line=
    for container in $(containers "$1"); do
        # A container that was just replaced no longer exists: skip it.
        now=$(state "$container") || continue
        line+=${line:+, }$now
    done
    echo "${line:-not created}"
}

# Succeeds when every service is healthy and every init service has ended; prints each change.
declare -A told
settled() {
    local name now all=true
    for name in "${inits[@]}" "${services[@]}"; do
        now=$(states "$name")
        if [ "${told[$name]-}" != "$now" ]; then
            told[$name]=$now
            say "$name: $now"
        fi
        [[ $name == *-init && $now == 'ended with 0' ]] && continue
        [[ $now =~ ^healthy(, healthy)*$ ]] || all=false
    done
    $all
}

up() {
    local output workers failed=
    output=$(mktemp)
    # Keep the number of workers.
    workers=$(containers avscan | wc -l)
    [ "$workers" -gt 0 ] || workers=1
    # Compose handles the dependencies; meanwhile this prints the progress.
    say "starting; the first time the worker is built and images are fetched, which takes minutes"
    if [ -z "${AVSCAN_IMAGE:-}" ]; then
        compose build avscan 2>&1 | tee "$output" \
            | { grep --line-buffered -Eo '^Step [0-9/]+ : (FROM|RUN).{0,40}|^#[0-9]+ \[[^]]+\] (FROM|RUN).{0,40}' || true; } \
            | while read -r line; do say "building: $line"; done \
            || { tail -n 30 "$output"; fail "the worker could not be built"; }
    fi
    compose up --detach --scale "avscan=$workers" > "$output" 2>&1 &
    local composing=$!
    while kill -0 $composing 2> /dev/null; do
        settled || true
        sleep 1
    done
    wait $composing || failed="docker-compose up: $(tail -n 3 "$output")"
    # A build or a download that took long leaves the services their time.
    local since=$SECONDS
    while [ -z "$failed" ] && ! settled; do
        [ $((SECONDS - since)) -lt "$patience" ] || failed="not healthy within $patience s"
        sleep 1
    done
    rm -f "$output"
    if [ -n "$failed" ]; then
        local name
        for name in "${inits[@]}" "${services[@]}"; do
            [[ $(states "$name") =~ ^(ended with 0|healthy(, healthy)*|not created|waiting)$ ]] \
                || compose logs --no-color --tail 15 "$name" 2>&1 | sed 's/^/    /'
        done
        fail "$failed"
    fi
    say "all healthy"
    whereabouts
}

whereabouts() {
    cat << END

  S3         https://localhost:${S3_PORT:-9000}, bucket ${MINIO_BUCKET_NAME:-storagebucket}
  consoles   https://localhost:${MINIO_CONSOLE_PORT:-9001} (store) and https://localhost:${MQ_CONSOLE_PORT:-15671} (broker), user admin
  authority  ${SECRETS_DIR:-$PWD/secrets}/ca/ca.crt; passwords: make secrets
  look       make status, make logs; try it: make test TARGET=docker
END
}

status() {
    local name container line
    for name in "${services[@]}"; do
        line=$(states "$name")
        case $name in
            mq-service)
                # name, messages and consumers of every queue that has messages or consumers
                line+=$(compose exec -T mq-service rabbitmqctl -q list_queues -p "${RABBITMQ_VHOST:-/}" name messages consumers 2> /dev/null \
                    | awk '$2 ~ /^[0-9]+$/ && ($2 + $3 > 0) { printf "; %s: %s messages, %s consumers", $1, $2, $3 }') || true
                ;;
            avscan)
                line="$(containers avscan | wc -l) worker(s): $line"
                ;;
        esac
        printf '%-15s %s\n' "$name" "$line"
    done
    for container in $(containers avscan); do
        printf '%-15s %s\n' "" "$(docker inspect --format '{{slice .Name 1}}' "$container"): $(not_ready "$container")"
    done
}

# Prints "ready", or what a worker is waiting for.
not_ready() {
    local answer
    answer=$(docker exec "$1" /usr/local/bin/bucket-av-scanner healthcheck 2> /dev/null) \
        && { echo ready; return; }
    echo "not ready: $(tr -d '\n' <<< "$answer" | tr -s ' ')"
}

case ${1-} in
    up) up ;;
    status) status ;;
    scale)
        [[ ${2-} =~ ^[0-9]+$ ]] || fail "how many workers? make scale N=3"
        compose up --detach --no-recreate --scale "avscan=$2" avscan
        ;;
    logs) shift; compose logs --tail "${TAIL:-200}" "$@" ;;
    secrets)
        echo "In ${SECRETS_DIR:-$PWD/secrets}, for root alone (sudo cat FILE):"
        echo "  passwords/minio_admin        console and S3 of the store, user admin"
        echo "  passwords/minio_application  S3, user application"
        echo "  passwords/rabbitmq_admin     console of the broker, user admin"
        echo "  passwords/grafana_admin      Grafana, user admin; only with COMPOSE_PROFILES=monitoring"
        echo "  passwords/publish_secret     what reports to PUBLISH_URL are signed with"
        echo "  passwords/minio_avscan, rabbitmq_avscan, rabbitmq_minio   of the services themselves"
        echo "  ca/ca.crt                    the authority that clients have to trust"
        ;;
    down)
        # What was started with the profile has to go as well.
        export COMPOSE_PROFILES=monitoring
        compose stop
        # The secrets belong to the users of the containers, so a container removes them. Without ca.key the
        # authority is the operator's own, and the secrets are kept.
        # shellcheck disable=SC2016  # expands inside the container
        compose run --rm --no-deps --entrypoint /bin/bash openssl-init \
            -c 'if [ -s /secrets/ca/ca.key ]; then rm -rf /secrets/*; fi' > /dev/null 2>&1 \
            || say "the secrets are still there: ${SECRETS_DIR:-$PWD/secrets}"
        compose down --volumes --remove-orphans
        ;;
    *) fail "usage: $0 up | status | scale N | logs [SERVICE…] | secrets | down" ;;
esac
