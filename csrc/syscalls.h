/* The system calls that memcg needs and that Python's os module does not have. */
#ifndef MEMCG_SYSCALLS_H
#define MEMCG_SYSCALLS_H

#include <stdint.h>

/* From linux/openat2.h and linux/magic.h, repeated because older headers lack them. */
#define RESOLVE_NO_XDEV 0x01
#define RESOLVE_NO_MAGICLINKS 0x02
#define RESOLVE_NO_SYMLINKS 0x04
#define RESOLVE_BENEATH 0x08
#define CGROUP_SUPER_MAGIC 0x27e0eb
#define CGROUP2_SUPER_MAGIC 0x63677270

int memcg_openat2(int directory, const char *path, uint64_t flags, uint64_t resolve);
int64_t memcg_file_system_magic(int fd);
int memcg_timer_create(void);
int memcg_timer_set(int fd, int64_t nanoseconds);
int memcg_inotify_create(void);
int memcg_inotify_add(int fd, int directory, uint32_t mask);
int memcg_inotify_remove(int fd, int watch);
int64_t memcg_poll_create(void);
int memcg_poll_begin(int64_t context, int fd, int events, int eventfd);
int memcg_poll_found(int64_t context);
void memcg_poll_destroy(int64_t context);

#endif
