/* Limits: how near a group is to its own, raising them, and, on cgroup v1, taking that back. */
#include "guard.h"

/* What is left free below a limit that is to be lowered, at most. */
#define ROOM (1 << 20)

/* Within 64 pages for each processor, which on a large machine is much: at most an eighth. */
bool is_near(int usage_file, int limit_file)
{
    int64_t usage, limit;
    if (usage_file < 0 || limit_file < 0 || read_number(usage_file, &usage) < 0 ||
        read_number(limit_file, &limit) < 0 || limit >= UNLIMITED)
        return false;
    return usage >= limit - (shared->slack < limit / 8 ? shared->slack : limit / 8);
}

long write_limit(const struct hold *hold, int file, int64_t bytes)
{
    return bytes >= UNLIMITED ? write_text(file, hold->mechanism->unlimited) : write_number(file, bytes);
}

/*
 * Raises the limit, and that on memory with swap by as much where it is in the way, as it can never be the lower one,
 * or was the one that was hit. What is to be taken back is noted first: this may be ended half-way.
 */
long raise_limit(struct hold *hold, int64_t bytes, bool by, bool for_a_while, int64_t *raised)
{
    int64_t limit, memsw = UNLIMITED;
    long error = read_number(hold->limit, &limit);
    if (error == 0 && hold->memsw_limit >= 0)
        error = read_number(hold->memsw_limit, &memsw);
    if (error < 0)
        return error;
    *raised = limit;
    int64_t wanted = by ? (limit > UNLIMITED - bytes ? UNLIMITED : limit + bytes) : bytes;
    wanted = wanted / shared->page * shared->page;
    if (wanted <= limit)
        return -EINVAL;
    int64_t wanted_memsw = memsw;
    if (memsw < UNLIMITED && (wanted > memsw || is_near(hold->memsw_usage, hold->memsw_limit)))
        wanted_memsw = memsw > UNLIMITED - (wanted - limit) ? UNLIMITED : memsw + (wanted - limit);

    struct raise before = hold->raise;
    if (for_a_while) {
        if (!hold->raise.former_limit) {
            hold->raise.former_memsw = memsw;
            hold->raise.former_limit = limit;
        }
        hold->raise.raised_memsw = wanted_memsw;
        hold->raise.raised_limit = wanted;
        set_mark(hold, 0);
    }
    if (wanted_memsw != memsw)
        error = write_limit(hold, hold->memsw_limit, wanted_memsw);
    if (error == 0) {
        error = write_limit(hold, hold->limit, wanted);
        if (error < 0 && wanted_memsw != memsw)
            write_limit(hold, hold->memsw_limit, memsw);
    }
    if (error == 0) {
        *raised = wanted;
        if (!for_a_while && hold->raise.former_limit) { /* now it is for good */
            hold->raise = (struct raise){.former_limit = 0};
            set_mark(hold, 0);
        }
    } else if (for_a_while) {
        hold->raise = before;
        set_mark(hold, 0);
    }
    return error;
}

/* Whether *bytes* of usage leave room enough below *limit* that the kernel lowers it at once, without reclaim. */
static bool fits(int64_t bytes, int64_t limit)
{
    int64_t room = limit / 16 < ROOM ? limit / 16 : ROOM;
    return bytes <= limit - room;
}

/* Takes back a limit that was raised for a while, where there is room for that; whether that is settled. */
bool lower_limit(struct hold *hold)
{
    const struct raise raise = hold->raise;
    int64_t limit, usage, memsw = 0, memsw_usage = 0;
    if (!raise.former_limit)
        return true;
    if (read_number(hold->limit, &limit) == 0 && read_number(hold->usage, &usage) == 0 &&
        (hold->memsw_limit < 0 ||
         (read_number(hold->memsw_limit, &memsw) == 0 && read_number(hold->memsw_usage, &memsw_usage) == 0))) {
        /* What somebody else has written since is theirs. */
        if (limit == raise.raised_limit && limit != raise.former_limit &&
            (!fits(usage, raise.former_limit) || write_limit(hold, hold->limit, raise.former_limit) == -EBUSY))
            return false;
        if (memsw == raise.raised_memsw && memsw != raise.former_memsw &&
            (!fits(memsw_usage, raise.former_memsw) || write_limit(hold, hold->memsw_limit, raise.former_memsw) == -EBUSY))
            return false;
    }
    hold->raise = (struct raise){.former_limit = 0};
    set_mark(hold, 0);
    return true;
}

bool has_room(const struct hold *hold)
{
    return !is_near(hold->usage, hold->limit) && !is_near(hold->memsw_usage, hold->memsw_limit);
}

/* For a process that was moved away and still waits for room here: a page, until usage allows to take that back. */
long wake_moved(struct hold *hold)
{
    int64_t raised;
    return raise_limit(hold, shared->page, true, true, &raised);
}
