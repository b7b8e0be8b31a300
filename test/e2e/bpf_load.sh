#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# timeout: 300
# quick: yes
# The kernel's verifier takes the shipped BPF programs, with whatever can be set in them, and the tutorial's.
. "$(dirname "$0")/lib.sh"

dir=${EFUSE_BUILD:-build}/test/unit
[ -x "$dir/bpf_load" ] || skip "built without fast paths"
"$dir/bpf_load" "$dir/hide_names.bpf.o" || fail "a program was refused"
