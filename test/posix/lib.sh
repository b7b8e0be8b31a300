# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=sh disable=SC2154
# For the end-to-end tests posix_*.sh: source it after test/e2e/lib.sh.

POSIX_SUITE=$EFUSE_BUILD/test/posix/posix-suite
POSIX_DIR=$(dirname "$0")/../posix
POSIX_LOGS=$EFUSE_BUILD/test-logs/posix
[ -x "$POSIX_SUITE" ] || fail "$POSIX_SUITE is not built"

# observe NAME DIR: run the checks in DIR; what they saw is in $POSIX_LOGS/NAME.json.
# POSIX_ONLY: prefixes of the checks to run (default: all).
observe() {
  mkdir -p "$POSIX_LOGS" "$2"
  begun=$(date +%s)
  # shellcheck disable=SC2046,SC2086
  "$POSIX_SUITE" --other /dev/shm $(for p in ${POSIX_ONLY-}; do printf " --only %s" "$p"; done) "$2" \
    >"$POSIX_LOGS/$1.json" || fail "posix-suite on $1: exit status $?"
  echo "$1: $(wc -l <"$POSIX_LOGS/$1.json") checks in $(($(date +%s) - begun)) s"
}

# observe_tmpfs: once for each start of the kernel and build of the suite.
observe_tmpfs() {
  seen=$POSIX_LOGS/tmpfs.json
  booted=$(awk '$1 == "btime" {print $2}' /proc/stat)
  if [ -z "${POSIX_ONLY-}" ] && [ -e "$seen.complete" ] && [ "$seen.complete" -nt "$POSIX_SUITE" ] &&
     [ "$(stat -c %Y "$seen.complete")" -ge "$booted" ]; then
    echo "tmpfs: observed before, $(wc -l <"$seen") checks"
    return
  fi
  rm -f "$seen.complete"
  observe tmpfs "$WORK/host"
  [ -n "${POSIX_ONLY-}" ] || : >"$seen.complete"
}

# compare_with_tmpfs TARGET: what was observed as TARGET with what was observed as tmpfs.
compare_with_tmpfs() {
  python3 "$POSIX_DIR/compare.py" --target "$1" "$POSIX_LOGS/tmpfs.json" "$POSIX_LOGS/$1.json" ||
    fail "$1 does not behave as expected"
}

# mount_ext4 DIR: a new ext4, in a file. Fails if this kernel or machine cannot.
mount_ext4() {
  command -v mkfs.ext4 >/dev/null || return 1
  # The loop driver is a module, and beside the kernel, not in /lib/modules.
  [ -e /dev/loop-control ] || for root in $(awk '$3 == "virtiofs" {print $2}' /proc/mounts); do
    [ "$root" != / ] && find "$root" -name 'loop.ko*' -exec insmod {} \; 2>/dev/null
  done
  [ -e /dev/loop-control ] || return 1
  mkdir -p "$1" && truncate -s 256M "$1.image" && mkfs.ext4 -q -O ^has_journal "$1.image" &&
    mount -o loop "$1.image" "$1"
}
