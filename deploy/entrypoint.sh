#!/bin/sh
# Puts each secret that is mounted as a file into the environment, under the file's name, and becomes
# the command. What Dagster writes is for its owner alone, or for a group where UMASK says 027.
set -eu
umask "${UMASK:-077}"
for file in "${SECRETS_FOLDER:-/run/secrets}"/[A-Z]*; do
    if [ -f "$file" ] && [ -s "$file" ]; then
        export "${file##*/}=$(cat "$file")"
    fi
done
exec "$@"
