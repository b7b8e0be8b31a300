// SPDX-License-Identifier: LGPL-2.1-or-later
// efuse config check FILE; efuse config show [--config FILE] [--set KEY=VALUE...];
// efuse config get MOUNTPOINT; efuse config set MOUNTPOINT KEY=VALUE...
#include "commands.hh"

#include "config.hh"
#include "control.hh"
#include "find_mounts.hh"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <chrono>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace efuse::cli {
namespace {

struct Options {
  std::string file;
  std::string mountpoint;
  std::vector<std::string> assignments;
};

void check(const Options &options) {
  Config config;
  load_config_file(config, options.file);
  try {
    check_config(config);
  } catch (const ConfigError &error) {
    throw ConfigError(fmt::format("{}: {}", options.file, error.what()));
  }
  fmt::print("{}: ok\n", options.file);
}

void show(const Options &options) {
  Config config;
  if (!options.file.empty()) load_config_file(config, options.file);
  load_config_environment(config);
  for (const std::string &assignment : options.assignments) set_config_key(config, assignment);
  check_config(config);
  fmt::print("{}", to_toml(config));
}

/// A detach waits for requests in flight, at most some seconds.
constexpr std::chrono::seconds kPatience{15};

/// Ask the daemon of a mount; throws what it complains of.
nlohmann::json ask_mount(const std::string &mountpoint, nlohmann::json request) {
  const nlohmann::json mount = find_mounts(mountpoint).front();
  request["mountpoint"] = mount.at("mountpoint");
  request["pid"] = mount.at("pid");
  std::vector<std::string> problems;
  for (const nlohmann::json &answer : send_all(request, &problems, kPatience)) {
    if (answer.contains("error"))
      throw std::runtime_error(answer["error"].get<std::string>());
    if (answer.contains("config"))
      return answer;
  }
  throw std::runtime_error(
      fmt::format("{}: no answer{}{}", mountpoint, problems.empty() ? "" : ": ", fmt::join(problems, "; ")));
}

void get(const Options &options) {
  const auto answer = ask_mount(options.mountpoint, {{"cmd", "config_get"}});
  fmt::print("{}", answer["config"].get<std::string>());
}

void set(const Options &options) {
  const auto answer = ask_mount(options.mountpoint, {{"cmd", "config_set"}, {"set", options.assignments}});
  fmt::print("{}: transport {}\n", options.mountpoint, answer["transport"].get<std::string>());
}

}  // namespace

void add_config(CLI::App &app) {
  auto options = std::make_shared<Options>();
  CLI::App *command = app.add_subcommand("config", "check a configuration file, show what is in effect");
  command->require_subcommand(1);

  CLI::App *check_command = command->add_subcommand("check", "check a configuration file");
  check_command->add_option("FILE", options->file, "TOML file")->required();
  check_command->callback([options] { check(*options); });

  CLI::App *show_command = command->add_subcommand(
      "show", "print the configuration of defaults, file, environment and --set as TOML");
  show_command->add_option("--config", options->file, "TOML file")->envname("EFUSE_CONFIG");
  show_command->add_option("--set", options->assignments, "section.key=value, may be repeated")
      ->allow_extra_args(false);
  show_command->callback([options] { show(*options); });

  CLI::App *get_command = command->add_subcommand("get", "print the configuration of a mount as TOML");
  get_command->add_option("MOUNTPOINT", options->mountpoint, "an efuse mount")->required();
  get_command->callback([options] { get(*options); });

  CLI::App *set_command = command->add_subcommand(
      "set", "change a mount while it is served: polling, balance, fast paths, session.transport=ring|dev");
  set_command->add_option("MOUNTPOINT", options->mountpoint, "an efuse mount")->required();
  set_command->add_option("KEY=VALUE", options->assignments, "section.key=value")->required();
  set_command->callback([options] { set(*options); });
}

}  // namespace efuse::cli
