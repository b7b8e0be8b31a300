// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * vm-init - process 1 of the test machine that scripts/vm starts.
 *
 * It mounts what a program expects, loads the module, runs one command and powers off. All it has to say goes
 * over one virtio-serial port as frames {type, length, bytes}, so that the command's input, output and errors stay
 * apart from each other and from the kernel's messages, in order and unchanged:
 *   host -> guest   CONFIG (NUL-terminated strings), STDIN, STDIN_EOF
 *   guest -> host   READY, STDOUT, STDERR, KMSG (one record), FAIL (text), EXIT (u32 wait status)
 * EXIT is the last frame: by then the share is written back, and the host may stop the machine.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum frame_type {
  FRAME_CONFIG = 'C',
  FRAME_STDIN = 'i',
  FRAME_STDIN_EOF = 'z',
  FRAME_READY = 'R',
  FRAME_STDOUT = 'o',
  FRAME_STDERR = 'e',
  FRAME_KMSG = 'k',
  FRAME_FAIL = 'F',
  FRAME_EXIT = 'X',
};

struct frame {
  uint8_t type;
  uint8_t pad[3];
  uint32_t length;  /* bytes that follow */
};

#define MODULE_NAME "efuse_ring"
#define PORT_NAME "efuse.0"
#define CHUNK 65536         /* bytes read from the command at a time */
#define DRAIN_MS 5000       /* for output of processes that were killed */
#define UNLOAD_MS 5000      /* for the module's last user to be gone */

static int port = -1;
static int kmsg = -1;

static void write_all(int fd, const void *data, size_t length)
{
  const char *at = data;

  while (length > 0) {
    ssize_t n = write(fd, at, length);

    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0 && errno == EAGAIN) {
      struct pollfd writable = {.fd = fd, .events = POLLOUT};

      poll(&writable, 1, -1);
      continue;
    }
    if (n < 0)
      break;  /* the host is gone; so will this machine be */
    at += n;
    length -= n;
  }
}

static void read_all(int fd, void *data, size_t length)
{
  char *at = data;

  while (length > 0) {
    ssize_t n = read(fd, at, length);

    if (n > 0) {
      at += n;
      length -= n;
    } else if (n == 0 || errno != EINTR) {
      usleep(1000);  /* the host has not connected yet */
    }
  }
}

/* One write for a small frame: each write is a trip to the host. */
static void send_frame(enum frame_type type, const void *data, uint32_t length)
{
  char small[4096];
  struct frame f = {.type = type, .length = length};

  if (length <= sizeof(small) - sizeof(f)) {
    memcpy(small, &f, sizeof(f));
    if (length)
      memcpy(small + sizeof(f), data, length);
    write_all(port, small, sizeof(f) + length);
    return;
  }
  write_all(port, &f, sizeof(f));
  write_all(port, data, length);
}

static void power_off(void)
{
  sync();
  reboot(RB_POWER_OFF);
  for (;;)
    pause();
}

__attribute__((format(printf, 1, 2), noreturn)) static void fail(const char *format, ...)
{
  char text[1024];
  va_list args;

  va_start(args, format);
  vsnprintf(text, sizeof(text), format, args);
  va_end(args);
  dprintf(STDERR_FILENO, "vm-init: %s\n", text);  /* the console */
  if (port >= 0) {
    send_frame(FRAME_FAIL, text, strlen(text));
    poll(NULL, 0, 10000);  /* the host stops the machine when it has read this */
  }
  power_off();
  __builtin_unreachable();
}

/* ---- mounts ---------------------------------------------------------- */

