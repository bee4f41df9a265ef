/*
 * The guard: keeps the kernel's OOM killer off in groups that their owner holds, and hands back to it after a delay,
 * whatever has become of the owner.
 *
 *     guard.c    the three processes, and who does what when one of them is gone
 *     loop.c     the guard proper: one loop over all that can happen
 *     owner.c    the owner's requests
 *     hold.c     what a hold does: OOM, delay, expiry
 *     leave.c    what is left to do after a hold
 *     group.c    a group's files, switch and mark, and putting all of that back
 *     limits.c   its limits
 *     children.c the groups below it
 *     files.c    reading and writing what is open
 *     sys.h      system calls
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

/* What is known of a hold, for whoever has to put things back. */
struct hold {
    /* Set last, when all that follows is there, and cleared first, when all is put back. */
    uint32_t in_use;

    uint32_t flags;        /* of the request */
    uint32_t kernel_delay; /* the switch is memory.oom_delay_millisecs */
    uint32_t killer_off;   /* what the guard last wrote to the switch; set before writing, and cleared after */
    uint32_t at_limit;     /* when it was put back, somebody may have been about to go to sleep */
    uint32_t walk_all;     /* below children whose killer is on, too, there may be some that are off by inheritance */

    int directory;
    int oom_control;
    int switch_file; /* the same file, or the kernel's own delay */
    int usage, limit, failcnt;
    int parent; /* its memory.oom_control; -1 where it cannot be seen */
    int memsw_usage, memsw_limit; /* -1 without swap accounting */
    int ooms, pressure;           /* eventfds that the kernel signals */
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

    struct memcg_record record; /* what the owner is to see, once it is published */
};

/* Why the kernel's killer stays on. */
enum handed_over { NOTHING_TO_KILL, TOTAL_SPENT, ONCE_DONE };

/* Shared by the three processes. */
struct shared {
    struct hold holds[MEMCG_HOLDS];
    int guard_pidfd;  /* by which the warden ends a guard that is not its child */
    int warden_pidfd; /* by which it is made to go on, and end, should it have been stopped */
    int32_t guard, keeper, warden;
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
long read_text(int fd, char *text, size_t size);
long read_number(int fd, int64_t *number);
long read_oom_control(int fd, struct oom_control *control);
long write_text(int fd, const char *text);
long write_number(int fd, int64_t number);
long mark(int directory, const char *name, const char *value, int flags);
bool has_mark(int directory, const char *name);
void unmark(int directory, const char *name);

/* children.c */

/* As deep as children are seen to. Each level takes some of the stack, which is locked in memory, and two files. */
#define MEMCG_DEPTH 64

uint64_t count_kills(const struct hold *hold, uint64_t own);
void spare_children(struct hold *hold);
void see_to_child(struct hold *hold, const char *name);
void see_to_children(struct hold *hold);
void forget_children(const struct hold *hold);

/* limits.c */

bool is_near(int usage_file, int limit_file);
bool has_room(const struct hold *hold);
long raise_limit(struct hold *hold, int64_t bytes, bool by, bool for_a_while, int64_t *raised);
bool lower_limit(struct hold *hold);

/* group.c */

long open_group(struct hold *hold, int directory, enum memcg_step *step);
long register_events(struct hold *hold);
void close_group(struct hold *hold);
bool is_marked(const struct hold *hold);
long set_mark(const struct hold *hold, int flags);
long switch_killer_off(struct hold *hold);
long switch_killer_on(struct hold *hold);
bool is_parent_under_oom(const struct hold *hold);
bool is_own_oom(const struct hold *hold, const struct oom_control *control);
void put_back(struct hold *hold);
void enable_killers(void);
void put_everything_back(void);

/* hold.c */

void publish(struct hold *hold, enum memcg_state state);
void begin(struct hold *hold);
void look(struct hold *hold, int64_t now);
void restart_delay(struct hold *hold, int64_t now);
void expire(struct hold *hold);
void set_delay(struct hold *hold, int64_t delay, int64_t now);
void tell_expiry(struct hold *hold);
enum memcg_state state_of(const struct hold *hold);

/* leave.c */

void wake_sleepers(const struct hold *hold);
void leave(struct hold *hold);
void look_back(struct hold *hold, int64_t now);
void linger(void);

/* owner.c */

void clear(struct hold *hold);
void serve(void);
void refuse(long error);

/* loop.c */

/* What an epoll event is about: one of these, or a hold's number above it. */
enum source { FROM_OWNER, OWNER_GONE, KEEPER_GONE, WARDEN_GONE, CHANGED, DUE, HOLD };

extern int epoll_fd, inotify_fd;
extern int expiries; /* how many are under way */

long wait_for(int fd, uint32_t events, uint64_t source);
void guard(void) __attribute__((noreturn));

/* guard.c */

void quit(int status) __attribute__((noreturn));

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
