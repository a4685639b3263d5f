#!/bin/bash
# Creates the buckets, users, policies and the subscription of the bucket's events, or updates them.
#
# The image has bash, mc, curl and the coreutils, and no grep, sed or awk.
set -euo pipefail
export MC_CONFIG_DIR=/tmp/mc
# Some images name it mcli.
command -v mc > /dev/null || mc() { mcli "$@"; }

bucket=$MINIO_BUCKET_NAME
quarantine=$QUARANTINE_BUCKET
tag=$TAG_KEY
admin=$(< /run/secrets/minio_admin)
# In the environment of this script only, so that docker inspect does not show the password.
export MC_HOST_store="https://admin:$admin@${MINIO_SERVER_URL#https://}"

say() { printf '[minio-service-init] %s\n' "$*"; }

mc mb --ignore-existing "store/$bucket" > /dev/null
if [ "$MINIO_VERSIONING" = true ]; then
    # With versions, a tag or a deletion reaches exactly the scanned bytes.
    mc version enable "store/$bucket" > /dev/null \
        || say "WARNING: this store knows no versions; tags and deletions go by ETag"
fi

# Removes what is in the quarantine bucket after some days. Replaces other rules that it has.
lifecycle() {
    mc ilm rule import "store/$quarantine" > /dev/null << END
{"Rules": [{"ID": "avscan", "Status": "Enabled", "Filter": {"Prefix": ""},
  "Expiration": {"Days": $QUARANTINE_DAYS}}]}
END
}

# Without versions: what is removed there is meant to be gone.
if [ -n "$quarantine" ]; then
    mc mb --ignore-existing "store/$quarantine" > /dev/null
    [ "$QUARANTINE_DAYS" = 0 ] || lifecycle \
        || say "WARNING: this store sets no lifecycle; bucket $quarantine keeps what is in it"
fi

# user NAME PASSWORD-FILE: creates the user, with the policy on standard input.
user() {
    local answer
    mc admin user add store "$1" "$(< "/run/secrets/$2")" > /dev/null
    cat > "/tmp/$1.json"
    mc admin policy create store "$1" "/tmp/$1.json" > /dev/null
    answer=$(mc admin policy attach store "$1" --user "$1" 2>&1) \
        || [[ $answer == *'no net effect'* || $answer == *already* ]] \
        || { say "$answer" >&2; return 1; }
    say "user $1 may do what policy $1 allows"
}

# What the source canary needs beside that.
canary=
if [ -n "$CANARY_EVERY" ]; then
    canary=$(cat << END
,
    {
      "Effect": "Allow",
      "Action": ["s3:PutObject"],
      "Resource": ["arn:aws:s3:::$bucket/.avscan-canary/*"]
    },
    {
      "Effect": "Allow",
      "Action": ["s3:GetBucketObjectLockConfiguration"],
      "Resource": ["arn:aws:s3:::$bucket"]
    }
END
    )
fi

# What moves need in the quarantine bucket: record and copy are written, found and proved there, and a copy
# with other bytes is removed.
moves=
if [ -n "$quarantine" ]; then
    moves=$(cat << END
,
    {
      "Effect": "Allow",
      "Action": [
        "s3:PutObject", "s3:PutObjectTagging", "s3:GetObject", "s3:DeleteObject",
        "s3:AbortMultipartUpload"
      ],
      "Resource": ["arn:aws:s3:::$quarantine/*"]
    },
    {
      "Effect": "Allow",
      "Action": ["s3:ListBucket"],
      "Resource": ["arn:aws:s3:::$quarantine"]
    }
END
    )
fi

# The calls that the worker makes, on these buckets.
user avscan minio_avscan << END
{
  "Version": "2012-10-17",
  "Statement": [
    {
      "Effect": "Allow",
      "Action": [
        "s3:GetObject", "s3:GetObjectVersion",
        "s3:GetObjectTagging", "s3:GetObjectVersionTagging",
        "s3:PutObjectTagging", "s3:PutObjectVersionTagging",
        "s3:DeleteObject", "s3:DeleteObjectVersion"
      ],
      "Resource": ["arn:aws:s3:::$bucket/*"]
    },
    {
      "Effect": "Allow",
      "Action": ["s3:ListBucket", "s3:ListBucketVersions", "s3:GetBucketVersioning"],
      "Resource": ["arn:aws:s3:::$bucket"]
    }$canary$moves
  ]
}
END

