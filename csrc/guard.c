/*
 * memcg-guard: the three processes, and who does what when one of them is gone.
 *
 *     warden ── keeper ── guard ◀──socket── owner
 *
 * Each is the child of the one before, and all share one table of holds and one table of open files. The guard does
 * the work. A parent is told by the kernel when its child dies and also when it is stopped, which nobody else is: so
 * the keeper watches the guard, and the warden watches the keeper. Who finds that its child is gone kills what is
 * left, puts everything back, hangs up on the owner, and ends. The guard in turn sees the other two die, and does the
 * same. The warden has nobody above: that it is stopped is not noticed, and changes nothing, as the other two are as
 * good without it.
 *
 * The library starts the program as an orphan, with its socket as file descriptor 3, and without arguments.
 */
#include "guard.h"

#include <elf.h>
#include <sched.h>
#include <sys/prctl.h>

struct shared *shared;
struct memcg_record *records;

void quit(int status)
{
    /* A warden that somebody has stopped would stay behind. */
    if (shared && shared->warden_pidfd >= 0)
        sys(SYS_pidfd_send_signal, shared->warden_pidfd, SIGCONT, NULL, 0);
    if (shared && shared->worker_pidfd >= 0)
        sys(SYS_pidfd_send_signal, shared->worker_pidfd, SIGKILL, NULL, 0);
    for (;;)
        sys(SYS_exit_group, status);
}

static void rename_self(const char *name)
{
    sys(SYS_prctl, PR_SET_NAME, name, 0, 0, 0);
}

/* The beginning: alone, with nothing of the owner's but the socket. */

static void block_signals(void)
{
    uint64_t all = ~UINT64_C(0), by_default[4] = {0};
    sys(SYS_rt_sigprocmask, SIG_SETMASK, &all, NULL, sizeof all);
    /* Where an owner ignores its children, so would we, and the kernel would not keep dead ones until we look. */
    sys(SYS_rt_sigaction, SIGCHLD, by_default, NULL, sizeof all);
}

