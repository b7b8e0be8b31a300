// SPDX-License-Identifier: LGPL-2.1-or-later
// efuse for C++: a low-level FUSE filesystem served over the best transport that
// this machine has.
//
//   efuse::MountOptions mount{.mountpoint = "/mnt", .subtype = "myfs"};
//   efuse::Config config;
//   efuse::load_config_environment(config);
//   efuse::Session s(&ops, sizeof ops, &userdata, mount, config);
//   s.mount();
//   return s.run();
//
// `ops` is libfuse's struct fuse_lowlevel_ops; <fuse_lowlevel.h> comes with this
// header, and its fuse_reply_*(), fuse_req_*() and fuse_lowlevel_notify_*() are
// in libefuse. efuse::to_handle(s) is the struct fuse_session * that they take.
#pragma once

#include "config.hh"
#include "session.hh"
