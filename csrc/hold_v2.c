/*
 * A hold on cgroup v2, where the kernel's killer cannot be switched off: the group is stopped before it gets there.
 *
 * memory.high stands at a line below the limit. Who crosses it makes the kernel reclaim, and slows down. That alone is
 * no OOM: caches cross the line all the time. So the kernel is asked to reclaim (by the worker); where it fails, twice
 * and for a while, there is nothing to be had. Then the group is frozen, and the delay begins.
 *
 * The expiry lifts `high` and thaws the group, which runs on to its limit and is killed there, or not.
 */
#include "guard.h"

/* Between two vain attempts at reclaim, at the least. */
#define BETWEEN_FAILURES (20 * MILLISECOND)
/* The same where there is page cache left, which may be under way to a slow disk. */
#define LONG_HOPE (10 * SECOND)
/* Asked to reclaim so much more than it takes to be back at the line. */
#define AND_MORE (1 << 20)
/* An OOM is over when usage has fallen so far below the line; raising the limit does without. */
#define CLEARLY (1 << 20)
/* A group that runs over the line is not let out of sight: on a fast machine, it takes some MiB in a millisecond. */
#define LOOK_AT_RUNNER (MILLISECOND / 2)
/* How old the line may be when it is crossed again. */
#define REDRAW (100 * MILLISECOND)
/* How often a frozen group is asked for memory to be reclaimed: pages may have been written back meanwhile. */
#define ASK_AGAIN (100 * MILLISECOND)
#define LOOK_FOR_KILL (MILLISECOND / 10)
/* After a kill, how long the memory of who was killed may take to come free without any doing so. */
#define NO_PROGRESS (100 * MILLISECOND)

static bool is_over_line(const struct hold *hold, const struct sight *sight)
{
    return hold->line != NEVER && sight->usage > hold->line;
}

/* So far that it is frozen first, and asked questions afterwards. */
static bool is_far_over_line(const struct hold *hold, const struct sight *sight)
{
    return hold->line != NEVER && sight->usage > hold->line + hold->headroom / 4;
}

/* Usage is so far below the line that whatever brought it up there is gone. */
static bool has_calmed(const struct hold *hold, const struct sight *sight)
{
    return !sight->populated || hold->line == NEVER || sight->usage < hold->line - hold->headroom / 2;
}

static void interfere(struct hold *hold, enum memcg_why why)
{
    hold->record.why = why;
    end_hold(hold, MEMCG_OVERRIDDEN);
}

/* Freezes the group, or gives up where that would be the end of the guard; whether the hold goes on. */
static bool freeze_or_end(struct hold *hold)
{
    if (freeze(hold) != -EDEADLK)
        return true;
    interfere(hold, MEMCG_WHY_INSIDE);
    return false;
}

/* No OOM. */

static void stand_by(struct hold *hold, int64_t last_over, int64_t usage)
{
    hold->last_over = last_over;
    hold->deadline = NEVER;
    hold->settling_since = hold->failed_since = hold->ask_at = 0;
    sys_close(&hold->victim);
    lower_max(hold);
    hold->near = usage > far_line(hold);
    place_high(hold, usage);
    thaw(hold);
    hold->due = monotonic() + LOOK_LATER;
    publish(hold, MEMCG_ARMED);
}

static void open_oom(struct hold *hold, int64_t now)
{
    hold->line_at_oom = hold->line;
    hold->settling_since = hold->failed_since = 0;
    open_episode(hold, now, now);
    publish(hold, MEMCG_OOM);
    freeze_or_end(hold);
}

/*
 * What the worker says, if it says anything: whether that makes it an OOM.
 *
 * A failure alone does not. Pages that are just being written back, or swapped out, cannot be reclaimed now, and will
 * be; on a slow disk that takes its time. So there has to be nothing left to hope for: not even without its page cache,
 * and with all of its swap, would the group be below the line. Or nothing has come of that hope for long.
 */
