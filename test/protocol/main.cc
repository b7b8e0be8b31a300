// SPDX-License-Identifier: LGPL-2.1-or-later
// Every part of the low-level API, on a mount, from the client's side: see checks.hh.
//
//   protocol_test --transport ring|uring|dev [--blkdev DEVICE] DIRECTORY
//
// DIRECTORY: empty, to mount on. Needs root. One line per check; exit status 1 if one failed.
#include "checks.hh"

#include <getopt.h>
#include <signal.h>

#include <cstdio>
#include <cstring>

namespace {

using namespace protocol_test;

struct Totals {
  unsigned passed = 0, failed = 0, skipped = 0;
};

using Check = void (*)(Checks &);

void on_a_mount(const char *what, const MountSettings &settings, const std::string &directory,
                const std::vector<Check> &checks, Totals &totals) {
  std::printf("--   %s, transport %s\n", what, settings.transport.c_str());
  try {
    Server server(settings, directory);
    Checks c(server);
    for (const Check check : checks) check(c);
    totals.passed += c.passed;
    totals.failed += c.failed;
    totals.skipped += c.skipped;
    if (const int status = server.stop(); status != 0) {
      std::printf("FAIL %s: the daemon ended with status %d\n", what, status);
      ++totals.failed;
    }
  } catch (const std::exception &e) {
    std::printf("FAIL %s: %s\n", what, e.what());
    ++totals.failed;
  }
}

int usage() {
  std::fprintf(stderr, "usage: protocol_test --transport ring|uring|dev [--blkdev DEVICE] DIRECTORY\n");
  return 2;
}

}  // namespace

int main(int argc, char **argv) {
  static const option kLong[] = {{"transport", required_argument, nullptr, 't'},
                                 {"blkdev", required_argument, nullptr, 'b'},
                                 {nullptr, 0, nullptr, 0}};
  std::string transport, blkdev;
  for (int c; (c = getopt_long(argc, argv, "", kLong, nullptr)) != -1;) {
    if (c == 't')
      transport = optarg;
    else if (c == 'b')
      blkdev = optarg;
    else
      return usage();
  }
  if (argc - optind != 1 || (transport != "ring" && transport != "uring" && transport != "dev")) return usage();
  const std::string directory = argv[optind];
  ::signal(SIGPIPE, SIG_IGN);

  Totals totals;
  on_a_mount("everything", {.transport = transport, .fs = {.acl = true}}, directory,
             {check_names, check_files, check_attributes, check_acl, check_locks, check_interrupts,
              check_ioctl_and_poll, check_notifications, check_replies, check_resend, check_descriptors,
              check_forgets},
             totals);
  on_a_mount("no ACLs", {.transport = transport}, directory, {check_access}, totals);
  on_a_mount("backing files", {.transport = transport, .fs = {.backing = true}}, directory, {check_backing}, totals);
  if (transport == "ring") on_a_mount("rings that come and go", {.transport = transport}, directory, {check_detach}, totals);
  // As many workers as may be blocked at once, and one that takes the unlock.
  const char *workers = transport == "dev"     ? "dev.threads=4"
                        : transport == "uring" ? "uring.workers_per_queue=4"
                                               : "ring.workers_per_ring=4";
  on_a_mount("callbacks that block", {.transport = transport, .settings = {workers}, .fs = {.blocking = true}},
             directory, {check_blocking}, totals);
  if (!blkdev.empty())
    on_a_mount("on a block device", {.transport = transport, .blkdev = blkdev}, directory, {check_bmap}, totals);
  else
    std::printf("skip bmap: no block device to mount on was given\n"), ++totals.skipped;

  std::printf("%u passed, %u failed, %u skipped\n", totals.passed, totals.failed, totals.skipped);
  return totals.failed == 0 ? 0 : 1;
}
