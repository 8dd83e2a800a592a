# shellcheck shell=bash
# What the launchers share; they source it. Settings are environment variables: docs/clusters.md has the list.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

# The comment at the top of the script, for -h and for a call without arguments.
help_if_asked() {
    local word
    for word in "${@:--h}"; do
        if [[ $word == -h || $word == --help ]]; then
            sed -n '/^#!/d; /^#SBATCH/d; /^# shellcheck/d; /^#/!q; s/^# \{0,1\}//p' "$0"
            exit 0
        fi
    done
}

whole_number() { # NAME LEAST: the setting of that name
    if ! [[ ${!1} =~ ^[0-9]+$ ]] || ((${!1} < $2)); then
        fail "$1 (${!1}) must be a whole number, $2 or more."
    fi
}

if [[ -n ${SITE_ENV:-} ]]; then
    [[ -f $SITE_ENV ]] || fail "SITE_ENV ($SITE_ENV): no such file. It holds this site's 'export NAME=value' lines."
    # shellcheck disable=SC1090
    source "$SITE_ENV"
fi
: "${NODES:=1}" "${MAX_RESTARTS:=3}" "${GRACE_S:=240}" "${RENDEZVOUS_TIMEOUT_S:=600}"
whole_number NODES 1
whole_number MAX_RESTARTS 0
whole_number GRACE_S 1
whole_number RENDEZVOUS_TIMEOUT_S 1
[[ -z ${RANKS_PER_NODE:-} ]] || whole_number RANKS_PER_NODE 1

if [[ -z ${PYTHON:-} ]]; then
    PYTHON=$ROOT/.venv/bin/python
    [[ -x $PYTHON ]] || PYTHON=$(command -v python3) || fail "no Python found. Set PYTHON to the one timeexpert is in."
fi
"$PYTHON" -c '' 2>/dev/null || fail "PYTHON ($PYTHON) does not start. Set PYTHON to the one timeexpert is in."
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH} # this checkout, not an installed copy

# Every process would otherwise start as many threads as the node has cores; data workers are processes of their own.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# A traceback of every thread when a process dies in C.
export PYTHONFAULTHANDLER=1
# The reason why NCCL fails stands in its warnings; it prints nothing else at this level.
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
# When a collective times out, each rank writes down which collectives it was in; torchfrtrace reads the files.
export TORCH_NCCL_DUMP_ON_TIMEOUT=${TORCH_NCCL_DUMP_ON_TIMEOUT:-1}
if [[ -n ${LOGS:-} ]]; then
    export TORCH_FR_DUMP_TEMP_FILE=${TORCH_FR_DUMP_TEMP_FILE:-$LOGS/collectives_rank}
fi
# torchrun would give ranks that it starts again the store of the dead ones, in which they find addresses that are no more:
# "connection refused", also with NCCL (pytorch issue 135712; seen with torch 2.13 and gloo).
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
# The nodes' own connections (gloo, and NCCL's first handshake) must not go over a network that other nodes do not reach.
if [[ -n ${INTERFACE:-} ]]; then
    export NCCL_SOCKET_IFNAME=$INTERFACE GLOO_SOCKET_IFNAME=$INTERFACE
fi

# Ends the script where this node cannot start the run; prints the number of ranks to start on it.
preflight() { # TRAIN ARGUMENTS
    "$PYTHON" "$ROOT/scripts/launch/preflight.py" "$NODES" "${RANKS_PER_NODE:-0}" "${MIN_FREE_GB:-5}" "$@"
}

# The rendezvous is on this node, but something listens there already.
check_port() {
    local said
    said=$("$PYTHON" -c '
import errno, socket, sys
host, _, port = sys.argv[1].rpartition(":")
try:
    place = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
    with socket.socket(place[0]) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(place[4])
except (ValueError, OverflowError):
    print("is not HOST:PORT with a port from 1 to 65535")
except socket.gaierror as error:
    print(f"cannot be resolved on this node: {error.strerror}")
except OSError as error:
    if error.errno == errno.EADDRINUSE:
        print("is in use by another program")
' "$RENDEZVOUS")
    [[ -z $said ]] || fail "RENDEZVOUS ($RENDEZVOUS) $said. Choose another: RENDEZVOUS=HOST:PORT (SLURM: RENDEZVOUS_PORT)."
}

# One torchrun agent, and its end. It is told to stop once, whoever asks how often: torchrun obeys a second SIGTERM at
# once, and so do its ranks, before the checkpoint is written.
agent() { # RANKS WORDS...
    local ranks=$1 where=(--standalone)
    shift
    if ((NODES > 1)); then
        local conf="timeout=$RENDEZVOUS_TIMEOUT_S,read_timeout=$RENDEZVOUS_TIMEOUT_S"
        if [[ -n ${SLURMD_NODENAME:-} ]]; then # names of nodes need not be names of hosts
            conf+=,is_host=$([[ $SLURMD_NODENAME == "$RENDEZVOUS_NODE" ]] && echo true || echo false)
        elif [[ ${LOCAL_ADDR:-} == "${RENDEZVOUS%:*}" ]]; then # torchrun looks at the addresses of the host's name only
            conf+=,is_host=true
        fi
        [[ $conf == *is_host=false ]] || check_port
        where=(--nnodes "$NODES" --rdzv-backend c10d --rdzv-endpoint "$RENDEZVOUS" --rdzv-conf "$conf")
        where+=(--rdzv-id "${RENDEZVOUS_ID:-timeexpert}" ${LOCAL_ADDR:+--local-addr "$LOCAL_ADDR"})
    fi
    # A session of its own, deaf to USR1: schedulers that signal groups or all processes reach this script alone.
    (
        trap '' USR1
        exec setsid "$PYTHON" -m torch.distributed.run "${where[@]}" --nproc-per-node "$ranks" \
            --max-restarts "$MAX_RESTARTS" --shutdown-timeout "$GRACE_S" "$@"
    ) &
    stop_with "kill -TERM $!"
    wait_for $!
}

asked_to_stop=
stop_with() { # COMMAND: runs at the first TERM, INT or USR1
    # shellcheck disable=SC2064 # the command is fixed now
    trap "trap '' TERM INT USR1; asked_to_stop=yes; $1 2>/dev/null || :" TERM INT USR1
}

# The exit code of a child, however many signals arrive while it runs; 143 where it was asked to stop.
wait_for() { # PID
    local code=0
    while :; do
        code=0
        wait "$1" || code=$?
        kill -0 "$1" 2>/dev/null || break
    done
    [[ -z $asked_to_stop || $code == 0 ]] || code=143
    return $code
}
