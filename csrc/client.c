/* The library's side of the guard. */
#define _GNU_SOURCE
#include "client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* How often a record is looked at that is just being written, and from when on with a pause. */
#define LOOKS 2000
#define LOOKS_AT_ONCE 100

#define GUARDS_SOCKET 3

int memcg_guard_socket(int *guards_end)
{
    int ends[2], on = 1;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return -errno;
    /* Each message says who sent it, from the first on. */
    setsockopt(ends[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
    *guards_end = ends[1];
    return ends[0];
}

/* Starting it: as nobody's child, so that no wait() of the program that uses the library ever meets it. */

struct start {
    const char *program;
    int socket;
    int error;
    char helpers_stack[8192] __attribute__((aligned(16)));
    char guards_stack[8192] __attribute__((aligned(16)));
};

static int become_guard(void *argument)
{
    struct start *start = argument;
    char *arguments[] = {"memcg-guard", NULL}, *environment[] = {NULL};
    int moved = start->socket == GUARDS_SOCKET ? fcntl(GUARDS_SOCKET, F_SETFD, 0)
                                                : dup2(start->socket, GUARDS_SOCKET);
    if (moved >= 0)
        execve(start->program, arguments, environment);
    start->error = errno;
    _exit(127);
}

/* exec() makes a process signal its end to its parent: so the parent is a helper, which is gone by then. */
static int start_and_exit(void *argument)
{
    struct start *start = argument;
    if (clone(become_guard, start->guards_stack + sizeof start->guards_stack, CLONE_VM | CLONE_VFORK, start) < 0)
        start->error = errno;
    _exit(0);
}

int memcg_guard_start(const char *program, int guards_end)
{
    struct start start = {.program = program, .socket = guards_end, .error = 0};
    sigset_t all, former;
    sigfillset(&all);
    /* The helpers share this memory: none of our signal handlers may run in them. */
    pthread_sigmask(SIG_SETMASK, &all, &former);
    int helper = clone(start_and_exit, start.helpers_stack + sizeof start.helpers_stack, CLONE_VM | CLONE_VFORK,
                       &start);
    int error = helper < 0 ? errno : start.error;
    if (helper > 0)
        while (waitpid(helper, NULL, __WALL) < 0 && errno == EINTR)
            ;
    pthread_sigmask(SIG_SETMASK, &former, NULL);
    return -error;
}

/*
 * A child of whatever fork() must not keep the socket open, or the guard would take its owner to be alive. The number
 * may have an owner that closes it; so it is not closed but made to stand for something else.
 */

static int kept_socket = -1, kept_stand_in = -1;

static void in_child(void)
{
    if (kept_socket >= 0)
        dup3(kept_stand_in, kept_socket, O_CLOEXEC);
    kept_socket = -1;
}

static void arrange(void)
{
    pthread_atfork(NULL, NULL, in_child);
}

void memcg_guard_keep_from_children(int socket, int stand_in)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, arrange);
    kept_stand_in = stand_in;
    kept_socket = socket;
}

/* Asking. */

static int64_t milliseconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int memcg_guard_call(int socket, const struct memcg_request *request, const int *fds, int count,
                     struct memcg_reply *reply, int *fd, int milliseconds)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(2 * sizeof(int))];
    } control = {.bytes = {0}};
    struct iovec body = {.iov_base = (void *)(uintptr_t)request, .iov_len = sizeof *request};
    struct msghdr message = {.msg_iov = &body, .msg_iovlen = 1};
    if (count < 0 || count > 2)
        return -EINVAL;
    if (count > 0) {
        size_t size = (size_t)count * sizeof(int);
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(size);
        control.header.cmsg_len = CMSG_LEN(size);
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        memcpy(CMSG_DATA(&control.header), fds, size);
    }
    ssize_t done;
    do
        done = sendmsg(socket, &message, MSG_NOSIGNAL);
    while (done < 0 && errno == EINTR);
    if (done < 0)
        return -errno;

    int64_t deadline = milliseconds_now() + milliseconds, left = milliseconds;
    struct pollfd poll_socket = {.fd = socket, .events = POLLIN};
    int ready;
    while ((ready = poll(&poll_socket, 1, (int)left)) < 0 && errno == EINTR)
        left = deadline > milliseconds_now() ? deadline - milliseconds_now() : 0;
    if (ready <= 0)
        return ready < 0 ? -errno : -ETIMEDOUT;

    memset(reply, 0, sizeof *reply);
    *fd = -1;
    body = (struct iovec){.iov_base = reply, .iov_len = sizeof *reply};
    message = (struct msghdr){
        .msg_iov = &body, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    do
        done = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    while (done < 0 && errno == EINTR);
    if (done < 0)
        return -errno;
    if (done != sizeof *reply)
        return -EPIPE;
    if (message.msg_flags & MSG_CTRUNC)
        return -EMFILE; /* no number was left for what came with the answer */
    struct cmsghdr *part = CMSG_FIRSTHDR(&message);
    if (part && part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_RIGHTS &&
        part->cmsg_len == CMSG_LEN(sizeof *fd))
        memcpy(fd, CMSG_DATA(part), sizeof *fd);
    return 0;
}

/* Ends it: it puts everything back, whoever else may have the socket open. */
void memcg_guard_hang_up(int socket)
{
    shutdown(socket, SHUT_RDWR);
}

/* Reading. */

#define TABLE (MEMCG_HOLDS * sizeof(struct memcg_record))

/* The table of the guard's records, or NULL; it needs no file descriptor any more. */
const void *memcg_map_table(int fd)
{
    void *table = mmap(NULL, TABLE, PROT_READ, MAP_SHARED, fd, 0);
    return table == MAP_FAILED ? NULL : table;
}

void memcg_unmap_table(const void *table)
{
    munmap((void *)(uintptr_t)table, TABLE);
}

int memcg_read_record(const void *table, uint32_t slot, struct memcg_record *record)
{
    if (slot >= MEMCG_HOLDS)
        return -EINVAL;
    const struct memcg_record *shared = (const struct memcg_record *)table + slot;
    for (int attempt = 0; attempt < LOOKS; attempt++) {
        uint32_t before = __atomic_load_n(&shared->sequence, __ATOMIC_ACQUIRE);
        if (!(before & 1)) {
            memcpy(record, shared, sizeof *record);
            __atomic_thread_fence(__ATOMIC_ACQUIRE);
            if (__atomic_load_n(&shared->sequence, __ATOMIC_RELAXED) == before)
                return 0;
        }
        /* That takes the guard less than a microsecond, but it may have lost its processor to somebody else. */
        if (attempt < LOOKS_AT_ONCE)
            sched_yield();
        else
            nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    }
    return -EAGAIN; /* it has died while it wrote */
}
