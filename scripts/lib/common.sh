# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# For the scripts in this directory: source it first. They run from any directory.

set -euo pipefail
TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
# Where everything is built: $EFUSE_BUILD, or build/ in the tree.
BUILD=$(realpath -m "${EFUSE_BUILD:-$TOP/build}")
export EFUSE_BUILD=$BUILD

say() {
  echo "$(basename "$0"): $*"
}

die() {
  echo "$(basename "$0"): $*" >&2
  exit 1
}
