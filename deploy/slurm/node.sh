#!/usr/bin/env bash
# What sweep.sbatch needs of Ray on the nodes of its job, with ports and a temporary folder that no other job has.
#
#   node.sh ports                     print the first port of a block that is free on this node
#   node.sh folder                    print the temporary folder of this job's Ray on this node
#   node.sh head PORT ADDRESS         the head of the job's Ray on this node, until it is ended
#   node.sh worker HEAD_ADDRESS       one more node of it
#   node.sh joined NUMBER SECONDS     wait until so many nodes have joined; fails if they have not in time
set -euo pipefail

# Below 32768, where Linux takes ports for outgoing connections. Nine are fixed, the rest are for worker processes.
BLOCKS=64 BLOCK_PORTS=340 FIRST_PORT=10000

# Jobs that follow each other begin to look in different places.
free_block() {
    python3 - "$SLURM_JOB_ID" $BLOCKS $BLOCK_PORTS $FIRST_PORT <<'PYTHON'
import contextlib, socket, sys

job, blocks, size, first = map(int, sys.argv[1:])

def is_free(start):
    with contextlib.ExitStack() as stack:
        try:
            for port in range(start, start + 9):
                stack.enter_context(socket.socket()).bind(("", port))
        except OSError:
            return False
    return True

starts = (first + (job + turn) % blocks * size for turn in range(blocks))
found = next((start for start in starts if is_free(start)), None)
print(found if found else sys.exit("no block of ports is free on this node"))
PYTHON
}

# A short path, since names of sockets under it have at most 107 characters.
ray_folder() {
    local parent=${TMPDIR:-/tmp}
    [[ ${#parent} -le 30 ]] || parent=/tmp
    echo "$parent/ray-$SLURM_JOB_ID"
}

run_ray() {
    local port=$1
    shift
    local folder
    folder=$(ray_folder)
    mkdir -m 700 "$folder" 2>/dev/null || [[ -O $folder ]]
    local child=""
    # The first TERM drains the node. Ray's own processes have ended when its command has.
    trap '[[ -z $child ]] || kill -TERM "$child" 2>/dev/null || true' TERM INT
    ray start "$@" --block --disable-usage-stats --temp-dir="$folder" \
        --num-cpus="${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:?}}" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" \
        --object-store-memory=1000000000 \
        --node-manager-port=$((port + 1)) --object-manager-port=$((port + 2)) \
        --runtime-env-agent-port=$((port + 3)) --dashboard-agent-listen-port=$((port + 4)) \
        --dashboard-agent-grpc-port=$((port + 5)) --metrics-export-port=$((port + 6)) \
        --min-worker-port=$((port + 10)) --max-worker-port=$((port + BLOCK_PORTS - 1)) &
    child=$!
    local status=0
    wait "$child" || status=$?
    while kill -0 "$child" 2>/dev/null; do
        status=0
        wait "$child" || status=$?
    done
    rm -rf "$folder"
    return "$status"
}

case ${1:-} in
ports) free_block ;;
folder) ray_folder ;;
head)
    own=(--head --port="$2" --node-ip-address="$3" --dashboard-port=$(($2 + 7)))
    # Ray starts this server where it can, at a port that other jobs want too, and refuses its option where it cannot.
    python3 -c 'import grpc' 2>/dev/null && own+=(--ray-client-server-port=$(($2 + 8)))
    run_ray "$2" "${own[@]}"
    ;;
worker) run_ray "$(free_block)" --address="$2" ;;
joined)
    python3 - "$2" "$3" <<'PYTHON'
import sys, time
import ray

number, deadline = int(sys.argv[1]), time.monotonic() + float(sys.argv[2])
ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
while (here := sum(node["Alive"] for node in ray.nodes())) < number and time.monotonic() < deadline:
    time.sleep(1)
print(f"{here} of {number} nodes have joined {ray.get_runtime_context().gcs_address}", flush=True)
sys.exit(here < number)
PYTHON
    ;;
*)
    echo "bad command line: $0 $*: give ports, folder, head, worker or joined" >&2
    exit 2
    ;;
esac
