// SPDX-License-Identifier: LGPL-2.1-or-later
// libfuse's logging. One process-wide function: that is what its API says.
#include "fuse_api.hh"

#include <fuse_log.h>
#include <syslog.h>

#include <atomic>
#include <cstdarg>
#include <cstdio>

namespace {

void log_to_stderr(fuse_log_level /*level*/, const char *format, va_list arguments) {
  std::vfprintf(stderr, format, arguments);
}

std::atomic<fuse_log_func_t> log_function{log_to_stderr};

/// libfuse's levels are syslog's.
void log_to_syslog(fuse_log_level level, const char *format, va_list arguments) {
  ::vsyslog(static_cast<int>(level), format, arguments);
}

}  // namespace

extern "C" {

// Declared by newer headers only.
void efuse_log_enable_syslog(const char *ident, int option, int facility) __asm__("fuse_log_enable_syslog");
void efuse_log_close_syslog() __asm__("fuse_log_close_syslog");

void efuse_log_enable_syslog(const char *ident, int option, int facility) {
  ::openlog(ident, option, facility);
  log_function.store(log_to_syslog, std::memory_order_release);
}
void efuse_log_close_syslog() {
  log_function.store(log_to_stderr, std::memory_order_release);
  ::closelog();
}

void fuse_set_log_func(fuse_log_func_t func) {
  log_function.store(func ? func : log_to_stderr, std::memory_order_release);
}

__attribute__((format(printf, 2, 3))) void fuse_log(fuse_log_level level, const char *fmt, ...) {
  va_list arguments;
  va_start(arguments, fmt);
  log_function.load(std::memory_order_acquire)(level, fmt, arguments);
  va_end(arguments);
}

}  // extern "C"
