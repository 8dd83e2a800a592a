# shellcheck shell=bash
# The paper's recipe: what its stages need, and who starts them. The stage scripts and reproduce.sh source it.

# shellcheck source=scripts/launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

: "${CONFIG:=aria}" "${LAUNCHER:=node}"
NAME=$(basename "$CONFIG" .yaml)
RUN=${RUN:-runs/$NAME}
export MIN_FREE_GB=${MIN_FREE_GB:-1000} # three checkpoints of 25.3e9 parameters, weights and two moments in float32

needs() { # NAME WHAT [FOLDER IN IT...]: a setting that must name a folder
    local name=$1 what=$2 part
    shift 2
    [[ -n ${!name:-} ]] || fail "$name is not set. It is the folder of $what."
    for part in "" "$@"; do
        [[ -d ${!name}/$part ]] || fail "$name (${!name}): there is no folder ${!name}${part:+/$part}. It is the folder of $what."
    done
}

needs_data() { # STAGES' NUMBERS
    needs DATA "stage1, stage2 and stage3, shards that 'timeexpert data build' made (docs/data.md)" "${@/#/stage}"
}

train() { # ARGUMENTS of `timeexpert train`
    local model words
    needs WEIGHTS "the model to start from: timeexpert convert ARIA -o WEIGHTS --config $CONFIG"
    model=$(realpath "$WEIGHTS")
    words=("$CONFIG" "data.root=$(realpath "$DATA")" "model.pretrained=$model" "text.tokenizer=$model")
    [[ -z ${EVAL:-} ]] || words+=("data.eval=$EVAL")
    words+=(--out "$RUN" "$@")
    case $LAUNCHER in
        node) exec "$ROOT/scripts/train_node.sh" "${words[@]}" ;;
        deepspeed) exec "$ROOT/scripts/train_deepspeed.sh" "${words[@]}" ;;
        slurm)
            command -v sbatch >/dev/null || fail "LAUNCHER is slurm, but there is no sbatch on this machine."
            # shellcheck disable=SC2086 # several options
            TIMEEXPERT_ROOT=$ROOT exec sbatch ${SBATCH_OPTIONS:-} "$ROOT/scripts/train_slurm.sbatch" "${words[@]}"
            ;;
        *) fail "LAUNCHER ($LAUNCHER) must be node, slurm or deepspeed." ;;
    esac
}
