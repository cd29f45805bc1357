/* A disk that fails on demand, for LD_PRELOAD: counts the calls that change or sync files under one
 * folder and, at the chosen one, dies, runs full, fails a sync, or loses power.
 *
 * DUALITY_FAULT_FOLDER  absolute path without links; only calls on files under it count
 * fault_arm(mode, at, seed)   starts counting at 0; call number `at` (from 1) is the one that fails
 *   FAULT_COUNT       nothing fails
 *   FAULT_DIE         a write puts a random prefix on the disk, other calls happen or not; then _exit(137)
 *   FAULT_POWER       as FAULT_DIE, and a random tail of each file's writes since its last sync is undone
 *   FAULT_FULL        from `at` on ENOSPC; the first write may still put a prefix on the disk
 *   FAULT_SYNC_ONCE   only syncs count; that one returns EIO
 *   FAULT_SYNC_ALWAYS only syncs count; from that one on they return EIO
 * fault_calls(), fault_fired()   how many calls counted so far; what failed first, as text
 *
 * Not modelled: creations, renames and removals that a power cut takes back; stores through mmap.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { FAULT_OFF, FAULT_COUNT, FAULT_DIE, FAULT_POWER, FAULT_FULL, FAULT_SYNC_ONCE, FAULT_SYNC_ALWAYS };
enum kind { CHANGE, REMOVE, SYNC };
enum verdict { PASS, FIRE, AFTER };

static atomic_int mode;
static atomic_long calls, at;
static uint64_t seed;
static char fired[4608];

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static uint64_t draw(uint64_t below) {
    uint64_t z = (seed += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return below ? (z ^ (z >> 31)) % below : 0;
}

static int under(const char *path) {
    const char *folder = getenv("DUALITY_FAULT_FOLDER");
    size_t length = folder ? strlen(folder) : 0;
    return length && !strncmp(path, folder, length) && (path[length] == '/' || !path[length]);
}

static int path_of(int fd, char *path, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, size - 1);
    path[length > 0 ? length : 0] = 0;
    return length > 0;
}

/* ---- what was written since the last sync, for FAULT_POWER ---- */

struct change {
    struct change *before;
    int fd;
    dev_t device;
    ino_t inode;
    off_t offset, size;
    size_t length;
    char old[];
};
static struct change *changes;
static pthread_mutex_t changes_lock = PTHREAD_MUTEX_INITIALIZER;

static void remember(int fd, off_t offset, size_t length) {
    char path[4096], link[64];
    struct stat facts;
    if (mode != FAULT_POWER || !path_of(fd, path, sizeof path) || !under(path)) return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int own = REAL(open)(link, O_RDWR | O_CLOEXEC);
    if (own < 0 || fstat(own, &facts) || !S_ISREG(facts.st_mode)) {
        if (own >= 0) close(own);
        return;
    }
    struct change *new = malloc(sizeof *new + length);
    ssize_t held = pread(own, new->old, length, offset);
    new->fd = own;
    new->device = facts.st_dev, new->inode = facts.st_ino;
    new->offset = offset, new->size = facts.st_size, new->length = held > 0 ? (size_t)held : 0;
    pthread_mutex_lock(&changes_lock);
    new->before = changes, changes = new;
    pthread_mutex_unlock(&changes_lock);
}

static off_t position(int fd) {
    return fcntl(fd, F_GETFL) & O_APPEND ? lseek(fd, 0, SEEK_END) : lseek(fd, 0, SEEK_CUR);
}

static void forget(int fd) {
    struct stat facts;
    if (mode != FAULT_POWER || fstat(fd, &facts)) return;
    pthread_mutex_lock(&changes_lock);
    for (struct change **place = &changes; *place;) {
        struct change *one = *place;
        if (one->device == facts.st_dev && one->inode == facts.st_ino) {
            *place = one->before;
            close(one->fd);
            free(one);
        } else
            place = &one->before;
    }
    pthread_mutex_unlock(&changes_lock);
}

static void cut_power(void) {
    /* Per file: half the time everything since the last sync is lost, else a random tail of it. */
    for (struct change *file = changes; file; file = file->before) {
        if (file->fd < 0) continue;
        dev_t device = file->device;
        ino_t inode = file->inode;
        long kept, number = 0;
        for (struct change *one = file; one; one = one->before)
            number += one->device == device && one->inode == inode;
        kept = draw(2) ? 0 : (long)draw(number + 1);
        for (struct change *one = file; one; one = one->before) {
            if (one->device != device || one->inode != inode) continue;
            if (number-- > kept) {
                if (one->length) (void)!REAL(pwrite64)(one->fd, one->old, one->length, one->offset);
                (void)!REAL(ftruncate64)(one->fd, one->size);
            }
            one->fd = -1;
        }
    }
}

