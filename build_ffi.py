"""Builds ``memcg._ffi``: the few system calls that Python's ``os`` does not have."""

from cffi import FFI

ffibuilder = FFI()

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
    """
)

ffibuilder.set_source(
    "memcg._ffi",
    '#include "syscalls.h"',
    sources=["csrc/syscalls.c"],
    include_dirs=["csrc"],
    define_macros=[("Py_LIMITED_API", "0x030a0000")],
    py_limited_api=True,
)

if __name__ == "__main__":
    ffibuilder.compile(tmpdir="src", verbose=True)
