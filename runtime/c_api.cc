// SPDX-License-Identifier: LGPL-2.1-or-later
// The C entry points: efuse_session_*(), and libfuse's fuse_session_*() with its meaning.
#include "efuse/efuse.h"
#include "mount.hh"
#include "session.hh"
#include "session_control.hh"
#include "transport_manual.hh"

#include <fmt/format.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

struct efuse_session {
  efuse_session(const fuse_lowlevel_ops *ops, std::size_t ops_size, void *userdata)
      : session(ops, ops_size, userdata, {}, {}) {}
  efuse::Session session;
  std::string error;
  std::string transport;
};

/// Opaque to programs from libfuse's API 3.12 on; 0: as configured.
struct fuse_loop_config {
  unsigned clone_fd;
  unsigned max_threads;
};

namespace {

using efuse::ManualTransport;
using efuse::Session;

/// The errno behind the exception being handled; its text goes to `text`.
int current_error(std::string &text) noexcept try {
  try {
    throw;
  } catch (const std::system_error &e) {
    text = e.what();
    return e.code().value();
  } catch (const std::bad_alloc &) {
    text = "out of memory";
    return ENOMEM;
  } catch (const std::invalid_argument &e) {
    text = e.what();
    return EINVAL;
  } catch (const efuse::ConfigError &e) {
    text = e.what();
    return EINVAL;
  } catch (const std::exception &e) {
    text = e.what();
    return EIO;
  }
} catch (...) {  // no memory for the text
  return ENOMEM;
}

template <typename Action>
int guarded(efuse_session *se, Action action) noexcept {
  try {
    se->error.clear();
    action();
    return 0;
  } catch (...) {
    return -current_error(se->error);
  }
}

Session &session_of(fuse_session *handle) noexcept {
  return static_cast<Session &>(*efuse::from_handle(handle));
}

void complain(const std::string &text) noexcept { fuse_log(FUSE_LOG_ERR, "efuse: %s\n", text.c_str()); }

/// argv as fuse_session_new() takes it: -o OPTIONS, -oOPTIONS, -d, --debug; argv[0] is the program.
void take_arguments(const fuse_args &args, Session &session) {
  for (int i = 1; i < args.argc; ++i) {
    std::string_view argument = args.argv[i];
    if (argument == "-d" || argument == "--debug") {
      session.debug = true;
    } else if (argument == "-o" && i + 1 < args.argc) {
      session.mount_options().options.emplace_back(args.argv[++i]);
    } else if (argument.starts_with("-o") && argument.size() > 2) {
      session.mount_options().options.emplace_back(argument.substr(2));
    } else {
      throw std::invalid_argument(fmt::format("unknown option '{}'", argument));
    }
  }
  efuse::parse_mount_options(session.mount_options());  // complain now, not at the mount
}

/// Messages through functions of the program's own: one thread takes them in turn.
int loop_over_io(Session &session) {
  ManualTransport *transport = session.manual();
  if (transport == nullptr)
    return -ENOMEM;
  fuse_buf buf{};
  int result = 0;
  while (!session.exited()) {
    result = transport->receive(buf);
    if (result == -EINTR)
      continue;
    if (result <= 0 || session.exited())
      break;
    transport->process(buf);
  }
  std::free(buf.mem);
  const int error = session.exit_error();
  return error != 0 ? -error : std::min(result, 0);
}

/// As libfuse's loops: 0, a negative errno, or the number of the signal that ended it.
int loop(Session &session) noexcept {
  try {
    if (session.has_io())
      return loop_over_io(session);
    if (session.fd() < 0)
      return -ENOTCONN;
    if (!session.started())
      session.start();
    const auto control = efuse::serve_control(session);
    return -session.run();
  } catch (...) {
    std::string text;
    int error = current_error(text);
    complain(text);
    return -error;
  }
}

/// A filesystem may rely on libfuse's loop having ten threads: requests that block do not keep others waiting.
void expect_blocking(Session &session) {
  constexpr unsigned kThreads = 10;
  if (session.config().dev_threads == 0)
    session.config().dev_threads = kThreads;
}

// libfuse's signal handlers serve one session per process: a handler has no argument to tell it.
std::atomic<Session *> signalled_session{nullptr};

void on_signal(int number) {
  if (Session *session = signalled_session.load())
    session->exit(-number);
}

constexpr int kExitSignals[] = {SIGHUP, SIGINT, SIGTERM};
constexpr int kFailSignals[] = {SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV};

void on_failure(int number) {
  if (Session *session = signalled_session.load())
    session->exit(number);
  fuse_log(FUSE_LOG_ERR, "efuse: signal %d\n", number);
  ::signal(number, SIG_DFL);
  ::raise(number);
}

/// Replace `from` by `to`; a handler that somebody else has set stays.
bool change_handler(int number, void (*from)(int), void (*to)(int)) noexcept {
  struct sigaction action {};
  if (::sigaction(number, nullptr, &action) != 0)
    return false;
  if ((action.sa_flags & SA_SIGINFO) != 0 || action.sa_handler != from)
    return true;
  action = {};
  action.sa_handler = to;
  return ::sigaction(number, &action, nullptr) == 0;
}

}  // namespace

