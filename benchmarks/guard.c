/* The least that a guard can be: guard OOM_CONTROL [OWNER]. PYTHON_GUARD in hold.py does the same.
 *
 * With the PID of an owner, it switches the killer on when that process is gone. Without, it reads deadlines, waits
 * for each, switches the killer on, and writes when that was done. All are nanoseconds on CLOCK_MONOTONIC. */
#define _GNU_SOURCE
#include "records.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    alarm(900);
    if (argc < 2)
        return 2;
    int control = open(argv[1], O_WRONLY | O_CLOEXEC);
    if (argc == 3) {
        struct pollfd owner = {.fd = syscall(SYS_pidfd_open, atoi(argv[2]), 0), .events = POLLIN};
        if (owner.fd < 0 || write(STDOUT_FILENO, "\n", 1) < 0 || poll(&owner, 1, -1) < 0)
            return 1;
        return pwrite(control, "0", 1, 0) < 0;
    }
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    int64_t deadline, done;
    while (read(STDIN_FILENO, &deadline, sizeof deadline) == sizeof deadline) {
        struct itimerspec once = {.it_value = {deadline / 1000000000, deadline % 1000000000}};
        uint64_t count;
        if (timerfd_settime(timer, TFD_TIMER_ABSTIME, &once, NULL) < 0 ||
            read(timer, &count, sizeof count) < 0 || pwrite(control, "0", 1, 0) < 0)
            return 1;
        done = nanoseconds(CLOCK_MONOTONIC);
        if (write(STDOUT_FILENO, &done, sizeof done) < 0)
            return 1;
    }
    return 0;
}
