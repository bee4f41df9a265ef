/*
 * What the library and the guard say to each other. build_ffi.py reads this file too, so that there is one
 * definition: plain enums and structs, of members that have the same size everywhere.
 *
 * The library sends requests over a SOCK_SEQPACKET socket, one at a time, and gets one reply to each. What happens
 * to a hold is not sent but written into a table of records that both have mapped; a doorbell, an eventfd of the
 * hold, says that there is something new. So an owner that is stopped neither blocks the guard nor loses anything.
 */
#ifndef MEMCG_GUARD_PROTOCOL_H
#define MEMCG_GUARD_PROTOCOL_H

#include <stdint.h>

enum memcg_limits {
    MEMCG_HOLDS = 1024, /* the most that one guard takes */
};

enum memcg_request_kind {
    MEMCG_HELLO = 1, /* fds: a pidfd of the owner. `bytes`: a page, `slot`: processors. The reply has the table */
    MEMCG_HOLD,      /* fds: the group's directory, an eventfd for the doorbell */
    MEMCG_RELEASE,   /* puts the former state back */
    MEMCG_DELAY,     /* changes `delay`, which then begins anew */
    MEMCG_RAISE,     /* raises the limit to `bytes`, or by `bytes` with MEMCG_BY */
    MEMCG_KILL,      /* fds: a pidfd of who is to be killed */
    MEMCG_WAKE,      /* lets blocked processes try again, for one that was moved away */
    MEMCG_EXPIRE,    /* lets the delay run out now */
    MEMCG_LOOK,      /* brings the record up to date */
};

enum memcg_request_flags {
    MEMCG_TAKEOVER = 1,      /* HOLD: though the killer is off already */
    MEMCG_ONCE = 2,          /* HOLD: after one expiry, the killer stays on */
    MEMCG_FOREIGN_LOCK = 4,  /* HOLD: though somebody, who is no guard, has the directory locked */
    MEMCG_BY = 8,            /* RAISE: `bytes` more than now */
    MEMCG_UNTIL_RESOLVED = 16, /* RAISE: until usage is below the former limit again */
    MEMCG_FINAL = 32,        /* LOOK: an expiry whose kill is counted is told now */
};

struct memcg_request {
    uint32_t kind;
    uint32_t slot;
    uint32_t flags;
    uint32_t unused;
    int64_t delay; /* nanoseconds; 0 is no limit */
    int64_t total; /* nanoseconds; 0 is no limit */
    int64_t bytes;  /* of HOLD: the headroom below memory.max, on cgroup v2; 0 is as much as it takes */
    uint64_t path;  /* of HOLD: a hash of the group's path (64-bit FNV-1a), on cgroup v2 */
};

/* What the guard was doing when a request failed. */
enum memcg_step {
    MEMCG_STEP_NONE,
    MEMCG_STEP_MESSAGE,
    MEMCG_STEP_SLOT,
    MEMCG_STEP_DIRECTORY,
    MEMCG_STEP_FILES,
    MEMCG_STEP_LOCK,
    MEMCG_STEP_KILLER, /* it is off already */
    MEMCG_STEP_MARK,   /* EEXIST: there is one, of another hold, or abandoned and to be repaired first */
    MEMCG_STEP_WATCH,
    MEMCG_STEP_REGISTER,
    MEMCG_STEP_SWITCH,
    MEMCG_STEP_LIMIT,
    MEMCG_STEP_SIGNAL,
    MEMCG_STEP_FROZEN,   /* it is frozen already */
    MEMCG_STEP_HIGH,     /* its memory.high, which is in `bytes`, is below the line */
    MEMCG_STEP_HEADROOM, /* it needs that many `bytes` of headroom, which are more than half the limit */
    MEMCG_STEP_WORKER,
};

enum memcg_locked {
    MEMCG_LOCKED_NONE,
    MEMCG_LOCKED_HOT,
    MEMCG_LOCKED_ALL,
};

struct memcg_reply {
    int32_t error;   /* an errno, or 0 */
    uint32_t step;   /* where it came from */
    uint32_t done;   /* of an action: whether there was an OOM to act on */
    uint32_t slot;   /* of HOLD */
    uint32_t kernel; /* of HOLD: whether the kernel's own delay is used */
    uint32_t locked; /* of HELLO: enum memcg_locked */
    int32_t guard;   /* of HELLO: the PIDs */
    int32_t keeper;
    int32_t warden;
    uint32_t unused;
    int64_t bytes;   /* of RAISE: the limit that is in force; of HOLD: what the step tells of */
};

enum memcg_state {
    MEMCG_FREE,
    MEMCG_ARMED,       /* no OOM */
    MEMCG_OOM,         /* an OOM, and the delay runs */
    MEMCG_EXPIRED,     /* the delay ran out: the kernel's killer is on until it has killed */
    MEMCG_HANDED_OVER, /* the kernel's killer stays on */
    MEMCG_OVERRIDDEN,  /* somebody else has interfered, and the hold is over */
    MEMCG_REMOVED,     /* the group is gone, and the hold with it */
};

/* Why a hold is overridden. */
enum memcg_why {
    MEMCG_WHY_SWITCH, /* the switch was written to */
    MEMCG_WHY_HIGH,   /* memory.high was lowered below the line */
    MEMCG_WHY_INSIDE, /* one of the guard's processes was moved into the group */
};

/* Times are nanoseconds on CLOCK_MONOTONIC, counts only grow. */
struct memcg_record {
    uint32_t sequence; /* odd while the guard writes */
    uint32_t state;
    int64_t delay;
    int64_t deadline; /* 0 where none runs */
    uint64_t ooms;    /* how often an OOM of the group's own limit was noticed */
    int64_t oom_time;
    uint64_t resolved; /* how many of them ended without an expiry */
    int64_t resolved_time;
    uint64_t expirations;
    int64_t expired_time; /* when the kernel's killer was switched on */
    uint64_t told;        /* of the expirations, those whose kills are counted */
    uint64_t kills;       /* by the expirations that are told */
    uint32_t frozen;        /* whether all of the group is */
    uint32_t why;           /* enum memcg_why */
    uint64_t missed;        /* kernel kills by the group's own limit that the hold did not come before */
    uint64_t false_freezes; /* how often it was frozen, and there was memory to be had after all */
    int64_t headroom;
};

#endif
