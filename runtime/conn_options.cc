// SPDX-License-Identifier: LGPL-2.1-or-later
// fuse_parse_conn_info_opts(): what a user may want of the connection, from the command line to init().
#include "fuse_api.hh"

#include <fuse_log.h>
#include <fuse_opt.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>

/// Opaque to programs. `set`: the number was given.
struct fuse_conn_info_opts {
  unsigned max_write, max_readahead, max_background, congestion_threshold, time_gran;
  int set_max_write, set_max_readahead, set_max_background, set_congestion_threshold, set_time_gran;
  int atomic_o_trunc, no_posix_lock, no_flock;
  int splice_write, no_splice_write, splice_move, no_splice_move, splice_read, no_splice_read;
  int auto_inval_data, no_auto_inval_data, no_readdirplus, no_readdirplus_auto;
  int async_dio, no_async_dio, writeback_cache, no_writeback_cache, async_read, sync_read;
};

namespace {

using Options = fuse_conn_info_opts;

#define EFUSE_NUMBER(name)                               \
  fuse_opt{#name "=%u", offsetof(Options, name), 0},     \
      fuse_opt{#name "=", offsetof(Options, set_##name), 1}
#define EFUSE_FLAG(text, name, value) fuse_opt{text, offsetof(Options, name), value}
#define EFUSE_SWITCH(name) EFUSE_FLAG(#name, name, 1), EFUSE_FLAG("no_" #name, no_##name, 1)

constexpr fuse_opt kSpec[] = {
    EFUSE_NUMBER(max_write),
    EFUSE_NUMBER(max_readahead),
    EFUSE_NUMBER(max_background),
    EFUSE_NUMBER(congestion_threshold),
    EFUSE_NUMBER(time_gran),
    EFUSE_FLAG("sync_read", sync_read, 1),
    EFUSE_FLAG("async_read", async_read, 1),
    EFUSE_FLAG("atomic_o_trunc", atomic_o_trunc, 1),
    EFUSE_FLAG("no_remote_lock", no_posix_lock, 1),
    EFUSE_FLAG("no_remote_lock", no_flock, 1),
    EFUSE_FLAG("no_remote_flock", no_flock, 1),
    EFUSE_FLAG("no_remote_posix_lock", no_posix_lock, 1),
    EFUSE_SWITCH(splice_write),
    EFUSE_SWITCH(splice_move),
    EFUSE_SWITCH(splice_read),
    EFUSE_SWITCH(auto_inval_data),
    EFUSE_SWITCH(async_dio),
    EFUSE_SWITCH(writeback_cache),
    EFUSE_FLAG("readdirplus=no", no_readdirplus, 1),
    EFUSE_FLAG("readdirplus=yes", no_readdirplus, 0),
    EFUSE_FLAG("readdirplus=yes", no_readdirplus_auto, 1),
    EFUSE_FLAG("readdirplus=auto", no_readdirplus, 0),
    EFUSE_FLAG("readdirplus=auto", no_readdirplus_auto, 0),
    FUSE_OPT_END,
};

/// How data goes: wanting what is not there (SPLICE_READ never is) is no error.
constexpr std::uint64_t kHints = FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE | FUSE_CAP_SPLICE_READ;

void want(fuse_conn_info &conn, int yes, int no, std::uint64_t capability) noexcept {
  if (yes && ((capability & kHints) == 0 || (conn.capable & capability) != 0))
    conn.want |= static_cast<std::uint32_t>(capability);
  if (no)
    conn.want &= ~static_cast<std::uint32_t>(capability);
}

}  // namespace

extern "C" {

struct fuse_conn_info_opts *fuse_parse_conn_info_opts(struct fuse_args *args) {
  auto *options = static_cast<fuse_conn_info_opts *>(std::calloc(1, sizeof(fuse_conn_info_opts)));
  if (options == nullptr) {
    fuse_log(FUSE_LOG_ERR, "efuse: no memory for options\n");
    return nullptr;
  }
  if (fuse_opt_parse(args, options, kSpec, nullptr) == 0)
    return options;
  std::free(options);
  return nullptr;
}

void fuse_apply_conn_info_opts(struct fuse_conn_info_opts *opts, struct fuse_conn_info *conn) {
  if (opts->set_max_write) conn->max_write = opts->max_write;
  if (opts->set_max_readahead) conn->max_readahead = opts->max_readahead;
  if (opts->set_max_background) conn->max_background = opts->max_background;
  if (opts->set_congestion_threshold) conn->congestion_threshold = opts->congestion_threshold;
  if (opts->set_time_gran) conn->time_gran = opts->time_gran;

  want(*conn, opts->atomic_o_trunc, 0, FUSE_CAP_ATOMIC_O_TRUNC);
  want(*conn, 0, opts->no_flock, FUSE_CAP_FLOCK_LOCKS);
  want(*conn, 0, opts->no_posix_lock, FUSE_CAP_POSIX_LOCKS);
  want(*conn, opts->splice_write, opts->no_splice_write, FUSE_CAP_SPLICE_WRITE);
  want(*conn, opts->splice_move, opts->no_splice_move, FUSE_CAP_SPLICE_MOVE);
  want(*conn, opts->splice_read, opts->no_splice_read, FUSE_CAP_SPLICE_READ);
  want(*conn, opts->auto_inval_data, opts->no_auto_inval_data, FUSE_CAP_AUTO_INVAL_DATA);
  want(*conn, 0, opts->no_readdirplus, FUSE_CAP_READDIRPLUS);
  want(*conn, 0, opts->no_readdirplus_auto, FUSE_CAP_READDIRPLUS_AUTO);
  want(*conn, opts->async_dio, opts->no_async_dio, FUSE_CAP_ASYNC_DIO);
  want(*conn, opts->writeback_cache, opts->no_writeback_cache, FUSE_CAP_WRITEBACK_CACHE);
  want(*conn, opts->async_read, opts->sync_read, FUSE_CAP_ASYNC_READ);
}

}  // extern "C"
