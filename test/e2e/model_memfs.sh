#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# timeout: 1800
# quick: no
# Random operations on files and on trees of names, against models in memory: on tmpfs for a moment, which proves the
# models, then on memfs over rings, with and without the kernel's writeback cache.
# MODEL_SECONDS: how long in all (default 40); MODEL_SEED: of a run that is to be repeated.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/../model/lib.sh"

mkdir "$WORK/host"
model file "$((MODEL_SECONDS / 12 + 1))" "$WORK/host"
model tree "$((MODEL_SECONDS / 12 + 1))" "$WORK/host"
for options in size=256M size=256M,writeback_cache size=256M,direct_io; do
  mount_fs memfs "$WORK/m" -o "$options"
  echo "memfs, $options"
  # What is not cached cannot be mapped and shared.
  [ "$options" != size=256M,direct_io ] || export MODEL_OPTIONS=--no-mmap
  model file "$((MODEL_SECONDS / 5))" "$WORK/m" --drop-caches
  [ "$options" = size=256M,direct_io ] || model tree "$((MODEL_SECONDS / 6))" "$WORK/m" --drop-caches
  expect_share "$WORK/m" 95
  umount_fs "$WORK/m"
done
