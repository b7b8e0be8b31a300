// SPDX-License-Identifier: LGPL-2.1-or-later
// What `efuse stat` and `efuse config` ask of a session.
#pragma once

#include "control.hh"
#include "session.hh"

#include <memory>

namespace efuse {

/// Answer for `session` in a thread of its own, until the returned object goes; that has to be before the session does.
/// nullptr where it cannot be had, with a line on stderr: a mount without it is still a mount.
std::unique_ptr<ControlServer> serve_control(Session &session);

}  // namespace efuse
