#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# scripts/vm -- test/posix/ext4.sh: the POSIX behaviour suite on ext4, without efuse. Not part of scripts/test: it
# shows which of the differences in differences.toml are tmpfs's own, and that the expectations are not just what
# tmpfs does.
. "$(dirname "$0")/../e2e/lib.sh"
. "$(dirname "$0")/lib.sh"

mount_ext4 "$WORK/ext4" || skip "no ext4 in a loop device here"
observe_tmpfs
observe ext4 "$WORK/ext4"
compare_with_tmpfs ext4
