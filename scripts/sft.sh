#!/usr/bin/env bash
# Stage 3 of the paper's recipe: everything but the vision tower.
#
#   WEIGHTS=FOLDER DATA=FOLDER scripts/sft.sh [key.path=value ...] [options of `timeexpert train`]
#
# Settings are those of reproduce.sh, and the same for every stage. RUN must hold stages 1 and 2.
set -euo pipefail
# shellcheck source=scripts/launch/recipe.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch/recipe.sh"
[[ $# == 0 ]] || help_if_asked "$@"
needs_data 3
train --stage sft "$@"
