#!/usr/bin/env bash
# The two most important cases, on a running stack: a clean file is tagged clean,
# an infected one is deleted and reported.
#
#   stack run -- testing/bucket-av-scanner_tests.sh
#   . .stack/run/env.sh && testing/bucket-av-scanner_tests.sh
#   TARGET=docker testing/bucket-av-scanner_tests.sh      the deployment of docker-compose/
set -euo pipefail

limit=60
passed=0
failed=0
run=tests/$(date +%s)-$$
folder=$(mktemp -d)

say() { printf '[test] %s\n' "$*"; }
leave() { :; }

clean_up() {
    local key
    for key in clean.txt infected.com; do
        s3 rm "$run/$key" > /dev/null 2>&1 || true
    done
    leave
    rm -rf "$folder"
}
trap clean_up EXIT

# until_true WHAT COMMAND…: repeats the command until it succeeds, within the limit.
until_true() {
    local what=$1 end=$((SECONDS + limit))
    shift
    until "$@" 2> /dev/null; do
        if [ $SECONDS -ge $end ]; then
            say "FAILED: $what did not happen within $limit s"
            return 1
        fi
        sleep 0.2
    done
    say "ok: $what"
}

is_tagged() { s3 tags "$1" | grep --quiet --line-regexp "$2"; }
is_there() { s3 head "$1" > /dev/null; }
# Only the store's answer proves that an object is gone; no answer proves nothing.
is_gone() {
    local answer
    answer=$(s3 head "$1" 2>&1 || true)
    [[ $answer == *'no such object'* ]]
}

# --- what is tested -------------------------------------------------------------

stack_target() {
    : "${STACK_BIN:?is not set: run this inside a stack (stack run -- $0)}"
    : "${DAEMON_URL:?is not set: this stack has no daemon}"
    s3() { "$STACK_BIN" s3 "$@"; }
    is_ready() { curl --silent --fail --output /dev/null --max-time 2 "$DAEMON_URL/readyz"; }
    # The sink's record contains the report as a JSON string, so its quotes are escaped.
    is_reported() {
        "$STACK_BIN" reports --key "$1" \
            | grep --quiet --fixed-strings "\\\"status\\\":\\\"$2\\\""
    }
}

docker_target() {
    local checkout
    client=avscan-test-$$
    checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    file=$checkout/docker-compose/docker-compose.yml
    if docker compose version > /dev/null 2>&1; then
        compose() { docker compose -f "$file" "$@"; }
    else
        compose() { docker-compose -f "$file" "$@"; }
    fi
    [ -n "$(compose ps -q avscan)" ] || {
        say "there is no deployment: make deploy-docker"
        exit 1
    }
    # The client runs in the store's own image, so that the host needs only Docker.
    compose run --detach --no-deps --name "$client" --entrypoint /bin/sleep \
        --volume "$checkout/testing/docker/s3.sh:/testing/s3.sh:ro" \
        minio-service-init 900 > /dev/null 2>&1
    s3() {
        case $1 in
            put) docker exec -i "$client" /bin/bash /testing/s3.sh put "$3" < "$2" ;;
            *) docker exec "$client" /bin/bash /testing/s3.sh "$@" ;;
        esac
    }
    is_ready() {
        local id
        for id in $(compose ps -q avscan); do
            docker exec "$id" /usr/local/bin/bucket-av-scanner healthcheck > /dev/null || return
        done
    }
    # The deployment has no webhook unless PUBLISH_URL is set, so the log is read for the deletion.
    is_reported() {
        local gone='infected object (quarantined|deleted)'
        compose logs --no-color avscan \
            | grep -E --quiet "key=\"$1\".*$gone|$gone.*\"key\":\"$1\""
    }
    leave() { docker rm --force --volumes "$client" > /dev/null; }
}

case ${TARGET:-native} in
    native) stack_target ;;
    docker) docker_target ;;
    *) say "TARGET is native or docker" && exit 1 ;;
esac

# --- the cases ------------------------------------------------------------------

clean_case() {
    local key=$run/clean.txt
    say "CLEAN CASE: uploading $key"
    echo "Nothing to see here." > "$folder/clean.txt"
    s3 put "$folder/clean.txt" "$key" > /dev/null || return 1
    until_true "the tag scanned=clean" is_tagged "$key" scanned=clean || return 1
    until_true "the object is still there" is_there "$key" || return 1
    s3 get "$key" | cmp --silent - "$folder/clean.txt" || {
        say "FAILED: the content has changed"
        return 1
    }
    say "ok: its content is unchanged"
}

infected_case() {
    local key=$run/infected.com
    say "INFECTED CASE: uploading $key"
    # Reversed, so that a virus scanner does not find EICAR in this script.
    rev <<< '*H+H$!ELIF-TSET-SURIVITNA-DRADNATS-RACIE$}7)CC7)^P(45XZP\4[PA@%P!O5X' \
        | tr -d '\n' > "$folder/infected.com"
    s3 put "$folder/infected.com" "$key" > /dev/null || return 1
    until_true "the object is gone" is_gone "$key" || return 1
    until_true "the report says infected" is_reported "$key" infected
}

count() {
    if "$1"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
    fi
}

until_true "the daemon is ready" is_ready || exit 1
count clean_case
count infected_case
echo "$passed passed, $failed failed"
[ $failed = 0 ]