/* ---- which calls count, and what happens to them ---- */

void fault_arm(int new_mode, long new_at, unsigned long new_seed) {
    mode = FAULT_OFF;
    calls = 0;
    at = new_at;
    seed = new_seed;
    fired[0] = 0;
    mode = new_mode;
}
long fault_calls(void) { return calls; }
const char *fault_fired(void) { return fired; }

/* SQLite rebuilds its shared memory when it opens: deaths there would only crowd out others. */
static int rebuilt(const char *path) {
    size_t length = strlen(path);
    return length > 4 && !strcmp(path + length - 4, "-shm");
}

static enum verdict judge(enum kind kind, const char *call, const char *path) {
    int now = mode;
    if (now == FAULT_OFF || !under(path)) return PASS;
    if (now <= FAULT_POWER && rebuilt(path)) return PASS;
    if (now == FAULT_FULL && kind != CHANGE) return PASS;
    if (now >= FAULT_SYNC_ONCE && kind != SYNC) return PASS;
    long number = ++calls;
    if (now == FAULT_COUNT || number < at || (now == FAULT_SYNC_ONCE && number > at)) return PASS;
    if (number > at) return AFTER;
    snprintf(fired, sizeof fired, "call %ld: %s %s", number, call, path);
    return FIRE;
}

static enum verdict judge_fd(enum kind kind, const char *call, int fd) {
    char path[4096];
    int saved = errno;
    enum verdict verdict = mode != FAULT_OFF && path_of(fd, path, sizeof path) ? judge(kind, call, path) : PASS;
    errno = saved;
    return verdict;
}

static enum verdict judge_at(enum kind kind, const char *call, int folder, const char *name) {
    char path[8192];
    if (mode == FAULT_OFF || !name) return PASS;
    if (name[0] == '/' || (folder == AT_FDCWD && !getcwd(path, 4096))) path[0] = 0;
    else if (folder != AT_FDCWD && !path_of(folder, path, 4096)) return PASS;
    size_t length = strlen(path);
    snprintf(path + length, sizeof path - length, "%s%s", length ? "/" : "", name);
    return judge(kind, call, path);
}

static int dying(void) { return mode == FAULT_DIE || mode == FAULT_POWER; }

static void die(void) {
    char line[4700];
    int length = snprintf(line, sizeof line, "fault: ended at %s\n", fired);
    (void)!REAL(write)(2, line, length);
    if (mode == FAULT_POWER) cut_power();
    _exit(137);
}

/* Bytes that a failing write still puts down. */
static size_t prefix(size_t length) { return draw(4) ? draw(length + 1) : (draw(2) ? length : 0); }

