/* A program that uses memory, page by page, and says when it begins each: hog RECORDS_FD BYTES.
 * It is gone after a minute, whatever happens to it. */
#define _GNU_SOURCE
#include "records.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    alarm(60);
    if (argc != 3)
        return 2;
    volatile struct records *records = mmap(NULL, sizeof *records, PROT_READ | PROT_WRITE, MAP_SHARED, atoi(argv[1]), 0);
    size_t size = strtoul(argv[2], NULL, 10), page = sysconf(_SC_PAGESIZE);
    volatile char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (records == MAP_FAILED || memory == MAP_FAILED || madvise((void *)memory, size, MADV_NOHUGEPAGE) < 0)
        return 1;
    for (size_t position = 0; position < size; position += page) {
        records->touch = nanoseconds(CLOCK_MONOTONIC);
        memory[position] = 1;
    }
    return 0;
}
