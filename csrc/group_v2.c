/* A held group of cgroup v2: its files, its line below the limit, freezing and thawing. */
#include "guard.h"

/*
 * The headroom between line and limit: what the group may grow by between the moment in which it crosses the line and
 * that in which it stands still. Each thread may charge a batch of 64 pages more, or a large page of 2 MiB, and one more is
 * on its way.
 */
#define LEAST_HEADROOM (INT64_C(8) << 20)
#define FOR_EACH_THREAD (INT64_C(512) << 10)
#define FOR_EACH_THREAD_WITH_LARGE_PAGES (INT64_C(4) << 20)

/* What memory.stat and the like take. */
#define LONG_TEXT 8192

/* Setting up. */

long open_v2(struct hold *hold)
{
    static const struct file files[] = {
        {"memory.current", offsetof(struct hold, usage), O_RDONLY, true},
        {"memory.max", offsetof(struct hold, limit), O_RDWR, true},
        {"memory.high", offsetof(struct hold, high), O_RDWR, true},
        {"memory.events", offsetof(struct hold, events), O_RDONLY, true},
        {"memory.events.local", offsetof(struct hold, local), O_RDONLY, true},
        {"memory.stat", offsetof(struct hold, stat), O_RDONLY, true},
        {"memory.reclaim", offsetof(struct hold, reclaim), O_WRONLY, true},
        {"cgroup.freeze", offsetof(struct hold, freeze), O_RDWR, true},
        {"cgroup.events", offsetof(struct hold, core), O_RDONLY, true},
        {"pids.current", offsetof(struct hold, tasks), O_RDONLY, false},
        {"memory.swap.current", offsetof(struct hold, swap), O_RDONLY, false},
        {"memory.swap.max", offsetof(struct hold, swap_limit), O_RDONLY, false},
    };
    return open_files(hold, files, sizeof files / sizeof *files);
}

long check_v2(struct hold *hold, struct memcg_reply *reply, enum memcg_step *step)
{
    struct sight sight;
    long error = see(hold, &sight);
    if (error < 0)
        return error;
    hold->frozen_by_others = sight.freeze && !(hold->flags & MEMCG_TAKEOVER);
    hold->froze = sight.freeze && !hold->frozen_by_others;
    *step = MEMCG_STEP_FROZEN;
    if (hold->frozen_by_others)
        return -EEXIST;
    *step = MEMCG_STEP_HEADROOM;
    reply->bytes = draw_line(hold, sight.limit);
    if (sight.limit < UNLIMITED && reply->bytes > sight.limit / 2)
        return -ERANGE;
    *step = MEMCG_STEP_HIGH;
    reply->bytes = sight.high;
    if (sight.high < hold->line && sight.high < UNLIMITED)
        return -EEXIST;
    hold->former_high = hold->written_high = sight.high;
    hold->highs = sight.highs;
    hold->own_ooms = sight.ooms;
    hold->own_kills = sight.kills;
    *step = MEMCG_STEP_WORKER;
    return start_worker(hold);
}

/* Seeing. */

long see(const struct hold *hold, struct sight *sight)
{
    char text[512];
    int64_t freeze;
    long error;
    if ((error = read_number(hold->usage, &sight->usage)) < 0 || (error = read_number(hold->limit, &sight->limit)) < 0 ||
        (error = read_number(hold->high, &sight->high)) < 0 || (error = read_number(hold->freeze, &freeze)) < 0 ||
        (error = read_text(hold->core, text, sizeof text)) < 0)
        return error;
    sight->freeze = freeze != 0;
    sight->frozen = value_of(text, "frozen") == 1;
    sight->populated = value_of(text, "populated") != 0;
    if ((error = read_text(hold->local, text, sizeof text)) < 0)
        return error;
    sight->highs = (uint64_t)value_of(text, "high");
    sight->ooms = (uint64_t)value_of(text, "oom");
    if ((error = read_text(hold->events, text, sizeof text)) < 0)
        return error;
    /* Of a group that is killed as one, the first is counted twice. */
    int64_t groups = value_of(text, "oom_group_kill");
    sight->kills = (uint64_t)(value_of(text, "oom_kill") - (groups > 0 ? groups : 0));
    return 0;
}

