/*
 * memcg-enter: joins a control group, then becomes another program.
 *
 *     memcg-enter PROCS STATUS SELF N CANDIDATE... ARG0 [ARG...]
 *
 * PROCS, STATUS and SELF are inherited file descriptors: the group's cgroup.procs opened for writing, the
 * writing end of a pipe, and this program. The N CANDIDATEs are the paths to try in turn, as a search along
 * PATH found them. STATUS gets pairs of native ints: first STARTED and this process's PID, by which a parent
 * finds a child that a signal handler tore it away from; then, on failure, the step (JOIN or EXEC) and its
 * errno. Success is told by STATUS closing at exec.
 *
 * A child cannot do this in Python between fork and exec: that runs an interpreter in a copy of a process
 * whose other threads, and the locks that they held, are gone.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

extern char **environ;

enum step { STARTED = 0, JOIN = 1, EXEC = 2 };

static void tell(int status, enum step step, int number)
{
    int report[2] = {step, number};
    ssize_t written;
    do
        written = write(status, report, sizeof report);
    while (written < 0 && errno == EINTR);
}

static void fail(int status, enum step step, int error)
{
    tell(status, step, error);
    _exit(127);
}

int main(int argc, char **argv)
{
    if (argc < 6)
        _exit(126);
    int procs = atoi(argv[1]), status = atoi(argv[2]), self = atoi(argv[3]), candidates = atoi(argv[4]);
    char **candidate = argv + 5, **arguments = candidate + candidates;
    if (candidates < 1 || arguments >= argv + argc)
        _exit(126);

    tell(status, STARTED, (int)getpid());
    if (fcntl(procs, F_SETFD, FD_CLOEXEC) < 0 || fcntl(status, F_SETFD, FD_CLOEXEC) < 0 ||
        fcntl(self, F_SETFD, FD_CLOEXEC) < 0)
        fail(status, JOIN, errno);

    /* "0" is the writing process itself, in whatever PID namespace it lives. */
    ssize_t written;
    do
        written = write(procs, "0", 1);
    while (written < 0 && errno == EINTR);
    if (written < 0)
        fail(status, JOIN, errno);

    /* As subprocess does: the first error that says more than "not here", else the last one. */
    int error = 0;
    for (; candidate < arguments; candidate++) {
        execve(*candidate, arguments, environ);
        if (error == 0 && errno != ENOENT && errno != ENOTDIR)
            error = errno;
    }
    fail(status, EXEC, error ? error : errno);
}
