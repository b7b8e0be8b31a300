#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# also: 7.2
# timeout: 600
# quick: yes
# As teardown_cycles, over the rings of the module; UNMOUNT_TRANSPORTS="ring dev uring": others on the test kernel, too.
UNMOUNT_TRANSPORTS=${UNMOUNT_TRANSPORTS:-ring}
. "$(dirname "$0")/teardown_cycles.sh"
