#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# timeout: 300
# Fast paths whose maps hold anything at all: test/hostile/maps.cc says what is written into them.
# HOSTILE_SECONDS (20), in as many mounts as it takes, HOSTILE_SEED (at random), HOSTILE_CALLS (10000): programs must have
# run so often. A million on the debug kernel:
# scripts/vm --kernel debug --timeout 4000 -- env HOSTILE_SECONDS=2400 HOSTILE_CALLS=1000000 test/e2e/hostile_maps.sh
. "$(dirname "$0")/lib.sh"

[ -x "$EFUSE_BUILD/test/hostile/hostile_maps" ] || skip "built without fast paths"
seconds=${HOSTILE_SECONDS:-20}
seed=${HOSTILE_SEED:-$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}

# calls_of DIR: how often programs were asked.
calls_of() {
  efuse stat "$1" --json | python3 -c '
import json, sys
programs = json.load(sys.stdin)[0]["fastpath"]
print(sum(n for p in programs for o in p["opcodes"].values() for n in o.values()))'
}

mkdir "$WORK/source"
end=$(($(date +%s) + seconds)) calls=0 mounts=0
# A mount that has hardly any time overwrites nothing.
while left=$((end - $(date +%s))) && [ "$left" -gt 5 ]; do
  # Few entries and blocks: what is overwritten is in use.
  mount_fs passthrough "$WORK/mnt" -o "source=$WORK/source,entry_timeout=0,attr_timeout=0,fastpath_timeout=inf" \
    --fastpath metadata,read --set fastpath.entries=512 --set fastpath.blocks_mib=2
  "$EFUSE_BUILD/test/hostile/hostile_maps" "$WORK/mnt" "$left" "$((seed + mounts))" ||
    fail "hostile_maps, HOSTILE_SEED=$seed, mount $mounts"
  calls=$((calls + $(calls_of "$WORK/mnt"))) mounts=$((mounts + 1))
  umount_fs "$WORK/mnt"
done
echo "programs were asked $calls times in $seconds s, on $mounts mounts"
[ "$calls" -ge "${HOSTILE_CALLS:-10000}" ] || fail "programs were asked $calls times only"

# The same files, with maps that nobody has touched.
mount_fs passthrough "$WORK/mnt" -o "source=$WORK/source,fastpath_timeout=inf" --fastpath metadata,read
diff -r --no-dereference "$WORK/source" "$WORK/mnt" || fail "a later mount differs from its source"
umount_fs "$WORK/mnt"
