"""talk2dino.client against a service over a real socket."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import numpy as np
import pytest
from live import live_service

import talk2dino.client
from talk2dino.client import Client, ServiceError
from talk2dino.errors import InputError
from talk2dino.server.app import create_app
from talk2dino.server.options import ServeOptions


@pytest.fixture(scope="module")
def url(segmenter):
    options = ServeOptions(model="micro", port=0, batch_milliseconds=1, max_upload=2_000_000, token="s3cret")
    with live_service(create_app(options, segmenter), options) as (host, port):
        yield f"http://{host}:{port}"


@pytest.fixture
def client(url):
    return Client(url, "s3cret")


def test_it_has_at_most_150_lines():
    assert len(Path(talk2dino.client.__file__).read_text(encoding="utf-8").splitlines()) <= 150


def test_a_file_and_words_become_what_the_segmenter_makes(client, segmenter, beach, tmp_path):
    path = tmp_path / "strand 海.png"
    path.write_bytes(beach)
    done = client.segment(path, {"sky": ["sky"], "sand": "sand, beach"}, background=0.4, negative=["water"])
    expected = segmenter.segment(beach, {"sky": ["sky"], "sand": "sand, beach"}, background=0.4, negative=["water"])
    assert done.names == expected.names
    assert (done.labels == expected.labels).mean() > 0.999
    assert done.info["method"] == "talk2dino"


@pytest.mark.parametrize(
    "prompts", ["sky, sand=beach|shore", ["sky", "砂, 石"], {"sky": [], "sand": ["beach", "shore"]}]
)
def test_prompts_in_each_form(client, beach, prompts):
    assert set(client.segment(beach, prompts).names) >= {"sky"}


def test_options_of_none_are_those_that_were_not_given(client, beach):
    none = dict.fromkeys(("background", "threshold", "negative", "clean", "refine", "mode", "method"))
    assert client.segment(beach, "sky, sand", **none) == client.segment(beach, "sky, sand")
    with client.encode(beach) as image:
        assert image.segment("sky, sand", **none).names == ("sky", "sand")


def test_the_other_formats(client, beach):
    assert client.segment(beach, "sky", format="json")["names"] == ["sky"]
    for format, beginning in (("overlay", b"\x89PNG"), ("png", b"\x89PNG"), ("npz", b"PK")):
        assert client.segment(beach, "sky", format=format).startswith(beginning)


def test_encode_once_and_ask_often(client, segmenter, beach):
    with client.encode(beach) as image:
        assert (image.about["width"], image.about["height"]) == (480, 360)
        for words in (["sky", "sand"], ["water", "sand", "tree"]):
            assert (image.segment(words).labels == segmenter.segment(beach, words).labels).mean() > 0.999
        assert image.segment({}, examples={"it": [{"box": [10, 300, 200, 350]}]}).names == ("it",)
        features = image.features()
        expected = segmenter.encode_image(beach)
    assert features["patches"].shape == tuple(expected.patches.shape[1:])
    assert np.abs(features["patches"].astype(np.float32) - expected.patches[0].numpy()).max() < 0.01
    assert features["metadata"]["image_size"] == "360 480"
    with pytest.raises(ServiceError, match="no encoded image") as gone:
        image.segment(["sky"])
    assert gone.value.status == 404
    image.delete()  # nothing happens


def test_words_as_vectors(client, segmenter):
    found = client.text(["sky", "sand"], negative=["water"])
    expected = segmenter.encode_text(["sky", "sand"], negative=["water"])
    assert found["names"] == list(expected.names)
    assert np.abs(found["embeddings"] - expected.embeddings.numpy()).max() < 1e-6


def test_what_the_service_refuses_is_an_error_with_its_sentence(client, beach):
    with pytest.raises(ServiceError, match="at most 500 are accepted") as refused:
        client.segment(beach, "a" * 600)
    assert refused.value.status == 422
    assert refused.value.problem["title"]
    with pytest.raises(ServiceError, match="not an image that can be read") as refused:
        client.segment(b"hello, this is no image", "sky")
    assert refused.value.status == 415


def test_an_answer_is_read_although_the_upload_broke_off():
    """A proxy that refuses an upload answers and closes without reading it."""
    refusal = response(
        "413 Too Large", b'{"detail": "too large for the proxy"}', Content_Type="application/problem+json"
    )
    url, thread = answers(refusal)
    with pytest.raises(ServiceError, match="too large for the proxy"):
        Client(url).segment(b"\0" * 30_000_000, "sky")
    thread.join(5)


def test_a_large_upload_is_refused_with_a_sentence_not_with_a_broken_pipe(client):
    with pytest.raises(ServiceError, match="smaller version") as refused:
        client.segment(b"\0" * 30_000_000, "sky")
    assert refused.value.status == 413


def test_health_models_methods(client, url):
    assert client.get("/health") == {"status": "ok"}
    assert client.get("/v1/models")["loaded"]["name"] == "micro"
    assert any(method["name"] == "talk2dino" for method in client.get("/v1/methods"))
    with pytest.raises(ServiceError, match="token") as refused:
        Client(url).get("/v1/models")
    assert refused.value.status == 401


def test_no_service_is_an_error_with_a_sentence():
    with pytest.raises(ServiceError, match=r"http://127\.0\.0\.1:9 cannot be reached: .*refused"):
        Client("http://127.0.0.1:9").get("/health")
    with pytest.raises(InputError, match="must look like http://"):
        Client("127.0.0.1:8000")


def answers(*responses: bytes):
    """A server that gives one response per connection; its address, and the number of connections when it is done."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run():
        for response in responses:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(response)
        listener.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}", thread


def response(status: str, body: bytes = b"{}", **headers: str) -> bytes:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{lines}\r\n".encode() + body


def test_a_busy_service_is_asked_again_when_it_says(monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr(talk2dino.client.time, "sleep", waits.append)
    url, thread = answers(
        response("503 Busy", Retry_After="3"),
        response("503 Busy", Retry_After="900"),
        response("200 OK", b'{"status": "ok"}'),
    )
    assert Client(url).get("/health") == {"status": "ok"}
    thread.join(5)
    assert waits == [3, 30]


def test_a_service_that_stays_busy_is_an_error(monkeypatch):
    monkeypatch.setattr(talk2dino.client.time, "sleep", lambda seconds: None)
    busy = response("503 Busy", b'{"detail": "64 requests are waiting already"}', Retry_After="1",
                    Content_Type="application/problem+json")  # fmt: skip
    url, thread = answers(busy, busy, busy)
    with pytest.raises(ServiceError, match="64 requests are waiting already") as error:
        Client(url, retries=2).get("/health")
    thread.join(5)
    assert error.value.status == 503


def test_an_answer_from_something_else_is_an_error():
    url, thread = answers(response("502 Bad Gateway", b"<html>", Content_Type="text/html"), b"SSH-2.0-OpenSSH_9.2\r\n")
    with pytest.raises(ServiceError, match="answered with 502"):
        Client(url).get("/health")
    with pytest.raises(ServiceError, match="cannot be reached"):
        Client(url).get("/health")
    thread.join(5)
