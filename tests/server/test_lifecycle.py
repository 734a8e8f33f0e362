"""How the service starts and ends: the real command in processes of their own."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import numpy as np
import pytest
from command import run_here
from PIL import Image

from service import form_request, read_answer
from talk2dino.errors import OutputError, Talk2DinoError
from talk2dino.server.lifecycle import address_of, listen, serve
from talk2dino.server.options import ServeOptions


class Service:
    """A running ``talk2dino serve``."""

    def __init__(self, process, port: int):
        self.process, self.port, self.log = process, port, ""

    def get(self, path: str) -> tuple[int, dict]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=20) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def send(self, request: bytes) -> tuple[int, bytes]:
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(request)
            return read_answer(connection, 60)

    def active_requests(self) -> float:
        """How many requests are worked on."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=20) as answer:
            return float(re.search(r"^talk2dino_active_requests (\S+)", answer.read().decode(), re.MULTILINE)[1])

    def wait_until_ready(self) -> list[str]:
        """The steps on the way."""
        steps = []
        for _ in range(600):
            status, document = self.get("/ready")
            if status == 200:
                return steps
            steps.append(document["step"])
            time.sleep(0.05)
        raise AssertionError(f"never ready: {steps[-1]}")

    def stop(self, number=signal.SIGTERM) -> int:
        self.process.send_signal(number)
        _, rest = self.process.communicate(timeout=60)
        self.log += rest
        return self.process.returncode


@contextmanager
def started(*arguments: str):
    """``talk2dino serve`` as soon as it listens."""
    process = subprocess.Popen(
        [sys.executable, "-m", "talk2dino", "serve", "--model", "micro", "--port", "0", *arguments],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    try:
        line = process.stderr.readline()
        found = re.search(r"listening on http://127.0.0.1:(\d+)", line)
        assert found, line + process.stderr.read()
        yield Service(process, int(found[1]))
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def large_image() -> bytes:
    """A PNG that keeps the service busy for a moment."""
    content = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (50, 75, 3), np.uint8)
    Image.fromarray(noise).resize((3000, 2000)).save(content, "PNG", compress_level=1)
    return content.getvalue()


def test_it_loads_in_steps_answers_and_stops_with_0_after_what_runs():
    with started("--dtype", "float32") as service:
        assert service.get("/health") == (200, {"status": "ok"})
        steps = service.wait_until_ready()
        assert steps
        assert set(steps) <= {"starting", "importing libraries", "loading the model", "segmenting a first image"}
        with socket.create_connection(("127.0.0.1", service.port)) as running:
            words = ", ".join(f"thing {i}" for i in range(30))
            running.sendall(form_request(large_image(), prompts=words, refine="true", mode="slide"))
            limit = time.monotonic() + 20
            while service.active_requests() != 1 and time.monotonic() < limit:
                time.sleep(0.002)
            assert service.active_requests() == 1
            service.process.send_signal(signal.SIGTERM)
            status, body = read_answer(running, 60)
            assert status == 200
            assert json.loads(body)["names"] == words.split(", ")
        assert service.stop() == 0
        assert service.log.endswith("talk2dino: stopped\n")
        assert "Traceback" not in service.log
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", service.port))


def test_the_service_listens_before_torch_is_imported():
    code = "import talk2dino.server.lifecycle, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_it_can_be_stopped_while_the_model_is_loading():
    with started() as service:
        assert service.stop(signal.SIGINT) == 0
        assert "Traceback" not in service.log


@pytest.mark.long
def test_several_workers_share_one_address_and_find_each_others_images(beach):
    with started("--workers", "2", "--token", "open-sesame") as service:
        service.wait_until_ready()
        token = b"Authorization: Bearer open-sesame\r\n"
        ids: dict[str, str] = {}
        for _ in range(600):  # until both answer
            status, body = service.send(form_request(beach, "/v1/images").replace(b"\r\n", b"\r\n" + token, 1))
            assert status == 201
            id = json.loads(body)["id"]
            ids[id[0]] = id
            if len(ids) == 2:
                break
            time.sleep(0.05)
        assert sorted(ids) == ["0", "1"]
        asked = {"prompts": "grass, sand", "examples": {"this": [{"box": [10, 20, 110, 90], "image": ids["1"]}]}}
        content = json.dumps(asked).encode()
        request = (
            f"POST /v1/images/{ids['0']}/segment HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\nConnection: close\r\n"
        ).encode()
        answers = [service.send(request + token + b"\r\n" + content) for _ in range(6)]
        assert {status for status, _ in answers} == {200}
        assert len({body for _, body in answers}) == 1
        assert service.send(request + b"\r\n" + content)[0] == 401
        inside = f"GET /-/upload/{ids['0']} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n".encode()
        assert service.send(inside + token + b"\r\n")[0] == 404
        workers = subprocess.run(
            ["pgrep", "-P", str(service.process.pid), "-f", "spawn_main"], capture_output=True, text=True
        ).stdout.split()
        os.kill(int(workers[0]), signal.SIGKILL)
        for _ in range(20):  # the other answers meanwhile
            assert service.get("/health")[0] == 200
        line = ""
        while "is started again" not in line:
            line = service.process.stderr.readline()
        assert service.stop() == 0


def test_a_taken_port_and_a_foreign_address_are_one_sentence(capsys):
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    try:
        done = run_here(capsys, "serve", "--model", "micro", "--port", str(port))
    finally:
        listener.close()
    assert done.returncode == 1
    assert done.stderr == (
        f"talk2dino: port {port} of 127.0.0.1 is taken by another program: choose another with --port, or --port 0 for a "
        "free one\n"
    )
    with pytest.raises(OutputError, match=r"203\.0\.113\.9"):
        listen("203.0.113.9", 0)
    with pytest.raises(OutputError, match="no-such-host"):
        listen("no-such-host.invalid", 0)


def test_addresses():
    for host, start in (("127.0.0.1", "http://127.0.0.1:"), ("::1", "http://[::1]:"), ("localhost", "http://")):
        try:
            listener = listen(host, 0)
        except OutputError:  # no IPv6 on this machine
            assert host == "::1"
            continue
        assert address_of(listener).startswith(start)
        listener.close()


def test_a_model_that_cannot_be_loaded_ends_the_service():
    with pytest.raises(Talk2DinoError, match="no model named 'mikro'"):
        serve(ServeOptions(model="mikro", port=0))


def test_wrong_usage_exits_with_2(capsys, tmp_path):
    (tmp_path / "token").write_text("")
    for arguments, words in (
        (["--host", "0.0.0.0"], "--allow-anonymous"),
        (["--token-file", tmp_path / "missing"], "--token-file"),
        (["--token-file", tmp_path / "token"], "a token must be"),
        (["--token", "a", "--token-file", tmp_path / "token"], "either"),
        (["--cors", "example.org"], "https://example.org"),
        (["--method", "nonsense"], "nonsense"),
        (["--request-seconds", "-1"], "request_seconds"),
    ):
        done = run_here(capsys, "serve", "--model", "micro", "--port", "0", *arguments)
        assert done.returncode == 2, done.stderr
        assert words in " ".join(done.stderr.replace("│", " ").split()), done.stderr
