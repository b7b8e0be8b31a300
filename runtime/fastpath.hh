// SPDX-License-Identifier: LGPL-2.1-or-later
// The fast paths of one attachment: which programs, set up how, and their life.
#pragma once

#include "bpf_program.hh"
#include "config.hh"
#include "fastpath_control.hh"

#include <efuse/fastpath.hh>

#include <memory>
#include <string>
#include <vector>

namespace efuse {

/// What of a configuration meets a filesystem's offer.
struct FastpathPlan {
  struct Program {
    std::string name;      // of a shipped object, or the path of the filesystem's own
    bool own = false;
    bool backing = false;  // it reads from backing files
    BpfSettings settings;  // without efuse_fd
  };
  std::vector<Program> programs;     // in the order in which they are asked
  std::vector<std::string> missing;  // what was asked for and is not offered, a line each
};
FastpathPlan plan_fastpath(const FastpathOffer &offer, const Config &config);

/// Not from two threads at once.
class Fastpath {
 public:
  /// Nothing is attached yet. `debug`: log what libbpf says.
  Fastpath(FastpathOffer offer, std::shared_ptr<FastpathControl> control, bool debug);

  enum class Or { fail, do_without };
  /// Attach, replace and detach, so that what is attached is what `config` asks for. What cannot be had is said in
  /// reason(); Or::fail: it throws FastpathUnavailable, and where nothing but the last step (attaching what has been
  /// loaded) can have failed, what was attached before stays.
  void configure(const Config &config, Or otherwise);
  /// On return no program answers any more.
  void detach() noexcept;

  /// Of what is attached.
  [[nodiscard]] std::vector<std::string> names() const;
  /// What was asked for and is not attached, and why: one line, or empty.
  [[nodiscard]] const std::string &reason() const noexcept { return reason_; }
  /// Something is attached, or has been.
  [[nodiscard]] bool used() const noexcept { return used_; }

 private:
  struct Attached {
    FastpathPlan::Program plan;
    BpfProgram program;
  };

  [[nodiscard]] BpfProgram load(const FastpathPlan::Program &program) const;
  [[nodiscard]] std::vector<Attached>::iterator find(const std::string &name);
  [[nodiscard]] bool order_stays(const std::vector<FastpathPlan::Program> &next);
  void attach(Attached next);
  void swap(std::vector<Attached> next, const std::vector<FastpathPlan::Program> &programs);

  FastpathOffer offer_;
  std::shared_ptr<FastpathControl> control_;
  bool debug_;
  bool used_ = false;
  std::string reason_;
  std::vector<Attached> attached_;
};

}  // namespace efuse
