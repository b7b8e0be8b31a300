// SPDX-License-Identifier: LGPL-2.1-or-later
// The one place that includes libfuse's headers and the kernel's protocol
// header, in the order and with the macros they need.
#pragma once

#ifndef FUSE_USE_VERSION
#define FUSE_USE_VERSION 312
#endif
#include <fuse_lowlevel.h>
#include <linux/fuse.h>
