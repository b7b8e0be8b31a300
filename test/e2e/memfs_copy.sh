#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# timeout: 1500
# quick: no
# Python's library and the time zones, copied into memfs and compared, by content and by metadata.
# COPY_TREES: other trees in their place, for instance /usr/include.
. "$(dirname "$0")/lib.sh"

mount_fs memfs "$WORK/m"
# The test machine's root keeps a descriptor on the host for each file in the guest's caches; they are let go of as
# we walk. memfs is looked up anew and gets FORGETs all along, too.
(while sleep 1; do echo 2 >/proc/sys/vm/drop_caches; done) &
dropper=$!
copied=0
for tree in ${COPY_TREES:-/usr/lib/python3* /usr/share/zoneinfo}; do
  [ -d "$tree" ] || continue
  to=$WORK/m$(dirname "$tree")
  mkdir -p "$to"
  cp -a "$tree" "$to/" || fail "cp -a $tree"
  # Not through the page cache that the copy has filled.
  sync && echo 3 >/proc/sys/vm/drop_caches
  diff -r --no-dereference "$tree" "$WORK/m$tree" || fail "$tree differs from its copy"
  for root in "$tree" "$WORK/m$tree"; do
    (cd "$root" && find . \( -type d -printf '%y %m %U %G %TY-%Tm-%Td %TT %p\n' \) -o \
      -printf '%y %m %U %G %s %TY-%Tm-%Td %TT %l %p\n' | sort) >"$WORK/list.$(echo "$root" | md5sum | cut -c1-8)"
  done
  cmp "$WORK"/list.* || fail "metadata of $tree differs from its copy's"
  copied=$((copied + 1))
  echo "$tree: $(wc -l <"$WORK/list.$(echo "$tree" | md5sum | cut -c1-8)") entries are the same"
  rm -f "$WORK"/list.*
done
kill "$dropper"
[ "$copied" -gt 0 ] || fail "there is none of ${COPY_TREES:-/usr/lib/python3* /usr/share/zoneinfo}"
expect_share "$WORK/m" 99
umount_fs "$WORK/m"
