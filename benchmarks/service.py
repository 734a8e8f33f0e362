"""The service beside the pipeline: throughput, full queues, asking again, memory.

    python benchmarks/service.py                          # about 20 minutes
    python benchmarks/service.py --quick                  # about 3 minutes: shorter runs, fewer requests
    python benchmarks/service.py --only throughput full   # sections: throughput, full, again, memory, sessions

Every figure is a ratio within one run. The service is a process of ``talk2dino serve`` on loopback with default settings;
``segment_batch`` runs in a process of its own with the same environment, before and after, never beside it. Images are JPEGs
of 640 x 480 (quality 90), ViT-B has random weights. All clients are one process that sends requests prepared beforehand over
kept connections and reads nothing of an answer but its status and length; it shares the machine with the service, and its
processor time is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

CLIENTS = 32
SILENCE = 120  # seconds without any answer that end a run
WORDS = ["person", "dog", "car", "tree", "house", "road", "sky", "grass", "boat", "chair", "table", "bird", "horse", "train",
         "sofa", "bottle", "plant", "screen", "bicycle", "cup"]  # fmt: skip
GOALS = {"vitb": 0.85, "micro": 0.60}
IMAGES = 16

#: Images per second of segment_batch, in a process of its own: arguments are model, folder of images, seconds.
_BATCH = """
import sys, time, json, resource
from pathlib import Path
from talk2dino import threads
threads.prepare()
from talk2dino import Segmenter
segmenter = Segmenter.from_pretrained(sys.argv[1])
files = [path.read_bytes() for path in sorted(Path(sys.argv[2]).glob("*.jpg"))]
words = json.loads(sys.argv[4])
text = segmenter.encode_text(words)
segmenter.segment_batch(files, text)
done, start = 0, time.perf_counter()
while (spent := time.perf_counter() - start) < float(sys.argv[3]):
    segmenter.segment_batch(files, text)
    done += len(files)
print(json.dumps([done / (time.perf_counter() - start), str(segmenter.dtype)]))
"""


@dataclass
class Load:
    """What the clients saw."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0
    own_seconds: float = 0.0  # processor time of the clients

    @property
    def rate(self) -> float:
        """Answers with status 200 per second."""
        return self.statuses[200] / self.seconds


class Connection:
    """One client: sends requests one after the other over a kept connection."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.socket = self._open()
        self.out = memoryview(b"")
        self.head, self.missing, self.status = b"", -1, 0

    def _open(self) -> socket.socket:
        connection = socket.create_connection(self.address)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)
        return connection

    def start(self, request: bytes) -> None:
        self.out, self.head, self.missing = memoryview(request), b"", -1

    def send(self) -> bool:
        """Send what the socket takes; whether all is sent."""
        self.out = self.out[self.socket.send(self.out) :]
        return not self.out

    def receive(self) -> bool:
        """Read what is there; whether the answer is complete.

        Raises:
            ConnectionError: the service closed the connection.
        """
        piece = self.socket.recv(1 << 20)
        if not piece:
            raise ConnectionError("the service closed a connection")
        if self.missing >= 0:
            self.missing -= len(piece)
            return self.missing <= 0
        self.head += piece
        end = self.head.find(b"\r\n\r\n")
        if end < 0:
            return False
        lines = self.head[:end].lower().split(b"\r\n")
        self.status = int(lines[0].split()[1])
        length = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:"))
        self.missing = length - (len(self.head) - end - 4)
        return self.missing <= 0


def run_clients(
    address: tuple[str, int], requests: Sequence[bytes], clients: int, *, seconds: float = 1e9, count: int = 1 << 60,
    watch: Callable[[int], None] | None = None,
) -> Load:  # fmt: skip
    """Let clients ask until the time is over or ``count`` requests are answered; ``watch`` is called after each answer."""
    load, started = Load(), 0
    connections = [Connection(address) for _ in range(clients)]
    begin, own = time.perf_counter(), time.process_time()
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            connection.start(requests[started % len(requests)])
            started += 1
            selector.register(connection.socket, selectors.EVENT_WRITE, connection)
        running = len(connections)
        while running:
            for key, _ in selector.select(SILENCE) or _silence():
                connection = key.data
                if connection.out:
                    if connection.send():
                        selector.modify(connection.socket, selectors.EVENT_READ, connection)
                    continue
                if not connection.receive():
                    continue
                load.statuses[connection.status] += 1
                if watch is not None:
                    watch(load.statuses.total())
                if time.perf_counter() - begin < seconds and started < count:
                    connection.start(requests[started % len(requests)])
                    started += 1
                    selector.modify(connection.socket, selectors.EVENT_WRITE, connection)
                else:
                    selector.unregister(connection.socket)
                    running -= 1
    load.seconds, load.own_seconds = time.perf_counter() - begin, time.process_time() - own
    for connection in connections:
        connection.socket.close()
    return load


def _silence() -> list:
    raise TimeoutError(f"no answer for {SILENCE} s")


# --- the service ---------------------------------------------------------------------------------------------------------


@dataclass
class Running:
    """A process of ``talk2dino serve``."""

    pid: int
    address: tuple[str, int]

    def memory(self, name: str = "VmRSS") -> float:
        """Megabytes: VmRSS now, VmHWM at most."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8")
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(name)) / 1000


