#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# timeout: 2400
# quick: no
# stress-ng's stressors of filesystems, each for a moment, and dbench, on memfs over rings. They check what they get,
# and the runner checks the kernel's log.
# STRESS_TARGET: memfs (default), passthrough, or tmpfs, which shows what fails without efuse; STRESS_SECONDS: of each
# stressor (default 1); STRESS_ONLY: names of stressors.
. "$(dirname "$0")/lib.sh"
command -v stress-ng >/dev/null || skip "stress-ng is not installed"
target=${STRESS_TARGET:-memfs}
seconds=${STRESS_SECONDS:-1}

# Not here: bind-mount binds the root, not this mount; io-uring asks for the status of a file that it has removed, which
# fails on tmpfs, too; binderfs, eventfd, ioprio, procfs and rawdev are about other things than files here.
stressors="access aio aiol chattr chdir chmod chown copy-file dentry dir dirdeep dirmany dnotify dup
  fallocate fanotify fcntl fiemap file-ioctl filename flock fpunch fsize fstat getdent handle hdd inode-flags inotify
  io iomix lease link locka lockf lockofd mknod open readahead rename revio seek symlink sync-file touch utime
  verity xattr"

cd "$WORK" || fail cd  # it wants one that it can write to
case $target in
  tmpfs) mkdir "$WORK/m" ;;
  passthrough)
    mkdir "$WORK/source"
    mount_fs passthrough "$WORK/m" -o "source=$WORK/source,allow_other,suid,dev"
    ;;
  *) mount_fs "$target" "$WORK/m" -o allow_other,suid,dev,size=1G ;;
esac

# Each makes files of a gigabyte unless it is told otherwise.
sizes="--copy-file-bytes 128M --fallocate-bytes 64M --hdd-bytes 64M --iomix-bytes 64M --readahead-bytes 64M
  --revio-bytes 64M --seek-size 64M --sync-file-bytes 64M"
# Exit status of stress-ng: 0 fine, 2 it failed, 3 no resources for it, 4 not here.
# shellcheck disable=SC2086 # words
for stressor in ${STRESS_ONLY:-$stressors}; do
  stress-ng --"$stressor" 2 --timeout "$seconds" --verify --temp-path "$WORK/m" --metrics-brief $sizes >"$WORK/log" 2>&1
  status=$?
  case $status in
    0)
      operations=$(awk -v name="$stressor" '$2 == "metrc:" && $4 == name {print $5; exit}' "$WORK/log")
      echo "$stressor: ${operations:-no} operations"
      ;;
    3 | 4) echo "$stressor: not run: $(grep -v 'setting to\|dispatching\|metrc' "$WORK/log" | head -n 1)" ;;
    *)
      cat "$WORK/log"
      failed="${failed-} $stressor($status)"
      ;;
  esac
done
[ -z "${failed-}" ] || fail "stressors on $target:$failed"
left=$(find "$WORK/m" -mindepth 1 | wc -l)
[ "$left" -eq 0 ] || { find "$WORK/m" | head; fail "$left files are left"; }

if [ -z "${STRESS_ONLY-}" ] && command -v dbench >/dev/null; then
  dbench -D "$WORK/m" -t "$((seconds * 8))" 4 >"$WORK/log" 2>&1 || { tail -n 20 "$WORK/log"; fail "dbench"; }
  tail -n 1 "$WORK/log"
  # This kernel may have no System V semaphores; then its clients do not start all at once.
  grep -v 'barrier semaphore' "$WORK/log" | grep -i 'error\|failed' && fail "dbench reports an error"
fi
if [ "$target" != tmpfs ]; then
  expect_share "$WORK/m" 95
  umount_fs "$WORK/m"
fi
