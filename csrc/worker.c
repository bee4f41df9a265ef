/*
 * The worker: a process of the guard that asks the kernel to reclaim memory of a group (memory.reclaim), which is how
 * it is found out whether there is any to be had. With dirty pages and a slow disk that may take its time, and no
 * delay is to wait for it.
 *
 * It writes to no other file. So whatever becomes of it, it has changed no setting of a group.
 */
#include "guard.h"

#include <sys/prctl.h>

static void work(void) __attribute__((noreturn));
static void work(void)
{
    for (;;) {
        uint64_t count, one = 1;
        sys(SYS_read, shared->work, &count, sizeof count);
        for (int i = 0; i < MEMCG_HOLDS; i++) {
            struct hold *hold = &shared->holds[i];
            if (__atomic_load_n(&hold->job, __ATOMIC_ACQUIRE) != ASKED)
                continue;
            hold->job_error = write_number(hold->reclaim, hold->job_bytes);
            __atomic_store_n(&hold->job, DONE, __ATOMIC_RELEASE);
            sys(SYS_write, shared->worked, &one, sizeof one);
        }
    }
}

static long prepare(void)
{
    if (shared->work >= 0)
        return 0;
    long work_event = sys(SYS_eventfd2, 0, O_CLOEXEC);
    if (work_event < 0)
        return work_event;
    long worked = sys(SYS_eventfd2, 0, O_CLOEXEC | O_NONBLOCK);
    if (worked < 0)
        return worked;
    shared->work = (int)work_event;
    shared->worked = (int)worked;
    return wait_for(shared->worked, EPOLLIN, WORKED);
}

/* One that would freeze with a group that is to be held. What it was asked, the next one will do. */
static void dismiss(void)
{
    sys_close(&shared->worker_pidfd);
    sys_close(&shared->places[WORKER]);
    sys(SYS_kill, shared->worker, SIGKILL);
    shared->worker = 0;
}

/* Started with the first hold that needs it, and anew where its owner has left it behind in the group. */
long start_worker(const struct hold *hold)
{
    uint64_t one = 1;
    if (shared->worker && is_member(hold, shared->places[WORKER]))
        dismiss();
    if (shared->worker)
        return 0;
    long error = prepare();
    if (error < 0)
        return error;
    long child = fork_sharing_files();
    if (child < 0)
        return child;
    if (child == 0) {
        sys(SYS_prctl, PR_SET_NAME, "memcg-worker", 0, 0, 0);
        sys(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        forget_priority();
        if (sys(SYS_getppid) != shared->guard) /* gone before the line above */
            sys(SYS_exit_group, 0);
        work();
    }
    shared->worker = (int32_t)child;
    open_place(WORKER, shared->worker);
    long worker = sys(SYS_pidfd_open, child, 0);
    shared->worker_pidfd = (int)worker;
    if (worker >= 0)
        worker = wait_for(shared->worker_pidfd, EPOLLIN, WORKER_GONE);
    if (worker < 0) {
        dismiss();
        return worker;
    }
    sys(SYS_write, shared->work, &one, sizeof one);
    return 0;
}

bool is_asked(const struct hold *hold)
{
    return __atomic_load_n(&hold->job, __ATOMIC_ACQUIRE) != NO_JOB;
}

void ask_for_reclaim(struct hold *hold, int64_t bytes, int64_t now)
{
    uint64_t one = 1;
    if (is_asked(hold))
        return;
    hold->job_bytes = bytes;
    hold->job_asked = now;
    __atomic_store_n(&hold->job, ASKED, __ATOMIC_RELEASE);
    sys(SYS_write, shared->work, &one, sizeof one);
}

/* What came of it: 0, or a negated errno, which is -EINPROGRESS as long as there is no answer. */
long take_answer(struct hold *hold)
{
    if (__atomic_load_n(&hold->job, __ATOMIC_ACQUIRE) != DONE)
        return -EINPROGRESS;
    long error = (long)hold->job_error;
    __atomic_store_n(&hold->job, NO_JOB, __ATOMIC_RELEASE);
    return error;
}

bool is_unanswered(const struct hold *hold, int64_t now)
{
    return is_asked(hold) && now - hold->job_asked >= PATIENCE;
}

/* Not while the worker may use it: the number would be that of another file. */
void close_reclaim(struct hold *hold)
{
    if (__atomic_load_n(&hold->job, __ATOMIC_ACQUIRE) == ASKED)
        return;
    hold->job = NO_JOB;
    sys_close(&hold->reclaim);
}
