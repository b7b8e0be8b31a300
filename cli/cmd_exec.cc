// SPDX-License-Identifier: LGPL-2.1-or-later
// efuse exec: run an existing libfuse3 program over efuse's transports (exec/).
#include "commands.hh"

#include "config.hh"
#include "elf_program.hh"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace efuse::cli {
namespace {

constexpr std::string_view kLibrary = "libefuse-preload.so";

struct Arguments {
  std::string transport;
  std::string config;
  std::vector<std::string> settings;
  std::vector<std::string> command;
};

/// In the build tree, or as installed, relocated or not.
std::string find_library() {
  const std::filesystem::path here = std::filesystem::read_symlink("/proc/self/exe").parent_path();
  for (const auto &folder : {here / "../exec", here / EFUSE_BIN_TO_LIB / "efuse", std::filesystem::path(EFUSE_LIBDIR) / "efuse"}) {
    std::error_code error;
    const auto path = std::filesystem::canonical(folder / kLibrary, error);
    if (!error)
      return path;
  }
  throw std::runtime_error(fmt::format("{} is not installed", kLibrary));
}

/// "section.key=value" as the variable that load_config_environment() reads.
void put_setting(const std::string &setting) {
  Config config;
  set_config_key(config, setting);  // throws where it is none
  std::string name = "EFUSE_" + setting.substr(0, setting.find('='));
  for (char &c : name)
    c = c == '.' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  std::erase(name, ' ');
  ::setenv(name.c_str(), setting.c_str() + setting.find('=') + 1, 1);
}

/// What the program will find is wrong is wrong now.
void check_configuration() {
  Config config;
  if (const char *file = std::getenv("EFUSE_CONFIG"); file != nullptr && *file != '\0')
    load_config_file(config, file);
  load_config_environment(config);
  check_config(config);
}

void put_environment(const Arguments &a) {
  if (!a.config.empty())
    ::setenv("EFUSE_CONFIG", std::filesystem::absolute(a.config).c_str(), 1);
  for (const std::string &setting : a.settings)
    put_setting(setting);
  if (!a.transport.empty())
    put_setting("session.transport=" + a.transport);
  check_configuration();
}

void preload() {
  std::string list = find_library();
  if (const char *before = std::getenv("LD_PRELOAD"); before != nullptr && *before != '\0')
    list += std::string(":") + before;
  ::setenv("LD_PRELOAD", list.c_str(), 1);
}

[[noreturn]] void run(const Arguments &a) {
  const std::string path = find_program(a.command[0]);
  const Preloadable program = look_at_program(path);
  if (!program.remark.empty())
    fmt::print(stderr, "efuse exec: {} {}{}\n", a.command[0], program.remark,
               program.possible ? "" : ", so it runs as it is");
  if (program.possible) {
    put_environment(a);
    preload();
  }
  std::vector<char *> argv;
  for (const std::string &argument : a.command)
    argv.push_back(const_cast<char *>(argument.c_str()));
  argv.push_back(nullptr);
  ::execvp(path.c_str(), argv.data());
  throw std::runtime_error(fmt::format("cannot run {}: {}", a.command[0], std::strerror(errno)));
}

}  // namespace

void add_exec(CLI::App &app) {
  auto a = std::make_shared<Arguments>();
  CLI::App *sub = app.add_subcommand("exec", "run an existing libfuse3 program over efuse's transports");
  sub->add_option("--transport", a->transport, "auto takes the best that works here")
      ->check(CLI::IsMember({"auto", "ring", "uring", "dev"}));
  sub->add_option("--config", a->config, "TOML file (default: $EFUSE_CONFIG)");
  sub->add_option("--set", a->settings, "section.key=value, over file and environment")
      ->expected(1)
      ->take_all();
  sub->add_option("PROGRAM", a->command, "the program and its arguments, after --")->required();
  sub->positionals_at_end();
  sub->callback([a] { run(*a); });
}

}  // namespace efuse::cli
