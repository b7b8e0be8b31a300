#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# timeout: 1500
# quick: yes
# A tree copied into passthrough is the same through it and in its source, for each way to cache and to hold nodes.
. "$(dirname "$0")/lib.sh"

SOURCE=$WORK/source
M=$WORK/m
mkdir "$SOURCE"

# list DIR: everything that a copy keeps. Directories' sizes are the filesystem's business.
list() {
  (cd "$1" && find . \( -type d -printf '%y %m %U %G %TY-%Tm-%Td %TT %p\n' \) -o \
    -printf '%y %m %U %G %s %n %TY-%Tm-%Td %TT %l %p\n' | sort)
}

same() {
  # The list compares what diff does not know: it says that two pipes differ.
  diff -r --no-dereference -x fifo -x null -x sock "$1" "$2" || fail "$2 differs from $1"
  list "$1" >"$WORK/list.1"
  list "$2" >"$WORK/list.2"
  cmp "$WORK/list.1" "$WORK/list.2" || fail "metadata in $2 differs from $1's"
}

# A tree with everything that a filesystem can hold.
make_tree() {
  mkdir -p "$1"
  cp -r /usr/include/linux/netfilter* "$1"
  mkdir "$1/odd"
  mkfifo "$1/odd/fifo"
  mknod "$1/odd/null" c 1 3
  ln -s /etc/passwd "$1/odd/outside"
  ln -s nowhere "$1/odd/dangling"
  python3 -c 'import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])' "$1/odd/sock"
  truncate -s 1M "$1/odd/sparse"
  printf tail >>"$1/odd/sparse"
  echo linked >"$1/odd/a"
  ln "$1/odd/a" "$1/odd/b"
  : >"$1/odd/empty"
  touch "$1/odd/$(printf 'new\nline')" "$1/odd/$(printf '%0255d' 0)"
  install -m 6755 -o 12 -g 34 /bin/true "$1/odd/setid"
  chmod 3777 "$1/odd"
  touch -h -d '1999-12-31 23:59:59.123456789' "$1/odd/dangling"
}

# copy OPTIONS: in through the mount, and compare.
copy() {
  mount_fs passthrough "$M" -o "source=$SOURCE$1"
  cp -a --sparse=always "$WORK/tree" "$M/copy" || fail "cp -a with options '$1'"
  sync && echo 3 >/proc/sys/vm/drop_caches
  same "$WORK/tree" "$M/copy"
  same "$WORK/tree" "$SOURCE/copy"
  rm -r "$M/copy" || fail "rm -r with options '$1'"
  [ -z "$(ls -A "$SOURCE")" ] || fail "rm -r has left something: $(ls -A "$SOURCE")"
  expect_share "$M" 99
  umount_fs "$M"
}

make_tree "$WORK/tree"
for options in "" ,writeback,acl ,cache=none ,cache=always,inode_handles=never ,passthrough; do
  copy "$options"
  echo "options '$options': $(wc -l <"$WORK/list.1") entries are the same"
done
