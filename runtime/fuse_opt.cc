// SPDX-License-Identifier: LGPL-2.1-or-later
// fuse_opt_*(): libfuse's option parser, as <fuse_opt.h> describes it.
#include "fuse_api.hh"

#include <fuse_log.h>
#include <fuse_opt.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

namespace efuse {
namespace {

/// fuse_opt::offset of an option that is given to the callback with its key.
constexpr unsigned long kNoVariable = static_cast<unsigned>(-1);

int no_memory() noexcept {
  fuse_log(FUSE_LOG_ERR, "efuse: no memory for options\n");
  return -1;
}

/// A template and where in it and in a matching argument the parameter begins, if there is one.
struct Match {
  const fuse_opt *option = nullptr;
  std::size_t separator = 0;  // of '=' or ' ' in the template; 0: there is none
};

/// "foo=" and "foo " are prefixes, "foo=%x" and "foo %x" have a parameter, anything else is the argument itself.
bool matches(std::string_view templ, std::string_view argument, std::size_t &separator) noexcept {
  std::size_t at = templ.find('=');
  if (at == templ.npos)
    at = templ.find(' ');
  if (at != templ.npos && (at + 1 == templ.size() || templ[at + 1] == '%') &&
      argument.starts_with(templ.substr(0, templ[at] == '=' ? at + 1 : at))) {
    separator = at;
    return true;
  }
  separator = 0;
  return templ == argument;
}

Match find(const fuse_opt *from, std::string_view argument) noexcept {
  for (; from != nullptr && from->templ != nullptr; ++from)
    if (Match m{from, 0}; matches(from->templ, argument, m.separator))
      return m;
  return {};
}

/// One option after a list, with a comma between.
int append(char **list, std::string_view option, bool escape) noexcept {
  const std::size_t old = *list != nullptr ? std::strlen(*list) : 0;
  auto *longer = static_cast<char *>(std::realloc(*list, old + 1 + option.size() * 2 + 1));
  if (longer == nullptr)
    return no_memory();
  *list = longer;
  char *to = longer + old;
  if (old != 0)
    *to++ = ',';
  for (const char c : option) {
    if (escape && (c == ',' || c == '\\'))
      *to++ = '\\';
    *to++ = c;
  }
  *to = '\0';
  return 0;
}

constexpr bool is_octal(char c, char most) noexcept { return c >= '0' && c <= most; }

/// What comes before the next comma in `text`, without its backslashes; `text` loses it and the comma.
std::string take_option(std::string_view &text) {
  std::string option;
  std::size_t i = 0;
  for (; i < text.size() && text[i] != ','; ++i) {
    if (text[i] == '\\' && i + 1 < text.size()) {
      ++i;
      if (i + 2 < text.size() && is_octal(text[i], '3') && is_octal(text[i + 1], '7') && is_octal(text[i + 2], '7')) {
        option += static_cast<char>((text[i] - '0') * 64 + (text[i + 1] - '0') * 8 + (text[i + 2] - '0'));
        i += 2;
        continue;
      }
    }
    option += text[i];
  }
  text.remove_prefix(i);
  return option;
}

/// One run of fuse_opt_parse().
class Parser {
 public:
  Parser(const fuse_args &in, void *data, const fuse_opt *options, fuse_opt_proc_t callback) noexcept
      : in_(in), data_(data), options_(options), callback_(callback) {}
  ~Parser() {
    std::free(group_);
    fuse_opt_free_args(&out_);
  }
  Parser(const Parser &) = delete;
  Parser &operator=(const Parser &) = delete;

  /// 0 or -1. Throws std::bad_alloc.
  int run();
  /// What was left over; the caller's from now on.
  fuse_args take_result() noexcept {
    const fuse_args result = out_;
    out_ = FUSE_ARGS_INIT(0, nullptr);
    return result;
  }

 private:
  int argument(const char *text);
  int option(const char *text, bool in_group);
  int matched(const Match &match, const char *text, bool in_group);
  int keep(const char *text, int key, bool in_group) noexcept;
  int store(const Match &match, const char *text) noexcept;
  int group(std::string_view text);
  const char *next(const char *option) noexcept;

