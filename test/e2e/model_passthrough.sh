#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# timeout: 1800
# quick: no
# Random operations on files and on trees of names, against models in memory, on passthrough over rings: as it is, with
# the kernel's writeback cache, and with reads and writes that go to the source's files inside the kernel.
# MODEL_SECONDS: how long in all (default 40); MODEL_SEED: of a run that is to be repeated.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/../model/lib.sh"

for options in cache=auto writeback passthrough; do
  mkdir "$WORK/source"
  mount_fs passthrough "$WORK/m" -o "source=$WORK/source,$options"
  echo "passthrough, $options"
  model file "$((MODEL_SECONDS / 5))" "$WORK/m" --drop-caches
  model tree "$((MODEL_SECONDS / 8))" "$WORK/m" --drop-caches
  expect_share "$WORK/m" 90
  umount_fs "$WORK/m"
  rm -rf "$WORK/source"
done
