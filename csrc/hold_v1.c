/*
 * A hold on cgroup v1: the kernel's killer is switched off, and who runs out of memory is stopped by the kernel.
 *
 * The kernel tells when an OOM begins, and of each vain attempt to go on; not when it ends. So while one is in hand
 * the group is looked at now and then, which takes some microseconds. With no group under OOM, no timer runs.
 */
#include "guard.h"

/* An OOM is over when the group was not under OOM for so long, and has room; or for so long, whatever its usage. */
#define QUIET_ENOUGH (200 * MILLISECOND)
/* After a signal that is not yet an OOM of the group's own: so many looks, the last after a second. */
#define LOOKS_AFTER_SIGNAL 11
/* A kill is to be seen before the kernel finds time for another one. */
#define LOOK_FOR_KILL (MILLISECOND / 20)

static uint64_t drain(int event)
{
    uint64_t count = 0;
    return event >= 0 && sys(SYS_read, event, &count, sizeof count) == sizeof count ? count : 0;
}

static void note_failcnt(struct hold *hold)
{
    read_number(hold->failcnt, &hold->failcnt_seen);
}

static void stand_ready(struct hold *hold)
{
    hold->last_over = monotonic() - RECOVERY;
    /* Who has blocked while somebody was just being killed was signalled to nobody. */
    hold->due = hold->last_over + RECOVERY + MILLISECOND;
    hold->deadline = NEVER;
    hold->failcnt_seen = -1;
    if (!(hold->flags & MEMCG_TAKEOVER)) /* what was before may be an OOM that is taken over */
        note_failcnt(hold);
    publish(hold, MEMCG_ARMED);
}

/* The beginning and the end of an OOM. */

/* Before it matters, as it may take its time: for the directory of a group in which others are just being made. */
static void count_below(struct hold *hold)
{
    hold->kills_below = count_kills(hold, 0);
}

static void open_oom(struct hold *hold, int64_t began, int64_t now)
{
    hold->last_signal = now;
    hold->zero_since = hold->stuck_since = 0;
    open_episode(hold, began, now);
    count_below(hold);
    if (hold->kernel_delay)
        hold->kills_before = hold->own_kills + hold->kills_below;
    publish(hold, MEMCG_OOM);
}

static void stand_by(struct hold *hold, int64_t last_over)
{
    hold->last_over = last_over;
    hold->deadline = NEVER;
    lower_limit(hold);
    /* As after a signal: who blocks just now may do so without one. */
    hold->looks = 0;
    hold->due = monotonic() + MILLISECOND;
    sys_close(&hold->victim);
    note_failcnt(hold);
    publish(hold, MEMCG_ARMED);
}

/* Whether processes are stopped by the group's own limit; an ancestor's OOM shows in the same flag. */
static bool is_stuck(const struct hold *hold, const struct oom_control *control)
{
    return control->under_oom && (!has_room(hold) || !is_parent_under_oom(hold));
}

/* Whether an OOM is over. It flickers: each vain attempt of a process to go on takes it away for up to 6 ms. */
static bool is_over(struct hold *hold, const struct oom_control *control, int64_t now)
{
    if (is_stuck(hold, control)) {
        hold->zero_since = 0;
        return false;
    }
    if (!hold->zero_since)
        hold->zero_since = now;
    int64_t quiet = now - (hold->zero_since > hold->last_signal ? hold->zero_since : hold->last_signal);
    return quiet >= QUIET_ENOUGH || (quiet >= QUIET && has_room(hold));
}

/* The expiry. */

static void start_expiry(struct hold *hold, int64_t now)
{
    hold->zero_since = hold->stuck_since = 0;
    hold->last_signal = hold->woken_at = now;
    hold->due = now + LOOK_FOR_KILL;
    begin_expiry(hold, now);
}

static void let_killer_in(struct hold *hold, int64_t now)
{
    if (!hold->kernel_delay)
        hold->kills_before = hold->own_kills + hold->kills_below;
    /* Said before it is done: the kernel may have killed, and the owner seen that, before the write returns. */
    publish(hold, MEMCG_EXPIRED);
    if (switch_killer_on(hold) == 0) {
        start_expiry(hold, monotonic());
    } else {
        publish(hold, MEMCG_OOM);
        hold->due = now + MILLISECOND;
    }
}

static void expire(struct hold *hold)
{
    count_below(hold);
    let_killer_in(hold, monotonic());
}

static void rearm(struct hold *hold, int64_t now)
{
    if (switch_killer_off(hold) < 0)
        hand_over(hold, NOTHING_TO_KILL, now); /* which tries again */
    else
        stand_by(hold, hold->zero_since ? hold->zero_since : now);
}

