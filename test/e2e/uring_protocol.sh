#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: host
# timeout: 300
# quick: yes
# Every part of the low-level API end to end, over the kernel's io_uring. See protocol.sh for the other transports.
. "$(dirname "$0")/lib.sh"

need_uring
program=${EFUSE_BUILD:-build}/test/protocol/protocol_test
[ -x "$program" ] || fail "no $program"
mkdir "$WORK/m" && chmod 755 "$WORK" || fail mkdir  # other users go there
"$program" --transport uring "$WORK/m" || fail "see above"
