/* A held group: opening its files, what they say of an OOM, its switch and its mark, and putting all of that back. */
#include "guard.h"

#include <sys/file.h>

#define CGROUP_SUPER_MAGIC 0x27e0eb

/* Setting up. */

long open_group(struct hold *hold, int directory, enum memcg_step *step)
{
    static const struct {
        const char *name;
        size_t fd;
        int flags;
        bool needed;
    } files[] = {
        {"memory.oom_control", offsetof(struct hold, oom_control), O_RDWR, true},
        {"memory.usage_in_bytes", offsetof(struct hold, usage), O_RDONLY, true},
        {"memory.limit_in_bytes", offsetof(struct hold, limit), O_RDWR, true},
        {"memory.failcnt", offsetof(struct hold, failcnt), O_RDONLY, true},
        {"memory.memsw.usage_in_bytes", offsetof(struct hold, memsw_usage), O_RDONLY, false},
        {"memory.memsw.limit_in_bytes", offsetof(struct hold, memsw_limit), O_RDWR, false},
        {"../memory.oom_control", offsetof(struct hold, parent), O_RDONLY, false},
        {"memory.oom_delay_millisecs", offsetof(struct hold, switch_file), O_RDWR, false},
    };
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
    if (file_system.f_type != CGROUP_SUPER_MAGIC)
        return -EINVAL;
    *step = MEMCG_STEP_FILES;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        fd = sys_openat(hold->directory, files[i].name, files[i].flags | O_NOFOLLOW);
        if ((fd == -ENOENT || fd == -EACCES) && !files[i].needed)
            continue;
        if (fd < 0)
            return fd;
        *(int *)((char *)hold + files[i].fd) = (int)fd;
        /* The first read is the one for which the kernel allocates. */
        char text[256];
        long got = read_text((int)fd, text, sizeof text);
        if (got < 0)
            return got;
    }
    hold->kernel_delay = hold->switch_file >= 0 && hold->delay != NEVER;
    if (!hold->kernel_delay) {
        sys_close(&hold->switch_file);
        hold->switch_file = hold->oom_control;
    }
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
        &hold->switch_file, &hold->oom_control, &hold->usage, &hold->limit,    &hold->failcnt, &hold->memsw_usage,
        &hold->memsw_limit, &hold->parent,      &hold->ooms,  &hold->pressure, &hold->victim,  &hold->directory,
        &hold->doorbell,
    };
    /* The directory nearly last: its lock goes with it. */
    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++)
        sys_close(fds[i]);
}

static long register_event(int directory, int event, int source, const char *arguments)
{
    struct text text = {0, {0}};
    add_number(&text, event);
    add(&text, " ");
    add_number(&text, source);
    add(&text, arguments);
    int control = (int)sys_openat(directory, "cgroup.event_control", O_WRONLY | O_NOFOLLOW);
    if (control < 0)
        return control;
    long error = write_text(control, text.bytes);
    sys_close(&control);
    return error;
}

long register_events(struct hold *hold)
{
    long error = register_event(hold->directory, hold->ooms, hold->oom_control, "");
    if (error < 0)
        return error;
    /*
     * While a group below, or one above, is under OOM, the kernel tells nobody of an OOM of this group: its lock is
     * taken. But before an OOM, reclaim fails, and of that the kernel does tell. Where it does not, or not us, an
     * OOM within another OOM is found only once that one ends.
     */
    int source = (int)sys_openat(hold->directory, "memory.pressure_level", O_RDONLY | O_NOFOLLOW);
    if (source < 0 || register_event(hold->directory, hold->pressure, source, " critical,local") < 0)
        sys_close(&hold->pressure);
    sys_close(&source);
    return 0;
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
    add(&text, hold->kernel_delay ? " switch=memory.oom_delay_millisecs" : " switch=memory.oom_control");
    for (size_t i = 0; i < 4 && hold->raise.former_limit; i++) {
        add(&text, limits[i].key);
        add_number(&text, limits[i].value >= UNLIMITED ? -1 : limits[i].value);
    }
    return mark(hold->directory, MARK, text.bytes, flags);
}

/* The switch. */

long switch_killer_off(struct hold *hold)
{
    int64_t delay = hold->delay / MILLISECOND;
    hold->killer_off = 1;
    long error = hold->kernel_delay ? write_number(hold->switch_file, delay < INT32_MAX ? delay : INT32_MAX)
                                    : write_text(hold->switch_file, "1");
    if (error < 0)
        hold->killer_off = 0;
    return error;
}

long switch_killer_on(struct hold *hold)
{
    long error = write_text(hold->switch_file, "0");
    if (error == 0)
        hold->killer_off = 0;
    return error;
}

/* Whose OOM. */

/* The flag goes down the tree: who has it while the parent does not is where it began. */
bool is_parent_under_oom(const struct hold *hold)
{
    struct oom_control parent;
    return hold->parent >= 0 && read_oom_control(hold->parent, &parent) == 0 && parent.under_oom;
}

/*
 * Whether an OOM that was signalled or is shown is by the group's own limit. While an ancestor is under OOM too, the
 * group's flag says nothing, and so does a flag that is gone already: then it is by its own limit if it is there, and
 * was refused memory since the last look. (Of a limit on memory with swap, the kernel does not count the refusals.)
 */
bool is_own_oom(const struct hold *hold, const struct oom_control *control)
{
    if (control->under_oom && hold->parent >= 0 && !is_parent_under_oom(hold)) {
        struct oom_control again;
        return read_oom_control(hold->oom_control, &again) == 0 && again.under_oom;
    }
    if (control->under_oom && is_near(hold->memsw_usage, hold->memsw_limit))
        return true;
    if (!is_near(hold->usage, hold->limit))
        return false;
    int64_t failcnt;
    bool refused = read_number(hold->failcnt, &failcnt) == 0 && failcnt != hold->failcnt_seen;
    return refused || (control->under_oom && hold->parent < 0);
}

/* Putting back: the same by the guard, the keeper and the warden, and harmless when done twice. */

static void enable_killer(struct hold *hold)
{
    struct oom_control control;
    /* What the file holds now is left alone where somebody else has written it. */
    if (hold->kernel_delay)
        write_text(hold->switch_file, "0");
    else if (hold->killer_off && (read_oom_control(hold->oom_control, &control) < 0 || control.disabled))
        write_text(hold->oom_control, "0");
}

void put_back(struct hold *hold)
{
    hold->at_limit = hold->at_limit || state_of(hold) != MEMCG_ARMED || !has_room(hold);
    enable_killer(hold);
    see_to_children(hold);
    bool all = !shared->missed && !shared->denied;
    lower_limit(hold);
    if (all) /* or else it stays, for whoever repairs that */
        unmark(hold->directory, MARK);
    hold->in_use = 0;
    if (all)
        forget_children(hold); /* nearly last, as whoever has to begin anew must spare them too */
    /* Not by closing alone: the file stays open as long as one of the three is there, be it stopped. */
    sys(SYS_flock, hold->directory, LOCK_UN);
}

void enable_killers(void)
{
    for (int i = 0; i < MEMCG_HOLDS; i++)
        if (shared->holds[i].in_use)
            enable_killer(&shared->holds[i]);
}

void put_everything_back(void)
{
    enable_killers(); /* first everybody's, as processes may be waiting for it */
    for (int i = 0; i < MEMCG_HOLDS; i++)
        if (shared->holds[i].in_use)
            put_back(&shared->holds[i]);
}
