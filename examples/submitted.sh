#!/bin/sh
# Hands three calls in and fetches their results, which another program could do on another day.
#
#     run-in-container serve &
#     sh examples/submitted.sh
set -eu
program=${PROGRAM:-run-in-container}
functions=${1:-examples/functions/hello.py}

# The daemon has a task on disk when its id is there: it outlives this program and the daemon.
# `--rerun`: greeting somebody twice does no harm.
ids=$(for name in Ada Grace Edsger; do
    "$program" submit --rerun "$functions:greet" --arg "$name"
done)

# Waits for each, prints what `call` would have, and lets the daemon forget it.
for id in $ids; do
    "$program" result "$id"
done
