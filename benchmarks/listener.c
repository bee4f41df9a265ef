/* The least that a listener can be: listener RECORDS_FD GROUP EVENTS LIMIT STEP. listeners.py does the same. */
#define _GNU_SOURCE
#include "records.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    alarm(60);
    if (argc != 6 || chdir(argv[2]) < 0)
        return 2;
    int events = atoi(argv[3]);
    long limit = atol(argv[4]), step = atol(argv[5]);
    size_t size = sizeof(struct records) + events * sizeof(struct record);
    volatile struct records *records =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, atoi(argv[1]), 0);
    int event = eventfd(0, EFD_CLOEXEC);
    int control = open("memory.oom_control", O_RDONLY | O_CLOEXEC);
    int registry = open("cgroup.event_control", O_WRONLY | O_CLOEXEC);
    int limit_file = open("memory.limit_in_bytes", O_WRONLY | O_CLOEXEC);
    if (records == MAP_FAILED || event < 0 || control < 0 || limit_file < 0 ||
        dprintf(registry, "%d %d", event, control) < 0 || write(STDOUT_FILENO, "\n", 1) < 0)
        return 1;
    int64_t cpu = nanoseconds(CLOCK_THREAD_CPUTIME_ID);
    for (int i = 0; i < events; i++) {
        uint64_t signals;
        if (read(event, &signals, sizeof signals) < 0)
            return 1;
        int64_t handled = nanoseconds(CLOCK_MONOTONIC);
        volatile struct record *record = &records->events[i];
        record->cpu = nanoseconds(CLOCK_THREAD_CPUTIME_ID) - cpu;
        record->handled = handled;
        record->touch = records->touch;
        limit += step;
        if (dprintf(limit_file, "%ld", limit) < 0)
            return 1;
        cpu = nanoseconds(CLOCK_THREAD_CPUTIME_ID);
    }
    return 0;
}
