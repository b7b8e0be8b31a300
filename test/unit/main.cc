// SPDX-License-Identifier: LGPL-2.1-or-later
// Catch2's main(), compiled once for all unit tests.
#define CATCH_CONFIG_MAIN
#include <catch2/catch.hpp>