static uint64_t kills_since(const struct hold *hold, const struct oom_control *control)
{
    uint64_t kills = count_kills(hold, control->kills);
    /* A group below that was removed takes its count with it. */
    return kills > hold->kills_before ? kills - hold->kills_before : 0;
}

static bool is_settling(const struct hold *hold)
{
    return state_of(hold) == MEMCG_EXPIRED && hold->killer_off;
}

static void wait_for_kill(struct hold *hold, const struct oom_control *control, int64_t now)
{
    struct oom_control latest = *control;
    /* A group with no room is not over: who was blocked may not have had the processor yet. */
    bool over = is_over(hold, control, now) && has_room(hold);
    /* The room may be that of somebody who was killed since. */
    if (over)
        read_oom_control(hold->oom_control, &latest);
    uint64_t kills = kills_since(hold, &latest);
    int64_t waited = now - hold->expired_at;
    if (kills && !is_last_expiry(hold)) {
        /* Signals so far are of this OOM; those after the switch may be of the next. */
        drain(hold->ooms);
        if (switch_killer_off(hold) == 0)
            hold->looks = 0;
        hold->last_signal = hold->woken_at = now;
        hold->zero_since = hold->stuck_since = 0;
        hold->due = now + MILLISECOND;
    } else if (kills || over || waited >= PATIENCE) {
        end_expiry(hold, kills, now);
    } else {
        if (now - hold->woken_at >= LOOK_LATER) {
            wake_sleepers(hold);
            hold->woken_at = now;
        }
        /* Counting takes its time where there are many groups below, or many expiries; and others have deadlines. */
        int64_t counted = monotonic(), least = (waited < LOOK_LATER ? LOOK_FOR_KILL : MILLISECOND) * (1 + expiries);
        hold->due = counted + (least > 2 * (counted - now) ? least : 2 * (counted - now));
    }
}

static void settle(struct hold *hold, const struct oom_control *control, uint64_t signals, int64_t now)
{
    if (!is_stuck(hold, control))
        hold->stuck_since = 0;
    else if (!hold->stuck_since)
        hold->stuck_since = now;
    if (signals)
        hold->last_signal = now;
    /* A signal alone may still be of the attempt that led to the kill. */
    bool told = hold->stuck_since && hold->last_signal > hold->woken_at;
    /* The kernel does not signal who blocks while somebody else is just being killed. */
    if (told || (hold->stuck_since && now - hold->stuck_since >= QUIET)) {
        int64_t since = told ? now : hold->stuck_since;
        count_expiry(hold, kills_since(hold, control));
        hold->last_over = since;
        open_oom(hold, since, now);
    } else if (is_over(hold, control, now)) {
        count_expiry(hold, kills_since(hold, control));
        stand_by(hold, hold->zero_since);
    } else {
        hold->due = next_look(hold, now);
    }
}

/* For an owner that cannot wait until the OOM is over, since who caused it is gone. */
static void tell_expiry(struct hold *hold)
{
    struct oom_control control;
    if (!is_settling(hold) || read_oom_control(hold->oom_control, &control) < 0)
        return;
    int64_t now = monotonic();
    count_expiry(hold, kills_since(hold, &control));
    if (is_stuck(hold, &control))
        open_oom(hold, now, now);
    else
        stand_by(hold, now);
}

/* One look at the group, on a signal or when it is due. */

static void look_armed(struct hold *hold, const struct oom_control *control, uint64_t signals, bool pressed,
                       int64_t now)
{
    if ((signals || control->under_oom) && is_own_oom(hold, control)) {
        open_oom(hold, now, now);
        return;
    }
    /*
     * An ancestor's OOM, which is not this hold's to end; but one of this group may hide behind it, or behind one
     * below. Or reclaim is at its wits' end, and an OOM may follow.
     */
    if (signals || pressed)
        hold->looks = 0;
    if (control->under_oom || hold->looks < LOOKS_AFTER_SIGNAL) {
        int64_t pause = hold->looks < LOOKS_AFTER_SIGNAL ? MILLISECOND << hold->looks : LOOK_LATER;
        hold->looks++;
        hold->due = now + pause;
    } else {
        note_failcnt(hold);
        hold->due = lower_limit(hold) ? NEVER : now + LOOK_FOR_ROOM;
    }
}

