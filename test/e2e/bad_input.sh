#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# timeout: 300
# quick: yes
# Each thing that can be wrong gives its own clear error, and leaves no mount and no process behind.
. "$(dirname "$0")/lib.sh"

# refuse TEXT COMMAND...: it fails with one line that contains TEXT, and nothing is left.
refuse() {
  text=$1
  shift
  if "$@" >"$WORK/out" 2>"$WORK/err"; then
    cat "$WORK/out" "$WORK/err"
    fail "succeeded: $*"
  fi
  grep -q -- "$text" "$WORK/err" || { cat "$WORK/err"; fail "$*: expected '$text' in the message"; }
  [ "$(wc -l <"$WORK/err")" -le 1 ] || { cat "$WORK/err"; fail "$*: more than one line"; }
  grep -q " $WORK/" /proc/mounts && fail "$*: a mount is left"
  pgrep -x efuse >/dev/null && fail "$*: a process is left"
  sed 's/^/ok: /' "$WORK/err"
}

mkdir "$WORK/m"
touch "$WORK/file"
refuse "$WORK/none" efuse mount memfs "$WORK/none"
refuse "not a directory" efuse mount memfs "$WORK/file"
refuse "nosuchfs" efuse mount nosuchfs "$WORK/m"
refuse "nonsense" efuse mount memfs "$WORK/m" -o nonsense=1
refuse "size" efuse mount memfs "$WORK/m" -o size=many
refuse "$WORK/none.toml" efuse mount memfs "$WORK/m" --config "$WORK/none.toml"

printf '[ring]\ndepth = 100\n' >"$WORK/c.toml"
refuse "c.toml:2:.*ring.depth.*power of two.*100" efuse mount memfs "$WORK/m" --config "$WORK/c.toml"
refuse "c.toml:2:.*ring.depth.*power of two.*100" efuse config check "$WORK/c.toml"
printf '[ring]\ndepht = 128\n' >"$WORK/c.toml"
refuse "c.toml:2:.*depht" efuse config check "$WORK/c.toml"
printf '[ring]\ndepth = "deep"\n' >"$WORK/c.toml"
refuse "c.toml:2:.*ring.depth" efuse config check "$WORK/c.toml"
printf '[ring\n' >"$WORK/c.toml"
refuse "c.toml:1:" efuse config check "$WORK/c.toml"
refuse "ring.count" efuse mount memfs "$WORK/m" --transport ring --set ring.count=-1
refuse "rings" efuse mount memfs "$WORK/m" --transport ring --set ring.count=1000

# Somebody without rights to /dev/efuse goes on with dev, and is told why in one line.
chmod 666 /dev/fuse  # as udev does
chmod 600 /dev/efuse
chown nobody "$WORK" "$WORK/m"
chmod 755 "$WORK"
line=$(setpriv --reuid=nobody --regid=nogroup --clear-groups efuse mount memfs "$WORK/m" 2>&1) ||
  fail "efuse mount as nobody: $line"
echo "$line"
echo "$line" | grep -q "transport dev (ring: no permission to open /dev/efuse" || fail "no reason for dev"
[ "$(echo "$line" | wc -l)" -eq 1 ] || fail "more than one line"
setpriv --reuid=nobody --regid=nogroup --clear-groups fusermount3 -u "$WORK/m" || fail "fusermount3 -u"
chmod 666 /dev/efuse
for _ in $(seq 50); do pgrep -x efuse >/dev/null || break; sleep 0.1; done
refuse "no write access to mountpoint /usr" setpriv --reuid=nobody --regid=nogroup --clear-groups efuse mount memfs /usr

# A mount whose daemon was killed: busy until it is unmounted.
mount_fs memfs "$WORK/m"
kill -9 "$(daemon_of "$WORK/m")"
sleep 0.5
efuse mount memfs "$WORK/m" >"$WORK/out" 2>&1 && fail "mounted over a dead mount"
cat "$WORK/out"
grep -q "$WORK/m" "$WORK/out" || fail "no clear message for a dead mount"
umount "$WORK/m" || fail "umount of a dead mount"
mount_fs memfs "$WORK/m"
echo works >"$WORK/m/file" || fail "the mount after it"
expect_share "$WORK/m" 99
umount_fs "$WORK/m"

out=$(efuse doctor) || fail "efuse doctor: $out"
echo "$out"
efuse doctor --json | python3 -m json.tool >/dev/null || fail "efuse doctor --json is not JSON"
[ "$(efuse stat --json)" = "[]" ] || fail "efuse stat --json without mounts is not []"
