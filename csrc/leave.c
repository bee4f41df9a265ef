/*
 * After the end of a hold: those who go to sleep only now.
 *
 * The kernel looks at the switch before it puts a process to sleep, and not again. Who was in between when the killer
 * was switched on sleeps on, with the killer on, and for ever. Writing once more wakes it.
 */
#include "guard.h"

/* So many looks, the last after 16 ms. */
#define LOOKS 5

void wake_sleepers(const struct hold *hold)
{
    struct oom_control control;
    if (hold->oom_control >= 0 && read_oom_control(hold->oom_control, &control) == 0 && !control.disabled &&
        control.under_oom)
        write_text(hold->oom_control, "0");
}

/* Closes all but what it takes to look after them, where there may be any. */
void leave(struct hold *hold)
{
    if (!hold->at_limit) {
        close_group(hold);
        hold->due = NEVER;
        return;
    }
    int oom_control = hold->oom_control;
    hold->oom_control = -1;
    if (hold->switch_file == oom_control)
        hold->switch_file = -1;
    close_group(hold);
    hold->oom_control = oom_control;
    hold->looks = 0;
    hold->due = monotonic() + MILLISECOND;
}

void look_back(struct hold *hold, int64_t now)
{
    wake_sleepers(hold);
    hold->due = now + (MILLISECOND << hold->looks);
    if (++hold->looks > LOOKS) {
        sys_close(&hold->oom_control);
        hold->due = NEVER;
    }
}

/* The same for all at once, by a process that ends with it. */
void linger(void)
{
    bool any = false;
    for (int i = 0; i < MEMCG_HOLDS; i++)
        any = any || (shared->holds[i].oom_control >= 0 && shared->holds[i].at_limit);
    for (int looks = 0; any && looks < LOOKS; looks++) {
        struct timespec time = {0, MILLISECOND << looks};
        sys(SYS_ppoll, NULL, 0, &time, NULL, 0);
        for (int i = 0; i < MEMCG_HOLDS; i++)
            wake_sleepers(&shared->holds[i]);
    }
}
