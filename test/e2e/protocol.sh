#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# also: 7.2
# timeout: 900
# quick: yes
# Every part of the low-level API end to end, over rings and over /dev/fuse.
. "$(dirname "$0")/lib.sh"

program=${EFUSE_BUILD:-build}/test/protocol/protocol_test
[ -x "$program" ] || fail "no $program"
mkdir "$WORK/m" && chmod 755 "$WORK" || fail mkdir  # other users go there
# BMAP is asked of fuseblk mounts alone: a RAM disk, where this kernel has them.
disk=
kernel=$(sed -n 's/^\(.*\) [^ ]*$/\1/p' "$(dirname "$EFUSE_MODULE")/.kernel")
brd=$(find "/lib/modules/$(uname -r)" "${kernel%/usr/src/*}/lib/modules" -name 'brd.ko*' 2>/dev/null | head -n 1)
[ -n "$brd" ] && insmod "$brd" rd_nr=1 rd_size=4096 && [ -b /dev/ram0 ] && disk=/dev/ram0
[ -n "$disk" ] || echo "no RAM disk: ${brd:-no module brd for $(uname -r)}"
for transport in ${EFUSE_TRANSPORTS:-ring dev}; do
  "$program" --transport "$transport" ${disk:+--blkdev "$disk"} "$WORK/m" || bad="${bad:-} $transport"
done
[ -z "${bad:-}" ] || fail "over$bad"
