#!/usr/bin/env bash
# Begins a study the first time and goes on with it afterwards, so that it may be started as often as a scheduler likes:
# after a lost head, a time limit, a preemption, or when nothing is left to do.
#
#   entrypoint.sh sweep|ablate FILE NAME [--set KEY=VALUE ...]
#
# What follows NAME belongs to the first start. Later ones take the study as it stands in the home, since `sage-ray resume
# NAME --set ...` may have changed it meanwhile. The home is SAGE_HOME, the cluster is RAY_ADDRESS.
# Exit code: that of sage-ray (0 done, 1 failed, 2 bad input, 130 ended before its last trial, resumable).
set -euo pipefail

if [[ $# -lt 3 || ($1 != sweep && $1 != ablate) ]]; then
    echo "bad command line: $0 $*: give sweep|ablate FILE NAME [--set KEY=VALUE ...]" >&2
    exit 2
fi
verb=$1 file=$2 name=$3
shift 3

# none, running, interrupted, finished or damaged. Bad input, as a home that cannot be read, ends this script with its line.
state_of_study() {
    local answer
    answer=$(sage-ray list --json --quiet) || return
    python3 -c '
import json, sys
studies = json.loads(sys.argv[1].splitlines()[-1])["studies"]
print(next((study["state"] for study in studies if study["study"] == sys.argv[2]), "none"))
' "$answer" "$name"
}

state=$(state_of_study)
# The driver before this one may have died without a word on a machine that is gone: it counts as alive for a while.
wait_s=${SAGE_WAIT_S:-180}
until=$((SECONDS + wait_s))
while [[ $state == running && $SECONDS -lt $until ]]; do
    echo "study $name is being run by another driver: waiting, $((until - SECONDS)) s at most" >&2
    sleep 5
    state=$(state_of_study)
done

# exec: the signals of the scheduler reach sage-ray itself, and once.
if [[ $state == none ]]; then
    echo "study $name begins: sage-ray $verb $file" >&2
    exec sage-ray "$verb" "$file" --name "$name" "$@"
fi
echo "study $name is $state: sage-ray resume $name" >&2
exec sage-ray resume "$name"
