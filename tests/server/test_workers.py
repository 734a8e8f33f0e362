"""Requests that come to another worker than the one that has the image; the workers are threads here."""

from __future__ import annotations

import http.client
import json
from contextlib import ExitStack

import pytest

from service import form_request, running
from talk2dino.server.forward import Worker


def ask(address, request: bytes = b"", method="GET", path="/", **headers) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(*address, timeout=30)
    try:
        connection.request(method, path, request or None, headers)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def keep(address, image: bytes, **headers) -> str:
    body = form_request(image).partition(b"\r\n\r\n")[2]
    kind = {"Content-Type": "multipart/form-data; boundary=sep", **headers}
    status, _, content = ask(address, body, "POST", "/v1/images", **kind)
    assert status == 201
    return json.loads(content)["id"]


@pytest.fixture
def pair(segmenter, tmp_path):
    """The addresses of two workers with a token, and the header that opens them."""
    with ExitStack() as stack:
        folder = tmp_path
        addresses = [
            stack.enter_context(running(segmenter, Worker(number, 2, folder), token="open-sesame")) for number in (0, 1)
        ]
        yield *addresses, {"Authorization": "Bearer open-sesame"}


def test_every_worker_answers_for_every_image(pair, beach):
    zero, one, token = pair
    id = keep(one, beach, **token)
    assert id.startswith("1-")
    for path in (f"/v1/images/{id}/features", f"/v1/images/{id}/picture"):
        direct, passed = ask(one, path=path, **token), ask(zero, path=path, **token)
        assert direct[0] == passed[0] == 200
        assert direct[2] == passed[2]
        assert {n: v for n, v in direct[1].items() if n != "date"} == {
            n: v for n, v in passed[1].items() if n != "date"
        }
    etag = {
        "If-None-Match": direct[1].get("etag", "") or ask(one, path=f"/v1/images/{id}/features", **token)[1]["etag"]
    }
    assert ask(zero, path=f"/v1/images/{id}/features", **token, **etag)[0] == 304
    assert ask(zero, path=f"/v1/images/{id}/features")[0] == 401
    body = json.dumps({"prompts": "grass, sand"}).encode()
    kind = {"Content-Type": "application/json", **token}
    answers = [ask(address, body, "POST", f"/v1/images/{id}/segment", **kind)[2] for address in (zero, one)]
    assert answers[0] == answers[1]
    assert json.loads(answers[0])["names"] == ["grass", "sand"]
    assert ask(zero, method="DELETE", path=f"/v1/images/{id}", **token)[0] == 204
    assert ask(one, path=f"/v1/images/{id}/picture", **token)[0] == 404


def test_an_example_in_an_image_of_another_worker(pair, beach):
    zero, one, token = pair
    mine, theirs = keep(zero, beach, **token), keep(one, beach, **token)
    kind = {"Content-Type": "application/json", **token}
    answers = [
        ask(zero, json.dumps({"examples": {"this": [{"box": [10, 20, 110, 90], "image": id}]}, "prompts": "sand"}).encode(),
            "POST", f"/v1/images/{mine}/segment", **kind)
        for id in (mine, theirs, "1-gone", "7-gone")
    ]  # fmt: skip
    assert [status for status, _, _ in answers] == [200, 200, 404, 404]
    assert answers[0][2] == answers[1][2]
    assert ask(zero, path=f"/-/upload/{mine}", **token)[0] == 404  # for other workers only


def test_a_worker_that_is_gone(segmenter, beach, tmp_path):
    with running(segmenter, Worker(0, 3, tmp_path)) as address:
        status, headers, content = ask(address, path="/v1/images/2-gone/features")
        assert status == 503
        assert headers["retry-after"]
        assert b"worker-gone" in content
