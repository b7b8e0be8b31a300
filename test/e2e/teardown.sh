#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# also: 7.2
# timeout: 600
# quick: yes
# umount, detach and rmmod leave nothing: no mount, process, module use, slab or vmalloc memory that grows.
. "$(dirname "$0")/lib.sh"

used_kb() {
  awk '/^(Slab|VmallocUsed|Percpu):/ {sum += $2} END {print sum}' /proc/meminfo
}

cycle() {
  mount_fs memfs "$WORK/m" >/dev/null
  (cd "$WORK/m" && for i in 1 2 3 4 5; do echo $i >f$i && cat f$i >/dev/null && rm f$i; done) || fail "work on the mount"
  [ "$(awk '$1 == "efuse_ring" {print $3}' /proc/modules)" -ge 1 ] || fail "a mount over rings does not use the module"
  rmmod efuse_ring 2>/dev/null && fail "rmmod went through under a mount"
  umount_fs "$WORK/m"
}

for _ in 1 2; do cycle; done
before=$(used_kb)
for _ in $(seq 10); do cycle; done
sleep 1
after=$(used_kb)
echo "slab, vmalloc and per-CPU memory: $before kB before, $after kB after 10 mounts"
# One ring alone has over 4 MiB: a leak of any one attachment would show. A kernel with KASAN keeps what was freed.
[ -d /sys/kernel/debug/failslab ] || [ $((after - before)) -lt 4096 ] || fail "kernel memory grew by $((after - before)) kB over 10 mounts"
grep -q fuse.memfs /proc/mounts && fail "a mount is left"
pgrep -x efuse && fail "a process is left"
for _ in $(seq 50); do rmmod efuse_ring 2>/dev/null && break; sleep 0.1; done
grep -q '^efuse_ring ' /proc/modules && fail "the module cannot be removed"
[ -e /dev/efuse ] && fail "/dev/efuse outlives the module"
efuse mount memfs "$WORK/m" --transport ring 2>"$WORK/err" && fail "mounted over rings without the module"
cat "$WORK/err"
grep -q "module is not loaded" "$WORK/err" || fail "no clear message without the module"
insmod "$EFUSE_MODULE" || fail "insmod again"
cycle