static void make_path(const char *path)
{
  char partial[4096];

  snprintf(partial, sizeof(partial), "%s", path);
  for (char *slash = strchr(partial + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
    *slash = '\0';
    mkdir(partial, 0755);
    *slash = '/';
  }
  mkdir(partial, 0755);
}

static void must_mount(const char *what, const char *where, const char *type, unsigned long flags,
                       const char *options)
{
  if (mount(what, where, type, flags, options) != 0)
    fail("cannot mount %s (%s) on %s: %s", what, type ? type : "bind", where, strerror(errno));
}

/* A kernel need not have every filesystem, nor the root every directory. */
static void may_mount(const char *what, const char *where, const char *type, unsigned long flags,
                      const char *options)
{
  if (mount(what, where, type, flags, options) != 0 && errno != ENODEV && errno != ENOENT)
    fail("cannot mount %s on %s: %s", type, where, strerror(errno));
}

static void mount_system(void)
{
  const unsigned long safe = MS_NOSUID | MS_NODEV | MS_NOEXEC;

  must_mount("proc", "/proc", "proc", safe, NULL);
  must_mount("sysfs", "/sys", "sysfs", safe, NULL);
  if (mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755") != 0 && errno != EBUSY)
    fail("cannot mount devtmpfs: %s", strerror(errno));
  chmod("/dev/fuse", 0666);  /* as udev's rules have it */
  mkdir("/dev/pts", 0755);
  mkdir("/dev/shm", 01777);
  mkdir("/dev/mqueue", 01777);
  may_mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "mode=0620,gid=5,ptmxmode=0666");
  must_mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=01777");
  may_mount("mqueue", "/dev/mqueue", "mqueue", safe, NULL);
  may_mount("cgroup2", "/sys/fs/cgroup", "cgroup2", safe, NULL);
  may_mount("debugfs", "/sys/kernel/debug", "debugfs", safe, NULL);
  may_mount("tracefs", "/sys/kernel/tracing", "tracefs", safe, NULL);
  may_mount("bpf", "/sys/fs/bpf", "bpf", safe, NULL);
  may_mount("fusectl", "/sys/fs/fuse/connections", "fusectl", safe, NULL);
  symlink("/proc/self/fd", "/dev/fd");
  symlink("/proc/self/fd/0", "/dev/stdin");
  symlink("/proc/self/fd/1", "/dev/stdout");
  symlink("/proc/self/fd/2", "/dev/stderr");
}

/* Where programs write. What of the host's lies below is put back by bind_back(). */
static const char *const scratch[] = {"/tmp", "/run", "/var/tmp", "/mnt", "/root", "/home"};

/* A private place for the whole root, as long as parts of it are covered. */
#define UNDER "/dev/shm/root"

static void mount_scratch(void)
{
  struct stat root;

  /* Exported by an ordinary user the files are nobody's: a set-user-ID program would lose root, not gain it. */
  if (stat("/", &root) == 0 && root.st_uid != 0)
    must_mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID, NULL);
  mkdir(UNDER, 0700);
  must_mount("/", UNDER, NULL, MS_BIND, NULL);
  for (size_t i = 0; i < sizeof(scratch) / sizeof(*scratch); i++)
    may_mount("tmpfs", scratch[i], "tmpfs", 0,
              strstr(scratch[i], "tmp") ? "mode=01777,size=75%" : "mode=0755,size=75%");
  mkdir("/run/lock", 01777);
}

static bool exists(const char *path)
{
  struct stat st;

  return stat(path, &st) == 0;
}

/* Show again a directory of the host that a scratch mount hides. */
static void bind_back(const char *path)
{
  char from[4096];

  snprintf(from, sizeof(from), UNDER "%s", path);
  if (exists(path))
    return;
  make_path(path);
  must_mount(from, path, NULL, MS_BIND, NULL);
}

/*
 * fusermount3 wants /etc/mtab, which a system's first boot makes: a container or a chroot may never have had one.
 * There /etc is replaced by links to what it holds, and that one.
 */
static void complete_etc(void)
{
  char from[600], to[600];
  struct dirent *e;
  struct stat st;
  DIR *d;

  if (lstat("/etc/mtab", &st) == 0)
    return;
  mkdir("/run/etc", 0755);
  must_mount("/etc", "/run/etc", NULL, MS_BIND, NULL);
  must_mount("tmpfs", "/etc", "tmpfs", 0, "mode=0755");
  symlink("/proc/self/mounts", "/etc/mtab");
  d = opendir("/run/etc");
  while (d && (e = readdir(d))) {
    if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
      continue;
    snprintf(from, sizeof(from), "/run/etc/%s", e->d_name);
    snprintf(to, sizeof(to), "/etc/%s", e->d_name);
    symlink(from, to);
  }
  if (d)
    closedir(d);
}

