/*
 * A fork storm: "storm NUMBER MIB" forks that many children, as fast as it can. Each uses that many MiB and stays,
 * until the kernel's killer takes it, before the parent. In C, as Python does not get far without memory.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define LIFE 100

static void live(char *pages, size_t size)
{
    int file;
    alarm(LIFE);
    /* System calls fail for want of memory; only page faults wait. */
    while ((file = open("/proc/self/oom_score_adj", O_WRONLY)) < 0 || write(file, "1000", 4) != 4) {
        close(file);
        usleep(500);
    }
    memset(pages, 1, size);
    for (;;)
        pause();
}

int main(int count, char **arguments)
{
    if (count != 3)
        return 2;
    size_t size = strtoul(arguments[2], NULL, 10) << 20;
    char *pages = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    alarm(LIFE);
    for (long left = strtol(arguments[1], NULL, 10); left > 0;) {
        pid_t child = fork();
        if (child == 0)
            live(pages, size);
        if (child > 0)
            left--;
        else
            usleep(500);
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
    }
    while (waitpid(-1, NULL, 0) > 0)
        ;
    return 0;
}
