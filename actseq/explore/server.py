"""The server of the page: a free port, and uvicorn without a log of requests."""

from __future__ import annotations

import errno
import socket

import uvicorn

from actseq.errors import ConfigError
from actseq.explore.guard import App

PORTS = 20
"""Ports that are tried, from the given one on."""


def bind(address: str, port: int) -> socket.socket:
    """A socket that listens on the first free port from `port` on.

    Raises:
        ConfigError: all of `PORTS` ports are taken, or the address is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    last = min(port + PORTS, 65536)
    for one in range(port, last):
        try:
            return socket.create_server((address, one), family=family)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise ConfigError(
                    f"{address} cannot be listened on ({error.strerror})", "an address of this machine"
                ) from None
    raise ConfigError(f"ports {port} to {last - 1} are taken", action="name another with --port")


def server_of(app: App) -> uvicorn.Server:
    """A server that logs no requests: the token must not be in a log."""
    return uvicorn.Server(
        uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, proxy_headers=False, lifespan="off"
        )
    )


def serve(app: App, listening: socket.socket) -> None:
    """Answer until the process is told to stop."""
    server_of(app).run(sockets=[listening])
