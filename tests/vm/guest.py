"""A guest: its boot, the steps that it carries out, and its end, at the latest at the deadline."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from .disk import REPOSITORY

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from .disk import Disk
    from .kernels import Kernel, Row

ROOT, USER = 0, 4242
"""Who carries out a step: root, or the user to whom a group was given."""

ARGUMENTS = ("psi=1", "nowatchdog", "mitigations=off", "norandmaps", "init_on_alloc=0", "clearcpuid=rep_good")
"""What the kernel is told. Emulated, code at a new address is translated anew, and ``rep`` is slow."""

EMULATED = ("-cpu", "max,-erms,-fsrm,-smap,-la57")
"""The processor: without what costs an emulator more than it brings."""


@dataclass(frozen=True)
class Machine:
    """What can be chosen about a guest."""

    memory: str = "2G"
    cpus: int = 2
    append: tuple[str, ...] = ()
    qemu: tuple[str, ...] = ()
    swap: str = ""
    slow_disk: int = 0
    lru_gen: str = ""


@dataclass(frozen=True)
class Step:
    """A command for a guest, and who carries it out."""

    name: str
    uid: int
    command: str


@dataclass
class Outcome:
    """What became of a boot."""

    directory: Path
    seconds: float = 0.0
    timed_out: bool = False
    booted: float | None = None
    """After how many seconds the guest was ready, or None if it never was."""
    release: str = ""
    statuses: dict[str, int] = field(default_factory=dict)
    """How each step ended that did."""

    def tail(self, name: str, lines: int = 25) -> str:
        """The end of what a step printed, or of the ``console``."""
        text = (self.directory / name).read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])


def boot(
    row: Row,
    kernel: Kernel,
    disk: Disk,
    steps: Sequence[Step],
    results: Path,
    *,
    machine: Machine,
    deadline: int,
    show: Callable[[bytes], object],
    stop: threading.Event | None = None,
) -> Outcome:
    """Boots a guest that carries out the steps, and waits for its end, for *deadline* seconds at most.

    In *results* are then, of each step, ``NAME.out``, what it printed, which *show* gets as it comes, and
    ``NAME.xml``, what it wrote to ``$TMPDIR/NAME.xml``; and ``console``, what kernel and virtme-ng said.
    """
    results.mkdir(parents=True, exist_ok=True)
    for old in (*results.glob("*.out"), *results.glob("*.xml"), *results.glob("*.status"), results / "booted"):
        old.unlink(missing_ok=True)
    settings = {
        "repository": REPOSITORY,
        "venv": sys.prefix,
        "version": row.version,
        "user": USER,
        "swap": machine.swap,
        "lru_gen": machine.lru_gen,
    }
    lines = (f"{name}={shlex.quote(str(value))}\n" for name, value in settings.items())
    (results / "settings").write_text("".join(lines))
    (results / "paths").write_text("".join(f"{path}\n" for path in disk.paths))
    (results / "steps").write_text("".join(f"{step.name} {step.uid}\n" for step in steps))
    for step in steps:
        (results / f"{step.name}.sh").write_text(step.command + "\n")
        (results / f"{step.name}.out").touch()

    outcome = Outcome(results)
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="memcg-vm-")))
        console = stack.enter_context((results / "console").open("wb"))
        outputs = [stack.enter_context((results / f"{step.name}.out").open("rb")) for step in steps]
        command = _virtme(row, kernel, disk, results, machine, scratch)
        # Whatever becomes of this process, the guest ends.
        command = ["timeout", "--signal=KILL", str(deadline), *command]
        guest = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True
        )
        try:
            while guest.poll() is None and not (stop and stop.is_set()):
                if outcome.booted is None and (results / "booted").exists():
                    outcome.booted = time.monotonic() - began
                _show(outputs, show)
                time.sleep(0.1)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(guest.pid, signal.SIGKILL)
            guest.wait()
        _show(outputs, show)
    outcome.seconds = time.monotonic() - began
    outcome.timed_out = outcome.seconds >= deadline
    if outcome.booted is not None:
        outcome.release = (results / "booted").read_text().strip()
    for step in steps:
        status = results / f"{step.name}.status"
        if status.exists():
            outcome.statuses[step.name] = int(status.read_text())
    return outcome


def _virtme(row: Row, kernel: Kernel, disk: Disk, results: Path, machine: Machine, scratch: Path) -> list[str]:
    """The command line of virtme-ng."""
    drives = {"image": f"file={disk.file},readonly=on"}
    if machine.swap:
        swap = scratch / "swap"
        subprocess.run(["truncate", "-s", machine.swap, swap], check=True)
        slow = f",throttling.iops-total={machine.slow_disk}" if machine.slow_disk else ""
        drives["swap"] = f"file={swap}{slow}"
    devices = []
    for name, drive in drives.items():
        devices += ["-drive", f"if=none,id={name},format=raw,{drive}"]
        devices += ["-device", f"virtio-blk-pci,drive={name},serial={name}"]
    guest = Path(__file__).with_name("guest.sh")
    kvm = bool(os.environ.get("KVM"))
    return [
        *(f"{sys.prefix}/bin/vng", "--run", str(kernel.image), "--verbose", "--force-9p", "--cwd", "/"),
        *("--memory", machine.memory, "--cpus", str(machine.cpus), f"--rwdir=/run/vm={results}"),
        *(() if kvm else ("--disable-kvm",)),
        *(f"--append={argument}" for argument in (*ARGUMENTS, *row.arguments, *machine.append)),
        f"--qemu-opts={shlex.join([*(() if kvm else EMULATED), *devices, *machine.qemu])}",
        *("--exec", f"sh {shlex.quote(str(guest))} /run/vm"),
    ]


def _show(outputs: Sequence[BinaryIO], show: Callable[[bytes], object]) -> None:
    """Hands on what was printed since the last look."""
    for output in outputs:
        if news := output.read():
            show(news)
