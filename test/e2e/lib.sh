# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=sh
# For the end-to-end tests in sh: source it first.
# TRANSPORT (default: ring) is what mount_fs asks for.

set -u
WORK=$(mktemp -d)
TRANSPORT=${TRANSPORT:-ring}
trap 'cleanup' EXIT
trap 'exit 1' INT TERM

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

skip() {
  echo "SKIPPED: $*"
  exit 77
}

cleanup() {
  status=$?
  # shellcheck disable=SC2046
  kill $(jobs -p) 2>/dev/null
  awk -v dir="$WORK" 'index($2, dir) == 1 {print $2}' /proc/mounts | sort -r | while read -r m; do umount -l "$m"; done
  rm -rf "$WORK"
  [ -z "${URING_WAS-}" ] || echo "$URING_WAS" >"$URING_SWITCH"
  exit "$status"
}

URING_SWITCH=/sys/module/fuse/parameters/enable_uring
# need_uring: FUSE over io_uring is on in this kernel until the test ends, or the test is skipped.
need_uring() {
  [ -e "$URING_SWITCH" ] || skip "Linux $(uname -r) has no FUSE over io_uring (6.14 or later, CONFIG_FUSE_IO_URING)"
  [ "$(id -u)" -eq 0 ] || skip "only root can mount for this test and switch FUSE over io_uring on"
  was=$(cat "$URING_SWITCH")
  [ "$was" = Y ] && return
  echo Y >"$URING_SWITCH" || skip "FUSE over io_uring cannot be switched on here"
  URING_WAS=$was
}

# mount_fs FS DIR [OPTION...]: mounted and usable, or the test has failed.
mount_fs() {
  fs=$1 dir=$2
  shift 2
  mkdir -p "$dir"
  efuse mount "$fs" "$dir" --transport "$TRANSPORT" "$@" || fail "efuse mount $fs $dir"
  grep -q " $dir fuse" /proc/mounts || fail "$dir is not in /proc/mounts"
}

# daemon_of DIR: its process id.
daemon_of() {
  efuse stat "$1" --json | python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["pid"])'
}

# expect_share DIR PERCENT: at least so many of its requests went through $TRANSPORT. Of those that can: io_uring does
# not carry FORGETs and INTERRUPTs.
expect_share() {
  efuse stat "$1" --json | python3 -c '
import json, sys
want, least = sys.argv[1], float(sys.argv[2])
stat = json.load(sys.stdin)[0]
r = stat["requests"]
if want == "uring":
    for opcode in ("FORGET", "BATCH_FORGET", "INTERRUPT"):
        r["stock"] -= stat["by_op"].get(opcode, {}).get("stock", 0)
total = sum(r.values())
share = 100.0 * r["stock" if want == "dev" else want] / total if total else 0.0
print(f"{share:.3f} % of {total} requests by {want}: {r}")
sys.exit(total == 0 or share < least)' "$TRANSPORT" "$2" || fail "expected at least $2 % of the requests by $TRANSPORT"
}

# umount_fs DIR: gone from /proc/mounts, and its daemon ends within ten seconds.
umount_fs() {
  pid=$(daemon_of "$1")
  umount "$1" || fail "umount $1"
  for _ in $(seq 100); do
    [ -d "/proc/$pid" ] || return 0
    sleep 0.1
  done
  fail "daemon $pid of $1 is still there 10 s after umount"
}