static void mount_modules(const char *release, const char *modules)
{
  char from[4096], to[4096];

  if (!*modules)
    return;
  snprintf(from, sizeof(from), UNDER "%s", modules);
  if (!exists("/lib/modules"))
    return;  /* the host has none and its root is read-only: nothing to load by name */
  must_mount("tmpfs", "/lib/modules", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755");
  snprintf(to, sizeof(to), "/lib/modules/%s", release);
  make_path(to);
  must_mount(from, to, NULL, MS_BIND, NULL);
}

/* ---- the host's side of the port ------------------------------------- */

static void open_port(void)
{
  for (int tries = 0; tries < 10000; tries++) {
    char path[600], name[64] = "";
    struct dirent *e;
    DIR *d = opendir("/sys/class/virtio-ports");

    while (d && (e = readdir(d))) {
      int fd;
      ssize_t n;

      snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name", e->d_name);
      fd = open(path, O_RDONLY | O_CLOEXEC);
      if (fd < 0)
        continue;
      n = read(fd, name, sizeof(name) - 1);
      close(fd);
      name[n > 0 ? n : 0] = '\0';
      if (strncmp(name, PORT_NAME, strlen(PORT_NAME)) != 0)
        continue;
      snprintf(path, sizeof(path), "/dev/%s", e->d_name);
      port = open(path, O_RDWR | O_CLOEXEC);
      closedir(d);
      if (port < 0)
        fail("cannot open %s: %s", path, strerror(errno));
      return;
    }
    if (d)
      closedir(d);
    usleep(1000);
  }
  fail("the virtio-serial port " PORT_NAME " did not appear");
}

struct config {
  const char *release, *modules, *module, *module_options, *tree, *kernel, *build, *path, *cwd;
  char **argv;
};

/* release, modules, module, its options, tree, kernel's files, build, PATH, cwd, then the command. */
static struct config read_config(void)
{
  struct frame f;
  struct config c;
  const char **const field[] = {&c.release, &c.modules, &c.module, &c.module_options,
                                &c.tree,    &c.kernel,  &c.build,  &c.path,
                                &c.cwd};
  char *text, *end;
  size_t strings = 0, i = 0;

  read_all(port, &f, sizeof(f));
  text = malloc(f.length + 1);
  if (f.type != FRAME_CONFIG || !text)
    fail("the host did not send a configuration");
  read_all(port, text, f.length);
  end = text + f.length;
  *end = '\0';
  for (char *at = text; at < end; at += strlen(at) + 1)
    strings++;
  c.argv = calloc(strings + 1, sizeof(char *));
  for (char *at = text; at < end; at += strlen(at) + 1, i++) {
    if (i < sizeof(field) / sizeof(*field))
      *field[i] = at;
    else
      c.argv[i - sizeof(field) / sizeof(*field)] = at;
  }
  if (i <= sizeof(field) / sizeof(*field))
    fail("the host's configuration names no command");
  return c;
}

/* ---- the machine ----------------------------------------------------- */

static void loopback_up(void)
{
  struct ifreq ifr = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
  int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

  if (s >= 0) {
    ioctl(s, SIOCSIFFLAGS, &ifr);
    close(s);
  }
}

static void write_text(const char *path, const char *text)
{
  int fd = open(path, O_WRONLY | O_CLOEXEC);

  if (fd >= 0) {
    write_all(fd, text, strlen(text));
    close(fd);
  }
}

/* As a distribution's start-up leaves a machine: enough descriptors, delegated controllers. */
static void set_limits(void)
{
  struct rlimit files = {.rlim_cur = 1 << 19, .rlim_max = 1 << 19};
  struct rlimit locked = {.rlim_cur = RLIM_INFINITY, .rlim_max = RLIM_INFINITY};

  sethostname("efuse-vm", 8);
  setrlimit(RLIMIT_NOFILE, &files);
  setrlimit(RLIMIT_MEMLOCK, &locked);
  write_text("/sys/fs/cgroup/cgroup.subtree_control", "+cpu");
  write_text("/sys/fs/cgroup/cgroup.subtree_control", "+cpuset");
  write_text("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
  write_text("/sys/fs/cgroup/cgroup.subtree_control", "+pids");
}

static void load_module(const char *path, const char *options)
{
  int fd;

  if (!*path)
    return;
  fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    fail("cannot open %s: %s", path, strerror(errno));
  if (syscall(SYS_finit_module, fd, options, 0) != 0)
    fail("cannot load %s: %s", path, strerror(errno));
  close(fd);
}

static bool unload_module(void)
{
  for (int waited = 0;; waited += 10) {
    if (syscall(SYS_delete_module, MODULE_NAME, O_NONBLOCK) == 0 || errno == ENOENT)
      return true;
    if (waited >= UNLOAD_MS)
      return false;
    usleep(10000);
  }
}

/* ---- the command ----------------------------------------------------- */

struct command {
  pid_t pid;
  int in, out, err;  /* our ends; -1 once closed */
  bool exited;
  int status;        /* as wait() gives it */
};

static void exec_command(const struct config *c, int in, int out, int err)
{
  sigset_t none;
  int error;

  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  setsid();
  dup2(in, STDIN_FILENO);
  dup2(out, STDOUT_FILENO);
  dup2(err, STDERR_FILENO);
  clearenv();
  setenv("PATH", c->path, 1);
  setenv("HOME", "/root", 1);
  setenv("USER", "root", 1);
  setenv("LOGNAME", "root", 1);
  setenv("SHELL", "/bin/sh", 1);
  setenv("LANG", "C.UTF-8", 1);
  setenv("TERM", "dumb", 1);
  setenv("PYTHONDONTWRITEBYTECODE", "1", 1);
  setenv("EFUSE_VM", "1", 1);
  setenv("EFUSE_BUILD", c->build, 1);
  setenv("EFUSE_MODULE", c->module, 1);
  if (chdir(c->cwd) != 0) {
    dprintf(STDERR_FILENO, "vm: cannot enter %s: %s\n", c->cwd, strerror(errno));
    _exit(126);
  }
  execvp(c->argv[0], c->argv);
  error = errno;
  dprintf(STDERR_FILENO, "vm: %s: %s\n", c->argv[0], strerror(error));
  _exit(error == ENOENT ? 127 : 126);
}

static struct command start_command(const struct config *c)
{
  struct command cmd = {0};
  int in[2], out[2], err[2];

  if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC))
    fail("pipe: %s", strerror(errno));
  cmd.pid = fork();
  if (cmd.pid < 0)
    fail("fork: %s", strerror(errno));
  if (cmd.pid == 0)
    exec_command(c, in[0], out[1], err[1]);
  close(in[0]);
  close(out[1]);
  close(err[1]);
  cmd.in = in[1];
  cmd.out = out[0];
  cmd.err = err[0];
  fcntl(cmd.in, F_SETFL, O_NONBLOCK);
  fcntl(cmd.out, F_SETFL, O_NONBLOCK);
  fcntl(cmd.err, F_SETFL, O_NONBLOCK);
  return cmd;
}

