/* Processes that use memory: load PROCESSES BYTES [COMMAND [ARGUMENT ...]].
 *
 * Each takes BYTES, page by page and all at the same time. Without a command each ends then, and the exit status is
 * how many were killed; with one, they keep what they have for as long as it runs. 0 PROCESSES are one that takes
 * BYTES in a single system call. They are gone after two minutes. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static void take(size_t size, int at_once)
{
    size_t page = sysconf(_SC_PAGESIZE);
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | (at_once ? MAP_POPULATE : 0);
    volatile char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (memory == MAP_FAILED)
        _exit(1);
    for (size_t position = 0; position < size; position += page)
        memory[position] = 1;
}

int main(int argc, char **argv)
{
    int count = argc > 2 ? atoi(argv[1]) : -1, at_once = count == 0, begin[2], taken[2], status, killed = 0;
    char byte;
    if (at_once)
        count = 1;
    if (count < 1 || pipe(begin) < 0 || pipe(taken) < 0)
        return 255;
    alarm(120);
    for (int i = 0; i < count; i++) {
        pid_t child = fork();
        if (child < 0)
            return 255;
        if (child > 0)
            continue;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(begin[1]);
        close(taken[0]);
        if (read(begin[0], &byte, 1) < 0) /* the end of the pipe, for all at once */
            _exit(1);
        take(strtoul(argv[2], NULL, 10), at_once);
        close(taken[1]);
        if (argc > 3)
            pause();
        _exit(0);
    }
    close(begin[0]);
    close(begin[1]);
    close(taken[1]);
    if (argc > 3) {
        if (read(taken[0], &byte, 1) < 0)
            return 255;
        pid_t command = fork();
        if (command == 0) {
            execvp(argv[3], argv + 3);
            _exit(127);
        }
        waitpid(command, &status, 0);
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
    while (wait(&status) > 0)
        killed += WIFSIGNALED(status);
    return killed < 254 ? killed : 254;
}
