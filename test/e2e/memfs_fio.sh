#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# timeout: 900
# quick: no
# fio writes and verifies: 4 jobs, random blocks of 512 B to 1 MiB, buffered, mapped and direct, synchronous and queued.
. "$(dirname "$0")/lib.sh"
command -v fio >/dev/null || skip "fio is not installed"

mount_fs memfs "$WORK/m" -o size=1G
cd "$WORK" || fail "cd"  # fio leaves its state where it runs
run() {
  name=$1
  shift
  mkdir "$WORK/m/$name" || fail mkdir
  fio --name="$name" --directory="$WORK/m/$name" --numjobs=4 --size=24M --rw=randrw --rwmixwrite=60 \
    --bsrange=512-1M --bs_unaligned=0 --blockalign=512 --randrepeat=1 --verify=crc32c --verify_fatal=1 \
    --do_verify=1 --group_reporting --output="$WORK/fio.log" "$@" ||
    { cat "$WORK/fio.log"; fail "fio $name"; }
  grep -q 'err= 0' "$WORK/fio.log" || { cat "$WORK/fio.log"; fail "fio $name reports an error"; }
  sed -n 's/^ *\(read\|write\|READ\|WRITE\): IOPS.*/&/p' "$WORK/fio.log" | sed "s/^/$name:/"
  rm -rf "${WORK:?}/m/$name"
}
run buffered --ioengine=psync
run mapped --ioengine=mmap
run direct --ioengine=psync --direct=1
run queued --ioengine=libaio --iodepth=16 --direct=1
expect_share "$WORK/m" 99
umount_fs "$WORK/m"
