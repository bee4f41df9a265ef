/* What hog, listener and benchmark share in memory; wake.py and listeners.py have the same layout. */
#ifndef RECORDS_H
#define RECORDS_H

#include <stdint.h>
#include <time.h>

struct records {
    int64_t touch; /* when the page in hand was begun */
    struct record {
        int64_t handled; /* when the handler began */
        int64_t touch;   /* what the hog had last written above */
        int64_t cpu;     /* CPU time of the listener since its last handler's end */
    } events[];
};

/* Nanoseconds, on the clock that Python's time.monotonic() and time.thread_time() read. */
static inline int64_t nanoseconds(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

#endif
