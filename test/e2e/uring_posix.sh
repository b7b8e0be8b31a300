#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: host
# timeout: 300
# quick: no
# The POSIX behaviour suite on memfs over io_uring, compared with tmpfs.
EFUSE_BUILD=${EFUSE_BUILD:-build}
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/../posix/lib.sh"

need_uring
TRANSPORT=uring
observe_tmpfs
mount_fs memfs "$WORK/m" -o allow_other,suid,dev,acl,size=512M
observe memfs "$WORK/m"
expect_share "$WORK/m" 99
compare_with_tmpfs memfs
umount_fs "$WORK/m"
