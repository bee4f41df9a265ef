"""Builds ``memcg._ffi``: the few system calls that Python's ``os`` does not have, and the way to the guard."""

import re
from pathlib import Path

from cffi import FFI

ffibuilder = FFI()

# The messages are defined once, in C. What cffi cannot read of that file is the preprocessor's.
protocol = Path(__file__).with_name("csrc").joinpath("guard_protocol.h").read_text()
ffibuilder.cdef(re.sub(r"^#.*$", "", protocol, flags=re.MULTILINE))

ffibuilder.cdef(
    """
    #define RESOLVE_NO_XDEV ...
    #define RESOLVE_NO_MAGICLINKS ...
    #define RESOLVE_NO_SYMLINKS ...
    #define RESOLVE_BENEATH ...
    #define CGROUP_SUPER_MAGIC ...
    #define CGROUP2_SUPER_MAGIC ...

    /* Each returns a negated errno where it fails. */
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

    int memcg_guard_socket(int *guards_end);
    int memcg_guard_start(const char *program, int guards_end);
    void memcg_guard_keep_from_children(int socket, int stand_in);
    int memcg_guard_call(int socket, const struct memcg_request *request, const int *fds, int count,
                         struct memcg_reply *reply, int *fd, int milliseconds);
    void memcg_guard_hang_up(int socket);
    const void *memcg_map_table(int fd);
    void memcg_unmap_table(const void *table);
    int memcg_read_record(const void *table, uint32_t slot, struct memcg_record *record);
    """
)

ffibuilder.set_source(
    "memcg._ffi",
    '#include "syscalls.h"\n#include "client.h"',
    sources=["csrc/syscalls.c", "csrc/client.c"],
    include_dirs=["csrc"],
    define_macros=[("Py_LIMITED_API", "0x030a0000")],
    py_limited_api=True,
)

if __name__ == "__main__":
    ffibuilder.compile(tmpdir="src", verbose=True)
