#!/bin/sh
# Runs once, when PostgreSQL makes its folder: the receiver, which strangers reach, has a database and
# a role of its own, and no way to Dagster's.
set -eu
psql --set ON_ERROR_STOP=1 --set password="$(cat /run/secrets/INBOX_PASSWORD)" \
    --username "$POSTGRES_USER" --dbname postgres <<'SQL'
create role inbox login password :'password';
create database inbox owner inbox;
revoke connect on database inbox from public;
revoke connect on database dagster from public;
SQL
