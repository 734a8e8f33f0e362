"""What the service refuses, with which status and sentence; and who may use it."""

from __future__ import annotations

import io
import json
import struct
import zlib

import pytest
from PIL import Image
from pydantic import ValidationError

from service import keep_image, post_image
from talk2dino.errors import InputError
from talk2dino.server.options import ServeOptions


def problem(answer) -> dict:
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["status"] == answer.status_code
    assert document["type"].startswith("urn:talk2dino:problem:")
    assert document["title"]
    assert document["detail"]
    return document


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that claims side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({}, 422, "no prompts"),
        ({"prompts": ""}, 422, "no prompts"),
        ({"prompts": "sky", "backgruond": "true"}, 422, "no field 'backgruond'"),
        ({"prompts": "[1, 2]"}, 422, "prompts"),
        ({"prompts": "[oops"}, 422, "not valid JSON"),
        ({"prompts": "sky", "background": "7"}, 422, "from 0 to 1"),
        ({"prompts": "sky", "background": "NaN"}, 422, "background"),
        ({"prompts": "sky", "background": "maybe"}, 422, "maybe"),
        ({"prompts": "sky", "threshold": '{"sea": 0.5}'}, 422, "sea"),
        ({"prompts": "sky", "mode": "sideways"}, 422, "mode"),
        ({"prompts": "sky", "format": "gif"}, 422, "format"),
        ({"prompts": "sky", "negative": "sky"}, 422, "both"),
        ({"prompts": "sky", "method": "clip-dense", "clean": "true"}, 422, "cleaning"),
        ({"prompts": ", ".join(f"class {i}" for i in range(1001))}, 413, "1,001 prompts"),
        ({"prompts": "sky", "examples": '{"a": [{"box": [0, 0, 5, 5], "point": [1, 1]}]}'}, 422, "exactly one"),
        ({"prompts": "sky", "examples": '{"a": [{"box": [0, 0, 5000, 5]}]}'}, 422, "outside the image"),
        ({"prompts": "sky", "examples": '{"a": [{"rle": {"size": [3, 3], "counts": [9]}}]}'}, 422, "3 x 3 pixels"),
        ({"prompts": "sky", "examples": '{"a": [{"point": [1, 1], "image": "x"}]}'}, 404, "no encoded image"),
        ({"prompts": "sky" * 30000}, 422, "characters"),
        ({"prompts": "x" * 1_000_001}, 413, "'prompts' is longer"),
    ],
)  # fmt: skip
def test_bad_fields(client, beach, fields, status, words):
    answer = post_image(client, beach, **fields)
    assert answer.status_code == status, answer.text
    assert words in problem(answer)["detail"]


@pytest.mark.parametrize(
    ("image", "status", "words"),
    [
        (b"%PDF-1.4 whatever", 415, "PDF"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), 422, "damaged"),
        (bomb(100_000), 413, "10,000,000,000 pixels"),
        (bomb(41), 422, "the image is"),
    ],
)
def test_bad_images(client, image, status, words):
    answer = post_image(client, image, prompts="sky")
    assert answer.status_code == status, answer.text
    document = problem(answer)
    assert words in document["detail"]
    assert "--" not in document["detail"]  # no options of the command line


def test_bad_forms(client, beach):
    assert client.post("/v1/segment", data={"prompts": "sky"}).status_code == 415
    assert client.post("/v1/segment", json={"prompts": "sky"}).status_code == 415
    form = {"content-type": "multipart/form-data; boundary=sep"}
    for body in (b"", b"nonsense", b"--sep\r\n", b'--sep\r\nContent-Disposition: form-data; name="image"\r\n\r\nabc'):
        assert problem(client.post("/v1/segment", content=body, headers=form))["status"] == 400
    part = b'--sep\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
    many = b"".join(part % (b"f%d" % i, b"x") for i in range(33)) + b"--sep--\r\n"
    assert "parts" in problem(client.post("/v1/segment", content=many, headers=form))["detail"]
    twice = part % (b"prompts", b"a") + part % (b"prompts", b"b") + b"--sep--\r\n"
    assert "twice" in problem(client.post("/v1/segment", content=twice, headers=form))["detail"]
    latin = part % (b"prompts", b"\xff") + b"--sep--\r\n"
    assert "UTF-8" in problem(client.post("/v1/segment", content=latin, headers=form))["detail"]
    none = part % (b"prompts", b"sky") + b"--sep--\r\n"
    assert "no image" in problem(client.post("/v1/segment", content=none, headers=form))["detail"]
    assert "no field" in problem(client.post("/v1/images", files={"image": beach}, data={"prompts": "sky"}))["detail"]


def test_bad_json(client, beach):
    id = keep_image(client, beach)
    for path in (f"/v1/images/{id}/segment", "/v1/text"):
        kind = {"content-type": "application/json"}
        assert problem(client.post(path, content=b"{oops", headers=kind))["status"] == 400
        assert problem(client.post(path, json={"prompts": {"sky": {"deep": 1}}}))["status"] == 422
        assert "no field" in problem(client.post(path, json={"prompts": "sky", "x": 1}))["detail"]
        assert problem(client.post(path, content=b'"' + b"x" * 2_100_000 + b'"', headers=kind))["status"] == 413
    assert problem(client.post("/v1/text", json={}))["status"] == 422


