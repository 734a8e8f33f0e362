"""A real server on a loopback port: clients at the same time, slow ones, ones that leave, and a full queue."""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import talk2dino.server.service as service_module
from service import form_request, read_answer, running
from talk2dino import pipeline


def ask(address, request: bytes) -> tuple[int, bytes]:
    with socket.create_connection(address) as connection:
        connection.sendall(request)
        return read_answer(connection)


def get(address, path: str) -> bytes:
    return ask(address, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())[1]


def metric(address, name: str) -> float:
    lines = get(address, "/metrics").decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


@pytest.fixture
def gate(monkeypatch):
    """Holds the vision model until it is opened; ``entered`` says that a batch has come."""
    opened, entered, encode = threading.Event(), threading.Event(), pipeline.encode_images

    def held(*arguments, **named):
        entered.set()
        opened.wait(20)
        return encode(*arguments, **named)

    monkeypatch.setattr(service_module.pipeline, "encode_images", held)
    opened.entered = entered
    yield opened
    opened.set()


@pytest.fixture(scope="module")
def wanted(segmenter, beach):
    return segmenter.segment(beach, ["grass", "sand"]).shares()


def test_requests_at_the_same_time_share_forward_passes(segmenter, beach, wanted, gate):
    with running(segmenter, batch_size=8) as address, ThreadPoolExecutor(9) as pool:
        first = pool.submit(ask, address, form_request(beach, prompts="grass, sand"))
        assert gate.entered.wait(10)
        others = [pool.submit(ask, address, form_request(beach, prompts="grass, sand")) for _ in range(8)]
        while metric(address, "talk2dino_active_requests") < 9:
            time.sleep(0.01)
        time.sleep(0.3)  # until the last of them is decoded
        gate.set()
        for answer in (first, *others):
            status, body = answer.result(30)
            assert status == 200
            assert json.loads(body)["shares"] == pytest.approx(wanted, abs=1e-4)
        assert metric(address, "talk2dino_batch_images_count") == 2
        assert metric(address, "talk2dino_batch_images_sum") == 9


def test_a_slow_upload_holds_nobody_up_and_has_a_time_limit(segmenter, beach):
    request = form_request(beach, prompts="grass, sand")
    with running(segmenter, upload_seconds=1.5, queue=1) as address, socket.create_connection(address) as slow:
        slow.sendall(request[:5000])
        for _ in range(3):
            assert ask(address, request)[0] == 200
        status, body = read_answer(slow)
        assert status == 408
        assert b"slow-upload" in body
        assert ask(address, request)[0] == 200


def test_slow_headers_have_a_time_limit(segmenter):
    with running(segmenter, header_seconds=0.3) as address:
        for start in (b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /he"):
            with socket.create_connection(address) as slow:
                slow.sendall(start)
                slow.settimeout(5)
                content = b""
                while piece := slow.recv(9999):
                    content += piece
                assert b"408" in content
                assert content.count(b"HTTP/1.1 200") == start.count(b"\r\n\r\n")


def test_a_client_that_leaves_is_dropped_before_it_is_computed(segmenter, beach, gate):
    request = form_request(beach, prompts="grass, sand")
    with running(segmenter, batch_size=1) as address, ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, address, request)
        assert gate.entered.wait(10)
        with socket.create_connection(address) as leaving:
            leaving.sendall(request)
            while metric(address, "talk2dino_active_requests") < 2:
                time.sleep(0.01)
            time.sleep(0.2)
        while metric(address, "talk2dino_active_requests") > 1:
            time.sleep(0.01)
        gate.set()
        assert first.result(30)[0] == 200
        assert ask(address, request)[0] == 200
        assert metric(address, "talk2dino_batch_images_sum") == 2
        assert metric(address, "talk2dino_dropped_total") == 1