static void detach(void)
{
    sys(SYS_setsid);
    sys(SYS_chdir, "/");
    struct rlimit limit;
    if (sys(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        sys(SYS_prlimit64, 0, RLIMIT_NOFILE, &limit, NULL);
    }
    if (sys(SYS_close_range, SOCKET + 1, ~0U, 0) < 0)
        for (int fd = SOCKET + 1; fd < 1 << 16; fd++)
            sys(SYS_close, fd);
#ifndef MEMCG_HOSTED
    for (int fd = 0; fd < SOCKET; fd++)
        sys(SYS_close, fd);
    /* Numbers that programs take for granted stand for nothing. */
    for (int fd = 0; fd < SOCKET; fd++)
        sys(SYS_openat, AT_FDCWD, "/dev/null", O_RDWR, 0);
#endif
}

/* When this process started, field 22 of its stat(5); 0 where that cannot be read. */
static uint64_t start_time(void)
{
    char text[512];
    int64_t time = 0;
    const char *at = text, *after_name = NULL;
    int file = (int)sys_openat(AT_FDCWD, "/proc/self/stat", O_RDONLY);
    if (file < 0 || read_text(file, text, sizeof text) <= 0)
        text[0] = 0;
    sys_close(&file);
    for (; *at; at++)
        if (*at == ')')
            after_name = at + 1;
    for (int field = 3; after_name && field <= 22; field++) {
        while (*after_name == ' ')
            after_name++;
        time = parse(after_name, &after_name);
        while (*after_name && *after_name != ' ') /* what is no number */
            after_name++;
    }
    return (uint64_t)time;
}

/* As hard to starve as this user may make it. */
static void protect(void)
{
    int fd = (int)sys_openat(AT_FDCWD, "/proc/self/oom_score_adj", O_WRONLY);
    if (fd >= 0)
        sys(SYS_write, fd, "-1000", 5);
    sys_close(&fd);
    /* Ahead of all that is not real-time, and for a few microseconds at a time. */
    struct sched_param first = {.sched_priority = 1};
    if (sys(SYS_sched_setscheduler, 0, SCHED_FIFO, &first) < 0)
        sys(SYS_setpriority, PRIO_PROCESS, 0, -20);
}

void forget_priority(void)
{
    struct sched_param none = {.sched_priority = 0};
    sys(SYS_sched_setscheduler, 0, SCHED_OTHER, &none);
}

/* Where one of the processes is, to be found out later without looking up a path. */
void open_place(enum place place, int32_t pid)
{
    struct text path = {0, {0}};
    add(&path, "/proc/");
    add_number(&path, pid);
    add(&path, "/cgroup");
    shared->places[place] = (int)sys_openat(AT_FDCWD, path.bytes, O_RDONLY);
}

/*
 * Memory. Each process touches, and locks, all that it may ever use, before anybody relies on it: a page fault could
 * stop it when the owner's own group is out of memory.
 */

#define STACK (96 << 10)

static void touch(volatile const char *from, size_t size)
{
    for (size_t at = 0; at < size; at += 4096)
        (void)from[at];
    (void)from[size - 1];
}

static void touch_stack(void)
{
    volatile char room[STACK];
    for (size_t at = 0; at < sizeof room; at += 4096)
        room[at] = 0;
    room[sizeof room - 1] = 0;
}

#ifdef MEMCG_FREESTANDING
extern const Elf64_Ehdr __ehdr_start; /* the linker's word for the beginning of the program */

/* Each segment by itself: where pages may be large (AArch64), there is nothing between them. */
static bool lock_program(void)
{
    const Elf64_Phdr *part = (const Elf64_Phdr *)((const char *)&__ehdr_start + __ehdr_start.e_phoff);
    bool locked = true;
    for (int i = 0; i < __ehdr_start.e_phnum; i++)
        if (part[i].p_type == PT_LOAD) {
            locked = sys(SYS_mlock, part[i].p_vaddr, part[i].p_memsz) == 0 && locked;
            touch((const char *)part[i].p_vaddr, part[i].p_memsz);
        }
    return locked;
}
#endif

static enum memcg_locked lock_memory(void)
{
    enum memcg_locked locked = MEMCG_LOCKED_NONE;
    if (sys(SYS_mlockall, MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) == 0)
        locked = MEMCG_LOCKED_ALL;
#ifdef MEMCG_FREESTANDING
    if (lock_program() && locked == MEMCG_LOCKED_NONE)
        locked = MEMCG_LOCKED_HOT;
#endif
    touch((const char *)shared, sizeof *shared);
    touch((const char *)records, MEMCG_HOLDS * sizeof *records);
    touch_stack();
    return locked;
}

static long map(int flags, int fd, size_t size)
{
    return sys(SYS_mmap, NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | flags, fd, 0);
}

static long share(void)
{
    const size_t size = MEMCG_HOLDS * sizeof *records;
    long place = map(MAP_ANONYMOUS, -1, sizeof *shared);
    if (place < 0)
        return place;
    shared = (struct shared *)place;
    shared->guard_pidfd = shared->warden_pidfd = shared->worker_pidfd = shared->work = shared->worked = shared->meminfo = -1;
    for (size_t i = 0; i < PLACES; i++)
        shared->places[i] = -1;
    long table = sys(SYS_memfd_create, "memcg-holds", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (table < 0)
        return table;
    shared->table = (int)table;
    long error = sys(SYS_ftruncate, table, size);
    if (error < 0)
        return error;
    place = map(0, shared->table, size);
    if (place < 0)
        return place;
    records = (struct memcg_record *)place;
    /* From now on, whoever maps it can only read. */
    return sys(SYS_fcntl, table, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL);
}

/* Keeping. */

/* A child that shares the open files. With an own copy of all memory but the tables. */
long fork_sharing_files(void)
{
#ifdef __s390x__
    return sys(SYS_clone, 0, CLONE_FILES | SIGCHLD, 0, 0, 0);
#else
    return sys(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
#endif
}

/* Ends what is left below us: the child, whose number stays its own until it is waited for, guard, and worker. */
static void kill_rest(int child)
{
    sys(SYS_kill, child, SIGKILL);
    if (shared->guard_pidfd >= 0)
        sys(SYS_pidfd_send_signal, shared->guard_pidfd, SIGKILL, NULL, 0);
    if (shared->worker_pidfd >= 0)
        sys(SYS_pidfd_send_signal, shared->worker_pidfd, SIGKILL, NULL, 0);
}

static void await_death(int child)
{
    siginfo_t info;
    sys(SYS_waitid, P_PID, child, &info, WEXITED | __WALL, NULL);
    struct pollfd poll = {.fd = shared->guard_pidfd, .events = POLLIN};
    struct timespec second = {1, 0};
    if (shared->guard_pidfd >= 0)
        sys(SYS_ppoll, &poll, 1, &second, NULL, 0);
}

/* Watches a child until it ends as it should, having put everything back itself, or does not. */
static void keep(int child) __attribute__((noreturn));
static void keep(int child)
{
    siginfo_t info = {.si_code = 0};
    long error;
    do
        error = sys(SYS_waitid, P_PID, child, &info, WEXITED | WSTOPPED | WNOWAIT | __WALL, NULL);
    while (error == -EINTR);
    if (error == 0 && info.si_code == CLD_EXITED && info.si_status == 0)
        quit(0);
    kill_rest(child);
    let_kernel_in();
    await_death(child); /* the guard may have been in the middle of a write: only now is what we write sure to stay */
    put_everything_back();
    sys(SYS_shutdown, SOCKET, SHUT_RDWR); /* the owner need not wait for the rest */
    linger();
    quit(0);
}

static long fork_or_quit(void)
{
    long child = fork_sharing_files();
    if (child < 0) {
        refuse(child);
        quit(1);
    }
    return child;
}

void memcg_guard_main(void) __attribute__((noreturn, used));
void memcg_guard_main(void)
{
    block_signals();
    rename_self("memcg-warden");
    detach();
    protect();
    long error = share();
    if (error < 0) {
        refuse(error);
        quit(1);
    }
    shared->warden = (int32_t)sys(SYS_getpid);
    long keeper = fork_or_quit();
    if (keeper > 0) {
        lock_memory();
        keep((int)keeper);
    }
    rename_self("memcg-keeper");
    shared->keeper = (int32_t)sys(SYS_getpid);
    long child = fork_or_quit();
    if (child > 0) {
        lock_memory();
        keep((int)child);
    }
    rename_self("memcg-guard");
    shared->guard = (int32_t)sys(SYS_getpid);
    shared->guard_start = start_time();
    shared->locked = lock_memory();
    guard();
}

MEMCG_START;

#ifdef MEMCG_FREESTANDING
/* The compiler calls these of its own accord. */
void *memcpy(void *to, const void *from, size_t size)
{
    char *t = to;
    const char *f = from;
    while (size--)
        *t++ = *f++;
    return to;
}

void *memset(void *to, int byte, size_t size)
{
    char *t = to;
    while (size--)
        *t++ = (char)byte;
    return to;
}
#endif
