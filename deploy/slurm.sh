#!/usr/bin/env bash
# A run on SLURM: one Ray node per machine, the driver on the first. Submit it from the checkout,
# whose .venv all machines must see, with the arguments of `run`:
#
#     sbatch --nodes=8 deploy/slurm.sh removal-cpu --input /data/coco/annotations \
#         --image-root /data/coco/train2017 --output /data/runs/coco-removal
#
# It is queued again, with the same arguments and so to resume, when a machine is lost, when it is
# pre-empted, before its time is up, and when the run ends incomplete (3) or failed (1).
#SBATCH --job-name=nearmiss
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# Losing a machine is Ray's to mend; only the loss of the first one ends the job.
#SBATCH --no-kill
# Three minutes before the end, to this script alone.
#SBATCH --signal=B:USR1@180
set -euo pipefail
# Background processes of a script ignore SIGINT unless they are jobs of their own.
set -m

readonly MAX_REQUEUES=10
export PATH="$SLURM_SUBMIT_DIR/.venv/bin:$PATH"
cd "$SLURM_SUBMIT_DIR"

# Anybody who reaches the ports could run code on the nodes, so this cluster has its own token.
RAY_AUTH_TOKEN="$(python -c 'import secrets; print(secrets.token_hex(32))')"
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token
# Not 10002 to 19999, which are Ray's for its workers.
port=$((20000 + SLURM_JOB_ID % 10000))
head_ip="$(python -c 'import ray; print(ray.util.get_node_ip_address())')"
export RAY_ADDRESS="$head_ip:$port"

ray start --head --node-ip-address="$head_ip" --port="$port" \
    --ray-client-server-port=$((port + 10000)) --include-dashboard=false \
    --num-cpus="$SLURM_CPUS_PER_TASK" --temp-dir="/tmp/ray-$SLURM_JOB_ID" \
    --disable-usage-stats --block &
ray_head=$!
trap 'kill "$ray_head" 2>/dev/null || true' EXIT

others=$((SLURM_JOB_NUM_NODES - 1))
if ((others > 0)); then
    srun --relative=1 --nodes="$others" --ntasks="$others" --ntasks-per-node=1 \
        --cpus-per-task="$SLURM_CPUS_PER_TASK" --no-kill --kill-on-bad-exit=0 \
        ray start --address="$RAY_ADDRESS" --num-cpus="$SLURM_CPUS_PER_TASK" \
        --disable-usage-stats --block &
fi

# The pools are sized once, by the CPUs that are there when the run starts.
python - "$SLURM_JOB_NUM_NODES" <<'PYTHON'
import logging, sys, time
import ray

wanted, limit = int(sys.argv[1]), time.monotonic() + 600
while True:
    try:
        ray.init(logging_level=logging.ERROR, log_to_driver=False)
        break
    except ConnectionError:
        if time.monotonic() > limit:
            sys.exit("the head of the Ray cluster did not start in 10 minutes")
        time.sleep(2)
while (there := sum(node["Alive"] for node in ray.nodes())) < wanted:
    if time.monotonic() > limit:
        sys.exit(f"{there} of {wanted} Ray nodes after 10 minutes; see the output above")
    time.sleep(2)
PYTHON

python -m pipeline run --placement deploy/placements/cluster-fixed.yaml "$@" &
driver=$!
# Interrupted, the driver gives its lease back and ends with 3.
trap 'kill -INT "$driver" 2>/dev/null || true' USR1 TERM
status=0
wait "$driver" || status=$?
# A signal to this script ends `wait` before the driver has ended.
while kill -0 "$driver" 2>/dev/null; do
    status=0
    wait "$driver" || status=$?
done

if ((status != 0 && status != 2 && ${SLURM_RESTART_COUNT:-0} < MAX_REQUEUES)); then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