#define WRITES(call, fd, offset, length, all, part)                    \
    enum verdict verdict = judge_fd(CHANGE, #call, fd);                \
    if (verdict == AFTER) { errno = ENOSPC; return -1; }               \
    if (mode == FAULT_POWER) remember(fd, offset, length);             \
    if (verdict == PASS) return all;                                   \
    size_t put = prefix(length);                                       \
    ssize_t done = put ? (part) : 0;                                   \
    if (dying()) die();                                                \
    if (done > 0) return done;                                         \
    errno = ENOSPC;                                                    \
    return -1

/* Calls that happen whole or not at all. */
#define HAPPENS(kind, judged, failure, act)                            \
    enum verdict verdict = judged;                                     \
    if (verdict == PASS) return act;                                   \
    if (dying()) { if (draw(2)) (void)!(act); die(); }                 \
    errno = (kind) == SYNC ? EIO : ENOSPC;                             \
    return failure

static size_t total(const struct iovec *parts, int count) {
    size_t sum = 0;
    for (int n = 0; n < count; n++) sum += parts[n].iov_len;
    return sum;
}

ssize_t write(int fd, const void *data, size_t length) {
    WRITES(write, fd, position(fd), length, REAL(write)(fd, data, length), REAL(write)(fd, data, put));
}
ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
    WRITES(pwrite, fd, offset, length, REAL(pwrite)(fd, data, length, offset), REAL(pwrite)(fd, data, put, offset));
}
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    WRITES(pwrite64, fd, offset, length, REAL(pwrite64)(fd, data, length, offset),
           REAL(pwrite64)(fd, data, put, offset));
}
/* A vector of buffers fails within the first one. */
#define FIRST(put) ((put) < parts[0].iov_len ? (put) : parts[0].iov_len)
ssize_t writev(int fd, const struct iovec *parts, int count) {
    WRITES(writev, fd, position(fd), total(parts, count), REAL(writev)(fd, parts, count),
           REAL(write)(fd, parts[0].iov_base, FIRST(put)));
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    WRITES(pwritev, fd, offset, total(parts, count), REAL(pwritev)(fd, parts, count, offset),
           REAL(pwrite)(fd, parts[0].iov_base, FIRST(put), offset));
}
ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t offset, int flags) {
    WRITES(pwritev64v2, fd, offset, total(parts, count), REAL(pwritev64v2)(fd, parts, count, offset, flags),
           REAL(pwrite)(fd, parts[0].iov_base, FIRST(put), offset));
}
ssize_t sendfile(int out, int in, off_t *offset, size_t length) {
    WRITES(sendfile, out, position(out), length, REAL(sendfile)(out, in, offset, length),
           REAL(sendfile)(out, in, offset, put));
}
ssize_t sendfile64(int out, int in, off64_t *offset, size_t length) {
    WRITES(sendfile64, out, position(out), length, REAL(sendfile64)(out, in, offset, length),
           REAL(sendfile64)(out, in, offset, put));
}
ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t length, unsigned flags) {
    WRITES(copy_file_range, out, to ? *to : position(out), length,
           REAL(copy_file_range)(in, from, out, to, length, flags),
           REAL(copy_file_range)(in, from, out, to, put, flags));
}
size_t fwrite(const void *data, size_t size, size_t count, FILE *stream) {
    int fd = fileno(stream);
    enum verdict verdict = judge_fd(CHANGE, "fwrite", fd);
    if (mode == FAULT_POWER) {
        fflush(stream);
        remember(fd, position(fd), size * count);
    }
    if (verdict == PASS) {
        size_t done = REAL(fwrite)(data, size, count, stream);
        if (mode == FAULT_POWER) fflush(stream);
        return done;
    }
    if (verdict == FIRE) REAL(fwrite)(data, 1, prefix(size * count), stream), fflush(stream);
    if (dying()) die();
    errno = ENOSPC;
    return 0;
}

static int synced(int fd, int result) {
    if (!result) forget(fd);
    return result;
}
int fsync(int fd) {
    HAPPENS(SYNC, judge_fd(SYNC, "fsync", fd), -1, synced(fd, REAL(fsync)(fd)));
}
int fdatasync(int fd) {
    HAPPENS(SYNC, judge_fd(SYNC, "fdatasync", fd), -1, synced(fd, REAL(fdatasync)(fd)));
}
int msync(void *start, size_t length, int flags) {
    HAPPENS(SYNC, judge(SYNC, "msync", getenv("DUALITY_FAULT_FOLDER")), -1, REAL(msync)(start, length, flags));
}

static int resize(int fd, off64_t size) {
    remember(fd, size, 0);
    struct stat facts;
    if (mode == FAULT_POWER && !fstat(fd, &facts) && facts.st_size > size)
        remember(fd, size, facts.st_size - size);
    return REAL(ftruncate64)(fd, size);
}
/* A full disk still lets files shrink. */
static enum kind resizing(int fd, off64_t size) {
    struct stat facts;
    return !fstat(fd, &facts) && size <= facts.st_size ? REMOVE : CHANGE;
}
int ftruncate(int fd, off_t size) {
    HAPPENS(CHANGE, judge_fd(resizing(fd, size), "ftruncate", fd), -1, resize(fd, size));
}
int ftruncate64(int fd, off64_t size) {
    HAPPENS(CHANGE, judge_fd(resizing(fd, size), "ftruncate64", fd), -1, resize(fd, size));
}
int truncate(const char *path, off_t size) {
    HAPPENS(CHANGE, judge_at(CHANGE, "truncate", AT_FDCWD, path), -1, REAL(truncate)(path, size));
}
int truncate64(const char *path, off64_t size) {
    HAPPENS(CHANGE, judge_at(CHANGE, "truncate64", AT_FDCWD, path), -1, REAL(truncate64)(path, size));
}
int fallocate(int fd, int how, off_t offset, off_t length) {
    HAPPENS(CHANGE, judge_fd(CHANGE, "fallocate", fd), -1, REAL(fallocate)(fd, how, offset, length));
}
int posix_fallocate(int fd, off_t offset, off_t length) {
    HAPPENS(CHANGE, judge_fd(CHANGE, "posix_fallocate", fd), ENOSPC, REAL(posix_fallocate)(fd, offset, length));
}
int posix_fallocate64(int fd, off64_t offset, off64_t length) {
    HAPPENS(CHANGE, judge_fd(CHANGE, "posix_fallocate64", fd), ENOSPC,
            REAL(posix_fallocate64)(fd, offset, length));
}

