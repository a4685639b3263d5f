#!/bin/bash
# Creates passwords, authority and certificates where they are missing, and copies to each service those
# that it needs. Existing files are kept, except server certificates that expire soon or lack a name.
#
#   /secrets/passwords   one file for each; to change one, write a new value and run this again
#   /secrets/receipt-public.pem   verifies the receipts that the workers sign
#   /secrets/ca          the private authority; for certificates of your own put your ca.crt here,
#                        without ca.key (SERVICE/public.crt and private.key, see docs/DEPLOYMENT.md)
#   /secrets/SERVICE     the files that the container SERVICE can see
set -euo pipefail
umask 077
cd /secrets

say() { printf '[openssl-init] %s\n' "$*"; }
fail() { say "$*" >&2; exit 1; }

# The users and groups that the containers run as.
clamd_user=${CLAMD_USER:-100:101}
worker_user=65532:65532
grafana_user=472:0

# --- passwords ----------------------------------------------------------------

# Hexadecimal, so that nothing has to be escaped in a URL or in JSON.
password() {
    if [ ! -s "passwords/$1" ]; then
        openssl rand -hex 24 > "passwords/$1.new"
        mv "passwords/$1.new" "passwords/$1"
        say "new password: passwords/$1"
    fi
}

mkdir -p passwords ca minio-service/certs/CAs minio-service-init mq-service clamd-service avscan grafana
for name in minio_admin minio_avscan minio_application \
    rabbitmq_admin rabbitmq_avscan rabbitmq_minio grafana_admin; do
    password $name
done
if [ ! -s passwords/publish_secret ]; then
    printf 'whsec_%s\n' "$(openssl rand -base64 32)" > passwords/publish_secret
    say "new secret: passwords/publish_secret"
fi
# What the workers sign their receipts with, and the public key for whoever verifies them.
if [ ! -s passwords/receipt_key ]; then
    openssl genpkey -algorithm ed25519 -out passwords/receipt_key.new
    mv passwords/receipt_key.new passwords/receipt_key
    say "new key: passwords/receipt_key"
fi
openssl pkey -in passwords/receipt_key -pubout -out receipt-public.pem

# --- certificates -------------------------------------------------------------

if [ ! -s ca/ca.crt ]; then
    say "new authority: ca/ca.crt"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 3650 \
        -subj "/CN=bucket-av-scanner $(openssl rand -hex 4)" \
        -addext basicConstraints=critical,CA:true,pathlen:0 \
        -addext keyUsage=critical,keyCertSign,cRLSign \
        -keyout ca/ca.key -out ca/ca.crt.new 2> /dev/null
    mv ca/ca.crt.new ca/ca.crt
fi

# is_good FOLDER NAME…: the certificate is signed by this authority, has all names, and is valid for at
# least 30 days.
is_good() {
    local folder=$1 name
    shift
    openssl verify -CAfile ca/ca.crt "$folder/public.crt" > /dev/null 2>&1 || return
    openssl x509 -in "$folder/public.crt" -noout -checkend 2592000 > /dev/null || return
    for name in "$@"; do
        openssl x509 -in "$folder/public.crt" -noout -checkhost "$name" | grep 'does match' > /dev/null \
            || openssl x509 -in "$folder/public.crt" -noout -checkip "$name" 2> /dev/null \
                | grep 'does match' > /dev/null || return
    done
}

# certificate FOLDER NAME…: makes a certificate unless there is a good one.
certificate() {
    local folder=$1 names='' name
    shift
    is_good "$folder" "$@" && return
    [ -s ca/ca.key ] || fail "$folder: public.crt is missing, expires within 30 days, is not" \
        "signed by ca/ca.crt, or lacks one of the names $*; and there is no ca/ca.key to make another"
    for name in "$@"; do
        case $name in
            *:* | *[0-9].[0-9]*) names+=,IP:$name ;;
            *) names+=,DNS:$name ;;
        esac
    done
    say "new certificate: $folder for $*"
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -subj "/CN=$1" \
        -keyout "$folder/private.key.new" -out request.new 2> /dev/null
    openssl x509 -req -in request.new -CA ca/ca.crt -CAkey ca/ca.key -days 397 \
        -set_serial "0x$(openssl rand -hex 16)" -out "$folder/public.crt.new" 2> /dev/null \
        -extfile <(printf '%s\n' "subjectAltName=${names#,}" basicConstraints=critical,CA:false \
            keyUsage=critical,digitalSignature extendedKeyUsage=serverAuth)
    rm request.new
    mv "$folder/private.key.new" "$folder/private.key"
    mv "$folder/public.crt.new" "$folder/public.crt"
}

# Names by which clients outside the deployment reach the store and the consoles.
IFS=', ' read -r -a outside <<< "${TLS_NAMES:-}"
certificate minio-service/certs minio-service localhost 127.0.0.1 "${outside[@]}"
certificate mq-service mq-service localhost 127.0.0.1 "${outside[@]}"
certificate clamd-service clamd-service localhost 127.0.0.1

# --- what each service sees ---------------------------------------------------

# give OWNER FOLDER: makes it readable by that user only.
give() { chown -R "$1" "$2" && chmod -R u=rX,go= "$2"; }

vhost=${RABBITMQ_VHOST:-/}
cat > minio-service/config.env << END
MINIO_ROOT_USER=admin
MINIO_ROOT_PASSWORD=$(< passwords/minio_admin)
MINIO_NOTIFY_AMQP_URL_SCAN=amqps://minio:$(< passwords/rabbitmq_minio)@mq-service:5671/${vhost#/}
END
[ "$vhost" != / ] || sed -i 's,/$,,' minio-service/config.env
cp ca/ca.crt minio-service/certs/CAs/
give 0:0 minio-service

cp ca/ca.crt passwords/minio_{admin,avscan,application} minio-service-init/
give 0:0 minio-service-init

# mq-service-init adds the definitions and changes the owner to the broker's user.
cp ca/ca.crt mq-service/

cp -f clamd-service/public.crt clamd-service/server.crt
cp -f clamd-service/private.key clamd-service/server.key
give "$clamd_user" clamd-service

echo avscan > avscan/minio_access_key_id
cp -f passwords/minio_avscan avscan/minio_secret_access_key
cp -f passwords/rabbitmq_avscan avscan/rabbitmq_regular_user_pass
cp -f passwords/publish_secret passwords/receipt_key ca/ca.crt avscan/
if [ -s passwords/publish_authorization ]; then
    cp -f passwords/publish_authorization avscan/
fi
give "$worker_user" avscan

cp -f passwords/grafana_admin grafana/
give "$grafana_user" grafana

chmod 711 . ca && chmod 644 ca/ca.crt receipt-public.pem
say "done"
