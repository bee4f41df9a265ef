"""Telling a service manager how things are, over a real datagram socket."""

from __future__ import annotations

import os
import secrets
import socket
from typing import TYPE_CHECKING

import pytest

from memcg.cli import service
from memcg.cli.service import notify
from unit.helpers import open_fds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """The manager's end, at an address of each kind, to which NOTIFY_SOCKET leads."""
    name = secrets.token_hex(8)
    address = f"@memcg-{name}" if request.param == "abstract" else str(tmp_path / name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address.replace("@", "\0", 1) if address[0] == "@" else address)
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        yield manager


def test_what_is_told(manager: socket.socket, capsys: pytest.CaptureFixture[str]) -> None:
    """Each call is one datagram, with one assignment a line, and nothing is left open."""
    before = open_fds()
    notify("READY=1", "STATUS=held: ä")
    notify("STOPPING=1")
    assert manager.recv(1000) == "READY=1\nSTATUS=held: ä".encode()
    assert manager.recv(1000) == b"STOPPING=1"
    assert open_fds() == before
    assert capsys.readouterr() == ("", "")


def test_a_name_of_no_encoding(manager: socket.socket) -> None:
    """A name that is no text is told as well as it can be."""
    notify(f"STATUS={os.fsdecode(bytes([97, 255]))}")
    assert manager.recv(1000) == b"STATUS=a?"


@pytest.mark.parametrize("value", [None, ""])
def test_no_manager(
    value: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nobody wants to know, nothing is said."""
    if value is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", value)
    notify("READY=1")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("address", ["/none/socket", "@memcg-nobody", "relative", "vsock:2:1", "/" + "x" * 200])
def test_a_manager_that_cannot_be_reached(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """That is a warning, which names the address, and no error."""
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify("READY=1")
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.startswith(f"memcg: cannot tell the service manager at NOTIFY_SOCKET={address}: ")


def test_a_manager_that_does_not_listen(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A manager whose queue is full does not keep the service from its work."""
    monkeypatch.setattr(service, "_PATIENCE", 0.01)
    for _ in range(10_000):
        notify("STATUS=x")
        if errors := capsys.readouterr().err:
            assert "timed out" in errors
            return
    raise AssertionError("the queue has no end")
