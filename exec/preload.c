// SPDX-License-Identifier: LGPL-2.1-or-later
// The library that `efuse exec` preloads. It stands before libfuse's session loops, which libfuse's own fuse_loop() and
// fuse_main() reach through the dynamic linker too, and has the session served by the runtime (takeover.cc). Whatever
// goes wrong on the way there is said in one line, and libfuse's loop runs.
#include "host.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define MODULE "efuse-exec.so"

// What libfuse's loop runs with where nothing is asked for; it cannot be told from somebody asking for it.
#define DEFAULT_THREADS 10

struct fuse_loop_config;
// As libfuse's headers before 3.12 made it public.
struct fuse_loop_config_v1 {
	int clone_fd;
	unsigned max_idle_threads;
};

__attribute__((format(printf, 1, 2))) static void say(const char *format, ...)
{
	char line[512];
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(line, sizeof(line), format, arguments);
	va_end(arguments);
	fprintf(stderr, "efuse exec: %s\n", line);
}

// ---- libfuse ------------------------------------------------------------------

/// The function that stands behind ours. `caller`: an address in who called us: a libfuse that was loaded by dlopen()
/// is found by it.
static void *behind(const char *name, const char *version, void *caller)
{
	void *found = version != NULL ? dlvsym(RTLD_NEXT, name, version) : dlsym(RTLD_NEXT, name);
	Dl_info info;
	if (found == NULL && caller != NULL && dladdr(caller, &info) != 0 && info.dli_fname != NULL) {
		void *library = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
		if (library != NULL) {
			found = version != NULL ? dlvsym(library, name, version) : dlsym(library, name);
			dlclose(library);
		}
	}
	return found;
}

/// As behind(), for what cannot be done without.
static void *must(const char *name, const char *version, void *caller)
{
	void *found = behind(name, version, caller);
	if (found == NULL) {
		say("there is no %s in this program's libfuse", name);
		abort();
	}
	return found;
}

#define CALLER __builtin_return_address(0)
#define BEHIND(type, name, version) ((type)must(name, version, CALLER))

/// Found once, before a signal handler calls it: dlsym() is not for signal handlers.
static void (*libfuse_exit(void *caller))(struct fuse_session *)
{
	static _Atomic(void (*)(struct fuse_session *)) found;
	void (*function)(struct fuse_session *) = atomic_load(&found);
	if (function == NULL) {
		function = must("fuse_session_exit", NULL, caller);
		atomic_store(&found, function);
	}
	return function;
}

// ---- sessions -----------------------------------------------------------------

// One per session that was mounted or looped. Never freed, only used again: fuse_session_exit() looks at them from
// signal handlers.
struct record {
	_Atomic(struct fuse_session *) session; // NULL: free
	struct record *next;
	char *mountpoint;
	int wake_fd; // stays with the record
	bool foreign_io, served, negotiated, told;
};

static _Atomic(struct record *) records;
static pthread_mutex_t records_mutex = PTHREAD_MUTEX_INITIALIZER; // who adds or takes over a record

static struct record *find(const struct fuse_session *session)
{
	for (struct record *r = atomic_load(&records); r != NULL; r = r->next)
		if (atomic_load(&r->session) == session)
			return r;
	return NULL;
}

static struct record *unused_record(void)
{
	struct record *r = find(NULL);
	if (r != NULL)
		return r;
	r = calloc(1, sizeof(*r));
	if (r == NULL)
		return NULL;
	r->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (r->wake_fd < 0) {
		free(r);
		return NULL;
	}
	r->next = atomic_load(&records);
	atomic_store(&records, r);
	return r;
}

/// NULL: no memory or no descriptor.
static struct record *record_of(struct fuse_session *session)
{
	pthread_mutex_lock(&records_mutex);
	struct record *r = find(session);
	if (r == NULL && (r = unused_record()) != NULL) {
		eventfd_t count;
		(void)eventfd_read(r->wake_fd, &count);
		r->mountpoint = NULL;
		r->foreign_io = r->served = r->negotiated = r->told = false;
		atomic_store(&r->session, session);
	}
	pthread_mutex_unlock(&records_mutex);
	return r;
}

// ---- the module ---------------------------------------------------------------

static efuse_exec_serve_t *serve;
static efuse_exec_forget_t *forget;
static char module_error[256];

