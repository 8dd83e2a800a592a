#!/usr/bin/env bash
# The whole recipe of the paper: ARIA's weights converted, then stages 1 to 3, with an evaluation after each.
#
#   ARIA=FOLDER DATA=FOLDER [EVAL=NAME] scripts/reproduce.sh [key.path=value ...]
#
# Further words go to `timeexpert train`. The same command again continues. Hyperparameters stand in the config, with
# their sources; where the sources contradict each other docs/clusters.md names the switches. Settings:
#   DATA         folder with the shards of the stages: stage1, stage2, stage3     EVAL   held-out shards, a name in it
#   ARIA         ARIA's published weights, for making WEIGHTS: the model to start from (weights/CONFIG)
#   CONFIG       aria, or aria_table1: the supplement's table for all stages      RUN    run folder (runs/CONFIG)
#   LAUNCHER     node, deepspeed, or slurm (SBATCH_OPTIONS="--time=48:00:00 ..."), with their settings
set -euo pipefail
# shellcheck source=scripts/launch/recipe.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch/recipe.sh"
[[ $# == 0 ]] || help_if_asked "$@"

needs_data 1 2 3
: "${WEIGHTS:=weights/$NAME}"
if [[ ! -d $WEIGHTS ]]; then
    needs ARIA "ARIA's published weights, from which WEIGHTS ($WEIGHTS) is made"
    "$PYTHON" -m timeexpert convert "$ARIA" -o "$WEIGHTS" --config "$CONFIG"
fi
train "$@"
