#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: host
# timeout: 900
# quick: yes
# UNMOUNT_CYCLES (12) mounts and unmounts for each of UNMOUNT_TRANSPORTS ("dev uring") with requests in flight, the
# daemon killed in a third of them: no hang, no leftover mount, descriptor, thread or memory.
. "$(dirname "$0")/lib.sh"

program=${EFUSE_BUILD:-build}/test/protocol/teardown_cycles
[ -x "$program" ] || fail "no $program"
[ "$(id -u)" -eq 0 ] || skip "only root can end connections as this test does"
control=/sys/fs/fuse/connections
[ -d "$control" ] || skip "no $control: connections cannot be aborted"
if ! grep -q " $control fusectl " /proc/mounts; then
  mount -t fusectl fusectl "$control" || skip "fusectl cannot be mounted"
  trap 'umount "$control"; cleanup' EXIT
fi
mkdir "$WORK/m"
for transport in ${UNMOUNT_TRANSPORTS:-dev uring}; do
  if [ "$transport" = uring ] && [ ! -e "$URING_SWITCH" ]; then
    echo "uring: not tested, Linux $(uname -r) has no FUSE over io_uring"
    continue
  fi
  [ "$transport" != uring ] || need_uring
  "$program" --transport "$transport" --cycles "${UNMOUNT_CYCLES:-12}" "$WORK/m" || bad="${bad:-} $transport"
done
[ -z "${bad:-}" ] || fail "over$bad"
