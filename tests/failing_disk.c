/* A disk that fails, for tests: loaded before the C library (LD_PRELOAD), it lets calls fail or kills the process, as
   rules in shared memory say. See failing_disk.py, which compiles it and writes the rules. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RULES 16
#define KILL (-1)

struct rule {
    char operation[16];   /* "" where the rule is not in use */
    char pattern[488];    /* fnmatch of the absolute path */
    int64_t error;        /* errno, or KILL */
    _Atomic int64_t skip; /* calls to let through first */
    _Atomic int64_t left; /* calls to fail */
    _Atomic int64_t hits; /* calls that failed */
};

static struct rule *rules;

__attribute__((constructor)) static void attach(void) {
    const char *path = getenv("HEADRACE_FAILING_DISK");
    if (!path) return;
    int file = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC);
    if (file < 0) return;
    void *memory = mmap(NULL, RULES * sizeof(struct rule), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    syscall(SYS_close, file);
    if (memory != MAP_FAILED) rules = memory;
}

/* Whether a call is to fail: errno is set then. `folder` is a descriptor that a relative path begins at; without a
   path, the descriptor itself is meant. */
static int fails(const char *operation, int change, int folder, const char *path) {
    if (!rules) return 0;
    int kept = errno, wanted = 0;
    for (int i = 0; i < RULES; i++)
        if (!strcmp(rules[i].operation, operation) || (change && !strcmp(rules[i].operation, "change"))) wanted = 1;
    if (!wanted) return 0;
    char whole[2 * PATH_MAX + 2] = "", link[64];
    if (!path || path[0] != '/') {
        if (path && folder == AT_FDCWD) {
            if (!getcwd(whole, PATH_MAX)) whole[0] = 0;
        } else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
            ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, whole, PATH_MAX - 1);
            whole[length < 0 ? 0 : length] = 0;
        }
    }
    if (path) {
        if (path[0] != '/') strcat(whole, "/");
        strncat(whole, path, PATH_MAX);
    }
    for (int i = 0; i < RULES; i++) {
        struct rule *rule = rules + i;
        if (strcmp(rule->operation, operation) && !(change && !strcmp(rule->operation, "change"))) continue;
        if (fnmatch(rule->pattern, whole, 0)) continue;
        if (rule->skip > 0 && rule->skip-- > 0) continue;
        if (rule->left <= 0 || rule->left-- <= 0) continue;
        rule->hits++;
        if (rule->error == KILL) kill(getpid(), SIGKILL);
        errno = (int)rule->error;
        return 1;
    }
    errno = kept;
    return 0;
}

#define NEXT(result, name, ...) \
    static result (*next)(__VA_ARGS__); \
    if (!next) next = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define CHANGES(flags) ((flags) & (O_CREAT | O_TRUNC) ? 1 : 0)
