/*
 * The guard: keeps the kernel's OOM killer off in groups that their owner holds, and hands back to it after a delay,
 * whatever has become of the owner.
 *
 *     guard.c    the three processes, and who does what when one of them is gone
 *     loop.c     the guard proper: one loop over all that can happen
 *     owner.c    the owner's requests
 *     hold.c     what every hold does: OOM, delay, expiry
 *     group.c    a group's directory and mark, and putting all of that back
 *     files.c    reading and writing what is open
 *     sys.h      system calls
 *
 * On cgroup v1, the kernel has a switch:
 *
 *     hold_v1.c  how OOMs begin and end there
 *     group_v1.c a group's files and its switch
 *     limits.c   its limits
 *     children.c the groups below it
 *     leave.c    what is left to do after a hold
 *
 * On cgroup v2, which has none, the guard stops the group before it reaches its limit:
 *
 *     hold_v2.c  how that goes
 *     group_v2.c a group's files, its line below the limit, freezing and thawing
 *     worker.c   a process that asks for memory to be reclaimed, which may take its time
 *
 * Nothing here allocates. What the guard needs for a hold is opened and read once before the hold begins, and stands
 * in a table that the three processes share, with all their file descriptors: so each of them can put everything back.
 */
#ifndef MEMCG_GUARD_H
#define MEMCG_GUARD_H

#include "sys.h" /* first: it asks the headers for all that Linux has */

#include "guard_protocol.h"

#define MILLISECOND INT64_C(1000000)
#define SECOND INT64_C(1000000000)
#define NEVER INT64_MAX

#define SOCKET 3 /* the owner's, as file descriptor */

/* What the kernel shows for no limit is this or more, whatever the size of its pages. */
#define UNLIMITED (INT64_MAX - 65535)

struct hold;

/* What is different between the versions of cgroups. All but `open` are for a hold that has all of its files. */
struct mechanism {
    int64_t magic; /* of the file system */
    int64_t patience; /* with no kill for so long after an expiry, there is nothing to kill */
    const char *unlimited; /* what a limit is set to for none */
    long (*open)(struct hold *hold); /* opens the files, and reads each once */
    /* Refuses a group in which somebody else has a hand already. */
    long (*check)(struct hold *hold, struct memcg_reply *reply, enum memcg_step *step);
    long (*begin)(struct hold *hold, enum memcg_step *step);
    void (*look)(struct hold *hold, int64_t now); /* on a signal, or when it is due */
    void (*expire)(struct hold *hold);
    /* For an owner that cannot wait until the OOM is over, since who caused it is gone. */
    void (*tell_expiry)(struct hold *hold);
    void (*rearm)(struct hold *hold, int64_t now);
    long (*raise_limit)(struct hold *hold, int64_t bytes, bool by, bool for_a_while, int64_t *raised);
    long (*wake)(struct hold *hold);     /* lets who was moved away go on */
    void (*let_in)(struct hold *hold);   /* the first step of putting back: nobody waits, and the kernel may kill */
    void (*put_back)(struct hold *hold); /* all of it; harmless when done twice */
};

extern const struct mechanism mechanism_v1, mechanism_v2;

/* What the worker is asked for. */
enum job { NO_JOB, ASKED, DONE };

/* What is known of a hold, for whoever has to put things back. */
struct hold {
    /* Set last, when all that follows is there, and cleared first, when all is put back. */
    uint32_t in_use;

    uint32_t flags; /* of the request */
    const struct mechanism *mechanism;
    uint32_t kernel_delay; /* the switch is memory.oom_delay_millisecs */
    uint32_t killer_off;   /* what the guard last wrote to the switch; set before writing, and cleared after */
    uint32_t at_limit;     /* when it was put back, somebody may have been about to go to sleep */
    uint32_t walk_all;     /* below children whose killer is on, too, there may be some that are off by inheritance */

