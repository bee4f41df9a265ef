/*
 * The system calls of the guard, each returning a negated errno where it fails.
 *
 * On x86-64 and AArch64 the guard is built without a C library: a few pages of text, all of which can be locked in
 * memory, no dynamic linker, no start-up code, nothing that allocates. Elsewhere, and with MEMCG_HOSTED (for the
 * sanitizers), the C library's syscall(2) takes its place.
 */
#ifndef MEMCG_SYS_H
#define MEMCG_SYS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>

#if !defined(__LP64__)
#error "memcg's guard needs a 64-bit machine"
#endif

/* Newer than the headers may be; the numbers are the same on all machines. */
#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
#ifndef MCL_ONFAULT
#define MCL_ONFAULT 4
#endif

#if defined(MEMCG_FREESTANDING) && defined(__x86_64__)

static inline long sys6(long number, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

#define MEMCG_START                                                                                                  \
    __asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tand $-16, %rsp\n\tcall memcg_guard_main\n\thlt\n")

#elif defined(MEMCG_FREESTANDING) && defined(__aarch64__)

static inline long sys6(long number, long a, long b, long c, long d, long e, long f)
{
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
}

#define MEMCG_START                                                                                                  \
    __asm__(".globl _start\n_start:\n\tmov x29, #0\n\tmov x30, #0\n\tbl memcg_guard_main\n\tbrk #1\n")

#elif defined(MEMCG_FREESTANDING)
#error "no system call of this machine is known: build without MEMCG_FREESTANDING"
#else

#include <unistd.h>

static inline long sys6(long number, long a, long b, long c, long d, long e, long f)
{
    long result = syscall(number, a, b, c, d, e, f);
    return result < 0 ? -errno : result;
}

#define MEMCG_START                                                                                                  \
    int main(void)                                                                                                   \
    {                                                                                                                \
        memcg_guard_main();                                                                                          \
    }                                                                                                                \
    extern int main(void)

#endif

#define CALL_PICK(_0, _1, _2, _3, _4, _5, _6, count, ...) count
#define CALL_COUNT(...) CALL_PICK(__VA_ARGS__, 6, 5, 4, 3, 2, 1, 0, 0)
#define CALL_JOIN(a, b) a##b
#define CALL_NAME(a, b) CALL_JOIN(a, b)
#define CALL_0(n) sys6(n, 0, 0, 0, 0, 0, 0)
#define CALL_1(n, a) sys6(n, (long)(a), 0, 0, 0, 0, 0)
#define CALL_2(n, a, b) sys6(n, (long)(a), (long)(b), 0, 0, 0, 0)
#define CALL_3(n, a, b, c) sys6(n, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define CALL_4(n, a, b, c, d) sys6(n, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define CALL_5(n, a, b, c, d, e) sys6(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)
#define CALL_6(n, a, b, c, d, e, f) sys6(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

/* sys(SYS_name, arguments...) */
#define sys(...) CALL_NAME(CALL_, CALL_COUNT(__VA_ARGS__))(__VA_ARGS__)

static inline int64_t monotonic(void)
{
    struct timespec now = {0, 0};
    sys(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static inline long sys_openat(int directory, const char *path, int flags)
{
    return sys(SYS_openat, directory, path, flags | O_CLOEXEC, 0);
}

/* Closes *fd, if it is open, and forgets the number. */
static inline void sys_close(int *fd)
{
    if (*fd >= 0)
        sys(SYS_close, *fd);
    *fd = -1;
}

#endif
