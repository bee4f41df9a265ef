/* A held group, whatever the version of cgroups: its directory, its mark, and putting all of it back. */
#include "guard.h"

#include <sys/file.h>

/* Setting up. */

long open_files(struct hold *hold, const struct file *files, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        long fd = sys_openat(hold->directory, files[i].name, files[i].flags | O_NOFOLLOW);
        if ((fd == -ENOENT || fd == -EACCES) && !files[i].needed)
            continue;
        if (fd < 0)
            return fd;
        *(int *)((char *)hold + files[i].fd) = (int)fd;
        /* The first read is the one for which the kernel allocates. */
        char text[256];
        long got = (files[i].flags & O_ACCMODE) == O_WRONLY ? 0 : read_text((int)fd, text, sizeof text);
        if (got < 0)
            return got;
    }
    return 0;
}

long open_group(struct hold *hold, int directory, enum memcg_step *step)
{
    static const struct mechanism *const mechanisms[] = {&mechanism_v1, &mechanism_v2};
    /* Opened anew, as a lock belongs to the open file: the owner's must not carry ours on. */
    *step = MEMCG_STEP_DIRECTORY;
    long fd = sys_openat(directory, ".", O_RDONLY | O_DIRECTORY);
    if (fd < 0)
        return fd;
    hold->directory = (int)fd;
    struct statfs file_system;
    long error = sys(SYS_fstatfs, fd, &file_system);
    if (error < 0)
        return error;
    for (size_t i = 0; i < 2; i++)
        if (file_system.f_type == mechanisms[i]->magic)
            hold->mechanism = mechanisms[i];
    if (!hold->mechanism)
        return -EINVAL;
    *step = MEMCG_STEP_FILES;
    return hold->mechanism->open(hold);
}

long watch(struct hold *hold)
{
    /* By the current directory, as /proc may not be there. */
    long number = sys(SYS_fchdir, hold->directory);
    if (number == 0)
        number = sys(SYS_inotify_add_watch, inotify_fd, ".", IN_CREATE | IN_MODIFY | IN_ONLYDIR);
    sys(SYS_chdir, "/");
    if (number < 0)
        return number;
    hold->watch = (int)number;
    return 0;
}

void close_group(struct hold *hold)
{
    /* At once, as it would be that of the next hold of the same group too. */
    if (hold->watch >= 0)
        sys(SYS_inotify_rm_watch, inotify_fd, hold->watch);
    hold->watch = -1;
    if (hold->switch_file == hold->oom_control)
        hold->switch_file = -1;
    int *const fds[] = {
        &hold->switch_file, &hold->oom_control, &hold->usage,  &hold->limit,  &hold->failcnt, &hold->memsw_usage,
        &hold->memsw_limit, &hold->parent,      &hold->ooms,   &hold->pressure, &hold->high,  &hold->freeze,
        &hold->events,      &hold->local,       &hold->core,   &hold->stat,   &hold->tasks,   &hold->swap,
        &hold->swap_limit,  &hold->victim,
        &hold->directory,   &hold->doorbell,
    };
    /* The directory nearly last: its lock goes with it. */
    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++)
        sys_close(fds[i]);
    close_reclaim(hold);
}

/* The mark. */

bool is_marked(const struct hold *hold)
{
    return has_mark(hold->directory, MARK);
}

/* With XATTR_CREATE, of several who try at once only one succeeds. */
long set_mark(const struct hold *hold, int flags)
{
    struct text text = {0, {0}};
    const struct {
        const char *key;
        int64_t value;
    } limits[] = {
        {" limit=", hold->raise.former_limit},
        {" memsw=", hold->raise.former_memsw},
        {" raised=", hold->raise.raised_limit},
        {" raised_memsw=", hold->raise.raised_memsw},
    };
    add(&text, "guard=");
    add_number(&text, shared->guard);
    add(&text, " start=");
    add_number(&text, (int64_t)shared->guard_start);
    add(&text, " owner=");
    add_number(&text, shared->owner);
    add(&text, " delay=");
    add_number(&text, hold->delay == NEVER ? 0 : hold->delay);
    add(&text, hold->mechanism == &mechanism_v2 ? " switch=memory.high"
               : hold->kernel_delay             ? " switch=memory.oom_delay_millisecs"
                                                : " switch=memory.oom_control");
    if (hold->mechanism == &mechanism_v2) {
        add(&text, " high=");
        add_number(&text, hold->former_high >= UNLIMITED ? -1 : hold->former_high);
        add(&text, hold->froze ? " frozen=1" : "");
    }
    for (size_t i = 0; i < 4 && hold->raise.former_limit; i++) {
        add(&text, limits[i].key);
        add_number(&text, limits[i].value >= UNLIMITED ? -1 : limits[i].value);
    }
    return mark(hold->directory, MARK, text.bytes, flags);
}

/* Putting back: the same by the guard, the keeper and the warden, and harmless when done twice. */

void put_back(struct hold *hold)
{
    shared->missed = shared->denied = 0;
    hold->mechanism->put_back(hold);
    bool all = !shared->missed && !shared->denied;
    if (all) /* or else it stays, for whoever repairs that */
        unmark(hold->directory, MARK);
    hold->in_use = 0;
    if (all && hold->mechanism == &mechanism_v1)
        forget_children(hold); /* nearly last, as whoever has to begin anew must spare them too */
    /* Not by closing alone: the file stays open as long as one of the processes is there, be it stopped. */
    sys(SYS_flock, hold->directory, LOCK_UN);
}

void let_kernel_in(void)
{
    for (int i = 0; i < MEMCG_HOLDS; i++)
        if (shared->holds[i].in_use)
            shared->holds[i].mechanism->let_in(&shared->holds[i]);
}

void put_everything_back(void)
{
    let_kernel_in(); /* first for everybody, as processes may be waiting for it */
    for (int i = 0; i < MEMCG_HOLDS; i++)
        if (shared->holds[i].in_use)
            put_back(&shared->holds[i]);
}