def test_a_full_queue_answers_503_and_takes_the_next_afterwards(segmenter, beach, gate):
    request = form_request(beach, prompts="grass, sand")
    with running(segmenter, queue=1) as address, ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, address, request)
        assert gate.entered.wait(10)
        with socket.create_connection(address) as connection:
            connection.sendall(request)
            connection.settimeout(10)
            content = b"".join(iter(lambda: connection.recv(65536), b""))
        head = content.partition(b"\r\n\r\n")[0].lower()
        assert b" 503 " in head
        assert b"retry-after: 1" in head
        assert b"queue-full" in content
        gate.set()
        assert first.result(30)[0] == 200
        assert ask(address, request)[0] == 200


def test_an_answer_that_takes_too_long_is_given_up(segmenter, beach, gate):
    with running(segmenter, request_seconds=0.3) as address:
        status, body = ask(address, form_request(beach, prompts="grass, sand"))
        assert status == 503
        assert b"too-slow" in body
        gate.set()


def test_too_many_connections(segmenter):
    with running(segmenter, max_connections=2) as address:
        held = [socket.create_connection(address) for _ in range(2)]
        time.sleep(0.1)
        with socket.create_connection(address) as third:
            assert read_answer(third)[0] == 503
        for connection in held:
            connection.close()
        time.sleep(0.1)
        assert b"ok" in get(address, "/health")


def test_a_refused_upload_can_be_read_by_a_client_that_is_still_sending(segmenter):
    request = form_request(np.random.default_rng(0).bytes(3_000_000), prompts="sky")
    with running(segmenter, max_upload=100_000) as address:
        for announced in (True, False):
            sent = request if announced else request.replace(b"Content-Length: 3", b"X-Was: 3").replace(
                b"Connection: close\r\n\r\n", b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n2dc6c0\r\n", 1
            )  # fmt: skip
            with socket.create_connection(address) as connection:
                connection.sendall(sent)  # all of it, before reading
                status, body = read_answer(connection)
            assert status == 413
            assert b"too-large" in body


def test_bytes_that_are_not_http(segmenter):
    with running(segmenter) as address:
        for nonsense in (b"\x16\x03\x01 hello\r\n\r\n", b"GET / HTTP/1.1\r\nA: " + b"x" * 70_000 + b"\r\n\r\n"):
            status, body = ask(address, nonsense)
            assert status == 400
            assert b"not-http" in body


def test_nothing_of_an_upload_is_written_to_disk(segmenter, beach, monkeypatch):
    import tempfile

    def refuse(*arguments, **named):
        raise AssertionError("a temporary file was opened")

    for name in ("TemporaryFile", "SpooledTemporaryFile", "NamedTemporaryFile"):
        monkeypatch.setattr(tempfile, name, refuse)
    large = beach + bytes(2_000_000)  # PNG readers stop at the end of the image
    with running(segmenter) as address:
        assert ask(address, form_request(large, prompts="grass"))[0] == 200


def test_expired_images_go_by_themselves(segmenter, beach):
    with running(segmenter, session_seconds=0.8) as address:
        status, body = ask(address, form_request(beach, "/v1/images"))
        assert status == 201
        assert metric(address, "talk2dino_sessions") == 1
        limit = time.monotonic() + 10
        while metric(address, "talk2dino_sessions") and time.monotonic() < limit:
            time.sleep(0.05)
        assert metric(address, "talk2dino_session_bytes") == 0
        assert b"no-such-image" in get(address, f"/v1/images/{json.loads(body)['id']}/features")


def test_the_log_holds_no_prompt_and_no_id_unless_asked_for(segmenter, beach, caplog):
    caplog.set_level("INFO", logger="talk2dino")
    for log_prompts in (False, True):
        caplog.clear()
        with running(segmenter, log_prompts=log_prompts) as address:
            id = json.loads(ask(address, form_request(beach, "/v1/images"))[1])["id"]
            get(address, f"/v1/images/{id}/features")
            assert ask(address, form_request(beach, prompts="a secret word"))[0] == 200
            ask(address, form_request(beach, prompts="=|"))
        assert id not in caplog.text
        assert "/v1/images/{id}/features 200" in caplog.text
        assert ("secret" in caplog.text) == log_prompts