static bool has_failed(struct hold *hold, const struct sight *sight, int64_t now)
{
    long error = take_answer(hold);
    bool answered = error != -EINPROGRESS;
    if (answered ? error != -EAGAIN : !is_unanswered(hold, now)) {
        if (answered) {
            hold->failed_since = 0;
            hold->ask_at = now + (hold->froze ? 0 : LOOK_LATER);
        }
        return false;
    }
    struct pages pages = count_pages(hold);
    bool hopeless = answered ? sight->usage - pages.rest > hold->line : !pages.written;
    bool progress = pages.progress != hold->pages.progress;
    int64_t enough = !hopeless ? LONG_HOPE : answered ? BETWEEN_FAILURES : PATIENCE;
    if (hold->failed_since && now - hold->failed_since >= enough && !progress)
        return true;
    if (!hold->failed_since || progress) {
        hold->failed_since = now;
        hold->pages = pages;
    }
    hold->ask_at = now + BETWEEN_FAILURES;
    return false;
}

/* Whoever has run out of sight may be many more by now. */
static void look_at_line(struct hold *hold, const struct sight *sight, int64_t now)
{
    bool crossed = sight->highs != hold->highs;
    if (hold->near ? crossed && now - hold->drawn_at >= REDRAW : crossed || sight->usage > far_line(hold))
        draw_line(hold, sight->limit);
    hold->near = sight->usage > far_line(hold) || (hold->near && !has_calmed(hold, sight));
    place_high(hold, sight->usage);
}

static void look_armed(struct hold *hold, const struct sight *sight, int64_t now)
{
    hold->due = NEVER;
    if (hold->frozen_by_others)
        return;
    /* First of all, as it may run on: then there is time for the rest. */
    if (is_far_over_line(hold, sight) && !freeze_or_end(hold))
        return;
    look_at_line(hold, sight, now);
    if (!is_over_line(hold, sight)) {
        take_answer(hold);
        hold->failed_since = 0;
        hold->ask_at = now;
        if (hold->froze) {
            hold->record.false_freezes++;
            publish(hold, MEMCG_ARMED);
            thaw(hold);
        }
        if (!lower_max(hold))
            hold->due = now + LOOK_FOR_ROOM;
        return;
    }
    if (is_far_over_line(hold, sight) && !freeze_or_end(hold)) /* it may have been drawn anew */
        return;
    if (is_asked(hold) && has_failed(hold, sight, now)) {
        open_oom(hold, now);
        return;
    }
    if (!is_asked(hold) && now >= hold->ask_at)
        ask_for_reclaim(hold, sight->usage - hold->line + AND_MORE, now);
    hold->due = is_asked(hold) ? hold->job_asked + PATIENCE : hold->ask_at;
    if (hold->due < now + MILLISECOND)
        hold->due = now + LOOK_LATER;
    if (!hold->froze && hold->due > now + LOOK_AT_RUNNER)
        hold->due = now + LOOK_AT_RUNNER;
}

/* An OOM in hand. */

static bool is_over(struct hold *hold, const struct sight *sight, int64_t now)
{
    if (!sight->populated || hold->line == NEVER)
        return true;
    if (!hold->froze && !hold->frozen_by_others) /* somebody else has thawed it */
        return true;
    if (awaits_victim(hold, now))
        return false;
    return sight->usage <= hold->line - (hold->line > hold->line_at_oom ? 0 : CLEARLY);
}

static void let_killer_in(struct hold *hold, int64_t now)
{
    /* Said before it is done: the kernel may have killed, and the owner seen that, before the write returns. */
    publish(hold, MEMCG_EXPIRED);
    hold->kills_before = hold->own_kills;
    lift(hold, UNLIMITED);
    begin_expiry(hold, now);
    hold->due = now + MILLISECOND;
}