static void look_at_oom(struct hold *hold, const struct oom_control *control, uint64_t signals, int64_t now)
{
    if (hold->kernel_delay && kills_since(hold, control)) {
        /* The kernel's own delay has run out, and it has killed. Its file is 0 now. */
        hold->killer_off = 0;
        start_expiry(hold, now);
        return;
    }
    if (signals) {
        hold->last_signal = now;
        count_oom(hold, now);
        publish(hold, MEMCG_OOM);
    }
    if (is_over(hold, control, now)) {
        close_episode(hold, hold->zero_since);
        if (hold->kernel_delay)
            switch_killer_off(hold); /* the kernel has used it up */
        stand_by(hold, hold->zero_since);
        return;
    }
    if (now < hold->deadline) {
        hold->due = next_look(hold, now);
        if (hold->due >= hold->deadline) {
            hold->due = hold->deadline;
            count_below(hold);
        }
    } else if ((is_stuck(hold, control) || !has_room(hold)) &&
               (now - hold->deadline >= PATIENCE || !awaits_victim(hold, now))) {
        let_killer_in(hold, now);
    } else {
        hold->due = now + MILLISECOND;
    }
}

static void look_handed_over(struct hold *hold, const struct oom_control *control, uint64_t signals, int64_t now)
{
    if (signals && is_own_oom(hold, control)) {
        note_failcnt(hold);
        count_oom(hold, now);
        publish(hold, MEMCG_HANDED_OVER);
    }
    if (signals)
        hold->last_signal = now;
    bool over = is_over(hold, control, now);
    bool lowered = lower_limit(hold);
    /* With no room, who goes on without success may take a while between two attempts. */
    if (hold->reason == TOTAL_SPENT || !has_room(hold))
        over = hold->zero_since && now - hold->zero_since >= RECOVERY && now - hold->last_signal >= RECOVERY;
    wake_sleepers(hold);
    hold->due = hold->reason == ONCE_DONE && lowered && hold->zero_since ? NEVER : now + LOOK_FOR_ROOM;
    if (over && hold->reason != ONCE_DONE)
        rearm(hold, now);
}

static void look_v1(struct hold *hold, int64_t now)
{
    struct oom_control control;
    if (!hold->in_use) {
        look_back(hold, now);
        return;
    }
    uint64_t signals = drain(hold->ooms);
    bool pressed = drain(hold->pressure) > 0;
    long error = read_oom_control(hold->oom_control, &control);
    if (error == -ENODEV) {
        end_hold(hold, MEMCG_REMOVED);
        return;
    }
    if (error < 0) { /* for want of memory, perhaps */
        hold->looks = 0;
        hold->due = now + MILLISECOND;
        return;
    }
    if (hold->walk_all)
        see_to_children(hold);
    hold->own_kills = control.kills;
    if (control.disabled != (hold->killer_off && !hold->kernel_delay)) {
        end_hold(hold, MEMCG_OVERRIDDEN);
        return;
    }
    switch (state_of(hold)) {
    case MEMCG_ARMED:
        look_armed(hold, &control, signals, pressed, now);
        break;
    case MEMCG_OOM:
        look_at_oom(hold, &control, signals, now);
        break;
    case MEMCG_EXPIRED:
        if (is_settling(hold))
            settle(hold, &control, signals, now);
        else
            wait_for_kill(hold, &control, now);
        break;
    case MEMCG_HANDED_OVER:
        look_handed_over(hold, &control, signals, now);
        break;
    default:
        hold->due = NEVER;
    }
    if (hold->walk_all && hold->due > now + LOOK_LATER)
        hold->due = now + LOOK_LATER;
}

/* The beginning and the end of the hold. */

static long begin(struct hold *hold, enum memcg_step *step)
{
    struct oom_control control;
    long error;
    *step = MEMCG_STEP_REGISTER;
    if ((error = register_events(hold)) < 0)
        return error;
    *step = MEMCG_STEP_SWITCH;
    stand_ready(hold);
    if (hold->kernel_delay && read_oom_control(hold->oom_control, &control) == 0 && control.disabled)
        write_text(hold->oom_control, "0"); /* the delay is of no effect while the killer is off */
    return switch_killer_off(hold);
}

static void restore(struct hold *hold)
{
    hold->at_limit = hold->at_limit || state_of(hold) != MEMCG_ARMED || !has_room(hold);
    enable_killer(hold);
    see_to_children(hold);
    lower_limit(hold);
}

const struct mechanism mechanism_v1 = {
    .magic = 0x27e0eb, /* CGROUP_SUPER_MAGIC */
    .patience = PATIENCE,
    .unlimited = "-1",
    .open = open_v1,
    .check = check_v1,
    .begin = begin,
    .look = look_v1,
    .expire = expire,
    .tell_expiry = tell_expiry,
    .rearm = rearm,
    .raise_limit = raise_limit,
    .wake = wake_moved,
    .let_in = enable_killer,
    .put_back = restore,
};
