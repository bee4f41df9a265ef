/* Each function returns a negated errno where it fails: no thread-local errno has to survive the way back. */
#define _GNU_SOURCE
#include "syscalls.h"

#include <errno.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_openat2
#define SYS_openat2 437
#endif

/* openat2(2), Linux 5.6. The C library has no wrapper. */
int memcg_openat2(int directory, const char *path, uint64_t flags, uint64_t resolve)
{
    struct {
        uint64_t flags;
        uint64_t mode;
        uint64_t resolve;
    } how = {.flags = flags, .resolve = resolve};
    long fd = syscall(SYS_openat2, directory, path, &how, sizeof how);
    return fd < 0 ? -errno : (int)fd;
}

/* The f_type of fstatfs(2), which os.fstatvfs() leaves out. */
int64_t memcg_file_system_magic(int fd)
{
    struct statfs file_system;
    if (fstatfs(fd, &file_system) < 0)
        return -errno;
    return (int64_t)(uint32_t)file_system.f_type;
}

/* timerfd_create(2): Python has it from 3.13 on. */
int memcg_timer_create(void)
{
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

/* Fires once, `nanoseconds` from now; 0 disarms. */
int memcg_timer_set(int fd, int64_t nanoseconds)
{
    struct itimerspec once = {
        .it_value = {.tv_sec = nanoseconds / 1000000000, .tv_nsec = nanoseconds % 1000000000},
    };
    return timerfd_settime(fd, 0, &once, NULL) < 0 ? -errno : 0;
}
