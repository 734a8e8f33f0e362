"""From the command to a service that listens, and to its end: SIGTERM and Ctrl-C finish what runs, then exit with 0."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable
from contextlib import suppress

import uvicorn

from talk2dino.errors import OutputError
from talk2dino.server.app import create_app, is_loading
from talk2dino.server.options import ServeOptions
from talk2dino.server.protocol import server_config
from talk2dino.server.workers import run_workers

log = logging.getLogger(__name__)


def serve(
    options: ServeOptions, *, on_listening: Callable[[str], None] | None = None, open_browser: bool = False,
    prepare_worker: Callable[[], None] | None = None,
) -> None:  # fmt: skip
    """Run the service until it is stopped.

    Args:
        on_listening: called with the address once the service listens.
        open_browser: show the page.
        prepare_worker: called first in each of several processes.

    Raises:
        OutputError: the address cannot be listened on. Talk2DinoError: the model cannot be loaded.
    """
    listener = listen(options.host, options.port)
    address = address_of(listener)
    try:
        with suppress(KeyboardInterrupt):  # uvicorn has stopped gracefully and repeats the signal

            def announce() -> None:
                if on_listening is not None:
                    on_listening(address)
                if open_browser:
                    threading.Timer(0.5, webbrowser.open, [address]).start()

            if options.workers > 1:
                announce()
                run_workers(options, listener, prepare_worker)
            else:
                _run_here(options, listener, announce)
    finally:
        listener.close()


def _run_here(options: ServeOptions, listener: socket.socket, announce: Callable[[], None]) -> None:
    """The service in this process. Signals count from the announcement on, also before uvicorn looks for them."""
    failures: list[Exception] = []

    def fail(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    server = uvicorn.Server(server_config(create_app(options, on_failure=fail), options))
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, server.handle_exit) for number in numbers}
    try:
        announce()
        server.run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if failures:
        raise failures[0]


def leave_if_loading() -> None:
    """End the process at once, with exit code 0, if it was stopped while the model was loading.

    A library that is being imported in a thread can abort the process when Python shuts down around it.
    """
    if is_loading():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        OutputError: the port is taken or not allowed, or there is no such address.
    """
    bare = host.strip("[]")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(bare, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise OutputError(f"{host} is not an address that can be listened on: {error.strerror or error}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(512)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise OutputError(
                f"port {port} of {host} is taken by another program: choose another with --port, or --port 0 for a free one"
            ) from None
        if error.errno == errno.EACCES:
            raise OutputError(f"this user may not listen on port {port}: choose one above 1023 with --port") from None
        raise OutputError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from None
    listener.setblocking(False)
    return listener


def address_of(listener: socket.socket) -> str:
    """http://127.0.0.1:8000 for a socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
