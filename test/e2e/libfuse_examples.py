#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# where: host
# timeout: 150
# quick: yes
"""libfuse's examples over each transport that this machine's own kernel offers."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import examples  # noqa: E402

sys.exit(examples.run_all())
