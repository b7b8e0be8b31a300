// SPDX-License-Identifier: LGPL-2.1-or-later
// efuse config check FILE; efuse config show [--config FILE] [--set KEY=VALUE...]
#include "commands.hh"

#include "config.hh"

#include <fmt/format.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

namespace efuse::cli {
namespace {

struct Options {
  std::string file;
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
}

}  // namespace efuse::cli
