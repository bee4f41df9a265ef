"""Types of the compiled module; see build_ffi.py, csrc/syscalls.h, csrc/client.h and csrc/guard_protocol.h."""

from collections.abc import Callable
from mmap import mmap
from typing import Literal, overload

class Request:
    kind: int
    slot: int
    flags: int
    delay: int
    total: int
    bytes: int
    path: int

class Reply:
    error: int
    step: int
    done: int
    slot: int
    kernel: int
    locked: int
    guard: int
    keeper: int
    warden: int
    bytes: int

class Record:
    state: int
    delay: int
    deadline: int
    ooms: int
    oom_time: int
    resolved: int
    resolved_time: int
    expirations: int
    expired_time: int
    told: int
    kills: int
    frozen: int
    why: int
    missed: int
    false_freezes: int
    headroom: int

class _Ints:
    def __getitem__(self, index: int) -> int: ...

class Table:
    def __bool__(self) -> bool: ...

class _FFI:
    @overload
    def new(self, kind: Literal["struct memcg_request *"]) -> Request: ...
    @overload
    def new(self, kind: Literal["struct memcg_reply *"]) -> Reply: ...
    @overload
    def new(self, kind: Literal["struct memcg_record *"]) -> Record: ...
    @overload
    def new(self, kind: Literal["int[]"], values: list[int]) -> _Ints: ...
    def from_buffer(self, memory: mmap) -> Table: ...
    def release(self, memory: Table) -> None: ...
    def sizeof(self, kind: Literal["struct memcg_record"]) -> int: ...
    def gc(self, table: Table, destructor: Callable[[Table], None]) -> Table: ...

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
    def memcg_inotify_create(self) -> int: ...
    def memcg_inotify_add(self, fd: int, directory: int, mask: int) -> int: ...
    def memcg_inotify_remove(self, fd: int, watch: int) -> int: ...
    def memcg_poll_create(self) -> int: ...
    def memcg_poll_begin(self, context: int, fd: int, events: int, eventfd: int) -> int: ...
    def memcg_poll_found(self, context: int) -> int: ...
    def memcg_poll_destroy(self, context: int) -> None: ...

    MEMCG_HOLDS: int
    MEMCG_HELLO: int
    MEMCG_HOLD: int
    MEMCG_RELEASE: int
    MEMCG_DELAY: int
    MEMCG_RAISE: int
    MEMCG_KILL: int
    MEMCG_WAKE: int
    MEMCG_EXPIRE: int
    MEMCG_LOOK: int
    MEMCG_TAKEOVER: int
    MEMCG_ONCE: int
    MEMCG_FOREIGN_LOCK: int
    MEMCG_BY: int
    MEMCG_UNTIL_RESOLVED: int
    MEMCG_FINAL: int
    MEMCG_STEP_MESSAGE: int
    MEMCG_STEP_SLOT: int
    MEMCG_STEP_DIRECTORY: int
    MEMCG_STEP_FILES: int
    MEMCG_STEP_LOCK: int
    MEMCG_STEP_MARK: int
    MEMCG_STEP_WATCH: int
    MEMCG_STEP_REGISTER: int
    MEMCG_STEP_KILLER: int
    MEMCG_STEP_SWITCH: int
    MEMCG_STEP_LIMIT: int
    MEMCG_STEP_SIGNAL: int
    MEMCG_STEP_FROZEN: int
    MEMCG_STEP_HIGH: int
    MEMCG_STEP_HEADROOM: int
    MEMCG_STEP_WORKER: int
    MEMCG_LOCKED_NONE: int
    MEMCG_LOCKED_HOT: int
    MEMCG_LOCKED_ALL: int
    MEMCG_FREE: int
    MEMCG_ARMED: int
    MEMCG_OOM: int
    MEMCG_EXPIRED: int
    MEMCG_HANDED_OVER: int
    MEMCG_OVERRIDDEN: int
    MEMCG_WHY_SWITCH: int
    MEMCG_WHY_HIGH: int
    MEMCG_WHY_INSIDE: int
    MEMCG_REMOVED: int
    def memcg_guard_socket(self, guards_end: _Ints) -> int: ...
    def memcg_guard_start(self, program: bytes, guards_end: int) -> int: ...
    def memcg_guard_keep_from_children(self, socket: int, stand_in: int) -> None: ...
    def memcg_guard_call(
        self,
        socket: int,
        request: Request,
        fds: _Ints,
        count: int,
        reply: Reply,
        fd: _Ints,
        milliseconds: int,
    ) -> int: ...
    def memcg_guard_hang_up(self, socket: int) -> None: ...
    def memcg_map_table(self, fd: int) -> Table: ...
    def memcg_unmap_table(self, table: Table) -> None: ...
    def memcg_read_record(self, table: Table, slot: int, record: Record) -> int: ...

ffi: _FFI
lib: _Lib
