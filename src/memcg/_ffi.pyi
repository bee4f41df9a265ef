"""Types of the compiled module; see build_ffi.py and csrc/syscalls.c."""

class _Lib:
    RESOLVE_NO_XDEV: int
    RESOLVE_NO_MAGICLINKS: int
    RESOLVE_NO_SYMLINKS: int
    RESOLVE_BENEATH: int
    CGROUP_SUPER_MAGIC: int
    CGROUP2_SUPER_MAGIC: int
    def memcg_openat2(self, directory: int, path: bytes, flags: int, resolve: int) -> int: ...
    def memcg_file_system_magic(self, fd: int) -> int: ...
    def memcg_timer_create(self) -> int: ...
    def memcg_timer_set(self, fd: int, nanoseconds: int) -> int: ...

lib: _Lib