static void look_at_oom(struct hold *hold, const struct sight *sight, int64_t now)
{
    if (is_over(hold, sight, now)) {
        close_episode(hold, now);
        stand_by(hold, now, sight->usage);
        return;
    }
    if (now >= hold->deadline && (now - hold->deadline >= PATIENCE || !awaits_victim(hold, now))) {
        let_killer_in(hold, now);
        return;
    }
    take_answer(hold);
    if (now - hold->job_asked >= ASK_AGAIN)
        ask_for_reclaim(hold, sight->usage - hold->line + AND_MORE, now);
    if (now >= hold->deadline) {
        hold->due = now + MILLISECOND;
    } else {
        hold->due = next_look(hold, now);
        if (hold->due > hold->deadline)
            hold->due = hold->deadline;
    }
}

/* The expiry. */

static uint64_t kills_since(const struct hold *hold, const struct sight *sight)
{
    return sight->kills - hold->kills_before;
}

/* The kernel has killed: the group stands still again, until what that makes free is free. */
static void settle(struct hold *hold, const struct sight *sight, int64_t now)
{
    if (!hold->settling_since && !freeze_or_end(hold))
        return;
    if (!hold->settling_since || sight->usage < hold->settling_usage) {
        hold->settling_usage = sight->usage;
        hold->settling_since = now;
    }
    hold->due = now + MILLISECOND;
    if (!is_over_line(hold, sight)) {
        count_expiry(hold, kills_since(hold, sight));
        stand_by(hold, now, sight->usage);
    } else if (now - hold->settling_since >= NO_PROGRESS) {
        count_expiry(hold, kills_since(hold, sight));
        hold->last_over = now;
        open_oom(hold, now);
    }
}

static void look_expired(struct hold *hold, const struct sight *sight, int64_t now)
{
    uint64_t kills = kills_since(hold, sight);
    if (kills && !is_last_expiry(hold)) {
        settle(hold, sight, now);
    } else if (kills || has_calmed(hold, sight) || now - hold->expired_at >= hold->mechanism->patience) {
        end_expiry(hold, kills, now);
    } else {
        hold->due = next_look(hold, now);
        /* The kill is at hand: seen at once, so that the kernel finds no time for another one. */
        if (sight->usage > sight->limit - shared->slack)
            hold->due = now + LOOK_FOR_KILL;
    }
}

static void look_handed_over(struct hold *hold, const struct sight *sight, int64_t now)
{
    bool lowered = lower_max(hold), calm = has_calmed(hold, sight);
    if (!calm || sight->ooms != hold->own_ooms)
        hold->zero_since = 0;
    else if (!hold->zero_since)
        hold->zero_since = now;
    if (sight->ooms != hold->own_ooms) {
        count_oom(hold, now);
        publish(hold, MEMCG_HANDED_OVER);
    }
    hold->due = hold->reason == ONCE_DONE && lowered ? NEVER : now + LOOK_FOR_ROOM;
    bool over = calm || (hold->reason == NOTHING_TO_KILL && sight->kills != hold->own_kills);
    if (hold->reason == TOTAL_SPENT)
        over = hold->zero_since && now - hold->zero_since >= RECOVERY;
    if (hold->reason != ONCE_DONE && over)
        stand_by(hold, now, sight->usage);
}

static void rearm(struct hold *hold, int64_t now)
{
    int64_t usage = INT64_MAX;
    read_number(hold->usage, &usage);
    stand_by(hold, now, usage);
}

static void expire(struct hold *hold)
{
    let_killer_in(hold, monotonic());
}

static void tell_expiry(struct hold *hold)
{
    struct sight sight;
    if (state_of(hold) != MEMCG_EXPIRED || see(hold, &sight) < 0 || !kills_since(hold, &sight))
        return;
    if (is_last_expiry(hold)) {
        end_expiry(hold, kills_since(hold, &sight), monotonic());
    } else {
        count_expiry(hold, kills_since(hold, &sight));
        stand_by(hold, monotonic(), sight.usage);
    }
}