    /* File descriptors; -1 stands for none. */
    int directory;
    int usage, limit;
    int oom_control;
    int switch_file; /* the same file, or the kernel's own delay */
    int failcnt;
    int parent; /* its memory.oom_control, where that can be seen */
    int memsw_usage, memsw_limit; /* with swap accounting */
    int ooms, pressure;           /* eventfds that the kernel signals */
    int high, freeze;
    int events, local, core; /* memory.events, memory.events.local, cgroup.events */
    int stat, tasks, reclaim, swap, swap_limit;
    int doorbell;
    int victim; /* a pidfd, while somebody dies by the owner's will */
    int watch;  /* inotify's number for the directory */

    /* The delay. */
    int64_t delay, total; /* NEVER is no limit */
    int64_t began;        /* the OOM in hand */
    int64_t last_over;    /* when the last one ended */
    int64_t spent;        /* the time under OOM since the last second of quiet */

    /* The OOM in hand. */
    int64_t due;          /* when to look though nothing is signalled; NEVER */
    int64_t deadline;     /* NEVER */
    int64_t last_signal;
    int64_t zero_since;   /* since when it has not been under OOM; 0 while it is */
    int64_t stuck_since;  /* after an expiry: since when it has been under OOM again; 0 while it is not */
    int64_t expired_at;
    int64_t killed_at;    /* when the victim was signalled */
    int64_t grace;        /* until when the room that it has made may take to be found */
    int64_t woken_at;     /* when the killer was last switched on */
    uint32_t looks;       /* how many were taken in a row */
    uint32_t reason;      /* enum handed_over */
    uint32_t renewed;     /* the delay was set while an expiry was under way */
    uint64_t own_kills;    /* counted in this very group, at the last look */
    uint64_t kills_below;  /* in the groups below, when that was last counted */
    uint64_t kills_before; /* an expiry, here and below */
    int64_t failcnt_seen;

    /* A limit that was raised for a while: what it was, what was written. 0 where there is none. */
    struct raise {
        int64_t former_limit, raised_limit;
        int64_t former_memsw, raised_memsw;
    } raise;

    /* cgroup v2 */
    uint64_t path;           /* a hash of the group's, to find out who is in it */
    int64_t wanted_headroom; /* 0 is as much as it takes */
    int64_t headroom;        /* between line and limit */
    int64_t line;            /* where `high` stands when the group comes near its limit; NEVER without a limit */
    int64_t drawn_at, limit_seen;
    int64_t former_high;   /* what it is to be in the end */
    int64_t written_high;  /* what the guard last wrote */
    uint32_t near;         /* whether the line is where `high` is to be, and not further off */
    uint32_t froze;        /* whether the guard has frozen the group */
    uint32_t frozen_by_others;
    int64_t failed_since;  /* since when reclaim has failed; 0 while it has not */
    int64_t ask_at;
    struct pages {
        int64_t rest;      /* bytes that can be reclaimed, if perhaps not now */
        int64_t written;   /* bytes that are being written back */
        int64_t progress;  /* changes when pages are reclaimed, or written back */
    } pages;               /* when it failed first */
    uint64_t highs, own_ooms; /* events, at the last look */
    int64_t line_at_oom;
    int64_t oomed_at; /* when the kernel last found the group at its limit */
    int64_t settling_since; /* when the last memory of who was killed came free; 0 before an expiry has killed */
    int64_t settling_usage;
    uint32_t job; /* enum job: set to ASKED by the guard, and then by the worker until it is DONE */
    int64_t job_bytes, job_error, job_asked;

    struct memcg_record record; /* what the owner is to see, once it is published */
};

/* Why the kernel's killer stays on. */
enum handed_over { NOTHING_TO_KILL, TOTAL_SPENT, ONCE_DONE };

enum place { GUARD, KEEPER, WARDEN, WORKER, PLACES };

