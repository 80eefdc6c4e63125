#!/bin/sh
# Copies a home while it is used:
#
#     sh deploy/backup.sh /var/lib/leanhouse /backup/2026-11-30
#
# Files of a lake are only added, and deleted a day after nothing needs them. So what refers to files is
# copied before them: the warehouse, manifests and checkpoints first, the ledger next, and then the rest.
# Dagster's own storage and an inbox in PostgreSQL are not in it.
set -eu
umask 077
home=$1
target=$2
[ -d "$home/lake" ] || { echo "there is no lake in $home" >&2; exit 1; }
[ ! -e "$target" ] || { echo "$target exists: name a new folder" >&2; exit 1; }
mkdir -p "$target"
cd "$home"
first="leanhouse.duckdb published manifests present checkpoints lost pulls"
for lake in lake/*/; do
    for name in $first; do
        if [ -e "$lake$name" ]; then
            cp -a --parents "$lake$name" "$target"
        fi
    done
    for path in "$lake"*; do
        case " $first writers spill " in
        *" ${path##*/} "*) continue ;;
        esac
        # A file that goes meanwhile was of no use any more.
        cp -a --parents "$path" "$target" 2> "$target/cp.log" ||
            ! grep -v "No such file or directory" "$target/cp.log" >&2
    done
done
rm -f "$target/cp.log"
if [ -f policy.toml ]; then
    cp -a policy.toml "$target"
fi
if [ -d inbox ]; then
    mkdir -p "$target/inbox"
    for inbox in inbox/*.db; do
        # A copy of SQLite's file by itself may be half of a commit.
        python3 -c 'import sqlite3, sys; a, b = map(sqlite3.connect, sys.argv[1:]); a.backup(b)' \
            "$inbox" "$target/$inbox"
    done
fi
