"""The package as a whole: its public names, its import, and its floors."""

from __future__ import annotations

import ast
import dataclasses
import importlib.metadata
import inspect
import json
import re
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple, get_type_hints

import pytest

import memcg
from unit.helpers import run_python

PACKAGE = Path(memcg.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path != PACKAGE / "__init__.py"
}
OBJECTS = {
    name: thing
    for name in memcg.__all__
    if inspect.isroutine(thing := getattr(memcg, name)) or inspect.isclass(thing)
}


# Names.


def test_every_public_name_exists_once() -> None:
    """__all__ is sorted, without repetition, and everything in it is there."""
    assert list(memcg.__all__) == sorted(set(memcg.__all__))
    assert all(hasattr(memcg, name) for name in memcg.__all__)


def test_nothing_else_looks_public() -> None:
    """What can be seen in the package is public, or one of its modules, or underscored."""
    visible = {name for name in vars(memcg) if not name.startswith("_")}
    assert visible - set(memcg.__all__) - {name.split(".")[0] for name in MODULES} == {"sys"}


@pytest.mark.parametrize("name", OBJECTS)
def test_what_is_public_is_of_memcg(name: str) -> None:
    """Public classes and functions call themselves memcg.NAME, wherever they are defined."""
    thing = OBJECTS[name]
    assert thing.__module__ == "memcg"
    assert thing.__qualname__ == name


def test_aliases_and_constants_are_the_only_others() -> None:
    """Public names that are neither classes nor functions are the known sizes, units and unions."""
    assert set(memcg.__all__) - OBJECTS.keys() == {
        "KiB",
        "MiB",
        "GiB",
        "Bytes",
        "Count",
        "Pages",
        "Counter",
        "Event",
        "HoldEvent",
        "HoldState",
        "Locked",
        "Microseconds",
        "Percent",
        "Rearm",
        "Trigger",
        "system",
        "Seconds",
    }


@pytest.mark.parametrize("name", OBJECTS)
def test_what_is_public_is_documented(name: str) -> None:
    """Public classes, functions, and their public methods and properties, have docstrings."""
    thing = OBJECTS[name]
    assert inspect.getdoc(thing)
    assert thing.__doc__ is None or not thing.__doc__.startswith(f"{name}(")  # which dataclass makes up
    members = vars(thing).items() if inspect.isclass(thing) else ()
    for member, value in members:
        if not member.startswith("_") and (inspect.isroutine(value) or isinstance(value, property)):
            assert inspect.getdoc(getattr(thing, member)), f"{name}.{member}"


@pytest.mark.parametrize("name", [name for name, thing in OBJECTS.items() if dataclasses.is_dataclass(thing)])
def test_annotations_of_dataclasses_can_be_resolved(name: str) -> None:
    """typing.get_type_hints() works on public dataclasses, as libraries that convert them need it."""
    hints = get_type_hints(OBJECTS[name], include_extras=True)
    assert {field.name for field in dataclasses.fields(getattr(memcg, name))} <= hints.keys()


def test_the_package_is_typed() -> None:
    """py.typed tells type checkers to read the annotations."""
    assert (PACKAGE / "py.typed").exists()


def test_the_import_is_refused_elsewhere() -> None:
    """On another system than Linux, importing memcg is an ImportError that says why."""
    run_python(
        """
        import sys
        sys.platform = "darwin"
        try:
            import memcg
        except ImportError as error:
            assert "only Linux" in str(error)
        else:
            raise SystemExit("imported")
        """
    )


# Importing.


def test_importing_opens_and_starts_nothing() -> None:
    """After the import no more files are open, no thread or process runs, and anyio is not there."""
    told = json.loads(
        run_python(
            """
            import json, os, signal, sys, threading

            def state():
                return {
                    "files": {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if
                              os.path.lexists(f"/proc/self/fd/{fd}")},
                    "tasks": len(os.listdir("/proc/self/task")),
                    "children": open("/proc/self/task/%d/children" % os.getpid()).read(),
                    "signals": [str(signal.getsignal(number)) for number in signal.valid_signals()],
                    "excepthook": sys.excepthook is sys.__excepthook__,
                }

            before = state()
            import memcg
            after = state()
            heavy = sorted({"anyio", "asyncio", "trio", "cffi"} & set(sys.modules))
            print(json.dumps([before, after, heavy]))
            """,
        )
    )
    before, after, heavy = told
    assert after == before
    assert heavy == []


def test_importing_reads_nothing_of_cgroups() -> None:
    """`import memcg` opens nothing in /proc and /sys: it works where there are no cgroups, and costs nothing."""
    opened = json.loads(
        run_python(
            """
            import json, sys
            opened = []

            def hook(event, arguments):
                if event == "open" and str(arguments[0]).startswith(("/proc", "/sys")):
                    opened.append(str(arguments[0]))
                elif event.startswith(("subprocess.", "os.fork", "os.exec", "os.posix_spawn", "socket.")):
                    opened.append(event)

            sys.addaudithook(hook)
            import memcg
            print(json.dumps(opened))
            """
        )
    )
    assert opened == []


def test_anyio_is_imported_when_something_is_awaited() -> None:
    """Blocking use never needs anyio, and the first await brings it."""
    run_python(
        """
        import asyncio, sys, memcg
        with memcg.EventFD(1) as event:
            event.read()
            assert "anyio" not in sys.modules
            event.write()
            asyncio.run(event.aread())
            assert "anyio" in sys.modules
        """
    )


