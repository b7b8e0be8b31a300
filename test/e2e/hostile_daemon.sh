#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# timeout: 400
# quick: yes
# A daemon that breaks the ring contract in every way: test/hostile/main.cc says what must hold all the same.
# HOSTILE_SECONDS (60), HOSTILE_SEED (at random), HOSTILE_ARGS: more of hostile-daemon's options. For an hour, with
# allocations that fail: scripts/vm --kernel debug --timeout 4500 -- env HOSTILE_SECONDS=3600 test/e2e/hostile_daemon.sh
. "$(dirname "$0")/lib.sh"

seconds=${HOSTILE_SECONDS:-60}
seed=${HOSTILE_SEED:-$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}
scale=1
[ -d /sys/kernel/debug/failslab ] && scale=4    # that kernel checks whatever it does

mkdir "$WORK/hostile"
chmod 755 "$WORK" "$WORK/hostile"
mount_fs memfs "$WORK/honest"
# shellcheck disable=SC2086
"$EFUSE_BUILD/test/hostile/hostile-daemon" --work "$WORK/hostile" --honest "$WORK/honest" --seed "$seed" \
  --seconds "$seconds" --limit $((30 * scale)) --end-limit $((5 * scale)) --faults ${HOSTILE_ARGS:-} ||
  fail "hostile-daemon, HOSTILE_SEED=$seed"
umount_fs "$WORK/honest"
