#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: host
# timeout: 300
# quick: no
# The POSIX behaviour suite on memfs: what is seen over io_uring is what is seen over /dev/fuse, check by check. How
# that compares with tmpfs is another test's matter (posix_memfs.sh), on a kernel whose tmpfs is known.
EFUSE_BUILD=${EFUSE_BUILD:-build}
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/../posix/lib.sh"

need_uring
for TRANSPORT in dev uring; do
  mount_fs memfs "$WORK/$TRANSPORT" -o allow_other,suid,dev,acl,size=512M
  observe "memfs-$TRANSPORT" "$WORK/$TRANSPORT"
  expect_share "$WORK/$TRANSPORT" 99
  umount_fs "$WORK/$TRANSPORT"
done
[ "$(wc -l <"$POSIX_LOGS/memfs-uring.json")" -gt 1000 ] || fail "hardly a check was run"
for transport in dev uring; do
  python3 -c '
import json, sys
for line in sys.stdin:
    seen = json.loads(line)
    print(seen["check"], seen["observed"], sep=": ")' <"$POSIX_LOGS/memfs-$transport.json" >"$WORK/$transport.seen"
done
diff "$WORK/dev.seen" "$WORK/uring.seen" || fail "io_uring (>) and /dev/fuse (<) differ"
