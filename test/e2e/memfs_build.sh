#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# timeout: 1500
# quick: no
# A C project is unpacked, configured and built inside memfs: the kernel module itself, and its objects relinked.
. "$(dirname "$0")/lib.sh"

top=$(pwd)
kernel=/lib/modules/$(uname -r)/build
[ -f "$kernel/Makefile" ] || kernel=$(sed -n 's/^\(.*\) [^ ]*$/\1/p' "$(dirname "$EFUSE_MODULE")/.kernel")
[ -f "$kernel/Makefile" ] || fail "no kernel build directory for $(uname -r)"
mount_fs memfs "$WORK/m"
mkdir "$WORK/m/src" || fail mkdir
cp -r "$top/kmod" "$top/include" "$WORK/m/src/" || fail cp
mkdir "$WORK/m/src/scripts" && cp "$top/scripts/build-kmod" "$WORK/m/src/scripts/" || fail cp
"$WORK/m/src/scripts/build-kmod" "$kernel" "$WORK/m/out" || fail "the build inside memfs"
[ -s "$WORK/m/out/efuse_ring.ko" ] || fail "the build left no module"
modinfo "$WORK/m/out/efuse_ring.ko" | grep '^vermagic' || fail modinfo
# What was built there is what is built elsewhere, but for the paths in debug information.
strip --strip-debug -o "$WORK/here.ko" "$EFUSE_MODULE" && strip --strip-debug -o "$WORK/there.ko" "$WORK/m/out/efuse_ring.ko"
for section in .text .rodata .data; do
  for side in here there; do
    objcopy -O binary -j $section "$WORK/$side.ko" "$WORK/$side$section" 2>/dev/null
  done
done
cmp "$WORK/here.text" "$WORK/there.text" || fail "the code built in memfs differs"
# An incremental build sees that nothing has changed, by times alone.
before=$(stat -c %y "$WORK/m/out/main.o")
"$WORK/m/src/scripts/build-kmod" "$kernel" "$WORK/m/out" || fail "the second build"
[ "$before" = "$(stat -c %y "$WORK/m/out/main.o")" ] || fail "the second build compiled again"
expect_share "$WORK/m" 99
umount_fs "$WORK/m"
