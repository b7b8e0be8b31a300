#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: host
# timeout: 300
# quick: no
# dkms builds the module from what scripts/dkms-install hands to it, for the test kernel, in scratch directories: nothing of
# this machine changes.
set -u
top=$(cd "$(dirname "$0")/../.." && pwd -P)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
  echo "FAILED: $*" >&2
  [ -z "${log-}" ] || tail -n 40 "$log" >&2
  exit 1
}

if ! command -v dkms >/dev/null; then
  echo "SKIPPED: no dkms (scripts/setup installs it)"
  exit 77
fi
kernel=$("$top/scripts/lib/test-kernel") || fail "no test kernel"
release=$(cat "$kernel/include/config/kernel.release")
mkdir "$work/src" "$work/dkms" "$work/modules"
"$top/scripts/dkms-install" --to "$work/src" || fail "dkms-install --to"
version=$(sed -n 's/^PACKAGE_VERSION="\(.*\)"$/\1/p' "$top/kmod/efuse_ring/dkms.conf")
grep -q "version: '$version'" "$top/meson.build" || fail "dkms.conf has version $version, meson.build another one"
[ -d "$work/src/efuse_ring-$version" ] || fail "no sources of $version"

log=$work/log
do_dkms() {
  dkms "$@" -m efuse_ring -v "$version" --sourcetree "$work/src" --dkmstree "$work/dkms" --installtree "$work/modules" \
    >"$log" 2>&1
}
do_dkms add || fail "dkms add"
do_dkms build -k "$release" --kernelsourcedir "$kernel" --no-depmod -j 2 || {
  find "$work/dkms" -name make.log -exec cat {} + >>"$log"
  fail "dkms build"
}
module=$(find "$work/dkms/efuse_ring/$version/$release" -name 'efuse_ring.ko*')
[ -n "$module" ] || fail "dkms has built no efuse_ring.ko"
modinfo=$(PATH=$PATH:/usr/sbin:/sbin command -v modinfo)
info=$("$modinfo" "$module") || fail "modinfo"
echo "$info" | grep -E '^(version|license|vermagic|depends)'
[ "$("$modinfo" -F vermagic "$module" | cut -d' ' -f1)" = "$release" ] || fail "the module is not for $release: $info"
[ "$("$modinfo" -F version "$module")" = "$version" ] || fail "modinfo has no version $version: $info"
[ "$("$modinfo" -F license "$module")" = GPL ] || fail "modinfo: $info"
# Fast paths need the module's own BTF, which only a build that found the kernel's has.
case $module in
  *.xz) xz -dc "$module" >"$work/m.ko" ;;
  *) cp "$module" "$work/m.ko" ;;
esac
readelf -SW "$work/m.ko" | grep -q '\.BTF ' || fail "the module has no BTF"
do_dkms remove --all || fail "dkms remove"
