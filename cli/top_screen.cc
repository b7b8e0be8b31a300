// SPDX-License-Identifier: LGPL-2.1-or-later
#include "top_screen.hh"

#include "fd.hh"

// Its macros have names as common as clear and timeout.
#define NCURSES_NOMACROS
#define NCURSES_WIDECHAR 1
#include <curses.h>

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <cwchar>
#include <optional>
#include <stdexcept>

namespace efuse::cli {
namespace {

using Clock = std::chrono::steady_clock;

/// Of the locale; where that cannot say it, ASCII.
std::wstring wide(const std::string &text) {
  std::wstring out(text.size() + 1, L'\0');
  const std::size_t size = std::mbstowcs(out.data(), text.c_str(), out.size());
  if (size == static_cast<std::size_t>(-1)) {
    out.assign(text.size(), L'?');
    std::transform(text.begin(), text.end(), out.begin(), [](unsigned char c) { return c < 0x80 ? wchar_t{c} : L'?'; });
    return out;
  }
  out.resize(size);
  return out;
}

int milliseconds_until(Clock::time_point deadline) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
  return static_cast<int>(std::clamp<long long>(left, 0, 60'000));
}

}  // namespace

struct TopScreen::Impl {
  SCREEN *screen = nullptr;
  sigset_t old_mask{};
  Fd signals;
  // What is shown, to show it again at another size or place.
  std::string status;
  std::vector<std::string> problems;
  std::vector<TopLine> headings, lines;
  int first = 0;  // of `lines`, on the screen
  int room = 1;   // for so many

  void draw();
  void draw_line(int y, const std::string &text, attr_t attributes) const;
  bool scroll(int key);
  std::optional<Key> read_key();
};

void TopScreen::Impl::draw_line(int y, const std::string &text, attr_t attributes) const {
  if (y >= getmaxy(stdscr)) return;
  wattrset(stdscr, static_cast<int>(attributes));
  wmove(stdscr, y, 0);
  waddnwstr(stdscr, wide(text).c_str(), getmaxx(stdscr));
  wattrset(stdscr, A_NORMAL);
}

void TopScreen::Impl::draw() {
  werase(stdscr);
  const int rows = getmaxy(stdscr);
  int y = 0;
  draw_line(y++, status, A_NORMAL);
  for (const std::string &problem : problems) draw_line(y++, problem, A_BOLD);
  for (const TopLine &line : headings) {
    // To the right edge, as a bar.
    const auto width = static_cast<std::size_t>(std::max(getmaxx(stdscr), 1));
    draw_line(y++, fmt::format("{:<{}}", line.text, width), A_REVERSE);
  }
  room = std::max(rows - y, 1);
  first = std::clamp(first, 0, std::max(static_cast<int>(lines.size()) - room, 0));
  for (auto i = static_cast<std::size_t>(first); i < lines.size() && y < rows; ++i)
    draw_line(y++, lines[i].text, lines[i].style == TopStyle::mount ? A_BOLD : A_NORMAL);
  wmove(stdscr, 0, 0);
  wrefresh(stdscr);
}

bool TopScreen::Impl::scroll(int key) {
  switch (key) {
    case KEY_UP:
      --first;
      return true;
    case KEY_DOWN:
      ++first;
      return true;
    case KEY_PPAGE:
      first -= room;
      return true;
    case KEY_NPAGE:
      first += room;
      return true;
    case KEY_HOME:
      first = 0;
      return true;
    case KEY_END:
      first = static_cast<int>(lines.size());
      return true;
    default:
      return false;
  }
}

/// Nothing where there was none, or where it was about the screen.
std::optional<TopScreen::Key> TopScreen::Impl::read_key() {
  const int key = wgetch(stdscr);
  switch (key) {
    case 'q':
    case 'Q':
      return Key::quit;
    case 's':
      return Key::sort;
    case 'a':
      return Key::idle;
    case '+':
      return Key::slower;
    case '-':
      return Key::faster;
    case ' ':
    case '\n':
      return Key::look;
    case 'L' & 0x1f:
      wclear(stdscr);  // drawn from scratch
      break;
    default:
      if (key != KEY_RESIZE && !scroll(key)) return std::nullopt;
  }
  draw();
  return std::nullopt;
}

TopScreen::TopScreen() : impl_(std::make_unique<Impl>()) {
  if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO))
    throw std::runtime_error("standard input and output are not a terminal; there is --batch");
  std::setlocale(LC_CTYPE, "");
  impl_->screen = newterm(nullptr, stdout, stdin);
  if (!impl_->screen) {
    const char *term = std::getenv("TERM");
    throw std::runtime_error(fmt::format("TERM={}: not a terminal that can be used; there is --batch", term ? term : ""));
  }
  cbreak();
  noecho();
  keypad(stdscr, true);
  nodelay(stdscr, true);
  curs_set(0);
  sigset_t ends;
  sigemptyset(&ends);
  for (int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&ends, signal);
  sigprocmask(SIG_BLOCK, &ends, &impl_->old_mask);
  impl_->signals.reset(signalfd(-1, &ends, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!impl_->signals) {  // then they end the process, and ncurses restores the terminal
    sigprocmask(SIG_SETMASK, &impl_->old_mask, nullptr);
  }
}

TopScreen::~TopScreen() {
  endwin();
  delscreen(impl_->screen);
  if (impl_->signals) {
    // What has come is dealt with.
    signalfd_siginfo info;
    while (read(impl_->signals.get(), &info, sizeof(info)) > 0) {
    }
    sigprocmask(SIG_SETMASK, &impl_->old_mask, nullptr);
  }
}

void TopScreen::show(const std::string &status, const std::vector<std::string> &problems,
                     const std::vector<TopLine> &lines) {
  impl_->status = status;
  impl_->problems = problems;
  impl_->headings.clear();
  impl_->lines.clear();
  for (const TopLine &line : lines)
    (line.style == TopStyle::heading ? impl_->headings : impl_->lines).push_back(line);
  impl_->draw();
}

TopScreen::Key TopScreen::wait(Clock::time_point deadline) {
  for (;;) {
    pollfd p[2] = {{STDIN_FILENO, POLLIN, 0}, {impl_->signals.get(), POLLIN, 0}};
    const int ready = poll(p, 2, milliseconds_until(deadline));
    if (ready < 0 && errno != EINTR) return Key::quit;
    if (ready > 0 && p[1].revents != 0) return Key::quit;
    if (ready > 0 && (p[0].revents & (POLLERR | POLLHUP | POLLNVAL)) != 0) return Key::quit;  // the terminal is gone
    int readable = 0;
    if (ready > 0 && (p[0].revents & POLLIN) != 0 && (ioctl(STDIN_FILENO, FIONREAD, &readable) != 0 || readable == 0))
      return Key::quit;  // its end
    // After a signal, too: a new size is a key.
    if (const auto key = impl_->read_key()) return *key;
    if (Clock::now() >= deadline) return Key::none;
  }
}

}  // namespace efuse::cli
