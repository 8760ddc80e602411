# shellcheck shell=bash
# Sourced by the batch scripts: `drive COMMAND...` runs the driver of a study until it ends or Slurm wants the job to end.
#
# Slurm sends TERM to the batch script before the time limit (--signal=B:TERM@180) and where it makes room for others. The
# driver then stops its trials at their next epoch, writes a snapshot of each and ends with 130; the job is put back into
# the queue under its own id, and its next start goes on. A driver that ends by itself is not started again: that is a
# finished study (0), one without a single score (1), bad input (2), or `sage-ray stop` and limits of the study (130).

# Shorter than the 180 s that Slurm leaves, so that the job is back in the queue before it is killed.
GRACE_S=${SAGE_GRACE_S:-150}

_terms=0
_driver=""

_on_term() {
    _terms=$((_terms + 1))
    [[ $_terms -eq 1 ]] || return 0
    echo "$(date +%T) Slurm ends this job: the driver gets $GRACE_S s to end cleanly" >&2
    [[ -n $_driver ]] || return 0
    kill -TERM "$_driver" 2>/dev/null || true
    _end_late "$_driver" &
}
trap _on_term TERM

# What a killed driver loses is what was trained since the last snapshot, a minute of it unless the study says otherwise.
_end_late() {
    local second
    for ((second = 0; second < GRACE_S; second++)); do
        sleep 1
        kill -0 "$1" 2>/dev/null || return 0
    done
    kill -KILL "$1"
}

# Exit status of a child, also where a signal cuts the wait short.
_status_of() {
    local status seen
    while true; do
        seen=$_terms
        status=0
        wait "$1" || status=$?
        if [[ $seen -eq $_terms ]]; then
            return "$status"
        fi
    done
}

drive() {
    local status=130
    if [[ $_terms -eq 0 ]]; then
        "$@" &
        _driver=$!
        status=0
        _status_of "$_driver" || status=$?
        _driver=""
    fi
    echo "$(date +%T) the driver ended with $status" >&2
    return "$status"
}

# After `drive` and what else there is to end: back into the queue if Slurm wanted the end and the study has not ended.
back_into_the_queue() {
    local status=$1
    if [[ $_terms -gt 0 && $status -ne 0 ]]; then
        echo "$(date +%T) job $SLURM_JOB_ID goes back into the queue" >&2
        scontrol requeue "$SLURM_JOB_ID"
    fi
    exit "$status"
}
