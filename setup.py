"""What pyproject.toml cannot say: the compiled module, and a program that lands inside the package."""

import os
import platform
import sys
import sysconfig

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

NOTHING_TO_COMPILE_WITH = """
memcg could not compile its C parts (the compiler's own words are above). It needs a C compiler, the C
library's headers and the headers of this Python ({python}). Install them and try again:

    Debian, Ubuntu    apt-get install gcc libc6-dev python3-dev
    Fedora, RHEL      dnf install gcc glibc-devel python3-devel
"""

WARNINGS = ["-Wall", "-Wextra"] + (["-Werror"] if os.environ.get("CI") else [])

# The guard does without a C library where it knows the machine's system calls (csrc/sys.h): all of it is then a
# few pages, which can be locked in memory.
FREESTANDING = platform.machine() in ("x86_64", "aarch64")
GUARD_SOURCES = [
    *("csrc/guard.c", "csrc/loop.c", "csrc/owner.c", "csrc/hold.c", "csrc/group.c", "csrc/files.c"),
    *("csrc/hold_v1.c", "csrc/group_v1.c", "csrc/limits.c", "csrc/children.c", "csrc/leave.c"),
    *("csrc/hold_v2.c", "csrc/group_v2.c", "csrc/worker.c"),
]
GUARD_COMPILE = [
    *("-O2", "-DMEMCG_FREESTANDING", "-ffreestanding", "-fno-stack-protector", "-fno-lto", "-fno-pie"),
    *("-U_FORTIFY_SOURCE", "-fno-tree-loop-distribute-patterns"),
]
GUARD_LINK = ["-nostdlib", "-nostartfiles", "-static", "-no-pie"]


class Executable(Extension):
    """A program that lands inside the package, next to the modules."""


class BuildExt(build_ext):
    def get_ext_filename(self, fullname: str) -> str:
        if isinstance(self.ext_map.get(fullname), Executable):
            return os.path.join(*fullname.split("."))
        name: str = super().get_ext_filename(fullname)  # type: ignore[no-untyped-call]
        return name

    def build_extension(self, ext: Extension) -> None:
        ext.extra_compile_args += WARNINGS
        try:
            if isinstance(ext, Executable):
                objects = self.compiler.compile(
                    ext.sources, output_dir=self.build_temp, extra_postargs=ext.extra_compile_args
                )
                self.compiler.link_executable(
                    objects, self.get_ext_fullpath(ext.name), extra_postargs=ext.extra_link_args
                )
            else:
                super().build_extension(ext)
        except (CompileError, FileNotFoundError) as error:
            raise SystemExit(f"{error}\n{NOTHING_TO_COMPILE_WITH.format(python=sys.executable)}") from error


# A free-threaded Python before 3.15 has no limited API, and bdist_wheel refuses the tag there.
abi3 = not sysconfig.get_config_var("Py_GIL_DISABLED")

setup(
    cffi_modules=["build_ffi.py:ffibuilder"],
    ext_modules=[
        Executable("memcg.memcg-enter", ["csrc/enter.c"]),
        Executable(
            "memcg.memcg-guard",
            GUARD_SOURCES,
            depends=["csrc/guard.h", "csrc/guard_protocol.h", "csrc/sys.h"],
            extra_compile_args=GUARD_COMPILE if FREESTANDING else [],
            extra_link_args=GUARD_LINK if FREESTANDING else [],
        ),
    ],
    cmdclass={"build_ext": BuildExt},
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if abi3 else {},
)