static void load_module(void)
{
	Dl_info self;
	char path[PATH_MAX];
	const char *slash;
	if (dladdr((void *)&load_module, &self) == 0 || (slash = strrchr(self.dli_fname, '/')) == NULL ||
	    snprintf(path, sizeof(path), "%.*s/" MODULE, (int)(slash - self.dli_fname), self.dli_fname) >= PATH_MAX) {
		snprintf(module_error, sizeof(module_error), "cannot tell where " MODULE " is");
		return;
	}
	// Local: its C++ libraries are none of the program's business.
	void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
	if (module == NULL) {
		snprintf(module_error, sizeof(module_error), "%s", dlerror());
		return;
	}
	forget = (efuse_exec_forget_t *)dlsym(module, "efuse_exec_forget");
	serve = (efuse_exec_serve_t *)dlsym(module, "efuse_exec_serve");
}

static bool is_fuse_device(int fd)
{
	struct stat st;
	return fstat(fd, &st) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == makedev(10, 229);
}

// ---- loops --------------------------------------------------------------------

/// What the program asked for.
struct loop {
	unsigned threads;
	bool limit;
};

/// The session and its libfuse for the module; NULL, or why it is not to be had.
static const char *describe(struct efuse_exec_host *host, struct fuse_session *session, struct record *r,
			    struct loop loop, void *caller)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	int (*get_fd)(struct fuse_session *) = behind("fuse_session_fd", NULL, caller);
	*host = (struct efuse_exec_host){
		.session = session,
		.mountpoint = r != NULL && r->mountpoint != NULL ? r->mountpoint : "",
		.threads = loop.threads,
		.limit = loop.limit,
		.custom_io = behind("fuse_session_custom_io", "FUSE_3.0", caller),
		.process_buf = behind("fuse_session_process_buf", NULL, caller),
		.exited = behind("fuse_session_exited", NULL, caller),
	};
	if (r == NULL)
		return "out of memory or descriptors";
	if (r->foreign_io)
		return "the program brings a transport of its own (fuse_session_custom_io)";
	if (host->custom_io == NULL)
		return "its libfuse is older than 3.14 and has no fuse_session_custom_io";
	if (get_fd == NULL || host->process_buf == NULL || host->exited == NULL)
		return "its libfuse lacks functions of the low-level API";
	host->fd = get_fd(session);
	host->wake_fd = r->wake_fd;
	host->negotiated = r->negotiated;
	if (!is_fuse_device(host->fd))
		return "the session is not one of /dev/fuse (a character device of CUSE, or not mounted)";
	pthread_once(&once, load_module);
	return serve != NULL ? NULL : module_error;
}

/// true: served, and *result is what libfuse's loop would return.
static bool taken_over(struct fuse_session *session, struct loop loop, void *caller, int *result)
{
	struct record *r = record_of(session);
	struct efuse_exec_host host;
	char text[400];
	const char *why = describe(&host, session, r, loop, caller);
	libfuse_exit(caller);
	if (why == NULL) {
		int error = 0;
		enum efuse_exec_outcome outcome = serve(&host, &error, text, sizeof(text));
		why = text;
		r->negotiated = outcome != EFUSE_EXEC_UNTOUCHED;
		if (outcome == EFUSE_EXEC_SERVED) {
			r->served = true;
			// A loop that has nothing left to do: it knows what the session has ended with.
			int (*end_of_loop)(struct fuse_session *) = must("fuse_session_loop", NULL, caller);
			libfuse_exit(caller)(session);
			*result = end_of_loop(session);
			eventfd_t count;
			(void)eventfd_read(r->wake_fd, &count);
			if (*result == 0)
				*result = -error;
			return true;
		}
	}
	say("%s, so libfuse's own loop serves", why);
	if (r != NULL)
		r->told = true;
	return false;
}

EXPORT int fuse_session_loop(struct fuse_session *session);
int fuse_session_loop(struct fuse_session *session)
{
	int result;
	if (taken_over(session, (struct loop){.threads = 1, .limit = true}, CALLER, &result))
		return result;
	return BEHIND(int (*)(struct fuse_session *), "fuse_session_loop", NULL)(session);
}

// ---- loop configurations, which are opaque: what was set is noted here --------------

struct noted {
	struct fuse_loop_config *config;
	struct noted *next;
	unsigned max_threads;
};
static struct noted *noted_configs;
static pthread_mutex_t noted_mutex = PTHREAD_MUTEX_INITIALIZER;

/// The place where the link to it is, or to nothing. noted_mutex is held.
static struct noted **find_config(const struct fuse_loop_config *config)
{
	struct noted **link = &noted_configs;
	while (*link != NULL && (*link)->config != config)
		link = &(*link)->next;
	return link;
}