@contextmanager
def service(model: str | Path, *options: str) -> Iterator[Running]:
    """Start the service on a free port, wait until it is ready, stop it at the end."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "talk2dino", "serve", "--model", str(model), "--port", str(port), *options]
    with tempfile.TemporaryFile("w+") as log:  # one line per request: more than a pipe holds
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
        try:
            for _ in range(600):
                time.sleep(0.2)
                if process.poll() is not None:
                    log.seek(0)
                    sys.exit(f"the service did not start: {log.read()}")
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5):
                        break
                except OSError:
                    continue
            yield Running(process.pid, ("127.0.0.1", port))
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def form(image: bytes, path: str = "/v1/segment", **fields: str) -> bytes:
    """A complete POST of a multipart form."""
    line = "--0f1e2d3c4b5a\r\nContent-Disposition: form-data; name="
    parts = [f'{line}"{name}"\r\n\r\n{value}\r\n'.encode() for name, value in fields.items()]
    body = b"".join([*parts, f'{line}"image"; filename="a.jpg"\r\n\r\n'.encode(), image, b"\r\n--0f1e2d3c4b5a--\r\n"])
    return _post(path, body, "multipart/form-data; boundary=0f1e2d3c4b5a")


def ask(path: str, **fields: object) -> bytes:
    """A complete POST of JSON."""
    return _post(path, json.dumps(fields).encode(), "application/json")


def _post(path: str, body: bytes, kind: str) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def once(running: Running, request: bytes) -> tuple[int, bytes, float]:
    """Status, body and seconds of one request."""
    begin = time.perf_counter()
    with socket.create_connection(running.address) as connection:
        connection.sendall(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
        content = b"".join(iter(lambda: connection.recv(1 << 20), b""))
    head, _, body = content.partition(b"\r\n\r\n")
    return int(head.split()[1]), body, time.perf_counter() - begin


# --- sections --------------------------------------------------------------------------------------------------------------


@dataclass
class Bench:
    """What all sections share."""

    folder: Path
    quick: bool
    models: dict[str, str]
    images: list[bytes]
    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def row(self, what: str, figure: str, goal: str = "") -> None:
        self.rows.append((what, figure, goal))
        print(f"{what}: {figure}{f' (goal: {goal})' if goal else ''}", file=sys.stderr, flush=True)

    def requests(self, **fields: str) -> list[bytes]:
        return [form(image, prompts=", ".join(WORDS), **fields) for image in self.images]


def throughput(bench: Bench) -> None:
    """32 clients against segment_batch in a process with the same settings."""
    seconds = 12.0 if bench.quick else 60.0
    for name, model in bench.models.items():
        before = batch_rate(bench, model, seconds / 3)
        with service(model) as running:
            run_clients(running.address, bench.requests(format="json"), CLIENTS, seconds=2)  # warms up
            load = run_clients(running.address, bench.requests(format="json"), CLIENTS, seconds=seconds)
        after = batch_rate(bench, model, seconds / 3)
        base = statistics.mean((before, after))
        bench.row(f"{name}: segment_batch, images per second", f"{base:.1f} ({before:.1f} before, {after:.1f} after)")
        bench.row(f"{name}: {CLIENTS} clients for {load.seconds:.0f} s, images per second", f"{load.rate:.1f}")
        bench.row(f"{name}: service / segment_batch", f"{load.rate / base:.2f}", f"at least {GOALS[name]:.2f}")
        bench.row(f"{name}: statuses", _statuses(load), "200 only")
        bench.row(
            f"{name}: processor time of the clients, seconds per second", f"{load.own_seconds / load.seconds:.2f}"
        )


def batch_rate(bench: Bench, model: str, seconds: float) -> float:
    """Images per second of segment_batch."""
    command = [sys.executable, "-c", _BATCH, model, str(bench.folder / "images"), str(seconds), json.dumps(WORDS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)[0])


def full(bench: Bench) -> None:
    """More clients than the queue takes: 200 and 503, and nothing else; each 503 says when to try again."""
    seconds = 5.0 if bench.quick else 20.0
    with service(bench.models["micro"], "--queue", "2") as running:
        load = run_clients(running.address, bench.requests(format="json"), CLIENTS, seconds=seconds)
        afterwards = once(running, bench.requests(format="json")[0])[0]
    bench.row(f"micro, --queue 2, {CLIENTS} clients: statuses", _statuses(load), "200 and 503 only")
    bench.row("micro, --queue 2: a request afterwards", str(afterwards), "200")


def again(bench: Bench) -> None:
    """Asking an encoded image again, 20 words, against the first request."""
    turns = 5 if bench.quick else 20
    for name, model in bench.models.items():
        with service(model) as running:
            once(running, bench.requests(format="json")[0])  # embeds the words
            firsts, seconds = [], []
            for turn in range(turns):
                firsts.append(
                    once(running, form(bench.images[turn % IMAGES], prompts=", ".join(WORDS), format="json"))[2]
                )
                status, body, _ = once(running, form(bench.images[turn % IMAGES], "/v1/images"))
                assert status == 201, body
                path = f"/v1/images/{json.loads(body)['id']}/segment"
                seconds.append(once(running, ask(path, prompts=WORDS, format="json"))[2])
        first, second = statistics.median(firsts), statistics.median(seconds)
        goal = "at most 5 %" if name == "vitb" else ""
        bench.row(f"{name}: first request, ms", f"{1000 * first:.1f}")
        bench.row(f"{name}: asking again, 20 words, ms", f"{1000 * second:.1f}")
        bench.row(f"{name}: asking again / first request", f"{100 * second / first:.1f} %", goal)


def memory(bench: Bench) -> None:
    """Peak memory after 1,000 and after 10,000 requests."""
    total, early = (2000, 500) if bench.quick else (10_000, 1000)
    marks: dict[int, float] = {}
    with service(bench.models["micro"]) as running:

        def watch(answered: int) -> None:
            if answered == early:
                marks[early] = running.memory("VmHWM")

        load = run_clients(running.address, bench.requests(format="json"), CLIENTS, count=total, watch=watch)
        marks[total] = running.memory("VmHWM")
    bench.row(f"micro: peak memory after {early:,} requests, MB", f"{marks[early]:.0f}")
    bench.row(f"micro: peak memory after {total:,} requests, MB", f"{marks[total]:.0f} ({_statuses(load)})")
    bench.row("micro: ratio", f"{marks[total] / marks[early]:.3f}", "at most 1.05")


def sessions(bench: Bench) -> None:
    """200 images encoded and forgotten: memory before, with them, and after their time to live."""
    alive = 12 if bench.quick else 30
    with service(bench.models["micro"], "--session-seconds", str(alive)) as running:
        opened = [form(image, "/v1/images") for image in bench.images]
        run_clients(running.address, opened, 8, count=64)  # warms up
        time.sleep(alive * 1.5 + 1)
        before = running.memory()
        load = run_clients(running.address, opened, 8, count=200)
        held = running.memory()
        time.sleep(alive * 1.5 + 3)
        after = running.memory()
    bench.row("micro: memory before 200 sessions, MB", f"{before:.0f}")
    bench.row("micro: memory with 200 sessions, MB", f"{held:.0f} ({_statuses(load)})")
    bench.row(f"micro: memory after their {alive} s, MB", f"{after:.0f}")
    bench.row("micro: after / before", f"{after / before:.3f}", "at most 1.10")


def _statuses(load: Load) -> str:
    return ", ".join(f"{status}: {count:,}" for status, count in sorted(load.statuses.items()))


SECTIONS = {"throughput": throughput, "full": full, "again": again, "memory": memory, "sessions": sessions}


def prepare(folder: Path, names: Sequence[str]) -> tuple[dict[str, str], list[bytes]]:
    """A folder with a random ViT-B, and the JPEGs."""
    from talk2dino.segmenter import Segmenter
    from talk2dino.speed.workload import random_parts, write_photographs

    models = {}
    if "vitb" in names:
        models["vitb"] = str(Segmenter(random_parts("random-vitb"), dtype="float32").save_pretrained(folder / "vitb"))
    models["micro"] = "micro"
    return models, [path.read_bytes() for path in write_photographs(folder / "images", IMAGES)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter runs, fewer requests")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections to run")
    parser.add_argument(
        "--models", nargs="+", choices=GOALS, default=list(GOALS), help="models of throughput and again"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models, images = prepare(Path(folder), options.models)
        chosen = {name: model for name, model in models.items() if name in options.models}
        bench = Bench(Path(folder), options.quick, chosen, images)
        for name in options.only:
            bench.models = chosen if name in ("throughput", "again") else models
            SECTIONS[name](bench)
    print(f"{os.cpu_count()} cores\n\n| figure | measured | goal |\n|---|---|---|")
    for row in bench.rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