int rename(const char *from, const char *to) {
    HAPPENS(CHANGE, judge_at(CHANGE, "rename", AT_FDCWD, to), -1, REAL(rename)(from, to));
}
int renameat(int old, const char *from, int new, const char *to) {
    HAPPENS(CHANGE, judge_at(CHANGE, "renameat", new, to), -1, REAL(renameat)(old, from, new, to));
}
int renameat2(int old, const char *from, int new, const char *to, unsigned flags) {
    HAPPENS(CHANGE, judge_at(CHANGE, "renameat2", new, to), -1, REAL(renameat2)(old, from, new, to, flags));
}
int link(const char *from, const char *to) {
    HAPPENS(CHANGE, judge_at(CHANGE, "link", AT_FDCWD, to), -1, REAL(link)(from, to));
}
int linkat(int old, const char *from, int new, const char *to, int flags) {
    HAPPENS(CHANGE, judge_at(CHANGE, "linkat", new, to), -1, REAL(linkat)(old, from, new, to, flags));
}
int symlink(const char *from, const char *to) {
    HAPPENS(CHANGE, judge_at(CHANGE, "symlink", AT_FDCWD, to), -1, REAL(symlink)(from, to));
}
int mkdir(const char *path, mode_t rights) {
    HAPPENS(CHANGE, judge_at(CHANGE, "mkdir", AT_FDCWD, path), -1, REAL(mkdir)(path, rights));
}
int mkdirat(int folder, const char *path, mode_t rights) {
    HAPPENS(CHANGE, judge_at(CHANGE, "mkdirat", folder, path), -1, REAL(mkdirat)(folder, path, rights));
}
int unlink(const char *path) {
    HAPPENS(REMOVE, judge_at(REMOVE, "unlink", AT_FDCWD, path), -1, REAL(unlink)(path));
}
int unlinkat(int folder, const char *path, int flags) {
    HAPPENS(REMOVE, judge_at(REMOVE, "unlinkat", folder, path), -1, REAL(unlinkat)(folder, path, flags));
}
int rmdir(const char *path) {
    HAPPENS(REMOVE, judge_at(REMOVE, "rmdir", AT_FDCWD, path), -1, REAL(rmdir)(path));
}

/* An opening counts when it makes a file or empties one. */
static enum verdict judge_open(int folder, const char *path, int flags) {
    if (mode == FAULT_OFF || !(flags & (O_CREAT | O_TRUNC))) return PASS;
    int saved = errno, there = !faccessat(folder, path, F_OK, 0);
    errno = saved;
    if (there && !(flags & O_TRUNC)) return PASS;
    return judge_at(there ? REMOVE : CHANGE, "open", folder, path);
}
#define RIGHTS(flags)                                                  \
    mode_t rights = 0;                                                 \
    if (((flags) & O_CREAT) || ((flags) & O_TMPFILE) == O_TMPFILE) {                            \
        va_list more;                                                  \
        va_start(more, flags);                                         \
        rights = va_arg(more, mode_t);                                 \
        va_end(more);                                                  \
    }
int open(const char *path, int flags, ...) {
    RIGHTS(flags)
    HAPPENS(CHANGE, judge_open(AT_FDCWD, path, flags), -1, REAL(open)(path, flags, rights));
}
int open64(const char *path, int flags, ...) {
    RIGHTS(flags)
    HAPPENS(CHANGE, judge_open(AT_FDCWD, path, flags), -1, REAL(open64)(path, flags, rights));
}
int openat(int folder, const char *path, int flags, ...) {
    RIGHTS(flags)
    HAPPENS(CHANGE, judge_open(folder, path, flags), -1, REAL(openat)(folder, path, flags, rights));
}
int openat64(int folder, const char *path, int flags, ...) {
    RIGHTS(flags)
    HAPPENS(CHANGE, judge_open(folder, path, flags), -1, REAL(openat64)(folder, path, flags, rights));
}