static struct loop loop_of(const struct fuse_loop_config *config)
{
	pthread_mutex_lock(&noted_mutex);
	struct noted *noted = config != NULL ? *find_config(config) : NULL;
	unsigned threads = noted != NULL ? noted->max_threads : DEFAULT_THREADS;
	pthread_mutex_unlock(&noted_mutex);
	return (struct loop){.threads = threads != 0 ? threads : 1, .limit = threads != DEFAULT_THREADS};
}

EXPORT struct fuse_loop_config *fuse_loop_cfg_create(void);
struct fuse_loop_config *fuse_loop_cfg_create(void)
{
	struct fuse_loop_config *config =
		BEHIND(struct fuse_loop_config * (*)(void), "fuse_loop_cfg_create", NULL)();
	struct noted *noted = config != NULL ? malloc(sizeof(*noted)) : NULL;
	if (noted != NULL) {
		pthread_mutex_lock(&noted_mutex);
		*noted = (struct noted){.config = config, .next = noted_configs, .max_threads = DEFAULT_THREADS};
		noted_configs = noted;
		pthread_mutex_unlock(&noted_mutex);
	}
	return config;
}

EXPORT void fuse_loop_cfg_destroy(struct fuse_loop_config *config);
void fuse_loop_cfg_destroy(struct fuse_loop_config *config)
{
	pthread_mutex_lock(&noted_mutex);
	struct noted **link = find_config(config), *noted = *link;
	if (noted != NULL)
		*link = noted->next;
	pthread_mutex_unlock(&noted_mutex);
	free(noted);
	BEHIND(void (*)(struct fuse_loop_config *), "fuse_loop_cfg_destroy", NULL)(config);
}

EXPORT void fuse_loop_cfg_set_max_threads(struct fuse_loop_config *config, unsigned value);
void fuse_loop_cfg_set_max_threads(struct fuse_loop_config *config, unsigned value)
{
	pthread_mutex_lock(&noted_mutex);
	struct noted *noted = *find_config(config);
	if (noted != NULL)
		noted->max_threads = value;
	pthread_mutex_unlock(&noted_mutex);
	BEHIND(void (*)(struct fuse_loop_config *, unsigned), "fuse_loop_cfg_set_max_threads", NULL)(config, value);
}

// The three fuse_session_loop_mt(). clone_fd and the number of idle threads are libfuse's means to an end that the
// transports have means of their own for.

EXPORT int efuse_loop_mt_312(struct fuse_session *session, struct fuse_loop_config *config);
int efuse_loop_mt_312(struct fuse_session *session, struct fuse_loop_config *config)
{
	int result;
	if (taken_over(session, loop_of(config), CALLER, &result))
		return result;
	return BEHIND(int (*)(struct fuse_session *, struct fuse_loop_config *), "fuse_session_loop_mt",
		      "FUSE_3.12")(session, config);
}

EXPORT int efuse_loop_mt_32(struct fuse_session *session, struct fuse_loop_config_v1 *config);
int efuse_loop_mt_32(struct fuse_session *session, struct fuse_loop_config_v1 *config)
{
	int result;
	if (taken_over(session, loop_of(NULL), CALLER, &result))
		return result;
	return BEHIND(int (*)(struct fuse_session *, struct fuse_loop_config_v1 *), "fuse_session_loop_mt",
		      "FUSE_3.2")(session, config);
}

EXPORT int efuse_loop_mt_31(struct fuse_session *session, int clone_fd);
int efuse_loop_mt_31(struct fuse_session *session, int clone_fd)
{
	int result;
	if (taken_over(session, loop_of(NULL), CALLER, &result))
		return result;
	return BEHIND(int (*)(struct fuse_session *, int), "fuse_session_loop_mt", "FUSE_3.0")(session, clone_fd);
}

#define VERSIONED(function, as) __asm__(".symver " #function "," as)
#define ALIAS(function, name) EXPORT extern __typeof__(function) name __attribute__((alias(#function)))

VERSIONED(efuse_loop_mt_312, "fuse_session_loop_mt@@FUSE_3.12");
VERSIONED(efuse_loop_mt_32, "fuse_session_loop_mt@FUSE_3.2");
VERSIONED(efuse_loop_mt_31, "fuse_session_loop_mt@FUSE_3.0");
ALIAS(efuse_loop_mt_312, fuse_session_loop_mt_312);
ALIAS(efuse_loop_mt_32, fuse_session_loop_mt_32);
ALIAS(efuse_loop_mt_31, fuse_session_loop_mt_31);

// ---- the rest of a session's life -------------------------------------------------