#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        MODE(flags) \
        NEXT(int, #name, const char *, int, mode_t); \
        return fails("open", CHANGES(flags), AT_FDCWD, path) ? -1 : next(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        MODE(flags) \
        NEXT(int, #name, int, const char *, int, mode_t); \
        return fails("open", CHANGES(flags), folder, path) ? -1 : next(folder, path, flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)

#define ON_FILE(result, name, operation, parameters, arguments) \
    result name parameters { \
        static result (*next) parameters; \
        if (!next) next = (result(*) parameters)dlsym(RTLD_NEXT, #name); \
        return fails(operation, 0, file, NULL) ? -1 : next arguments; \
    }
ON_FILE(ssize_t, read, "read", (int file, void *to, size_t n), (file, to, n))
ON_FILE(ssize_t, pread, "read", (int file, void *to, size_t n, off_t at), (file, to, n, at))
ON_FILE(ssize_t, pread64, "read", (int file, void *to, size_t n, off64_t at), (file, to, n, at))
ON_FILE(ssize_t, write, "write", (int file, const void *from, size_t n), (file, from, n))
ON_FILE(ssize_t, pwrite, "write", (int file, const void *from, size_t n, off_t at), (file, from, n, at))
ON_FILE(ssize_t, pwrite64, "write", (int file, const void *from, size_t n, off64_t at), (file, from, n, at))
ON_FILE(int, fsync, "sync", (int file), (file))
ON_FILE(int, fdatasync, "sync", (int file), (file))

#define ON_PATH(result, bad, name, operation, change, parameters, arguments) \
    result name parameters { \
        static result (*next) parameters; \
        if (!next) next = (result(*) parameters)dlsym(RTLD_NEXT, #name); \
        return fails(operation, change, AT_FDCWD, path) ? bad : next arguments; \
    }
ON_PATH(int, -1, stat, "stat", 0, (const char *path, struct stat *to), (path, to))
ON_PATH(int, -1, stat64, "stat", 0, (const char *path, struct stat64 *to), (path, to))
ON_PATH(int, -1, lstat, "stat", 0, (const char *path, struct stat *to), (path, to))
ON_PATH(int, -1, lstat64, "stat", 0, (const char *path, struct stat64 *to), (path, to))
ON_PATH(DIR *, NULL, opendir, "list", 0, (const char *path), (path))
ON_PATH(int, -1, mkdir, "mkdir", 1, (const char *path, mode_t mode), (path, mode))
ON_PATH(int, -1, rmdir, "remove", 1, (const char *path), (path))
ON_PATH(int, -1, unlink, "remove", 1, (const char *path), (path))
ON_PATH(int, -1, rename, "rename", 1, (const char *path, const char *new), (path, new))
ON_PATH(int, -1, link, "link", 1, (const char *path, const char *new), (path, new))
ON_PATH(int, -1, symlink, "link", 1, (const char *target, const char *path), (target, path))
ON_PATH(int, -1, truncate, "write", 1, (const char *path, off_t size), (path, size))

#define IN_FOLDER(name, operation, change, parameters, arguments) \
    int name parameters { \
        static int (*next) parameters; \
        if (!next) next = (int (*) parameters)dlsym(RTLD_NEXT, #name); \
        return fails(operation, change, folder, path) ? -1 : next arguments; \
    }
IN_FOLDER(fstatat, "stat", 0, (int folder, const char *path, struct stat *to, int flags), (folder, path, to, flags))
IN_FOLDER(fstatat64, "stat", 0, (int folder, const char *path, struct stat64 *to, int flags), (folder, path, to, flags))
IN_FOLDER(mkdirat, "mkdir", 1, (int folder, const char *path, mode_t mode), (folder, path, mode))
IN_FOLDER(unlinkat, "remove", 1, (int folder, const char *path, int flags), (folder, path, flags))
IN_FOLDER(renameat, "rename", 1, (int folder, const char *path, int to, const char *new), (folder, path, to, new))
IN_FOLDER(renameat2, "rename", 1, (int folder, const char *path, int to, const char *new, unsigned flags),
          (folder, path, to, new, flags))

DIR *fdopendir(int file) {
    NEXT(DIR *, "fdopendir", int);
    return fails("list", 0, file, NULL) ? NULL : next(file);
}

#define READDIR(kind, name) \
    kind *name(DIR *folder) { \
        NEXT(kind *, #name, DIR *); \
        return fails("readdir", 0, dirfd(folder), NULL) ? NULL : next(folder); \
    }
READDIR(struct dirent, readdir)
READDIR(struct dirent64, readdir64)

#define MAP(name, offset) \
    void *name(void *address, size_t size, int protection, int flags, int file, offset at) { \
        if (file >= 0 && fails("map", 0, file, NULL)) return MAP_FAILED; \
        return (void *)syscall(SYS_mmap, address, size, protection, flags, file, (long)at); \
    }
MAP(mmap, off_t)
MAP(mmap64, off64_t)
