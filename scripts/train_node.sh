#!/usr/bin/env bash
# Train with torchrun on one node, or on one of several: then the same command is started on each of them.
#
#   scripts/train_node.sh CONFIG [key.path=value ...] [-o RUN] [--stage NAME]
#   RANKS_PER_NODE=2 scripts/train_node.sh tiny --device cpu stages.sft.accumulate=2 ...
#   NODES=2 RENDEZVOUS=FIRST_NODE:29500 scripts/train_node.sh CONFIG ...
#
# The arguments are those of `timeexpert train`. The same command again continues the run. SIGTERM, Ctrl-C and SIGUSR1
# ask for a checkpoint; the exit code is 143 then. Settings, as environment variables (docs/clusters.md has all):
#   RANKS_PER_NODE   processes to start (default: one per GPU)      NODES        number of nodes (1)
#   RENDEZVOUS       HOST:PORT of the first node, if NODES > 1      GRACE_S      seconds a checkpoint may take (240)
#   MAX_RESTARTS     how often failed ranks are started again (3)   MIN_FREE_GB  wanted in the run folder (5)
#   PYTHON           the interpreter (.venv's)                      SITE_ENV     file with this site's exports
#   INTERFACE        network interface between the nodes            LOCAL_ADDR   this node's address for the others
set -euo pipefail
# shellcheck source=scripts/launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch/common.sh"
help_if_asked "$@"
((NODES == 1)) || [[ -n ${RENDEZVOUS:-} ]] ||
    fail "NODES is $NODES, but RENDEZVOUS is not set. Set it to HOST:PORT of the first node, the same on every node."

ranks=$(preflight "$@") || exit
agent "$ranks" -m timeexpert train "$@"