  const fuse_args &in_;
  void *data_;
  const fuse_opt *options_;
  fuse_opt_proc_t callback_;
  int at_ = 0;
  fuse_args out_ = FUSE_ARGS_INIT(0, nullptr);
  char *group_ = nullptr;    // what is left over of all -o
  int after_separator_ = 0;  // out_.argc after "--"; 0: none yet
};

int Parser::run() {
  if (fuse_opt_add_arg(&out_, in_.argv[0]) != 0)
    return -1;
  for (at_ = 1; at_ < in_.argc; ++at_)
    if (argument(in_.argv[at_]) != 0)
      return -1;
  if (group_ != nullptr &&
      (fuse_opt_insert_arg(&out_, 1, "-o") != 0 || fuse_opt_insert_arg(&out_, 2, group_) != 0))
    return -1;
  // A separator that nothing follows. Where it is has changed if a group was put before it.
  if (after_separator_ != 0 && after_separator_ == out_.argc && std::strcmp(out_.argv[out_.argc - 1], "--") == 0) {
    std::free(out_.argv[--out_.argc]);
    out_.argv[out_.argc] = nullptr;
  }
  return 0;
}

int Parser::argument(const char *text) {
  if (after_separator_ != 0 || text[0] != '-')
    return keep(text, FUSE_OPT_KEY_NONOPT, false);
  if (text[1] == 'o') {
    const char *options = text[2] != '\0' ? text + 2 : next(text);
    return options != nullptr ? group(options) : -1;
  }
  if (std::strcmp(text, "--") != 0)
    return option(text, false);
  if (fuse_opt_add_arg(&out_, text) != 0)
    return -1;
  after_separator_ = out_.argc;
  return 0;
}

/// The argument that follows; nullptr: there is none, which has been said.
const char *Parser::next(const char *option) noexcept {
  if (at_ + 1 < in_.argc)
    return in_.argv[++at_];
  fuse_log(FUSE_LOG_ERR, "efuse: missing argument after '%s'\n", option);
  return nullptr;
}

int Parser::group(std::string_view text) {
  for (;;) {
    if (option(take_option(text).c_str(), true) != 0)
      return -1;
    if (text.empty())
      return 0;
    text.remove_prefix(1);
  }
}

int Parser::option(const char *text, bool in_group) {
  Match match = find(options_, text);
  if (match.option == nullptr)
    return keep(text, FUSE_OPT_KEY_OPT, in_group);
  for (; match.option != nullptr; match = find(match.option + 1, text)) {
    // "-x PARAMETER", in two arguments.
    if (match.separator != 0 && match.option->templ[match.separator] == ' ' && text[match.separator] == '\0') {
      const char *parameter = next(text);
      if (parameter == nullptr || matched(match, (std::string(text) + parameter).c_str(), in_group) != 0)
        return -1;
    } else if (matched(match, text, in_group) != 0) {
      return -1;
    }
  }
  return 0;
}

int Parser::matched(const Match &match, const char *text, bool in_group) {
  return match.option->offset == kNoVariable ? keep(text, match.option->value, in_group) : store(match, text);
}

int Parser::store(const Match &match, const char *text) noexcept {
  void *variable = static_cast<char *>(data_) + match.option->offset;
  const char *format = match.separator != 0 ? match.option->templ + match.separator + 1 : "";
  if (*format == '\0') {
    *static_cast<int *>(variable) = match.option->value;
    return 0;
  }
  const char *parameter = text + match.separator + (match.option->templ[match.separator] == '=' ? 1 : 0);
  if (format[1] == 's') {
    char *copy = ::strdup(parameter);
    if (copy == nullptr)
      return no_memory();
    auto **string = static_cast<char **>(variable);
    std::free(*string);
    *string = copy;
  } else if (std::sscanf(parameter, format, variable) != 1) {
    fuse_log(FUSE_LOG_ERR, "efuse: invalid parameter in option '%s'\n", text);
    return -1;
  }
  return 0;
}

/// Ask the callback, and keep what it does not want.
int Parser::keep(const char *text, int key, bool in_group) noexcept {
  if (key == FUSE_OPT_KEY_DISCARD)
    return 0;
  if (key != FUSE_OPT_KEY_KEEP && callback_ != nullptr)
    if (const int said = callback_(data_, text, key, &out_); said == 0 || said == -1)
      return said;
  return in_group ? append(&group_, text, true) : fuse_opt_add_arg(&out_, text);
}

}  // namespace
}  // namespace efuse

extern "C" {

void fuse_opt_free_args(struct fuse_args *args) {
  if (args == nullptr)
    return;
  if (args->argv != nullptr && args->allocated) {
    for (int i = 0; i < args->argc; ++i)
      std::free(args->argv[i]);
    std::free(args->argv);
  }
  *args = FUSE_ARGS_INIT(0, nullptr);
}

int fuse_opt_add_arg(struct fuse_args *args, const char *arg) { return fuse_opt_insert_arg(args, args->argc, arg); }

int fuse_opt_insert_arg(struct fuse_args *args, int pos, const char *arg) {
  if (pos < 0 || pos > args->argc || (args->argv != nullptr && !args->allocated)) {
    fuse_log(FUSE_LOG_ERR, "efuse: an argument for a vector that is not of fuse_opt_parse(), or beyond its end\n");
    return -1;
  }
  char *copy = ::strdup(arg);
  const auto size = (static_cast<std::size_t>(args->argc) + 2) * sizeof(char *);
  auto **longer = copy != nullptr ? static_cast<char **>(std::realloc(args->argv, size)) : nullptr;
  if (longer == nullptr) {
    std::free(copy);
    return efuse::no_memory();
  }
  args->argv = longer;
  args->allocated = 1;
  std::memmove(longer + pos + 1, longer + pos, static_cast<std::size_t>(args->argc - pos) * sizeof(char *));
  longer[pos] = copy;
  longer[++args->argc] = nullptr;
  return 0;
}

int fuse_opt_add_opt(char **opts, const char *opt) { return efuse::append(opts, opt, false); }
int fuse_opt_add_opt_escaped(char **opts, const char *opt) { return efuse::append(opts, opt, true); }

int fuse_opt_match(const struct fuse_opt opts[], const char *opt) {
  return efuse::find(opts, opt).option != nullptr ? 1 : 0;
}

int fuse_opt_parse(struct fuse_args *args, void *data, const struct fuse_opt opts[], fuse_opt_proc_t proc) {
  if (args == nullptr || args->argv == nullptr || args->argc == 0)
    return 0;
  try {
    efuse::Parser parser(*args, data, opts, proc);
    if (parser.run() != 0)
      return -1;
    fuse_opt_free_args(args);
    *args = parser.take_result();
    return 0;
  } catch (const std::bad_alloc &) {
    return efuse::no_memory();
  }
}

}  // extern "C"
