/* A held group of cgroup v1: its files, its switch, and what they say of an OOM. */
#include "guard.h"

/* Setting up. */

long open_v1(struct hold *hold)
{
    static const struct file files[] = {
        {"memory.oom_control", offsetof(struct hold, oom_control), O_RDWR, true},
        {"memory.usage_in_bytes", offsetof(struct hold, usage), O_RDONLY, true},
        {"memory.limit_in_bytes", offsetof(struct hold, limit), O_RDWR, true},
        {"memory.failcnt", offsetof(struct hold, failcnt), O_RDONLY, true},
        {"memory.memsw.usage_in_bytes", offsetof(struct hold, memsw_usage), O_RDONLY, false},
        {"memory.memsw.limit_in_bytes", offsetof(struct hold, memsw_limit), O_RDWR, false},
        {"../memory.oom_control", offsetof(struct hold, parent), O_RDONLY, false},
        {"memory.oom_delay_millisecs", offsetof(struct hold, switch_file), O_RDWR, false},
    };
    long error = open_files(hold, files, sizeof files / sizeof *files);
    if (error < 0)
        return error;
    hold->kernel_delay = hold->switch_file >= 0 && hold->delay != NEVER;
    if (!hold->kernel_delay) {
        sys_close(&hold->switch_file);
        hold->switch_file = hold->oom_control;
    }
    return 0;
}

long check_v1(struct hold *hold, struct memcg_reply *reply, enum memcg_step *step)
{
    (void)reply;
    struct oom_control control;
    int64_t kernel_delay = 0;
    *step = MEMCG_STEP_KILLER;
    long error = read_oom_control(hold->oom_control, &control);
    if (error == 0 && hold->kernel_delay)
        error = read_number(hold->switch_file, &kernel_delay);
    if (error < 0)
        return error;
    if ((control.disabled || kernel_delay) && !(hold->flags & MEMCG_TAKEOVER))
        return -EEXIST;
    spare_children(hold); /* before the mark, as whoever finds that switches the killer on in all not spared */
    return 0;
}

static long add_eventfd(int *fd, const struct hold *hold)
{
    long event = sys(SYS_eventfd2, 0, O_CLOEXEC | O_NONBLOCK);
    if (event < 0)
        return event;
    *fd = (int)event;
    return wait_for_hold(*fd, EPOLLIN, hold);
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
    long error;
    if ((error = add_eventfd(&hold->ooms, hold)) < 0 || (error = add_eventfd(&hold->pressure, hold)) < 0)
        return error;
    error = register_event(hold->directory, hold->ooms, hold->oom_control, "");
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

/* Switches the killer on; what the file holds is left alone where somebody else has written it. */
void enable_killer(struct hold *hold)
{
    struct oom_control control;
    if (hold->kernel_delay)
        write_text(hold->switch_file, "0");
    else if (hold->killer_off && (read_oom_control(hold->oom_control, &control) < 0 || control.disabled))
        write_text(hold->oom_control, "0");
}
