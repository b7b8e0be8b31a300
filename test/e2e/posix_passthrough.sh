#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# timeout: 900
# quick: no
# The POSIX behaviour suite on passthrough over rings, on top of tmpfs, compared with tmpfs.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/../posix/lib.sh"

observe_tmpfs
mkdir "$WORK/source"
mount_fs passthrough "$WORK/m" -o "source=$WORK/source,allow_other,suid,dev,xattr,acl"
observe passthrough "$WORK/m"
expect_share "$WORK/m" 95
compare_with_tmpfs passthrough
umount_fs "$WORK/m"
