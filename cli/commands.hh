// SPDX-License-Identifier: LGPL-2.1-or-later
// The subcommands of `efuse`. Each function adds one to the parser; its callback
// throws CLI::RuntimeError(code) where the exit status is not 0.
#pragma once

#include <CLI/CLI.hpp>

namespace efuse::cli {

void add_mount(CLI::App &app);
void add_exec(CLI::App &app);
void add_bench(CLI::App &app);
void add_stat(CLI::App &app);
void add_top(CLI::App &app);
void add_doctor(CLI::App &app);
void add_config(CLI::App &app);

}  // namespace efuse::cli