/* Input from the host on its way to the command. */
struct input {
  struct frame head;
  size_t head_have;    /* bytes of head read */
  char data[CHUNK];
  size_t from, to;     /* bytes of data not yet written */
  uint32_t left;       /* bytes of the frame not yet read */
  bool eof;
};

static void close_fd(int *fd)
{
  if (*fd >= 0)
    close(*fd);
  *fd = -1;
}

/* Take what the port has; blocking is no danger, as poll() said that there is something. */
static void read_input(struct input *in)
{
  ssize_t n;

  if (in->left == 0) {
    n = read(port, (char *)&in->head + in->head_have, sizeof(in->head) - in->head_have);
    if (n <= 0) {
      in->eof = true;
      return;
    }
    in->head_have += n;
    if (in->head_have < sizeof(in->head))
      return;
    in->head_have = 0;
    in->left = in->head.length;
    if (in->head.type == FRAME_STDIN_EOF)
      in->eof = true;
    return;
  }
  n = read(port, in->data, in->left < CHUNK ? in->left : CHUNK);
  if (n <= 0) {
    in->eof = true;
    return;
  }
  in->left -= n;
  in->from = 0;
  in->to = n;
}

/* A command that does not read its input, or is gone, must not hold up the port. */
static void write_input(struct input *in, struct command *cmd)
{
  if (in->from < in->to && cmd->in >= 0) {
    ssize_t n = write(cmd->in, in->data + in->from, in->to - in->from);

    if (n > 0)
      in->from += n;
    else if (n < 0 && errno != EAGAIN && errno != EINTR)
      close_fd(&cmd->in);
  }
  if (cmd->in < 0)
    in->from = in->to = 0;
  if (in->eof && in->from == in->to)
    close_fd(&cmd->in);
}

/* Returns false when there is nothing now. */
static bool forward(int *fd, enum frame_type type)
{
  static char data[CHUNK];
  ssize_t n;

  if (*fd < 0)
    return false;
  n = read(*fd, data, sizeof(data));
  if (n > 0)
    send_frame(type, data, n);
  else if (n == 0 || (errno != EAGAIN && errno != EINTR))
    close_fd(fd);
  return n > 0;
}

static void reap(struct command *cmd)
{
  int status;
  pid_t pid;

  while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
    if (pid == cmd->pid) {
      cmd->exited = true;
      cmd->status = status;
    }
  }
}

