# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=sh
# For the end-to-end tests model_*.sh: source it after test/e2e/lib.sh.

FS_MODEL=$EFUSE_BUILD/test/model/fs-model
MODEL_SECONDS=${MODEL_SECONDS:-40}
MODEL_OPTIONS=${MODEL_OPTIONS-}
[ -x "$FS_MODEL" ] || fail "$FS_MODEL is not built"

# model MODE SECONDS DIR [OPTION...]: one process more than there are CPUs.
model() {
  mode=$1 seconds=$2 dir=$3
  shift 3
  # shellcheck disable=SC2086 # words
  "$FS_MODEL" "$mode" --seconds "$seconds" --processes "$(($(nproc) + 1))" ${MODEL_SEED:+--seed "$MODEL_SEED"} \
    $MODEL_OPTIONS "$@" "$dir" || fail "fs-model $mode in $dir"
}