# Deny unless clean: users with this policy cannot read an object that is not tagged clean (or released, by a person
# who took it back from the quarantine), and cannot set that tag or its receipt, neither with the upload nor later.
# Denials win over what other policies of the user allow.
denials=
if [ "$DENY_UNLESS_CLEAN" = true ]; then
    denials=$(cat << END
,
    {
      "Effect": "Deny",
      "Action": ["s3:GetObject", "s3:GetObjectVersion"],
      "Resource": ["arn:aws:s3:::$bucket/*"],
      "Condition": {"StringNotEquals": {"s3:ExistingObjectTag/$tag": ["clean", "released"]}}
    },
    {
      "Effect": "Deny",
      "Action": ["s3:PutObject", "s3:PutObjectTagging", "s3:PutObjectVersionTagging"],
      "Resource": ["arn:aws:s3:::$bucket/*"],
      "Condition": {"ForAnyValue:StringEquals": {"s3:RequestObjectTagKeys": ["$tag", "$tag-receipt"]}}
    }
END
    )
fi
# Nor may they do anything in the quarantine bucket, whose objects are infected.
if [ -n "$quarantine" ]; then
    denials+=$(cat << END
,
    {
      "Effect": "Deny",
      "Action": ["s3:*"],
      "Resource": ["arn:aws:s3:::$quarantine", "arn:aws:s3:::$quarantine/*"]
    }
END
    )
fi

# An ordinary application: stores, lists, reads and deletes objects.
user application minio_application << END
{
  "Version": "2012-10-17",
  "Statement": [
    {
      "Effect": "Allow",
      "Action": [
        "s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts",
        "s3:GetObject", "s3:GetObjectVersion", "s3:GetObjectTagging", "s3:GetObjectVersionTagging",
        "s3:DeleteObject"
      ],
      "Resource": ["arn:aws:s3:::$bucket/*"]
    },
    {
      "Effect": "Allow",
      "Action": ["s3:ListBucket", "s3:GetBucketLocation", "s3:ListBucketMultipartUploads"],
      "Resource": ["arn:aws:s3:::$bucket"]
    }$denials
  ]
}
END
if [ "$DENY_UNLESS_CLEAN" = true ]; then
    say "policy application: reads only what is tagged $tag=clean or $tag=released"
fi
if [ -n "$quarantine" ]; then
    say "policy application: denies the quarantine bucket $quarantine"
fi

# --- events -------------------------------------------------------------------

# mc can only subscribe to all of s3:ObjectCreated:*, which includes changes of tags, and the worker makes
# one for each object. By the API only the four events that bring bytes are subscribed.
notification() {
    local body=${1-} hash
    read -r hash _ < <(printf %s "$body" | sha256sum)
    curl --silent --show-error --fail-with-body --cacert "$SSL_CERT_FILE" \
        --aws-sigv4 "aws:amz:$MINIO_REGION:s3" --config - \
        --header "x-amz-content-sha256: $hash" \
        ${body:+--request PUT --data-binary "$body"} \
        "$MINIO_SERVER_URL/$bucket?notification=" <<< "user = \"admin:$admin\""
}

queue=$MINIO_EVENTS_ARN
present=$(notification)
if [[ $present == *"$queue"* ]]; then
    say "the events of $bucket were subscribed already"
else
    ours="<QueueConfiguration><Id>avscan</Id><Queue>$queue</Queue>"
    for kind in Put Post Copy CompleteMultipartUpload; do
        ours+="<Event>s3:ObjectCreated:$kind</Event>"
    done
    ours+="</QueueConfiguration>"
    # Keep the subscriptions that exist.
    present=${present%</NotificationConfiguration>}
    case $present in
        *'<NotificationConfiguration'*'>'*) ;;
        *) present='<NotificationConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">' ;;
    esac
    notification "$present$ours</NotificationConfiguration>"
    say "the events of $bucket go to the broker"
fi
say "done"
