#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: vm
# kernel: 7.2
# timeout: 300
# quick: yes
"""libfuse's examples over each transport that the test kernel offers, the rings of the module first."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import examples  # noqa: E402

sys.exit(examples.run_all())