/* Shared by all processes. */
struct shared {
    struct hold holds[MEMCG_HOLDS];
    int guard_pidfd;  /* by which the warden ends a guard that is not its child */
    int worker_pidfd; /* by which the worker is ended */
    int warden_pidfd; /* by which it is made to go on, and end, should it have been stopped */
    int32_t guard, keeper, warden, worker;
    int places[PLACES]; /* the /proc/PID/cgroup of each process */
    int meminfo;        /* /proc/meminfo */
    int work, worked; /* eventfds: there is something for the worker to do, and it has done something */
    uint64_t guard_start; /* clock ticks after boot, as /proc has it */
    int32_t owner;
    int table; /* the memfd of the records */
    uint32_t locked; /* enum memcg_locked */
    uint32_t missed; /* in a walk through the groups below: something that there was no memory for */
    uint32_t denied; /* the same: something that is not ours to write, or too far down */
    int64_t page;    /* bytes */
    int64_t slack;   /* bytes that a group's usage may be ahead of its use: 64 pages for each processor */
};

extern struct shared *shared;
extern struct memcg_record *records;

/* files.c */

struct text {
    size_t length;
    char bytes[320];
};

struct oom_control {
    bool disabled, under_oom;
    uint64_t kills;
};

/* A hold on the directory, which outlives whoever set it. */
#define MARK "memcg.hold"
/* A child whose killer was off before the hold: the hold leaves it alone. */
#define OFF_BEFORE "memcg.off"

void add(struct text *text, const char *more);
void add_number(struct text *text, int64_t number);
int64_t parse(const char *text, const char **end);
int64_t value_of(const char *text, const char *key);
long read_text(int fd, char *text, size_t size);
long read_number(int fd, int64_t *number);
long read_oom_control(int fd, struct oom_control *control);
long write_text(int fd, const char *text);
long write_number(int fd, int64_t number);
long mark(int directory, const char *name, const char *value, int flags);
bool has_mark(int directory, const char *name);
void unmark(int directory, const char *name);

/* hold.c */

/* An OOM is over when it was quiet for so long. */
#define QUIET (20 * MILLISECOND)
/* Waiting for what should come at once. */
#define PATIENCE SECOND
/* After so much quiet, `total` begins anew. */
#define RECOVERY SECOND
/* When to look again: at first after 1, 2, 4 and 8 ms, then every 10. */
#define LOOK_LATER (10 * MILLISECOND)
/* For a limit that was raised for a while, and the like: there is nothing that tells when usage has fallen. */
#define LOOK_FOR_ROOM (100 * MILLISECOND)

enum memcg_state state_of(const struct hold *hold);
void publish(struct hold *hold, enum memcg_state state);
int64_t next_look(struct hold *hold, int64_t now);
void count_oom(struct hold *hold, int64_t now);
void open_episode(struct hold *hold, int64_t began, int64_t now);
void close_episode(struct hold *hold, int64_t ended);
void restart_delay(struct hold *hold, int64_t now);
bool awaits_victim(struct hold *hold, int64_t now);
void begin_expiry(struct hold *hold, int64_t now);
void count_expiry(struct hold *hold, uint64_t kills);
bool is_last_expiry(const struct hold *hold);
void end_expiry(struct hold *hold, uint64_t kills, int64_t now);
void hand_over(struct hold *hold, enum handed_over reason, int64_t now);
void set_delay(struct hold *hold, int64_t delay, int64_t now);
void end_hold(struct hold *hold, enum memcg_state state);
void look(struct hold *hold, int64_t now);

/* group.c */

struct file {
    const char *name;
    size_t fd; /* where in struct hold */
    int flags;
    bool needed;
};

long open_files(struct hold *hold, const struct file *files, size_t count);
long open_group(struct hold *hold, int directory, enum memcg_step *step);
long watch(struct hold *hold);
void close_group(struct hold *hold);
bool is_marked(const struct hold *hold);
long set_mark(const struct hold *hold, int flags);
void put_back(struct hold *hold);
void let_kernel_in(void);
void put_everything_back(void);