/* How much of the group can still be swapped out. */
static int64_t swap_left(const struct hold *hold, int64_t anonymous)
{
    char text[LONG_TEXT];
    int64_t used, limit;
    if (hold->swap < 0 || hold->swap_limit < 0 || read_number(hold->swap, &used) < 0 ||
        read_number(hold->swap_limit, &limit) < 0 || shared->meminfo < 0 ||
        read_text(shared->meminfo, text, sizeof text) < 0)
        return 0;
    int64_t left = limit - used, free = value_of(text, "SwapFree:") * 1024;
    if (left > free)
        left = free;
    return left < 0 ? 0 : left < anonymous ? left : anonymous;
}

/* What memory.stat says, which may be some moments old: the kernel sums it up when there is enough to sum up. */
struct pages count_pages(const struct hold *hold)
{
    char text[LONG_TEXT];
    if (read_text(hold->stat, text, sizeof text) < 0)
        return (struct pages){.rest = 0};
    int64_t written = value_of(text, "file_writeback"); /* with what is swapped out */
    int64_t cache = value_of(text, "inactive_file") + value_of(text, "active_file");
    return (struct pages){
        .rest = cache + written + swap_left(hold, value_of(text, "anon")),
        .written = written,
        .progress = value_of(text, "pgsteal") + value_of(text, "file_dirty") + written,
    };
}

/* The line. */

static int64_t needed_headroom(const struct hold *hold)
{
    char text[LONG_TEXT];
    int64_t threads = 0;
    if (hold->wanted_headroom)
        return hold->wanted_headroom;
    if (hold->tasks < 0 || read_number(hold->tasks, &threads) < 0)
        threads = (int64_t)count_threads(hold);
    bool large = read_text(hold->stat, text, sizeof text) > 0 && value_of(text, "anon_thp") > 0;
    int64_t needed = threads * (large ? FOR_EACH_THREAD_WITH_LARGE_PAGES : FOR_EACH_THREAD);
    return needed > LEAST_HEADROOM ? needed : LEAST_HEADROOM;
}

/*
 * Where `high` is to stand: so that there is room for what the threads that there are now can do, but not further off
 * than half of the limit. Returns how much room they need.
 */
int64_t draw_line(struct hold *hold, int64_t limit)
{
    int64_t needed = needed_headroom(hold);
    hold->limit_seen = limit;
    hold->headroom = needed;
    hold->drawn_at = monotonic();
    hold->line = NEVER;
    if (limit >= UNLIMITED)
        return needed;
    if (hold->headroom > limit / 2)
        hold->headroom = limit / 2;
    hold->line = (limit - hold->headroom) / shared->page * shared->page;
    if (hold->record.headroom != hold->headroom) {
        hold->record.headroom = hold->headroom;
        publish(hold, state_of(hold));
    }
    return needed;
}

/*
 * Threads come and go unnoticed. So as long as a group is far from its limit, `high` stands at a line further off;
 * whoever crosses that one gets it drawn anew, for the threads that there are by then.
 */
int64_t far_line(const struct hold *hold)
{
    int64_t far = 4 * hold->headroom > hold->limit_seen / 8 ? 4 * hold->headroom : hold->limit_seen / 8;
    if (far > hold->limit_seen / 2)
        far = hold->limit_seen / 2;
    return (hold->limit_seen - far) / shared->page * shared->page;
}

long write_high(struct hold *hold, int64_t bytes)
{
    int64_t before = hold->written_high;
    hold->written_high = bytes;
    long error = write_limit(hold, hold->high, bytes);
    if (error < 0)
        hold->written_high = before;
    return error;
}

