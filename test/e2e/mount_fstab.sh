#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# timeout: 300
# quick: yes
# mount(8) with type fuse.efuse, lines of fstab, umount(8), and libfuse's own helper with efuse#FS.
. "$(dirname "$0")/lib.sh"

efuse=$(command -v efuse) || fail "no efuse"
# As installed: the helper is in /sbin, which is read-only here; its directory is covered by links and that one more.
mkdir "$WORK/sbin" "$WORK/real" "$WORK/m" "$WORK/p" "$WORK/source"
sbin=$(readlink -f /sbin)
mount --bind "$sbin" "$WORK/real" && ln -s "$WORK"/real/* "$WORK/sbin/" || fail "cannot show $sbin elsewhere"
ln -sfn "$efuse" "$WORK/sbin/mount.fuse.efuse"
ln -sfn "$efuse" "$WORK/sbin/efuse"   # mount(8) gives its helpers a PATH of its own
mount --bind "$WORK/sbin" "$sbin" || fail "cannot cover $sbin"
uncover() {
  status=$?
  umount -l "$WORK/m" "$WORK/p" 2>/dev/null
  umount -l "$sbin"
  umount -l "$WORK/real"
  (exit "$status")
  cleanup
}
trap uncover EXIT

field() {
  findmnt -rno "$1" "$2" || fail "nothing is mounted on $2"
}

expect() {
  [ "$2" = "$3" ] || fail "$1: expected '$3', got '$2'"
}

gone() {
  umount "$1" || fail "umount $1"
  findmnt "$1" >/dev/null && fail "$1 is still mounted"
  for _ in $(seq 100); do
    pgrep -x efuse >/dev/null || pgrep -x mount.fuse.efus >/dev/null || return 0
    sleep 0.1
  done
  fail "the daemon of $1 is still there 10 s after umount"
}

out=$(mount -t fuse.efuse memfs "$WORK/m" 2>&1) || fail "mount: $out"
expect "what mount(8) prints" "$out" ""
expect type "$(field FSTYPE "$WORK/m")" fuse.efuse
expect source "$(field SOURCE "$WORK/m")" memfs
case ,$(field VFS-OPTIONS "$WORK/m"), in
  *,nosuid,* | *,nodev,*) fail "root's mount has nosuid or nodev: $(field VFS-OPTIONS "$WORK/m")" ;;
esac
echo hello >"$WORK/m/f" && expect content "$(cat "$WORK/m/f")" hello
out=$(efuse stat "$WORK/m" --json) || fail "efuse stat"
echo "$out" | grep -q '"transport": *"ring"' || fail "not over rings: $out"
gone "$WORK/m"

# Everything that an fstab line may have for somebody else.
echo data >"$WORK/source/file"
cat >"$WORK/fstab" <<END
passthrough#$WORK/source $WORK/p fuse.efuse ro,noauto,nofail,_netdev,user,x-systemd.requires=x.service,exec,noatime,transport=dev 0 0
memfs $WORK/m fuse.efuse defaults,nosuid,allow_other,max_read=65536,size=16M 0 2
END
mount -T "$WORK/fstab" "$WORK/p" || fail "mount of an fstab line"
mount -T "$WORK/fstab" -a -t fuse.efuse || fail "mount -a"
expect "source of p" "$(field SOURCE "$WORK/p")" "passthrough#$WORK/source"
expect "content of p" "$(cat "$WORK/p/file")" data
touch "$WORK/p/new" 2>/dev/null && fail "ro does not hold"
case ,$(field VFS-OPTIONS "$WORK/p"), in
  *,ro,nosuid,nodev,noatime,*) ;;
  *) fail "options of p: $(field VFS-OPTIONS "$WORK/p")" ;;
esac
efuse stat "$WORK/p" --json | grep -q '"transport": *"dev"' || fail "transport=dev was not taken"
case ,$(field FS-OPTIONS "$WORK/m"), in
  *,allow_other,max_read=65536,*) ;;
  *) fail "options of m: $(field FS-OPTIONS "$WORK/m")" ;;
esac
before=$(grep -c "$WORK" /proc/mounts)
mount -T "$WORK/fstab" -a -t fuse.efuse || fail "mount -a again"
expect "mounts after another mount -a" "$(grep -c "$WORK" /proc/mounts)" "$before"
umount "$WORK/p" && gone "$WORK/m"

refused() {
  what=$1 text=$2
  shift 2
  out=$(mount "$@" 2>&1) && fail "$what: mounted"
  echo "$what: $out"
  echo "$out" | grep -q -- "$text" || fail "$what: no word of '$text'"
  findmnt "$WORK/m" >/dev/null && fail "$what: a mount is left"
}
refused "unknown filesystem" "no filesystem of efuse's" -t fuse.efuse nosuchfs "$WORK/m"
refused "unknown option" "unknown mount option 'frobnicate'" -t fuse.efuse -o frobnicate memfs "$WORK/m"
refused "no source" "source" -t fuse.efuse passthrough "$WORK/m"
refused "no such mountpoint" "does not exist\|no such file" -t fuse.efuse memfs "$WORK/none"
mount -f -t fuse.efuse memfs "$WORK/m" || fail "mount -f"
findmnt "$WORK/m" >/dev/null && fail "mount -f has mounted"
out=$(mount -v -t fuse.efuse memfs "$WORK/m" 2>&1) || fail "mount -v: $out"
echo "$out" | grep -q "transport ring" || fail "mount -v does not say which transport: $out"
gone "$WORK/m"

chown nobody "$WORK/m" && chmod 755 "$WORK" || fail chown
mount -t fuse.efuse -o setuid=nobody memfs "$WORK/m" || fail "mount with setuid="
pid=$(pgrep -x mount.fuse.efus) || fail "no daemon of nobody's"
expect "owner of the daemon" "$(stat -c %U "/proc/$pid")" nobody
gone "$WORK/m"

# Without a helper of ours: libfuse's runs `efuse memfs DIR -o ...`.
if [ -x "$sbin/mount.fuse3" ]; then
  mount -t fuse3 "efuse#memfs" "$WORK/m" -o size=1M || fail "mount of efuse#memfs"
  expect "type by mount.fuse3" "$(field FSTYPE "$WORK/m")" fuse.efuse
  gone "$WORK/m"
else
  echo "no mount.fuse3 here: efuse#memfs is not tried"
fi
