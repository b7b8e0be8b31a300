#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# timeout: 300
# quick: yes
# An ordinary user: mounts over rings through fusermount3, is alone there unless he says otherwise, is limited by
# RLIMIT_MEMLOCK. And auto_unmount.
. "$(dirname "$0")/lib.sh"

as() {
  user=$1
  shift
  setpriv --reuid "$user" --regid "$user" --clear-groups --inh-caps=-all env HOME=/tmp "$@"
}

expect() {
  [ "$2" = "$3" ] || fail "$1: expected '$3', got '$2'"
}

transport() {
  as 1000 efuse stat "$1" --json | python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["transport"])'
}

gone() {
  as 1000 fusermount3 -u "$1" || fail "fusermount3 -u $1"
  grep -q " $1 " /proc/mounts && fail "$1 is still mounted"
}

m=$WORK/m
mkdir "$m" && chmod 755 "$WORK" && chown 1000:1000 "$m" || fail mkdir
expect "mode of /dev/efuse" "$(stat -c %a /dev/efuse)" 666

# The default of a login: rings and payload fit.
out=$(as 1000 prlimit --memlock=67108864 efuse mount memfs "$m") || fail "mount as a user"
echo "$out"
expect "transport" "$(transport "$m")" ring
[ "$(as 1000 stat -c %u "$m")" = 1000 ] || fail "the root directory is not the user's"
as 1000 sh -c 'cd "$1" && echo text >f && cat f && mkdir d && mv f d/g && ln -s d/g l && cat l && rm -r d l && [ -z "$(ls)" ]' \
  sh "$m" || fail "file operations of the user"
as 1001 ls "$m" 2>/dev/null && fail "another user reads it without allow_other"
ls "$m" 2>/dev/null && fail "root reads it without allow_other"
grep " $m " /proc/mounts | grep -q 'nosuid,nodev' || fail "not nosuid,nodev: $(grep " $m " /proc/mounts)"
expect_ring=$(as 1000 efuse stat "$m" --json | python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["requests"]["ring"] > 10)')
expect "requests by ring" "$expect_ring" True
gone "$m"

# Another user's mount is no way to rings on it: who cannot have its /dev/fuse descriptor cannot attach.
as 1000 prlimit --memlock=67108864 efuse mount memfs "$m" --transport dev >/dev/null || fail "mount for another user"
pid=$(as 1000 efuse stat "$m" --json | python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["pid"])')
as 1001 ls "/proc/$pid/fd" 2>/dev/null && fail "another user sees the daemon's descriptors"
gone "$m"

# Over the limit: auto goes on without rings, and says why; asked for by name it is an error.
out=$(as 1000 prlimit --memlock=65536 efuse mount memfs "$m") || fail "mount over the limit"
echo "$out"
echo "$out" | grep -q "RLIMIT_MEMLOCK" || fail "it does not say that RLIMIT_MEMLOCK was in the way"
[ "$(transport "$m")" != ring ] || fail "rings over the limit"
as 1000 sh -c 'echo text >"$1/f" && cat "$1/f"' sh "$m" || fail "file operations over the limit"
gone "$m"
out=$(as 1000 prlimit --memlock=65536 efuse mount memfs "$m" --transport ring 2>&1) && fail "rings by name over the limit"
echo "$out" | grep -q "RLIMIT_MEMLOCK" || fail "no clear message: $out"
grep -q " $m " /proc/mounts && fail "a refused mount is left"

# The limit is the user's, not the mount's: what the first mount takes, a second one does not get.
mkdir "$WORK/m2" && chown 1000:1000 "$WORK/m2" || fail mkdir
need=$(($(nproc) * 5 << 20))
as 1000 prlimit --memlock=$need efuse mount memfs "$m" | grep "transport ring" || fail "the first mount has no rings"
out=$(as 1000 prlimit --memlock=$need efuse mount memfs "$WORK/m2") || fail "the second mount"
echo "$out" | grep -q RLIMIT_MEMLOCK || fail "the second mount is not limited: $out"
gone "$WORK/m2"
gone "$m"
# Given back; not at once, but when no request is in the module any more.
for _ in $(seq 100); do
  out=$(as 1000 prlimit --memlock=$need efuse mount memfs "$m") || fail "mount after the first was gone"
  case $out in
    *"transport ring"*) break ;;
  esac
  gone "$m"
  sleep 0.2
done
expect "transport after the first was gone" "$(transport "$m")" ring
gone "$m"

# auto_unmount: fusermount3 stays behind for a daemon that is killed. By root: the one of libfuse 3.14.0 does not see the
# state of a user's mount that it may not enter.
efuse mount memfs "$m" --transport ring -o auto_unmount || fail "mount with auto_unmount"
pid=$(daemon_of "$m")
kill -9 "$pid"
for _ in $(seq 100); do
  grep -q " $m " /proc/mounts || break
  sleep 0.1
done
grep -q " $m " /proc/mounts && fail "auto_unmount has not unmounted after kill -9"
exit 0