def test_addresses_that_do_not_exist(client):
    assert problem(client.get("/v1/nothing"))["status"] == 404
    assert problem(client.get("/v1/segment"))["accepted"] == "POST"
    assert problem(client.get("/v1/examples/../../etc/passwd"))["status"] == 404
    assert problem(client.get("/static/../options.py"))["status"] == 404
    assert "beach" in problem(client.get("/v1/examples/nothing"))["accepted"]


def test_the_bound_on_an_upload(client_of, beach):
    client = client_of(max_upload=100_000)
    answer = post_image(client, beach, prompts="sky")
    assert problem(answer)["accepted"] == "at most 100,000 bytes"

    def pieces():  # without a Content-Length
        yield b'--sep\r\nContent-Disposition: form-data; name="image"\r\n\r\n'
        for _ in range(200):
            yield bytes(1000)

    headers = {"content-type": "multipart/form-data; boundary=sep"}
    assert problem(client.post("/v1/segment", content=pieces(), headers=headers))["status"] == 413
    small = io.BytesIO()
    Image.new("RGB", (31, 17)).save(small, "PNG")
    assert post_image(client, small.getvalue(), prompts="sky").status_code == 200


def test_the_bound_on_all_uploads(client_of, beach):
    answer = post_image(client_of(max_uploads=200_000), beach, prompts="sky")
    assert problem(answer)["status"] == 503
    assert int(answer.headers["retry-after"]) >= 1


def test_the_bound_on_scores(client_of, beach):
    client = client_of(max_scores=100_000)
    names = [f"class {i}" for i in range(5)]
    assert post_image(client, beach, prompts=names).status_code == 200
    assert "at most 4 classes" in problem(post_image(client, beach, prompts=names, refine="true"))["accepted"]
    assert problem(post_image(client, beach, prompts=names, mode="slide"))["status"] == 413


# --- who may use it --------------------------------------------------------------------------------------------------------


def test_a_token_opens_the_service(client_of):
    client = client_of(token="correct-horse")
    for path in ("/v1/methods", "/metrics", "/v1/examples/beach"):
        refused = client.get(path)
        assert problem(refused)["status"] == 401
        assert refused.headers["www-authenticate"] == "Bearer"
    for wrong in ("Bearer correct-hors", "Bearer correct-horse2", "Basic correct-horse", "Bearer", "correct-horse"):
        assert client.get("/v1/methods", headers={"Authorization": wrong}).status_code == 401
    assert client.get("/v1/methods", headers={"Authorization": "Bearer correct-horse"}).status_code == 200
    for path in ("/health", "/ready", "/openapi.json"):
        assert client.get(path).status_code == 200


def test_without_a_token_only_this_machine_may_ask(client_of):
    client = client_of()
    assert problem(client.get("/health", headers={"Host": "evil.example"}))["status"] == 421
    assert problem(client.get("/health", headers={"Origin": "http://evil.example"}))["status"] == 403
    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000"):
        assert client.get("/health", headers={"Host": host, "Origin": f"http://{host}"}).status_code == 200
    assert client_of(allow_anonymous=True).get("/health", headers={"Host": "any.example"}).status_code == 200


def test_other_origins_only_with_cors(client_of):
    asked = {"Origin": "https://lab.example", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in client_of(token="t").options("/v1/text", headers=asked).headers
    client = client_of(token="t", cors=("https://lab.example",))
    answer = client.options("/v1/text", headers=asked)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://lab.example"
    other = client.options("/v1/text", headers={**asked, "Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers


def test_headers_of_every_answer(client):
    for answer in (client.get("/health"), client.get("/nothing"), client.get("/v1/examples/beach")):
        policy = answer.headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
    assert client.get("/health").headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"host": "0.0.0.0"}, "--allow-anonymous"),
        ({"host": "192.168.7.7"}, "--token-file"),
        ({"host": "example.org"}, "--token"),
        ({"token": ""}, "token"),
        ({"token": "two words"}, "token"),
        ({"cors": ("example.org",)}, "https://example.org"),
        ({"method": "nonsense"}, "nonsense"),
        ({"port": 70000}, "65535"),
    ],
)
def test_options_that_are_refused(options, words):
    with pytest.raises((InputError, ValidationError), match=words):
        ServeOptions(**options)


@pytest.mark.parametrize(
    "options",
    [{"host": "127.0.0.2"}, {"host": "::1"}, {"host": "localhost"}, {"host": "0.0.0.0", "token": "t"},
     {"host": "0.0.0.0", "allow_anonymous": True}],
)  # fmt: skip
def test_options_that_are_accepted(options):
    assert "SecretStr" in repr(ServeOptions(**{"token": "hidden", **options})) or options.get("token")


def test_the_documentation_has_examples_for_every_operation(client):
    document = client.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            body = operation.get("requestBody", {}).get("content", {})
            assert operation["summary"], (method, path)
            for content in body.values():
                schema = content["schema"]
                if "$ref" in schema:
                    schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
                assert "example" in content or "examples" in schema, (method, path)
    assert "problem+json" in json.dumps(document)
