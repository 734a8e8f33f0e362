"""Several worker processes behind one address, each with a model of its own, and the process that watches over them.

The first worker answers while its model is loading; the others, and those that replace one that died, accept requests
when their models are there.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType

import uvicorn

from talk2dino.errors import Talk2DinoError
from talk2dino.server.app import create_app, is_loading
from talk2dino.server.forward import Worker
from talk2dino.server.options import ServeOptions
from talk2dino.server.protocol import server_config
from talk2dino.threads import available_cores

log = logging.getLogger(__name__)

#: A worker that dies is replaced, but not more often than this many times in a minute.
MOST_RESTARTS = 5


def run_workers(options: ServeOptions, listener: socket.socket, prepare: Callable[[], None] | None = None) -> None:
    """Run ``options.workers`` processes until SIGTERM or Ctrl-C.

    Args:
        prepare: called first in each worker, for example to set up logging; it must be importable.

    Raises:
        Talk2DinoError: the model cannot be loaded, or workers die again and again.
    """
    folder = Path(tempfile.mkdtemp(prefix="talk2dino-"))  # only this user can open it
    (folder / "metrics").mkdir()
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder / "metrics")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // options.workers)))
    group = _Group(options, listener, folder, prepare)
    try:
        group.run()
    finally:
        group.stop()
        shutil.rmtree(folder, ignore_errors=True)
        del os.environ["PROMETHEUS_MULTIPROC_DIR"]


class _Group:
    """The workers by number, with the pipe on which each says once how its start went."""

    def __init__(
        self, options: ServeOptions, listener: socket.socket, folder: Path, prepare: Callable[[], None] | None
    ) -> None:
        self.options, self.listener, self.folder, self.prepare = options, listener, folder, prepare
        self.context = multiprocessing.get_context("spawn")  # torch does not survive a fork
        self.workers: dict[int, tuple[BaseProcess, Connection]] = {}
        self.restarts: list[float] = []
        self.ready = False
        self.stopping = False

    def run(self) -> None:
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self._stop_soon)
        for number in range(self.options.workers):
            self._start(number, wait_for_model=number > 0)
        while not self.stopping:
            pipes = [pipe for _, pipe in self.workers.values() if not pipe.closed]
            wait([*pipes, *(process.sentinel for process, _ in self.workers.values())], timeout=0.5)
            for number, (process, pipe) in list(self.workers.items()):
                self._listen_to(pipe)
                if not process.is_alive() and not self.stopping:
                    self._replace(number, process)

    def stop(self) -> None:
        """Let every worker finish what runs."""
        for process, _ in self.workers.values():
            if process.is_alive():
                process.terminate()
        limit = time.monotonic() + self.options.stop_seconds + 10
        for process, pipe in self.workers.values():
            process.join(max(0.1, limit - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
            pipe.close()

    def _stop_soon(self, number: int, frame: object) -> None:
        self.stopping = True

    def _start(self, number: int, *, wait_for_model: bool) -> None:
        ours, theirs = self.context.Pipe(duplex=False)
        process = self.context.Process(
            target=run_worker, name=f"talk2dino-worker-{number}",
            args=(self.options, number, self.listener, self.folder, theirs, wait_for_model, self.prepare),
        )  # fmt: skip
        process.start()
        theirs.close()
        self.workers[number] = (process, ours)

    def _listen_to(self, pipe: Connection) -> None:
        if pipe.closed or not pipe.poll():
            return
        try:
            failure = pipe.recv()
        except EOFError:
            failure = None
        else:
            self.ready = self.ready or failure is None
        pipe.close()
        if failure is not None:
            raise Talk2DinoError(failure)

    def _replace(self, number: int, process: BaseProcess) -> None:
        from prometheus_client.multiprocess import mark_process_dead

        if process.pid is not None:
            mark_process_dead(process.pid)
        now = time.monotonic()
        self.restarts = [moment for moment in self.restarts if moment > now - 60] + [now]
        if not self.ready or len(self.restarts) > MOST_RESTARTS:
            raise Talk2DinoError(f"worker {number} ended with exit code {process.exitcode}; its messages say why")
        log.warning("worker %d ended with exit code %s and is started again", number, process.exitcode)
        self._start(number, wait_for_model=True)


def run_worker(
    options: ServeOptions, number: int, listener: socket.socket, folder: Path, pipe: Connection, wait_for_model: bool,
    prepare: Callable[[], None] | None,
) -> None:  # fmt: skip
    """One worker: the entry point of its process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # until the server handles signals
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if prepare is not None:
        prepare()
    segmenter = None
    if wait_for_model:
        try:
            from talk2dino.server.models import load_segmenter

            segmenter = load_segmenter(options)
        except Talk2DinoError as error:
            pipe.send(str(error))
            return

    def fail(error: Exception) -> None:
        pipe.send(str(error))
        server.should_exit = True

    worker = Worker(number, options.workers, folder)
    app = create_app(options, segmenter, worker=worker, on_failure=fail, on_ready=lambda: pipe.send(None))
    server = _Server(server_config(app, options))
    with suppress(KeyboardInterrupt):
        server.run(sockets=[listener, worker.listen()])
    if is_loading():
        os._exit(0)  # see lifecycle.leave_if_loading


class _Server(uvicorn.Server):
    """Ctrl-C reaches all processes of a terminal; the one that watches stops the others."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig != signal.SIGINT:
            super().handle_exit(sig, frame)


def _end_with_parent() -> None:
    """Stop when the process that watches is gone, also if it was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