/* group_v1.c */

long open_v1(struct hold *hold);
long check_v1(struct hold *hold, struct memcg_reply *reply, enum memcg_step *step);
long register_events(struct hold *hold);
long switch_killer_off(struct hold *hold);
long switch_killer_on(struct hold *hold);
bool is_parent_under_oom(const struct hold *hold);
bool is_own_oom(const struct hold *hold, const struct oom_control *control);
void enable_killer(struct hold *hold);

/* children.c */

/* As deep as children are seen to. Each level takes some of the stack, which is locked in memory, and two files. */
#define MEMCG_DEPTH 64

uint64_t count_kills(const struct hold *hold, uint64_t own);
void spare_children(struct hold *hold);
void see_to_child(struct hold *hold, const char *name);
void see_to_children(struct hold *hold);
void forget_children(const struct hold *hold);
uint64_t count_threads(const struct hold *hold);

/* limits.c */

bool is_near(int usage_file, int limit_file);
long write_limit(const struct hold *hold, int file, int64_t bytes);
bool has_room(const struct hold *hold);
long raise_limit(struct hold *hold, int64_t bytes, bool by, bool for_a_while, int64_t *raised);
long wake_moved(struct hold *hold);
bool lower_limit(struct hold *hold);

/* leave.c */

void wake_sleepers(const struct hold *hold);
void leave(struct hold *hold);
void look_back(struct hold *hold, int64_t now);
void linger(void);

/* group_v2.c */

/* What there is to see of a group. */
struct sight {
    int64_t usage, limit, high;
    bool freeze, frozen, populated;
    uint64_t highs, ooms, kills;
};

long open_v2(struct hold *hold);
long check_v2(struct hold *hold, struct memcg_reply *reply, enum memcg_step *step);
long see(const struct hold *hold, struct sight *sight);
struct pages count_pages(const struct hold *hold);
int64_t draw_line(struct hold *hold, int64_t limit);
int64_t far_line(const struct hold *hold);
long write_high(struct hold *hold, int64_t bytes);
void place_high(struct hold *hold, int64_t usage);
bool is_member(const struct hold *hold, int file);
bool is_inside(const struct hold *hold);
long freeze(struct hold *hold);
void thaw(struct hold *hold);
void lift(struct hold *hold, int64_t high);
void let_go(struct hold *hold);
long raise_max(struct hold *hold, int64_t bytes, bool by, bool for_a_while, int64_t *raised);
bool lower_max(struct hold *hold);

/* worker.c */

long start_worker(const struct hold *hold);
void ask_for_reclaim(struct hold *hold, int64_t bytes, int64_t now);
bool is_asked(const struct hold *hold);
long take_answer(struct hold *hold);
bool is_unanswered(const struct hold *hold, int64_t now);
void close_reclaim(struct hold *hold);

/* owner.c */

void clear(struct hold *hold);
void serve(void);
void refuse(long error);

/* loop.c */

/* What an epoll event is about: one of these, or a hold's number above it. */
enum source { FROM_OWNER, OWNER_GONE, KEEPER_GONE, WARDEN_GONE, WORKER_GONE, WORKED, CHANGED, DUE, HOLD };

extern int epoll_fd, inotify_fd;
extern int expiries; /* how many are under way */

long wait_for(int fd, uint32_t events, uint64_t source);
long wait_for_hold(int fd, uint32_t events, const struct hold *hold);
void guard(void) __attribute__((noreturn));

/* guard.c */

void quit(int status) __attribute__((noreturn));
long fork_sharing_files(void);
void forget_priority(void);
void open_place(enum place place, int32_t pid);

/* A few pieces of the C library, which is not there. */
static inline size_t length(const char *text)
{
    size_t n = 0;
    while (text[n])
        n++;
    return n;
}

static inline bool equal(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

#endif
