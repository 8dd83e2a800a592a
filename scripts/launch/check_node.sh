#!/usr/bin/env bash
# Health check of this node; train_slurm.sbatch starts it on every node. Its last line is "healthy", or it fails.
#
#   scripts/launch/check_node.sh alone    TRAIN ARGUMENTS     GPUs, disk, data, an all-reduce among this node's ranks
#   scripts/launch/check_node.sh together TRAIN ARGUMENTS     an all-reduce with the other NODES
set -euo pipefail
# shellcheck source=scripts/launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
help_if_asked "$@"

kind=$1
shift
: "${RANKS_PER_NODE:?is set by train_slurm.sbatch}"
device=cuda
[[ " $* " != *" --device cpu "* && " $* " != *" --device=cpu "* ]] || device=cpu
if [[ $kind == alone ]]; then
    preflight "$@" >/dev/null
    NODES=1
fi
MAX_RESTARTS=0 GRACE_S=1
agent "$RANKS_PER_NODE" "$ROOT/scripts/launch/all_reduce.py" "$device"
echo healthy
