/* The guard proper: one loop over all that can happen. */
#include "guard.h"

int epoll_fd = -1, inotify_fd = -1;
int expiries;
static int timer_fd = -1;
static int64_t timer_at = NEVER;

long wait_for(int fd, uint32_t events, uint64_t source)
{
    struct epoll_event event = {.events = events, .data = {.u64 = source}};
    return sys(SYS_epoll_ctl, epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

long wait_for_hold(int fd, uint32_t events, const struct hold *hold)
{
    return wait_for(fd, events, HOLD + (uint64_t)(hold - shared->holds));
}

/* All is over: the owner has gone, or one of the three processes has. */
static void end(void) __attribute__((noreturn));
static void end(void)
{
    put_everything_back();
    sys(SYS_shutdown, SOCKET, SHUT_RDWR);
    linger();
    quit(0);
}

/* What happens in the directories of the groups. */

static struct hold *watched_by(int number)
{
    for (int i = 0; i < MEMCG_HOLDS; i++)
        if (shared->holds[i].in_use && shared->holds[i].watch == number)
            return &shared->holds[i];
    return NULL;
}

static void look_at_all(int64_t now)
{
    for (int i = 0; i < MEMCG_HOLDS; i++)
        if (shared->holds[i].in_use) {
            shared->holds[i].walk_all = 1;
            look(&shared->holds[i], now);
        }
}

/* The files that others may write, too. */
static bool is_watched(const char *name)
{
    static const char *const names[] = {"memory.oom_control", "memory.max", "memory.high", "cgroup.freeze"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (equal(name, names[i]))
            return true;
    return false;
}

static void read_changes(void)
{
    char buffer[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
    long got = sys(SYS_read, inotify_fd, buffer, sizeof buffer);
    for (long at = 0; at < got;) {
        const struct inotify_event *event = (const struct inotify_event *)(buffer + at);
        at += (long)sizeof *event + event->len;
        if (event->mask & IN_Q_OVERFLOW) {
            look_at_all(monotonic());
            continue;
        }
        struct hold *hold = watched_by(event->wd);
        if (!hold)
            continue;
        if ((event->mask & IN_CREATE) && (event->mask & IN_ISDIR) && event->len && hold->oom_control >= 0)
            see_to_child(hold, event->name);
        else if ((event->mask & IN_MODIFY) && event->len && is_watched(event->name))
            look(hold, monotonic());
    }
}

/* Time. */

static void set_timer(void)
{
    int64_t first = NEVER;
    expiries = 0;
    for (int i = 0; i < MEMCG_HOLDS; i++) {
        const struct hold *hold = &shared->holds[i];
        if (hold->due < first)
            first = hold->due;
        if (hold->due != NEVER && state_of(hold) == MEMCG_EXPIRED)
            expiries++;
    }
    if (first == timer_at)
        return;
    /* 0 would disarm it, where a moment that has passed is meant. */
    struct itimerspec once = {.it_interval = {0, 0}, .it_value = {0, 0}};
    if (first != NEVER) {
        once.it_value.tv_sec = first / SECOND;
        once.it_value.tv_nsec = first > 0 ? first % SECOND : 1;
    }
    if (sys(SYS_timerfd_settime, timer_fd, TFD_TIMER_ABSTIME, &once, NULL) == 0)
        timer_at = first;
}

static void look_where_due(void)
{
    uint64_t count;
    sys(SYS_read, timer_fd, &count, sizeof count);
    timer_at = NEVER;
    int64_t now = monotonic();
    for (int i = 0; i < MEMCG_HOLDS; i++)
        if (shared->holds[i].due <= now) {
            look(&shared->holds[i], now);
            now = monotonic();
        }
}

/* The worker is done with something, perhaps of a hold that is over. */
static void look_at_work(void)
{
    uint64_t count;
    sys(SYS_read, shared->worked, &count, sizeof count);
    for (int i = 0; i < MEMCG_HOLDS; i++) {
        struct hold *hold = &shared->holds[i];
        if (__atomic_load_n(&hold->job, __ATOMIC_ACQUIRE) != DONE)
            continue;
        if (hold->in_use)
            look(hold, monotonic());
        else
            close_reclaim(hold);
    }
}

/* Each file is opened here, and used once, before the owner hears that the guard is ready. */
static long prepare(void)
{
    int keeper = -1, on = 1;
    const struct {
        int *fd;
        long opened;
    } files[] = {
        {&epoll_fd, sys(SYS_epoll_create1, EPOLL_CLOEXEC)},
        {&timer_fd, sys(SYS_timerfd_create, CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)},
        {&inotify_fd, sys(SYS_inotify_init1, IN_CLOEXEC | IN_NONBLOCK)},
        {&keeper, sys(SYS_pidfd_open, shared->keeper, 0)},
        {&shared->warden_pidfd, sys(SYS_pidfd_open, shared->warden, 0)},
        {&shared->guard_pidfd, sys(SYS_pidfd_open, shared->guard, 0)}, /* there before the first hold */
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        if (files[i].opened < 0)
            return files[i].opened;
        *files[i].fd = (int)files[i].opened;
    }
    open_place(GUARD, shared->guard);
    open_place(KEEPER, shared->keeper);
    open_place(WARDEN, shared->warden);
    shared->meminfo = (int)sys_openat(AT_FDCWD, "/proc/meminfo", O_RDONLY);
    for (int i = 0; i < MEMCG_HOLDS; i++)
        clear(&shared->holds[i]);
    long error;
    /* The library has done so before its first message; this is for one who starts the program without a socket. */
    if ((error = sys(SYS_setsockopt, SOCKET, SOL_SOCKET, SO_PASSCRED, &on, sizeof on)) < 0)
        return error;
    if ((error = wait_for(SOCKET, EPOLLIN | EPOLLRDHUP, FROM_OWNER)) < 0 ||
        (error = wait_for(timer_fd, EPOLLIN, DUE)) < 0 || (error = wait_for(inotify_fd, EPOLLIN, CHANGED)) < 0 ||
        (error = wait_for(keeper, EPOLLIN, KEEPER_GONE)) < 0)
        return error;
    return wait_for(shared->warden_pidfd, EPOLLIN, WARDEN_GONE);
}

void guard(void)
{
    long error = prepare();
    if (error < 0) {
        refuse(error);
        end();
    }
    for (;;) {
        struct epoll_event events[64];
        set_timer();
        long ready = sys(SYS_epoll_pwait, epoll_fd, events, 64, -1, NULL, 8);
        for (long i = 0; i < ready; i++) {
            uint64_t source = events[i].data.u64;
            struct hold *hold;
            switch (source) {
            case FROM_OWNER:
                if (events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
                    end();
                serve();
                break;
            case OWNER_GONE:
            case KEEPER_GONE:
            case WARDEN_GONE:
            case WORKER_GONE:
                end();
            case WORKED:
                look_at_work();
                break;
            case CHANGED:
                read_changes();
                break;
            case DUE:
                look_where_due();
                break;
            default:
                hold = &shared->holds[source - HOLD];
                if (hold->in_use)
                    look(hold, monotonic());
            }
        }
    }
}
