/* Each function returns a negated errno where it fails: no thread-local errno has to survive the way back. */
#define _GNU_SOURCE
#include "syscalls.h"

#include <errno.h>
#include <linux/aio_abi.h>
#include <stdio.h>
#include <sys/inotify.h>
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

/* inotify(7), for which Python has nothing. */
int memcg_inotify_create(void)
{
    int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

/* Watches an open directory, wherever it is; the watch descriptor. */
int memcg_inotify_add(int fd, int directory, uint32_t mask)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", directory);
    int watch = inotify_add_watch(fd, path, mask);
    return watch < 0 ? -errno : watch;
}

int memcg_inotify_remove(int fd, int watch)
{
    return inotify_rm_watch(fd, watch) < 0 ? -errno : 0;
}

/* poll(2), done by the kernel while the caller does something else: IOCB_CMD_POLL of io_submit(2), Linux 4.18. */
int64_t memcg_poll_create(void)
{
    aio_context_t context = 0;
    return syscall(SYS_io_setup, 1, &context) < 0 ? -errno : (int64_t)context;
}

/* Begins to wait, once, for `events` of a file; adds 1 to an eventfd when there are any. */
int memcg_poll_begin(int64_t context, int fd, int events, int eventfd)
{
    struct iocb request = {
        .aio_lio_opcode = 5, /* IOCB_CMD_POLL, which older headers lack */
        .aio_fildes = fd,
        .aio_buf = events,
        .aio_flags = IOCB_FLAG_RESFD,
        .aio_resfd = eventfd,
    };
    struct iocb *requests[] = {&request};
    return syscall(SYS_io_submit, (aio_context_t)context, 1L, requests) < 0 ? -errno : 0;
}

/* What has been found since it was begun: the events, 0 while there are none. */
int memcg_poll_found(int64_t context)
{
    struct io_event event;
    long count = syscall(SYS_io_getevents, (aio_context_t)context, 0L, 1L, &event, NULL);
    return count < 0 ? -errno : count == 0 ? 0 : (int)event.res;
}

/* Gives up; returns when the kernel has let go of the file. */
void memcg_poll_destroy(int64_t context)
{
    syscall(SYS_io_destroy, (aio_context_t)context);
}