/* Never below what is used, as then the kernel reclaims before it returns, and that may take its time. */
void place_high(struct hold *hold, int64_t usage)
{
    int64_t wanted = hold->line == NEVER || hold->line > hold->former_high ? hold->former_high
                     : hold->near                                          ? hold->line
                                                                           : far_line(hold);
    if (wanted != hold->written_high && (wanted > hold->written_high || usage <= wanted))
        write_high(hold, wanted);
}

/* Freezing. */

static uint64_t hash(uint64_t before, char byte)
{
    return (before ^ (unsigned char)byte) * UINT64_C(0x100000001b3);
}

/* Whether the process whose /proc/PID/cgroup that is, is in the group or below. */
bool is_member(const struct hold *hold, int file)
{
    char text[LONG_TEXT];
    uint64_t sum = UINT64_C(0xcbf29ce484222325);
    if (file < 0 || read_text(file, text, sizeof text) < 0)
        return false;
    const char *line = text;
    while (*line && !(line[0] == '0' && line[1] == ':' && line[2] == ':'))
        while (*line && *line++ != '\n')
            ;
    if (!*line)
        return false;
    for (const char *at = line + 3; *at && *at != '\n'; at++) {
        sum = hash(sum, *at);
        if (sum == hold->path && (at[1] == '/' || at[1] == '\n' || !at[1]))
            return true;
    }
    return false;
}

/* Whether one of the guard's own processes would freeze with the group. */
bool is_inside(const struct hold *hold)
{
    for (size_t i = 0; i < PLACES; i++)
        if (is_member(hold, shared->places[i]))
            return true;
    return false;
}

long freeze(struct hold *hold)
{
    if (hold->froze || hold->frozen_by_others)
        return 0;
    if (is_inside(hold))
        return -EDEADLK;
    hold->froze = 1;
    set_mark(hold, 0); /* first, for whoever finds what is left if all is killed at once */
    long error = write_text(hold->freeze, "1");
    if (error < 0)
        hold->froze = 0;
    return error;
}

void thaw(struct hold *hold)
{
    if (hold->froze && write_text(hold->freeze, "0") == 0) {
        hold->froze = 0;
        set_mark(hold, 0);
    }
}

/* Lets the group run on, with that `high`; what somebody else has written there is theirs. */
void lift(struct hold *hold, int64_t high)
{
    int64_t found;
    if (read_number(hold->high, &found) < 0 || found == hold->written_high)
        write_high(hold, high);
    thaw(hold);
}

void let_go(struct hold *hold)
{
    lift(hold, hold->former_high);
}

/* The limit. */

long raise_max(struct hold *hold, int64_t bytes, bool by, bool for_a_while, int64_t *raised)
{
    int64_t usage;
    long error = raise_limit(hold, bytes, by, for_a_while, raised);
    if (error < 0)
        return error;
    draw_line(hold, *raised);
    if (read_number(hold->usage, &usage) == 0)
        place_high(hold, usage);
    hold->due = monotonic(); /* there may be room enough to go on */
    return 0;
}

/* Takes back a limit that was raised for a while, where there is room for that; whether that is settled. */
bool lower_max(struct hold *hold)
{
    const struct raise raise = hold->raise;
    int64_t limit, usage;
    if (!raise.former_limit)
        return true;
    if (read_number(hold->limit, &limit) == 0 && limit == raise.raised_limit) {
        /* Far enough below, as what does not fit is killed. */
        if (read_number(hold->usage, &usage) < 0 || usage > raise.former_limit - hold->headroom)
            return false;
        draw_line(hold, raise.former_limit);
        hold->near = 1;
        place_high(hold, usage);
        write_limit(hold, hold->limit, raise.former_limit);
    }
    hold->raise = (struct raise){.former_limit = 0};
    set_mark(hold, 0);
    return true;
}
