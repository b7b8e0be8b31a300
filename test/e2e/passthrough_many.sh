#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# timeout: 1200
# quick: no
# A tree of 50,000 files, all of them in the kernel's cache, costs the daemon of passthrough no descriptors.
. "$(dirname "$0")/lib.sh"

SOURCE=$WORK/source
M=$WORK/m
mkdir "$SOURCE"

descriptors() {
  find "/proc/$(daemon_of "$M")/fd" -mindepth 1 | wc -l
}

# Through the mount it is counted and read; all the inodes are in the kernel's cache then.
large_tree() {
  python3 - "$SOURCE" <<'END'
import os, sys
for d in range(100):
    os.mkdir(f"{sys.argv[1]}/d{d}")
    for f in range(500):
        os.close(os.open(f"{sys.argv[1]}/d{d}/f{f}", os.O_CREAT | os.O_WRONLY))
END
  mount_fs passthrough "$M" -o "source=$SOURCE,cache=always"
  before=$(descriptors)
  n=$(find "$M" -type f -size 0 -printf x | wc -c)
  [ "$n" -eq 50000 ] || fail "50,000 files are $n through the mount"
  exec 7<"$M/d0/f0" 8<"$M/d1/f1" 9<"$M/d2"
  after=$(descriptors)
  exec 7<&- 8<&- 9<&-
  echo "descriptors of the daemon: $before at first, $after with 50,000 files cached and 3 open"
  [ "$after" -le $((before + 3)) ] || fail "descriptors grow with the tree"
  umount_fs "$M"
}

large_tree