def test_the_command_is_installed() -> None:
    """The distribution has the command `memcg`, and `python -m memcg` is the same."""
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="memcg")
    assert command.value == "memcg.cli:main"
    assert "demo" in run_python("import runpy, sys; sys.argv = ['memcg', '--help']; runpy.run_module('memcg')")


# Floors, from the ground up: each imports only what is below it.

FLOORS = [
    "_ffi errors units",
    "fd epoll timer eventfd pidfd inotify kernelpoll",
    "cgroupfs",
    "controls",
    "notify",
    "victims",
    "oom",
    "spawn",
    "cgroup temporary system",
    "cli",
    "__main__",
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms.split()}


class Import(NamedTuple):
    """One import of a module of ours."""

    importer: str
    imported: str
    typing_only: bool
    within: str
    """The function that it is in, if any."""


class Imports(ast.NodeVisitor):
    """Finds the imports of one module."""

    def __init__(self, module: str, package: list[str]) -> None:
        self.ours: list[Import] = []
        self.others: list[tuple[str, str]] = []
        self._module = module
        self._package = package
        self._typing_only = False
        self._function = ""

    def visit_If(self, node: ast.If) -> None:
        """The body of ``if TYPE_CHECKING`` does not run."""
        former, self._typing_only = (
            self._typing_only,
            self._typing_only or ast.unparse(node.test) == "TYPE_CHECKING",
        )
        for child in node.body:
            self.visit(child)
        self._typing_only = former
        for child in node.orelse:
            self.visit(child)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        """What is in a function is imported late."""
        former, self._function = self._function, getattr(node, "name", "lambda")
        self.generic_visit(node)
        self._function = former

    visit_AsyncFunctionDef = visit_Lambda = visit_FunctionDef  # noqa: N815

    def visit_Import(self, node: ast.Import) -> None:
        """``import a.b``."""
        for alias in node.names:
            self._found(alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """``from .a import b``, where b may be a module too."""
        if node.level == 0:
            self._found(node.module or "")
            return
        base = self._package[: len(self._package) - node.level + 1]
        for alias in node.names:
            parts = [*base, *(node.module.split(".") if node.module else []), alias.name]
            name = ".".join(parts) if ".".join(parts) in MODULES else ".".join(parts[:-1])
            self._found(f"memcg.{name}" if name else "memcg")

    def _found(self, name: str) -> None:
        if name == "memcg" or name.startswith("memcg."):
            self.ours.append(
                Import(self._module, name.removeprefix("memcg").lstrip("."), self._typing_only, self._function)
            )
        elif not self._typing_only:
            self.others.append((name.split(".")[0], self._function))


def imports(module: str) -> Imports:
    """What *module* imports."""
    path = MODULES[module]
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    found = Imports(module, package)
    found.visit(ast.parse(path.read_text()))
    return found


def floor(module: str) -> int:
    """The number of the floor that *module* is on."""
    return FLOOR[module.split(".")[0]]


def ours() -> Iterator[Import]:
    """All imports of modules of ours, by modules of ours."""
    for module in MODULES:
        yield from imports(module).ours


def test_every_module_is_on_a_floor() -> None:
    """The floors name all rooms that there are, and no others."""
    assert {name.split(".")[0] for name in MODULES} | {"_ffi"} == FLOOR.keys()
    assert sum(1 for _ in ours()) > 50


def test_no_import_runs_upward() -> None:
    """At run time each module imports only from its own floor and those below."""
    upward = [each for each in ours() if not each.typing_only and floor(each.imported) > floor(each.importer)]
    assert upward == []


def test_for_types_only_the_group_is_looked_up_to() -> None:
    """Annotations may name a group from anywhere, and nothing else of a higher floor."""
    upward = [each for each in ours() if each.typing_only and floor(each.imported) > floor(each.importer)]
    assert {each.imported for each in upward} == {"cgroup"}


def test_there_is_no_circle_of_imports() -> None:
    """Also within a floor, no two modules need each other."""
    graph: dict[str, set[str]] = {}
    for each in ours():
        if not each.typing_only:
            graph.setdefault(each.importer, set()).add(each.imported)
    TopologicalSorter(graph).prepare()


def test_no_import_of_ours_hides_in_a_function() -> None:
    """What a module of ours needs of others of ours is at its top."""
    assert [each for each in ours() if each.within] == []


def test_no_module_imports_the_package_itself() -> None:
    """Within the package, names come from where they are defined."""
    assert [each for each in ours() if not each.imported] == []


def test_anyio_is_imported_in_one_place() -> None:
    """anyio is for awaiting, and awaiting is done in one module, inside of functions; all else is the standard
    library."""
    others = {(module, name, bool(within)) for module in MODULES for name, within in imports(module).others}
    foreign = {each for each in others if each[1] not in sys.stdlib_module_names}
    assert foreign == {("epoll", "anyio", True)}


def test_nothing_below_the_command_line_prints() -> None:
    """Only `cli` writes to the terminal."""
    for module, path in MODULES.items():
        if floor(module) < FLOOR["cli"]:
            assert not re.search(r"\bprint\(|sys\.std(out|err)", path.read_text()), module