static void run_command(struct command *cmd, int children)
{
  static struct input in;

  while (!cmd->exited) {
    bool full = in.from < in.to;
    struct pollfd p[] = {
      {.fd = children, .events = POLLIN},
      {.fd = cmd->out, .events = POLLIN},
      {.fd = cmd->err, .events = POLLIN},
      {.fd = in.eof || full ? -1 : port, .events = POLLIN},
      {.fd = cmd->in, .events = full ? POLLOUT : 0},
    };

    if (poll(p, 5, -1) < 0 && errno != EINTR)
      fail("poll: %s", strerror(errno));
    if (p[0].revents) {
      struct signalfd_siginfo info;

      if (read(children, &info, sizeof(info)) > 0)
        reap(cmd);
    }
    if (p[1].revents)
      forward(&cmd->out, FRAME_STDOUT);
    if (p[2].revents)
      forward(&cmd->err, FRAME_STDERR);
    if (p[3].revents)
      read_input(&in);
    if (p[4].revents & (POLLERR | POLLHUP))
      close_fd(&cmd->in);
    write_input(&in, cmd);
  }
}

/* The command's own output, all of it; then end what it left behind, which may hold the pipes open. */
static void finish_command(struct command *cmd)
{
  while (forward(&cmd->out, FRAME_STDOUT) || forward(&cmd->err, FRAME_STDERR))
    ;
  close_fd(&cmd->in);
  kill(-1, SIGKILL);
  for (int waited = 0; waited < DRAIN_MS && (cmd->out >= 0 || cmd->err >= 0); waited += 10) {
    struct pollfd p[] = {{.fd = cmd->out, .events = POLLIN}, {.fd = cmd->err, .events = POLLIN}};

    poll(p, 2, 10);
    while (forward(&cmd->out, FRAME_STDOUT) || forward(&cmd->err, FRAME_STDERR))
      ;
    reap(cmd);
  }
  reap(cmd);
}

/* ---- the end --------------------------------------------------------- */

/* Mounts that the command left, last first; the share itself stays for unmount_share(). */
static void unmount_fuse(void)
{
  char line[8192], where[4096], *found[256];
  size_t n = 0;
  FILE *f = fopen("/proc/self/mountinfo", "re");

  while (f && n < sizeof(found) / sizeof(*found) && fgets(line, sizeof(line), f)) {
    char *type = strstr(line, " - fuse");

    if (type && (type[7] == ' ' || type[7] == '.' || type[7] == 'b') &&
        sscanf(line, "%*s %*s %*s %*s %4095s", where) == 1)
      found[n++] = strdup(where);
  }
  if (f)
    fclose(f);
  while (n > 0)
    umount2(found[--n], MNT_DETACH);
}

static void send_kmsg(void)
{
  char record[8192];
  ssize_t n;

  for (;;) {
    n = read(kmsg, record, sizeof(record));
    if (n > 0)
      send_frame(FRAME_KMSG, record, n);
    else if (n < 0 && errno == EPIPE)
      continue;  /* overwritten records: the console has them */
    else
      break;
  }
}

int main(void)
{
  sigset_t child;
  struct config c;
  struct command cmd;
  int children;
  uint32_t status;

  umask(022);
  mount_system();
  kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  open_port();
  c = read_config();
  mount_scratch();
  complete_etc();
  mount_modules(c.release, c.modules);
  bind_back(c.tree);
  bind_back(c.kernel);
  make_path(c.build);
  must_mount("efusebuild", c.build, "virtiofs", MS_NOSUID | MS_NODEV, NULL);
  umount2(UNDER, MNT_DETACH);
  rmdir(UNDER);
  loopback_up();
  set_limits();
  load_module(c.module, c.module_options);

  sigemptyset(&child);
  sigaddset(&child, SIGCHLD);
  sigprocmask(SIG_BLOCK, &child, NULL);
  signal(SIGPIPE, SIG_IGN);
  children = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
  send_frame(FRAME_READY, NULL, 0);
  cmd = start_command(&c);
  run_command(&cmd, children);
  finish_command(&cmd);
  status = cmd.status;

  unmount_fuse();
  if (*c.module && !unload_module()) {
    int fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);

    dprintf(fd, "<3>vm-init: " MODULE_NAME " is still in use after every process and mount is gone\n");
    close(fd);
  }
  send_kmsg();
  sync();
  umount2(c.build, 0);
  send_frame(FRAME_EXIT, &status, sizeof(status));
  poll(NULL, 0, 10000);  /* the host stops the machine when it has read this */
  power_off();
}
