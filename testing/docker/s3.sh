#!/bin/bash
# A client of the deployed store. Runs in the image of minio-service-init, so it uses only curl, bash and
# the coreutils.
#
#   s3.sh put|get|head|tags|rm KEY      as `stack s3` does; put reads standard input
#   s3.sh load FOLDER COUNT EVERY       uploads COUNT objects, every EVERYth infected
#   s3.sh account FOLDER                counts those that are clean, infected and other
#   s3.sh rights                        tests that what users may not do is refused
#   s3.sh held [KEY]                    counts copies and records in the quarantine bucket, or names the
#                                       copy of this object
#   s3.sh held-rights COPY              tests who may do what in the quarantine bucket
#   s3.sh lifecycle                     prints the rules of the quarantine bucket
#   s3.sh metrics HOST                  prints the metrics of a worker
set -euo pipefail

user='admin'
tag=${TAG_KEY:-scanned}
base=$MINIO_SERVER_URL/$MINIO_BUCKET_NAME

# request METHOD PATH-AND-QUERY [CURL-OPTION…]: prints the body; fails for 4xx and 5xx.
request() {
    local method=$1 path=$2
    shift 2
    curl --silent --show-error --fail --cacert "$SSL_CERT_FILE" --max-time 60 \
        --aws-sigv4 "aws:amz:$MINIO_REGION:s3" --config <(echo "user = \"$user:$(password)\"") \
        --header 'x-amz-content-sha256: UNSIGNED-PAYLOAD' --request "$method" "$@" "$base$path"
}

# The password of $user; this container has those of some users only.
password() { cat "/run/secrets/minio_$user"; }

put() { request PUT "/$1" --header 'content-type: application/octet-stream' --data-binary @-; }