/* What others have written. */

static bool see_to_others(struct hold *hold, const struct sight *sight)
{
    if (sight->limit != hold->limit_seen)
        draw_line(hold, sight->limit);
    if (sight->high != hold->written_high) {
        hold->former_high = hold->written_high = sight->high;
        set_mark(hold, 0);
        if (sight->high < hold->line) {
            interfere(hold, MEMCG_WHY_HIGH);
            return false;
        }
    }
    if (!sight->freeze)
        hold->froze = hold->frozen_by_others = 0;
    else if (!hold->froze)
        hold->frozen_by_others = 1;
    return true;
}

/* Kernel kills that came before the hold could: the group's own limit was hit, and no expiry had led there. */
static void count_missed(struct hold *hold, const struct sight *sight, int64_t now)
{
    bool after_expiry = hold->expired_at && now - hold->expired_at < PATIENCE; /* whose kill brought others along */
    if (sight->ooms != hold->own_ooms)
        hold->oomed_at = now;
    if (sight->kills == hold->own_kills || !hold->oomed_at || now - hold->oomed_at >= PATIENCE || after_expiry)
        return;
    hold->record.missed += sight->kills - hold->own_kills;
    count_oom(hold, now);
    publish(hold, state_of(hold));
}

static void look_v2(struct hold *hold, int64_t now)
{
    struct sight sight;
    if (!hold->in_use)
        return;
    long error = see(hold, &sight);
    if (error == -ENODEV) {
        end_hold(hold, MEMCG_REMOVED);
        return;
    }
    if (error < 0) { /* for want of memory, perhaps */
        hold->due = now + MILLISECOND;
        return;
    }
    if (!see_to_others(hold, &sight))
        return;
    if (sight.frozen != hold->record.frozen) {
        hold->record.frozen = sight.frozen;
        publish(hold, state_of(hold));
    }
    switch (state_of(hold)) {
    case MEMCG_ARMED:
        count_missed(hold, &sight, now);
        look_armed(hold, &sight, now);
        break;
    case MEMCG_OOM:
        count_missed(hold, &sight, now);
        look_at_oom(hold, &sight, now);
        break;
    case MEMCG_EXPIRED:
        look_expired(hold, &sight, now);
        break;
    case MEMCG_HANDED_OVER:
        look_handed_over(hold, &sight, now);
        break;
    default:
        hold->due = NEVER;
    }
    hold->highs = sight.highs;
    hold->own_ooms = sight.ooms;
    hold->own_kills = sight.kills;
}

/* The beginning and the end of the hold. */

static long begin(struct hold *hold, enum memcg_step *step)
{
    const int files[] = {hold->events, hold->local, hold->core};
    *step = MEMCG_STEP_REGISTER;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        long error = wait_for_hold(files[i], EPOLLPRI, hold);
        if (error < 0)
            return error;
    }
    *step = MEMCG_STEP_SWITCH;
    int64_t usage, now = monotonic();
    long error = read_number(hold->usage, &usage);
    if (error < 0)
        return error;
    stand_by(hold, now - RECOVERY, usage);
    hold->due = now; /* usage may be above the line already */
    return 0;
}

static long wake(struct hold *hold)
{
    (void)hold; /* who leaves a frozen group is thawed by that */
    return 0;
}

static void restore(struct hold *hold)
{
    lower_max(hold);
    let_go(hold);
}

const struct mechanism mechanism_v2 = {
    .magic = 0x63677270, /* CGROUP2_SUPER_MAGIC */
    .patience = 3 * SECOND, /* who was slowed down may sleep for two */
    .unlimited = "max",
    .open = open_v2,
    .check = check_v2,
    .begin = begin,
    .look = look_v2,
    .expire = expire,
    .tell_expiry = tell_expiry,
    .rearm = rearm,
    .raise_limit = raise_max,
    .wake = wake,
    .let_in = let_go,
    .put_back = restore,
};
