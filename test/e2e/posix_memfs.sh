#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# also: 7.2
# timeout: 900
# quick: no
# The POSIX behaviour suite on memfs over rings, compared with tmpfs.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/../posix/lib.sh"

observe_tmpfs
mount_fs memfs "$WORK/m" -o allow_other,suid,dev,acl,size=512M
observe memfs "$WORK/m"
expect_share "$WORK/m" 95
compare_with_tmpfs memfs
umount_fs "$WORK/m"
