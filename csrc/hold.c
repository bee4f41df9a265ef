/*
 * What every hold does, in whatever way its OOMs are found and its group is kept from being killed: the delay, what
 * the owner sees, and what is told. hold_v1.c and hold_v2.c do the rest.
 *
 *     ARMED ──an OOM of the group's own limit──▶ OOM ──it is over──▶ ARMED
 *                                                 │
 *                                       the delay runs out: the kernel's killer is let in
 *                                                 ▼
 *                      ┌───────────────────── EXPIRED ───no kill comes of it──▶ HANDED_OVER
 *              a kill is counted: the killer is kept off again
 *                      ▼
 *           EXPIRED, settling ──it is over──▶ ARMED
 *                      └───────still out of memory──▶ OOM, with a delay of its own
 */
#include "guard.h"

enum memcg_state state_of(const struct hold *hold)
{
    return (enum memcg_state)hold->record.state;
}

/* Shows the record to the owner: at one go, so that it is hardly ever met while it is being written. */
void publish(struct hold *hold, enum memcg_state state)
{
    struct memcg_record *record = &hold->record, *shown = &records[hold - shared->holds];
    record->state = state;
    record->delay = hold->delay == NEVER ? 0 : hold->delay;
    record->deadline = state == MEMCG_OOM && hold->deadline != NEVER ? hold->deadline : 0;
    record->sequence = shown->sequence | 1;
    __atomic_store_n(&shown->sequence, record->sequence, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    *shown = *record;
    __atomic_store_n(&shown->sequence, record->sequence + 1, __ATOMIC_RELEASE);
    uint64_t one = 1;
    sys(SYS_write, hold->doorbell, &one, sizeof one);
}

int64_t next_look(struct hold *hold, int64_t now)
{
    int64_t pause = hold->looks < 4 ? MILLISECOND << hold->looks : LOOK_LATER;
    hold->looks++;
    return now + pause;
}

/* The OOM in hand. */

static int64_t plus(int64_t time, int64_t more)
{
    return more >= NEVER - time ? NEVER : time + more;
}

static void set_deadline(struct hold *hold, int64_t from)
{
    int64_t left = hold->total == NEVER ? NEVER : hold->total - hold->spent - (from - hold->began);
    hold->deadline = plus(from, left < hold->delay ? left : hold->delay);
    if (hold->due > hold->deadline)
        hold->due = hold->deadline;
}

void count_oom(struct hold *hold, int64_t now)
{
    hold->record.ooms++;
    hold->record.oom_time = now;
}

void open_episode(struct hold *hold, int64_t began, int64_t now)
{
    if (began - hold->last_over >= RECOVERY)
        hold->spent = 0;
    hold->began = began;
    hold->looks = 0;
    hold->due = next_look(hold, now);
    set_deadline(hold, began);
    count_oom(hold, now);
}

void close_episode(struct hold *hold, int64_t ended)
{
    hold->spent += ended - hold->began;
    hold->record.resolved++;
    hold->record.resolved_time = ended;
}

void restart_delay(struct hold *hold, int64_t now)
{
    set_deadline(hold, now);
    publish(hold, MEMCG_OOM);
}

/* Whether somebody dies already by the owner's will, and is given the time for that, or has just made room. */
bool awaits_victim(struct hold *hold, int64_t now)
{
    if (hold->victim < 0)
        return now < hold->grace;
    struct pollfd poll = {.fd = hold->victim, .events = POLLIN};
    struct timespec none = {0, 0};
    if (now - hold->killed_at < PATIENCE && sys(SYS_ppoll, &poll, 1, &none, NULL, 0) == 0)
        return true;
    sys_close(&hold->victim);
    hold->grace = now + QUIET;
    return true;
}

/* The expiry. */

void begin_expiry(struct hold *hold, int64_t now)
{
    hold->expired_at = now;
    hold->deadline = NEVER;
    hold->spent += now - hold->began;
    hold->looks = 0;
    hold->renewed = 0;
    hold->record.expirations++;
    hold->record.expired_time = now;
    publish(hold, MEMCG_EXPIRED);
}

/* What an expiry came to is told when the OOM is over. */
void count_expiry(struct hold *hold, uint64_t kills)
{
    hold->record.told = hold->record.expirations;
    hold->record.kills += kills;
}

void hand_over(struct hold *hold, enum handed_over reason, int64_t now)
{
    hold->reason = reason;
    hold->looks = 0;
    hold->due = now + LOOK_LATER;
    publish(hold, MEMCG_HANDED_OVER);
}

/* Whether this expiry is one after which the killer stays. */
bool is_last_expiry(const struct hold *hold)
{
    return ((hold->flags & MEMCG_ONCE) && !hold->renewed) || hold->spent >= hold->total;
}

/* What comes after an expiry that has killed so many. */
void end_expiry(struct hold *hold, uint64_t kills, int64_t now)
{
    count_expiry(hold, kills);
    if ((hold->flags & MEMCG_ONCE) && !hold->renewed)
        hand_over(hold, ONCE_DONE, now);
    else if (kills)
        hand_over(hold, TOTAL_SPENT, now);
    else if (now - hold->expired_at >= hold->mechanism->patience)
        hand_over(hold, NOTHING_TO_KILL, now);
    else
        hold->mechanism->rearm(hold, now);
}

void set_delay(struct hold *hold, int64_t delay, int64_t now)
{
    hold->delay = delay;
    switch (state_of(hold)) {
    case MEMCG_OOM:
        restart_delay(hold, now);
        break;
    case MEMCG_HANDED_OVER:
        hold->spent = 0;
        hold->mechanism->rearm(hold, now);
        break;
    case MEMCG_EXPIRED:
        hold->renewed = 1;
        publish(hold, MEMCG_EXPIRED);
        break;
    default:
        publish(hold, state_of(hold));
    }
    if (hold->kernel_delay && hold->killer_off)
        switch_killer_off(hold); /* which writes the new delay */
}

void end_hold(struct hold *hold, enum memcg_state state)
{
    hold->due = hold->deadline = NEVER;
    if (state == MEMCG_REMOVED)
        hold->in_use = 0; /* there is nothing left to put anything back in */
    else
        put_back(hold);
    publish(hold, state);
    leave(hold);
}

void look(struct hold *hold, int64_t now)
{
    hold->mechanism->look(hold, now);
}
