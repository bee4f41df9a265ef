"""Telling a service manager how things are: sd_notify(3), without its library."""

from __future__ import annotations

import os
import socket
import sys

_PATIENCE = 5
"""Seconds for which a manager may be too busy to take a message."""


def notify(*assignments: str) -> None:
    """Sends *assignments*, such as ``"READY=1"``, to the service manager, where there is one that wants them.

    It has left the address of a datagram socket in ``NOTIFY_SOCKET``: a path, or ``@`` and an abstract name. Where
    that cannot be reached there is a warning, and no more: what the service does for others goes on.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    try:
        if address[0] not in "/@":
            raise OSError("it is neither a full path nor an abstract name")
        name = b"\0" + os.fsencode(address[1:]) if address[0] == "@" else os.fsencode(address)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
            manager.settimeout(_PATIENCE)
            manager.sendto("\n".join(assignments).encode(errors="replace"), name)
    except OSError as error:
        print(f"memcg: cannot tell the service manager at NOTIFY_SOCKET={address}: {error}", file=sys.stderr)
