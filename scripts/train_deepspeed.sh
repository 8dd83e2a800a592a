#!/usr/bin/env bash
# Train with DeepSpeed's launcher, where a cluster is set up for it: hosts from a file, started over ssh.
#
#   scripts/train_deepspeed.sh CONFIG [key.path=value ...] [-o RUN] [--stage NAME]
#   HOSTFILE=hosts RANKS_PER_NODE=8 scripts/train_deepspeed.sh CONFIG ...      # lines of hosts: NAME slots=8
#
# The launcher starts the processes; parallel.engine says who trains in them. The arguments are those of
# `timeexpert train`; settings as for train_node.sh, without NODES, RENDEZVOUS and MAX_RESTARTS (this launcher starts
# nothing again). SIGTERM and Ctrl-C on one node ask for a checkpoint, which may take 30 seconds: DeepSpeed's own limit.
set -euo pipefail
# shellcheck source=scripts/launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch/common.sh"
help_if_asked "$@"
"$PYTHON" -c 'import deepspeed.launcher' 2>/dev/null ||
    fail "DeepSpeed is not installed for $PYTHON. Install it: pip install -e '.[deepspeed]'; or use train_node.sh."
where=()
NODES=1
if [[ -n ${HOSTFILE:-} ]]; then
    [[ -f $HOSTFILE ]] || fail "HOSTFILE ($HOSTFILE): no such file. Its lines are: NAME slots=GPUS."
    NODES=$(grep -cE '^[^#]+ slots=[0-9]+' "$HOSTFILE") || fail "HOSTFILE ($HOSTFILE) names no host. Its lines are: NAME slots=GPUS."
    where=(--hostfile "$HOSTFILE")
fi
ranks=$(preflight "$@") || exit

# DeepSpeed does not tell ranks how many of them share a node; by it experts are kept within nodes. Other nodes get
# what stands in this file.
export LOCAL_WORLD_SIZE=$ranks DS_ENV_FILE
DS_ENV_FILE=$(mktemp)
trap 'rm -f "$DS_ENV_FILE"' EXIT
for name in LOCAL_WORLD_SIZE OMP_NUM_THREADS PYTHONPATH; do
    echo "$name=${!name}" >>"$DS_ENV_FILE"
done
(
    trap '' USR1
    exec setsid "$PYTHON" -m deepspeed.launcher.runner "${where[@]}" --num_gpus "$ranks" \
        ${RENDEZVOUS_PORT:+--master_port "$RENDEZVOUS_PORT"} --no_local_rank --module timeexpert train "$@"
) &
# on one node the runner leaves the processes alone when it is told to end, so the one that it started is told
if ((NODES == 1)); then stop_with "pkill -TERM -P $!"; else stop_with "kill -TERM $!"; fi
wait_for $!
