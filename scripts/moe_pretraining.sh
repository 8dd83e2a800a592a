#!/usr/bin/env bash
# Stage 2 of the paper's recipe: the MoE decoder.
#
#   WEIGHTS=FOLDER DATA=FOLDER scripts/moe_pretraining.sh [key.path=value ...] [options of `timeexpert train`]
#
# Settings are those of reproduce.sh, and the same for every stage. RUN must hold stage 1.
set -euo pipefail
# shellcheck source=scripts/launch/recipe.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch/recipe.sh"
[[ $# == 0 ]] || help_if_asked "$@"
needs_data 2
train --stage moe_pretraining "$@"
