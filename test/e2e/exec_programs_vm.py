#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# kernel: 7.2
# timeout: 400
# quick: yes
"""`efuse exec`: Debian's sshfs, fuse-overlayfs, squashfuse_ll and mfsmount, unmodified, over each transport that the
test kernel offers, the rings of the module first."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import programs  # noqa: E402

if programs.foreign.programs() is None:
    programs.skip("Debian's packages of the programs are not in the cache (scripts/lib/foreign.py --fetch)")
if not os.path.exists("/dev/fuse"):
    programs.skip("no /dev/fuse")
programs.own_network()
sys.exit(programs.run_matrix([programs.Sshfs, programs.Overlay, programs.Squash, programs.MooseFs]))