EXPORT int fuse_session_mount(struct fuse_session *session, const char *mountpoint);
int fuse_session_mount(struct fuse_session *session, const char *mountpoint)
{
	// Before there is a mount: looking at it would be a request that nobody serves yet.
	char *path = mountpoint != NULL ? realpath(mountpoint, NULL) : NULL;
	int result = BEHIND(int (*)(struct fuse_session *, const char *), "fuse_session_mount",
			    NULL)(session, mountpoint);
	struct record *r = result == 0 ? record_of(session) : NULL;
	if (r != NULL && path != NULL && strncmp(mountpoint, "/dev/fd/", 8) != 0) {
		free(r->mountpoint);
		r->mountpoint = path;
		r->negotiated = false;
	} else {
		free(path);
	}
	return result;
}

/// Async-signal-safe, as libfuse's.
EXPORT void fuse_session_exit(struct fuse_session *session);
void fuse_session_exit(struct fuse_session *session)
{
	libfuse_exit(CALLER)(session);
	const struct record *r = find(session);
	if (r != NULL) {
		int saved = errno;
		(void)eventfd_write(r->wake_fd, 1);
		errno = saved;
	}
}

EXPORT void fuse_session_destroy(struct fuse_session *session);
void fuse_session_destroy(struct fuse_session *session)
{
	struct record *r = find(session);
	BEHIND(void (*)(struct fuse_session *), "fuse_session_destroy", NULL)(session);
	if (r == NULL)
		return;
	if (forget != NULL)
		forget(session);
	pthread_mutex_lock(&records_mutex);
	free(r->mountpoint);
	r->mountpoint = NULL;
	atomic_store(&r->session, NULL);
	pthread_mutex_unlock(&records_mutex);
}

/// A program that receives messages itself has a loop of its own.
EXPORT int fuse_session_receive_buf(struct fuse_session *session, struct fuse_buf *buf);
int fuse_session_receive_buf(struct fuse_session *session, struct fuse_buf *buf)
{
	struct record *r = record_of(session);
	if (r != NULL && !r->told) {
		r->told = true;
		say("the program has a loop of its own (fuse_session_receive_buf), which serves");
	}
	return BEHIND(int (*)(struct fuse_session *, struct fuse_buf *), "fuse_session_receive_buf",
		      NULL)(session, buf);
}

static void note_foreign_io(struct fuse_session *session)
{
	struct record *r = record_of(session);
	if (r != NULL)
		r->foreign_io = true;
}

EXPORT int efuse_custom_io_30(struct fuse_session *session, const struct fuse_custom_io *io, int fd);
int efuse_custom_io_30(struct fuse_session *session, const struct fuse_custom_io *io, int fd)
{
	note_foreign_io(session);
	return BEHIND(int (*)(struct fuse_session *, const struct fuse_custom_io *, int), "fuse_session_custom_io",
		      "FUSE_3.0")(session, io, fd);
}

EXPORT int efuse_custom_io_317(struct fuse_session *session, const struct fuse_custom_io *io, size_t size, int fd);
int efuse_custom_io_317(struct fuse_session *session, const struct fuse_custom_io *io, size_t size, int fd)
{
	note_foreign_io(session);
	return BEHIND(int (*)(struct fuse_session *, const struct fuse_custom_io *, size_t, int),
		      "fuse_session_custom_io", "FUSE_3.17")(session, io, size, fd);
}

VERSIONED(efuse_custom_io_317, "fuse_session_custom_io@@FUSE_3.17");
VERSIONED(efuse_custom_io_30, "fuse_session_custom_io@FUSE_3.0");
ALIAS(efuse_custom_io_317, fuse_session_custom_io_317);

// ---- what the program starts -------------------------------------------------------

/// Programs that do not have libfuse (a shell, mount.fuse3) pass this library on to those that they start. One that has
/// it does not: its children (ssh) are no filesystems.
__attribute__((constructor)) static void stay_here(void)
{
	Dl_info self;
	const char *list = getenv("LD_PRELOAD");
	if (list == NULL || dlsym(RTLD_NEXT, "fuse_session_new") == NULL || dladdr((void *)&stay_here, &self) == 0)
		return;
	char *copy = strdup(list), *rest = calloc(strlen(list) + 1, 1);
	char *at = NULL;
	for (char *part = copy != NULL && rest != NULL ? strtok_r(copy, ": ", &at) : NULL; part != NULL;
	     part = strtok_r(NULL, ": ", &at)) {
		if (strcmp(part, self.dli_fname) == 0)
			continue;
		if (*rest != '\0')
			strcat(rest, ":");
		strcat(rest, part);
	}
	if (rest != NULL && *rest != '\0')
		setenv("LD_PRELOAD", rest, 1);
	else
		unsetenv("LD_PRELOAD");
	free(copy);
	free(rest);
}