tags() {
    local rest
    rest=$(request GET "/$1?tagging=")
    while [[ $rest == *'<Tag>'* ]]; do
        rest=${rest#*<Key>}
        printf '%s=' "${rest%%</Key>*}"
        rest=${rest#*<Value>}
        printf '%s\n' "${rest%%</Value>*}"
    done
}

look() {
    local answer
    answer=$(request HEAD "/$1" --head 2>&1) && return
    # Only a 404 proves that an object is gone; no answer proves nothing.
    [[ $answer != *404* ]] || echo "$1: no such object"
    return 1
}

keys() {
    local rest
    rest=$(request GET "?list-type=2&max-keys=1000&prefix=$1%2F")
    while [[ $rest == *'<Key>'* ]]; do
        rest=${rest#*<Key>}
        printf '%s\n' "${rest%%</Key>*}"
    done
}

# Reversed, so that a virus scanner does not find EICAR in this script.
eicar() {
    local backwards='*H+H$!ELIF-TSET-SURIVITNA-DRADNATS-RACIE$}7)CC7)^P(45XZP\4[PA@%P!O5X' i
    for ((i = ${#backwards} - 1; i >= 0; i--)); do printf %s "${backwards:i:1}"; done
}

load() {
    local folder=$1 count=$2 every=$3 n running=0
    user=application
    one() {
        if [ $((n % every)) = 0 ]; then
            eicar | put "$folder/$n.infected"
        else
            head -c 20000 /dev/urandom | put "$folder/$n.clean"
        fi
    }
    for ((n = 1; n <= count; n++)); do
        # An upload that fails is repeated.
        { one || one || one; } &
        running=$((running + 1))
        if [ $running -ge 4 ]; then
            wait -n
            running=$((running - 1))
        fi
    done
    wait
}

account() {
    local key clean=0 infected=0 other=0
    while read -r key; do
        case $key:$(tags "$key") in
            *.infected:*) infected=$((infected + 1)) ;;
            *.clean:*"$tag=clean"*) clean=$((clean + 1)) ;;
            *) other=$((other + 1)) ;;
        esac
    done < <(keys "$1")
    echo "$clean clean, $infected infected, $other other"
}

# refused WHAT COMMAND…: succeeds if the store answers 403.
refused() {
    local what=$1 answer
    shift
    if answer=$("$@" 2>&1 < /dev/null) || [[ $answer != *403* ]]; then
        echo "FAILED: $what was not refused: $answer"
        return 1
    fi
    echo "ok: $what is refused"
}

rights() {
    echo x | put rights/object > /dev/null
    user=avscan
    request GET /rights/object > /dev/null
    echo "ok: the worker reads an object"
    refused "the worker: storing an object" put rights/other
    refused "the worker: the bucket's events" request GET '?notification='
    refused "the worker: another bucket" request GET '-other/object'
    user=application
    refused "an application: tagging" request PUT '/rights/object?tagging=' --data \
        "<Tagging><TagSet><Tag><Key>$tag</Key><Value>clean</Value></Tag></TagSet></Tagging>"
    refused "an application: the bucket's events" request GET '?notification='
    user=nobody
    password() { echo nothing; }
    refused "a stranger" request GET /rights/object
    if curl --silent --max-time 5 "$MINIO_SERVER_URL/minio/health/live" --cacert /dev/null; then
        echo "FAILED: a client that does not know the authority was served"
        return 1
    fi
}

# The requests that follow are about the quarantine bucket.
in_quarantine() { base=$MINIO_SERVER_URL/$QUARANTINE_BUCKET; }

held() {
    local rest name copies=0 records=0
    in_quarantine
    rest=$(request GET '?list-type=2&max-keys=1000')
    while [[ $rest == *'<Key>'* ]]; do
        rest=${rest#*<Key>}
        name=${rest%%</Key>*}
        if [[ $name != *.json ]]; then
            copies=$((copies + 1))
        elif [ $# = 0 ]; then
            records=$((records + 1))
        elif [[ $(request GET "/$name") == *"\"key\":\"$1\""* ]]; then
            echo "${name%.json}"
        fi
    done
    [ $# != 0 ] || echo "$copies copies, $records records"
}

held_rights() {
    local copy=$1
    in_quarantine
    [ "$(request GET "/$copy")" = "$(eicar)" ] || { echo "FAILED: other bytes in $copy"; return 1; }
    user=avscan
    request GET "/$copy" > /dev/null
    echo "ok: the worker reads its copy"
    refused "the worker: the events of the quarantine bucket" request GET '?notification='
    user=application
    refused_in_quarantine "an application"
    # Who may do everything elsewhere, and has the policy of applications.
    command -v mc > /dev/null || mc() { mcli "$@"; }
    export MC_CONFIG_DIR=/tmp/mc
    local admin
    admin=$(< /run/secrets/minio_admin)
    export MC_HOST_store="https://admin:$admin@${MINIO_SERVER_URL#https://}"
    password() { echo everything-else; }
    user=everything
    mc admin user add store $user "$(password)" > /dev/null
    mc admin policy attach store readwrite --user $user > /dev/null
    request GET "/$copy" > /dev/null
    echo "ok: a user who may do everything reads it"
    mc admin policy attach store application --user $user > /dev/null
    refused_in_quarantine "a user who may do everything else"
    base=$MINIO_SERVER_URL/$MINIO_BUCKET_NAME
    request GET '?notification=' > /dev/null
    echo "ok: and still does everything else"
}

refused_in_quarantine() {
    refused "$1: reading a copy" request GET "/$copy"
    refused "$1: reading a record" request GET "/$copy.json"
    refused "$1: listing the quarantine bucket" request GET '?list-type=2'
    refused "$1: storing there" put other
    refused "$1: deleting there" request DELETE "/$copy"
}

case $1 in
    put) put "$2" ;;
    get) request GET "/$2" ;;
    head) look "$2" ;;
    tags) tags "$2" ;;
    rm) request DELETE "/$2" ;;
    load | account | held) "$@" ;;
    rights) rights ;;
    held-rights) held_rights "$2" ;;
    lifecycle) in_quarantine && request GET '?lifecycle=' ;;
    metrics) curl --silent --show-error --fail --max-time 5 "http://$2:8080/metrics" ;;
esac
