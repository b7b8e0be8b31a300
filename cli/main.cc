// SPDX-License-Identifier: LGPL-2.1-or-later
// The efuse command. Exit status: 0 done, 1 it did not work (one line says why), 2 wrong usage.
#include "commands.hh"
#include "mount_command.hh"

#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>

namespace {

int run(int argc, char **argv) {
  if (efuse::cli::is_mount_helper(argv[0]) || (argc > 1 && efuse::cli::is_mount_source(argv[1])))
    return efuse::cli::mount_helper(argc, argv);
  CLI::App app{"efuse: fast userspace filesystems over per-CPU shared-memory rings"};
  app.set_version_flag("--version", "efuse " EFUSE_VERSION);
  app.require_subcommand(1);
  efuse::cli::add_mount(app);
  efuse::cli::add_exec(app);
  efuse::cli::add_bench(app);
  efuse::cli::add_stat(app);
  efuse::cli::add_top(app);
  efuse::cli::add_doctor(app);
  efuse::cli::add_config(app);
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::RuntimeError &status) {
    return status.get_exit_code();
  } catch (const CLI::ParseError &error) {
    return app.exit(error) == 0 ? 0 : 2;  // --help and --version arrive here too
  }
}

}  // namespace

int main(int argc, char **argv) {
  int status = 1;
  try {
    status = run(argc, argv);
  } catch (const std::exception &error) {
    fmt::print(stderr, "efuse: {}\n", error.what());
  }
  std::cout.flush();
  if (std::fflush(stdout) != 0 || !std::cout) {
    fmt::print(stderr, "efuse: standard output: {}\n", std::strerror(errno));
    if (status == 0) status = 1;
  }
  return status;
}
