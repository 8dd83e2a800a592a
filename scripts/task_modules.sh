#!/usr/bin/env bash
# Stage 1 of the paper's recipe: visual compression, time and score encoders and heads.
#
#   WEIGHTS=FOLDER DATA=FOLDER scripts/task_modules.sh [key.path=value ...] [options of `timeexpert train`]
#
# Settings are those of reproduce.sh, and the same for every stage.
set -euo pipefail
# shellcheck source=scripts/launch/recipe.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch/recipe.sh"
[[ $# == 0 ]] || help_if_asked "$@"
needs_data 1
train --stage task_modules "$@"