extern "C" {

struct efuse_session *efuse_session_new(const struct fuse_lowlevel_ops *ops, size_t ops_size, void *userdata) {
  try {
    return new efuse_session(ops, ops_size, userdata);
  } catch (...) {
    std::string text;
    errno = current_error(text);
    return nullptr;
  }
}

int efuse_session_load_config(struct efuse_session *se, const char *toml_file) {
  return guarded(se, [&] { efuse::load_config_file(se->session.config(), toml_file); });
}

int efuse_session_load_environment(struct efuse_session *se) {
  return guarded(se, [&] { efuse::load_config_environment(se->session.config()); });
}

int efuse_session_set(struct efuse_session *se, const char *assignment) {
  return guarded(se, [&] { efuse::set_config_key(se->session.config(), assignment); });
}

int efuse_session_option(struct efuse_session *se, const char *options) {
  return guarded(se, [&] { se->session.mount_options().options.emplace_back(options); });
}

int efuse_session_mount(struct efuse_session *se, const char *mountpoint) {
  return guarded(se, [&] {
    efuse::check_config(se->session.config());
    se->session.mount_options().mountpoint = mountpoint;
    se->session.mount();
    se->transport = se->session.transport_name();
  });
}

int efuse_session_run(struct efuse_session *se) {
  int error = 0;
  int failed = guarded(se, [&] {
    error = se->session.run();
    if (error != 0)
      se->error = std::generic_category().message(error);
  });
  return failed != 0 ? failed : -error;
}

void efuse_session_exit(struct efuse_session *se) { se->session.exit(0); }
void efuse_session_unmount(struct efuse_session *se) { se->session.unmount(); }
void efuse_session_destroy(struct efuse_session *se) { delete se; }
const char *efuse_session_error(const struct efuse_session *se) { return se->error.c_str(); }
const char *efuse_session_transport(const struct efuse_session *se) { return se->transport.c_str(); }
const char *efuse_session_transport_reason(const struct efuse_session *se) {
  return se->session.transport_reason().c_str();
}
struct fuse_session *efuse_session_fuse(struct efuse_session *se) { return efuse::to_handle(se->session); }

// ---- libfuse ----------------------------------------------------------------

// Under names of our own: newer headers make macros and inline functions of the others.
struct libfuse_version;
struct fuse_session *efuse_fuse_session_new(struct fuse_args *args, const struct fuse_lowlevel_ops *op, size_t op_size,
                                            void *userdata) __asm__("fuse_session_new");
struct fuse_session *efuse_session_new_versioned(struct fuse_args *args, const struct fuse_lowlevel_ops *op,
                                                 size_t op_size, struct libfuse_version *version,
                                                 void *userdata) __asm__("fuse_session_new_versioned");
int efuse_custom_io(struct fuse_session *se, const struct fuse_custom_io *io, int fd) __asm__("fuse_session_custom_io");
int efuse_custom_io_317(struct fuse_session *se, const struct fuse_custom_io *io, size_t size,
                        int fd) __asm__("fuse_session_custom_io_317");
int efuse_set_fail_signal_handlers(struct fuse_session *se) __asm__("fuse_set_fail_signal_handlers");

struct fuse_session *efuse_session_new_versioned(struct fuse_args *args, const struct fuse_lowlevel_ops *op,
                                                 size_t op_size, struct libfuse_version *, void *userdata) {
  return efuse_fuse_session_new(args, op, op_size, userdata);
}

struct fuse_session *efuse_fuse_session_new(struct fuse_args *args, const struct fuse_lowlevel_ops *op, size_t op_size,
                                            void *userdata) {
  try {
    if (args == nullptr || args->argc == 0)
      throw std::invalid_argument("fuse_session_new() needs a program name in argv[0]");
    efuse::Config config;
    if (const char *file = std::getenv("EFUSE_CONFIG"))
      efuse::load_config_file(config, file);
    efuse::load_config_environment(config);
    efuse::check_config(config);
    auto session = std::make_unique<Session>(op, op_size, userdata, efuse::MountOptions{.fsname = ""}, config);
    take_arguments(*args, *session);
    return efuse::to_handle(*session.release());
  } catch (...) {
    std::string text;
    errno = current_error(text);
    complain(text);
    return nullptr;
  }
}

/// Mounts and leaves INIT to the loop: programs fork into the background between the two.
int fuse_session_mount(struct fuse_session *se, const char *mountpoint) {
  try {
    Session &session = session_of(se);
    session.mount_options().mountpoint = mountpoint;
    session.mount_options().options.emplace_back("nonempty");  // libfuse mounts over anything
    session.connect();
    return 0;
  } catch (...) {
    std::string text;
    errno = current_error(text);
    complain(text);
    return -1;
  }
}

/// One thread calls the filesystem, so one reader: rings have a worker beside their reader.
int fuse_session_loop(struct fuse_session *se) {
  Session &session = session_of(se);
  session.config().transport = efuse::TransportChoice::dev;
  session.config().dev_threads = 1;
  return loop(session);
}

int fuse_session_loop_mt(struct fuse_session *se, struct fuse_loop_config *config) {
  Session &session = session_of(se);
  expect_blocking(session);
  if (config != nullptr) {
    session.config().clone_fd = config->clone_fd != 0 || session.config().clone_fd;
    if (config->max_threads != 0)
      session.config().dev_threads = config->max_threads;
  }
  return loop(session);
}

// What API versions before 3.12 call it by. The old structure's idle threads have no counterpart here.
int fuse_session_loop_mt_32(struct fuse_session *se, struct fuse_loop_config_v1 *) {
  return fuse_session_loop_mt(se, nullptr);
}
int fuse_session_loop_mt_31(struct fuse_session *se, int) { return fuse_session_loop_mt(se, nullptr); }

struct fuse_loop_config *fuse_loop_cfg_create(void) { return new (std::nothrow) fuse_loop_config{}; }
void fuse_loop_cfg_destroy(struct fuse_loop_config *config) { delete config; }
void fuse_loop_cfg_set_idle_threads(struct fuse_loop_config *, unsigned int) {}
void fuse_loop_cfg_set_max_threads(struct fuse_loop_config *config, unsigned int value) {
  config->max_threads = value;
}
void fuse_loop_cfg_set_clone_fd(struct fuse_loop_config *config, unsigned int value) { config->clone_fd = value; }
void fuse_loop_cfg_convert(struct fuse_loop_config *config, struct fuse_loop_config_v1 *v1) {
  config->clone_fd = static_cast<unsigned>(v1->clone_fd);
}

// What API versions from 3.12 on may call it by.
int efuse_loop_mt_312(struct fuse_session *se, struct fuse_loop_config *config) __asm__("fuse_session_loop_mt_312");
int efuse_loop_mt_312(struct fuse_session *se, struct fuse_loop_config *config) {
  return fuse_session_loop_mt(se, config);
}

int fuse_session_receive_buf(struct fuse_session *se, struct fuse_buf *buf) {
  ManualTransport *transport = session_of(se).manual();
  return transport != nullptr ? transport->receive(*buf) : -ENOTCONN;
}

void fuse_session_process_buf(struct fuse_session *se, const struct fuse_buf *buf) {
  if (ManualTransport *transport = session_of(se).manual())
    transport->process(*buf);
}

int efuse_custom_io(struct fuse_session *se, const struct fuse_custom_io *io, int fd) {
  if (fd < 0)
    return -EBADF;
  if (io == nullptr || io->read == nullptr || io->writev == nullptr)
    return -EINVAL;
  try {
    session_of(se).set_io(efuse::Fd(fd), *io);
    return 0;
  } catch (...) {
    std::string text;
    const int error = current_error(text);
    complain(text);
    return -error;
  }
}

/// The structure may be a newer one, with more functions, or an older one.
int efuse_custom_io_317(struct fuse_session *se, const struct fuse_custom_io *io, size_t size, int fd) {
  fuse_custom_io known{};
  if (io != nullptr)
    std::memcpy(&known, io, std::min(size, sizeof known));
  return efuse_custom_io(se, io != nullptr ? &known : nullptr, fd);
}

void fuse_session_exit(struct fuse_session *se) { session_of(se).exit(0); }
int fuse_session_exited(struct fuse_session *se) { return session_of(se).exited() ? 1 : 0; }
void fuse_session_reset(struct fuse_session *se) { session_of(se).reset(); }
void fuse_session_unmount(struct fuse_session *se) { session_of(se).unmount(); }
void fuse_session_destroy(struct fuse_session *se) { delete &session_of(se); }
int fuse_session_fd(struct fuse_session *se) { return session_of(se).fd(); }

int fuse_set_signal_handlers(struct fuse_session *se) {
  for (int number : kExitSignals)
    if (!change_handler(number, SIG_DFL, on_signal))
      return -1;
  if (!change_handler(SIGPIPE, SIG_DFL, SIG_IGN))
    return -1;
  signalled_session = &session_of(se);
  return 0;
}

/// A crash of the filesystem ends its session: the mount does not stay as a dead one.
int efuse_set_fail_signal_handlers(struct fuse_session *se) {
  for (int number : kFailSignals)
    if (!change_handler(number, SIG_DFL, on_failure))
      return -1;
  signalled_session = &session_of(se);
  return 0;
}

void fuse_remove_signal_handlers(struct fuse_session *) {
  signalled_session = nullptr;
  for (int number : kExitSignals)
    change_handler(number, on_signal, SIG_DFL);
  change_handler(SIGPIPE, SIG_IGN, SIG_DFL);
}

}  // extern "C"
