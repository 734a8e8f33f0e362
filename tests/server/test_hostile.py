"""Bad requests over real sockets: each is refused with a sentence, none is an error of the service, none hangs, and a good
request works at once afterwards."""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import re
import socket
import struct
import time
import zlib

import numpy as np
import pytest
from live import (
    BOUNDARY,
    exchange,
    form,
    json_post,
    live_service,
    part,
    raw,
    read_answer,
    segment_form,
)
from PIL import Image

from talk2dino.server.app import create_app
from talk2dino.server.options import ServeOptions

#: Small bounds, so that they are reached quickly.
BOUNDS = {
    "model": "micro", "port": 0, "batch_milliseconds": 1, "max_upload": 3_000_000, "max_pixels": 1_000_000,
    "upload_seconds": 1.0, "header_seconds": 1.0, "request_seconds": 20.0, "max_prompts": 500,
}  # fmt: skip
BODY_REFUSED = (400, 413, 415, 422)


def png(height: int = 23, width: int = 31, **options: object) -> bytes:
    content = io.BytesIO()
    shades = np.random.default_rng(3).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(shades).save(content, "PNG", **options)
    return content.getvalue()


def jpeg() -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(4).integers(0, 255, (67, 89, 3), dtype=np.uint8)).save(content, "JPEG")
    return content.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of(width: int, height: int, data: bytes, *more: bytes) -> bytes:
    """A PNG that claims a size, with this compressed data."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"".join([b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), *more, chunk(b"IDAT", data), chunk(b"IEND", b"")])


GOOD = png()
ZEROS = zlib.compress(b"\0" * 50_000_000, 9)
BOX = {"thing": [{"box": [0, 0, 5, 5]}]}


def example(**region: object) -> dict[str, object]:
    return {"prompts": "sky", "examples": {"thing": [region]}}


def word_request(**fields: object) -> bytes:
    return segment_form(GOOD, **fields)


#: name -> (request, statuses of which one is expected). Forms, images and options of POST /v1/segment.
FORMS: dict[str, tuple[bytes, tuple[int, ...]]] = {
    "no body": (raw("POST", "/v1/segment"), (415,)),
    "JSON instead of a form": (json_post("/v1/segment", {"prompts": "sky"}), (415,)),
    "a form without a boundary": (raw("POST", "/v1/segment", b"x", content_type="multipart/form-data"), (415,)),
    "a boundary that does not occur": (
        raw("POST", "/v1/segment", b"hello", content_type="multipart/form-data; boundary=zzz"), (400,)),
    "a boundary of 100 kB": (raw("POST", "/v1/segment", b"x", content_type="multipart/form-data; boundary=" + "b" * 30_000),
                             (400, 413, 415)),
    "no closing boundary": (form("/v1/segment", part("image", GOOD, filename="a"), end=b""), (400,)),
    "a part that is cut": (form("/v1/segment", part("prompts", "sky")[:-30], end=b""), (400,)),
    "two images": (form("/v1/segment", part("image", GOOD, filename="a"), part("image", GOOD, filename="b")), (422,)),
    "a field twice": (form("/v1/segment", part("prompts", "a"), part("prompts", "b"), part("image", GOOD)), (422,)),
    "a part without a name": (form("/v1/segment", f"--{BOUNDARY}\r\nContent-Type: image/png\r\n\r\nx\r\n".encode()), (400,)),
    "a part with 100 kB of headers": (
        form("/v1/segment", f"--{BOUNDARY}\r\nX-A: {'a' * 100_000}\r\n\r\nx\r\n".encode()), (400, 413)),
    "1,000 parts": (form("/v1/segment", *(part(f"f{i}", "x") for i in range(1000))), (413,)),
    "a field that is not UTF-8": (form("/v1/segment", part("prompts", b"\xff\xfe\xfa"), part("image", GOOD)), (400,)),
    "a field of 2 MB": (form("/v1/segment", part("prompts", "a" * 2_000_000), part("image", GOOD)), (413,)),
    "an unknown field": (word_request(prompts="sky", colour="red"), (422,)),
    "a field whose name is a path": (form("/v1/segment", part("../../etc/passwd", "x"), part("image", GOOD)), (422,)),
    "no image": (form("/v1/segment", part("prompts", "sky")), (422,)),
    "an empty image": (segment_form(b"", prompts="sky"), (422,)),
    "more than may be uploaded": (segment_form(b"\0" * 3_100_000, prompts="sky"), (413,)),
    "a text as the image": (segment_form(b"hello, world", prompts="sky"), (415,)),
    "an image of one byte": (segment_form(b"P", prompts="sky"), (415, 422)),
    "an image of two bytes": (segment_form(b"no", prompts="sky"), (415, 422)),
    "an image of three bytes": (segment_form(b"\xff\xd8\xff", prompts="sky"), (415, 422)),
    "a PDF as the image": (segment_form(b"%PDF-1.7\n" + b"x" * 500, prompts="sky"), (415,)),
    "an SVG with an entity": (segment_form(b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
                                           b"<svg>&a;</svg>", prompts="sky"), (415,)),
    "a path as the image": (segment_form(b"/etc/passwd", prompts="sky"), (415,)),
    "an address as the image": (segment_form(b"http://169.254.169.254/latest/meta-data", prompts="sky"), (415,)),
    "a cut PNG": (segment_form(GOOD[: len(GOOD) // 2], prompts="sky"), (415, 422)),
    "a cut JPEG": (segment_form(jpeg()[:400], prompts="sky"), (415, 422)),
    "a PNG whose header is cut": (segment_form(GOOD[:20], prompts="sky"), (415, 422)),
    "a PNG that claims 60,000 x 60,000": (segment_form(png_of(60_000, 60_000, ZEROS), prompts="sky"), (413,)),
    "a PNG that claims 2,147,483,647 x 1": (segment_form(png_of(2**31 - 1, 1, ZEROS), prompts="sky"), (413, 415, 422)),
    "a PNG that claims no pixels": (segment_form(png_of(0, 0, ZEROS), prompts="sky"), (415, 422)),
    "a PNG whose text unpacks to 50 MB": (
        segment_form(png_of(9, 9, zlib.compress(b"\0" * 252), chunk(b"zTXt", b"Comment\0\0" + ZEROS)), prompts="sky"),
        (200, 415, 422)),
    "a PNG with a damaged checksum": (segment_form(GOOD[:-20] + b"\0" * 20, prompts="sky"), (200, 415, 422)),
    "a GIF that claims 65,535 x 65,535": (
        segment_form(b"GIF89a\xff\xff\xff\xff\x80\0\0" + b"\0" * 6 + b",\0\0\0\0\xff\xff\xff\xff\0\x02\x02L\x01\0;", prompts="sky"),
        (413, 415, 422)),
    "a BMP with a negative size": (
        segment_form(b"BM" + struct.pack("<IHHIIiiHHIIIIII", 1000, 0, 0, 54, 40, -7, -7, 1, 24, 0, 0, 0, 0, 0, 0), prompts="sky"),
        (413, 415, 422)),
    "a TIFF whose directory points to itself": (
        segment_form(b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 256, 4, 1, 9) + struct.pack("<I", 8), prompts="sky"),
        (415, 422)),
    "a JPEG with random bytes inside": (
        segment_form(jpeg()[:200] + np.random.default_rng(0).bytes(900) + b"\xff\xd9", prompts="sky"), (200, 415, 422)),
    "no prompts": (segment_form(GOOD), (422,)),
    "empty prompts": (word_request(prompts=""), (422,)),
    "prompts without letters": (word_request(prompts="!!!, ???"), (422,)),
    "10,000 prompts": (word_request(prompts=[f"word {i}" for i in range(10_000)]), (413,)),
    "10,000 synonyms of one class": (word_request(prompts={"a": [f"word {i}" for i in range(10_000)]}), (413,)),
    "a prompt of 100 kB": (word_request(prompts="a" * 100_000), (422,)),
    "a prompt with NUL": (word_request(prompts="sky\0grass"), (422,)),
    "prompts with half a surrogate": (word_request(prompts='["\\ud800"]'), (422,)),
    "prompts as a nested list": (word_request(prompts=[["sky"]]), (422,)),
    "prompts as numbers": (word_request(prompts=[1, 2]), (422,)),
    "100,000 nested brackets": (word_request(prompts="[" * 100_000), (422,)),
    "prompts that are cut JSON": (word_request(prompts='["sky", '), (422,)),
    "a threshold of NaN": (word_request(prompts="sky", background="NaN"), (422,)),
    "a threshold of infinity": (word_request(prompts="sky", background="inf"), (422,)),
    "a threshold of 1e999": (word_request(prompts="sky", background="1e999"), (422,)),
    "a negative threshold": (word_request(prompts="sky", background="-5"), (422,)),
    "a threshold in words": (word_request(prompts="sky", background="banana"), (422,)),
    "a threshold of an unknown class": (word_request(prompts="sky", threshold={"cat": 0.5}), (422,)),
    "a threshold of NaN for a class": (word_request(prompts="sky", threshold='{"sky": NaN}'), (422,)),
    "thresholds as a list": (word_request(prompts="sky", threshold=[0.5]), (422,)),
    "an unknown mode": (word_request(prompts="sky", mode="sideways"), (422,)),
    "an unknown method": (word_request(prompts="sky", method="magic"), (422,)),
    "a path as the method": (word_request(prompts="sky", method="../../etc/passwd"), (422,)),
    "an unknown format": (word_request(prompts="sky", format="exe"), (422,)),
    "clean=maybe": (word_request(prompts="sky", clean="maybe"), (422,)),
    "refine=[]": (word_request(prompts="sky", refine=[]), (422,)),
    "a box of NaN": (word_request(prompts="sky", examples='{"a": [{"box": [NaN, 0, 1, 1]}]}'), (422,)),
    "a box of 1e308": (word_request(**example(box=[-1e308, -1e308, 1e308, 1e308])), (200, 422)),
    "a box beside the image": (word_request(**example(box=[1000, 1000, 1001, 1001])), (422,)),
    "an empty box": (word_request(**example(box=[3, 3, 3, 3])), (200, 422)),
    "a box of three numbers": (word_request(**example(box=[1, 2, 3])), (422,)),
    "a point beside the image": (word_request(**example(point=[-5, 2])), (422,)),
    "a region without anything": (word_request(**example()), (422,)),
    "a region that is a box and a point": (word_request(**example(box=[0, 0, 5, 5], point=[1, 1])), (422,)),
    "a mask of another size": (word_request(**example(rle={"size": [5, 7], "counts": [35]})), (422,)),
    "a mask of 10^18 pixels": (word_request(**example(rle={"size": [10**9, 10**9], "counts": [10**18]})), (422,)),
    "a mask with negative runs": (word_request(**example(rle={"size": [23, 31], "counts": [-1, 714]})), (422,)),
    "a mask whose runs overflow": (word_request(**example(rle={"size": [23, 31], "counts": [2**62, 2**62, 2**62]})), (422,)),
    "a mask of damaged text": (word_request(**example(rle={"size": [23, 31], "counts": "~~~\u00e9"})), (422,)),
    "an empty mask": (word_request(**example(rle={"size": [23, 31], "counts": [713]})), (200, 422)),
    "a region of an unknown image": (word_request(**example(box=[0, 0, 5, 5], image="nobody")), (404,)),
    "10,000 regions": (word_request(prompts="sky", examples={"a": [{"point": [1, 1]}] * 10_000}), (413,)),
}  # fmt: skip

#: Other addresses: JSON, ids, paths, verbs.
ADDRESSES: dict[str, tuple[bytes, tuple[int, ...]]] = {
    "damaged JSON": (json_post("/v1/text", '{"prompts": '), (400,)),
    "JSON that is not UTF-8": (json_post("/v1/text", b'{"prompts": "\xff\xfe"}'), (400, 422)),
    "JSON with a byte order mark in UTF-16": (json_post("/v1/text", '{"prompts": "sky"}'.encode("utf-16")), (200, 400, 422)),
    "null": (json_post("/v1/text", "null"), (422,)),
    "a list": (json_post("/v1/text", ["sky"]), (422,)),
    "no body for JSON": (raw("POST", "/v1/text", content_type="application/json"), (400, 422)),
    "an unknown field in JSON": (json_post("/v1/text", {"prompts": "sky", "x": 1}), (422,)),
    "a number that overflows": (json_post("/v1/text", '{"prompts": 1e99999}'), (400, 422)),
    "a number of 10,000 digits": (json_post("/v1/text", '{"prompts": ' + "9" * 10_000 + "}"), (400, 422)),
    "JSON nested 100,000 deep": (json_post("/v1/text", '{"prompts": ' + "[" * 100_000 + "]" * 100_000 + "}"), (400, 422)),
    "a key of a megabyte": (json_post("/v1/text", {"k" * 1_000_000: 1}), (422,)),
    "half a surrogate as a field": (json_post("/v1/text", '{"\\ud800": 1}'), (422,)),
    "half a surrogate as a prompt": (json_post("/v1/text", '{"prompts": "\\udc80"}'), (422,)),
    "JSON called text/plain": (raw("POST", "/v1/text", b'{"prompts": "sky"}', content_type="text/plain"), (200, 415, 422)),
    "3 MB of JSON": (json_post("/v1/text", {"prompts": "a" * 2_900_000}), (413,)),
    "compressed JSON": (json_post("/v1/text", gzip.compress(b'{"prompts": "sky"}'), content_encoding="gzip"), (400, 415)),
    "an id that nobody has": (json_post("/v1/images/AAAAAAAAAAAAAAAAAAAAAAAA/segment", {"prompts": "sky"}), (404,)),
    "an id of 10 kB": (json_post(f"/v1/images/{'a' * 10_000}/segment", {"prompts": "sky"}), (404,)),
    "an id that is a path": (raw("GET", "/v1/images/..%2f..%2fetc%2fpasswd/features"), (404,)),
    "an id with NUL": (raw("GET", "/v1/images/%00/features"), (404,)),
    "an id that is not UTF-8": (raw("GET", "/v1/images/%ff%fe/features"), (404,)),
    "deleting an unknown id": (raw("DELETE", "/v1/images/nobody"), (404,)),
    "a picture of an unknown id": (raw("GET", "/v1/images/nobody/picture"), (404,)),
    "a static file above the folder": (raw("GET", "/static/../options.py"), (404,)),
    "the same, encoded": (raw("GET", "/static/%2e%2e/options.py"), (404,)),
    "the same, encoded twice": (raw("GET", "/static/%252e%252e/options.py"), (404,)),
    "the same with backslashes": (raw("GET", "/static/..\\options.py"), (404,)),
    "a static file from the root": (raw("GET", "/static//etc/passwd"), (404,)),
    "a static file with NUL": (raw("GET", "/static/a%00.js"), (404,)),
    "a static file with a name of 5 kB": (raw("GET", "/static/" + "a" * 5000), (404,)),
    "a folder of static files": (raw("GET", "/static/"), (404,)),
    "an example above the folder": (raw("GET", "/v1/examples/..%2f..%2fpyproject.toml"), (404,)),
    "a file of the documentation above the folder": (raw("GET", "/docs/..%2foptions.py"), (404,)),
    "an unknown address": (raw("GET", "/admin.php"), (404,)),
    "a query of 20 kB": (raw("GET", "/v1/models?" + "a" * 20_000), (200, 400, 414)),
    "the wrong verb": (raw("PUT", "/v1/segment"), (405,)),
    "a verb that HTTP has not": (raw("BREW", "/v1/segment"), (400, 405)),
    "TRACE": (raw("TRACE", "/v1/models"), (405,)),
    "CONNECT": (raw("CONNECT", "example.org:443"), (400, 404, 405)),
    "another host": (raw("GET", "/v1/models", host="evil.example"), (421,)),
    "a host that is no name": (raw("GET", "/v1/models", host="[::1"), (400, 421)),
    "a page of another origin": (raw("GET", "/v1/models", origin="https://evil.example"), (403,)),
    "an origin of null": (raw("GET", "/v1/models", origin="null"), (403,)),
    "a full address of another host": (raw("GET", "http://evil.example/v1/models", host="evil.example"), (400, 404, 421)),
    "X-AnyLabeling: an image that is no base64": (
        json_post("/x-anylabeling/v1/predict", {"model": "micro", "image": "???", "params": {"text_prompt": "sky"}}), (422,)),
    "X-AnyLabeling: an address as the image": (
        json_post("/x-anylabeling/v1/predict", {"model": "micro", "image": "http://127.0.0.1/a.png", "params": {"text_prompt": "a"}}),
        (422,)),
    "X-AnyLabeling: a path as the model": (
        json_post("/x-anylabeling/v1/predict", {"model": "../micro", "image": "", "params": {}}), (404,)),
    "X-AnyLabeling: marks of NaN": (
        json_post("/x-anylabeling/v1/predict", '{"model": "micro", "image": "", "params": {"marks": [{"type": "point", "data": '
                  '[NaN, 1]}]}}'), (400, 422)),
    "X-AnyLabeling: a rectangle of two numbers": (
        json_post("/x-anylabeling/v1/predict", {"model": "micro", "image": base64.b64encode(GOOD).decode(),
                                                "params": {"marks": [{"type": "rectangle", "data": [1, 2]}]}}), (422,)),
    "Label Studio: a configuration that is no XML": (
        json_post("/label-studio/predict", {"tasks": [], "label_config": "<View"}), (422,)),
    "Label Studio: a billion laughs": (
        json_post("/label-studio/setup", {"schema": '<!DOCTYPE a [<!ENTITY b "BrushLabels">]><View>&b;</View>'}), (422,)),
    "Label Studio: a task of another host": (
        json_post("/label-studio/predict", {
            "tasks": [{"id": 1, "data": {"image": "http://169.254.169.254/latest/meta-data"}}],
            "label_config": '<View><Image name="i" value="$image"/><BrushLabels name="b" toName="i"><Label value="sky"/>'
                            "</BrushLabels></View>"}), (422,)),
}  # fmt: skip

#: What is not HTTP, or hardly; a closed connection without an answer is fine as well.
LINES: dict[str, bytes] = {
    "random bytes": np.random.default_rng(1).bytes(3000),
    "a TLS handshake": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 300,
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/9.9": b"GET /health HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n",
    "no host": b"GET /v1/models HTTP/1.1\r\n\r\n",
    "a header of 200 kB": raw("GET", "/health", x_a="a" * 200_000),
    "10,000 headers": raw("GET", "/health", **{f"x-{i}": "a" for i in range(10_000)}),
    "an address of 200 kB": raw("GET", "/" + "a" * 200_000),
    "a header without a colon": b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nnonsense\r\n\r\n",
    "a header with NUL": b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: a\0b\r\n\r\n",
    "a negative length": raw("POST", "/v1/text", b"x", content_length="-1", content_type="application/json"),
    "a length in words": raw("POST", "/v1/text", b"x", content_length="ten", content_type="application/json"),
    "two lengths": b"POST /v1/text HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    "a length and chunks": b"POST /v1/text HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
                           b"0\r\n\r\n",
    "a chunk whose size is no number": raw("POST", "/v1/text", b"zz\r\nx\r\n0\r\n\r\n", transfer_encoding="chunked"),
    "a chunk of 16 exabytes": raw("POST", "/v1/text", b"FFFFFFFFFFFFFFFF\r\nx", transfer_encoding="chunked"),
    "an unknown transfer encoding": raw("POST", "/v1/text", b"x", transfer_encoding="brotli"),
    "a length of 10^30": raw("POST", "/v1/segment", b"x", content_length="9" * 30, content_type=f"multipart/form-data; boundary={BOUNDARY}"),
    "an announced terabyte": raw("POST", "/v1/segment", b"x", content_length="1000000000000",
                                 content_type=f"multipart/form-data; boundary={BOUNDARY}"),
    "an upgrade to a socket": raw("GET", "/v1/models", connection="Upgrade", upgrade="websocket", sec_websocket_version="13",
                                  sec_websocket_key="AAAAAAAAAAAAAAAAAAAAAA=="),
}  # fmt: skip


@pytest.fixture(scope="module")
def address(segmenter):
    options = ServeOptions(**BOUNDS)
    with live_service(create_app(options, segmenter), options) as found:
        exchange(found, segment_form(GOOD, prompts="sky", refine="true"), timeout=120)  # compiles
        yield found


@pytest.fixture
def works_afterwards(address):
    """After each test, a good request works at once."""
    yield
    start = time.monotonic()
    answer = exchange(address, segment_form(GOOD, prompts="sky, grass"))
    assert answer is not None
    assert answer.status == 200, answer.body
    assert answer.json()["width"] == 31
    assert time.monotonic() - start < 5


pytestmark = [pytest.mark.usefixtures("works_afterwards"), pytest.mark.timeout(60)]


def check_problem(answer, statuses: tuple[int, ...]) -> None:
    assert answer is not None, "the connection was closed without an answer"
    assert answer.status in statuses, (answer.status, answer.body[:300])
    if answer.status >= 400:
        document = answer.json()
        if answer.headers["content-type"] == "application/problem+json":
            assert document["status"] == answer.status
            assert len(document["detail"]) > 10, document
        else:  # X-AnyLabeling's form
            assert document["success"] is False
            assert len(document["error"]["message"]) > 10
        assert b"Traceback" not in answer.body
        assert b"/src/talk2dino" not in answer.body


@pytest.mark.parametrize("name", FORMS)
def test_a_bad_form_is_refused(address, name):
    request, statuses = FORMS[name]
    check_problem(exchange(address, request), statuses)


@pytest.mark.parametrize("name", ADDRESSES)
def test_a_bad_address_or_body_is_refused(address, name):
    request, statuses = ADDRESSES[name]
    check_problem(exchange(address, request), statuses)


@pytest.mark.parametrize("name", LINES)
def test_what_is_hardly_http_is_refused(address, name):
    answer = exchange(address, LINES[name], end=True)
    assert answer is None or answer.status in (
        200,
        400,
        403,
        404,
        405,
        408,
        411,
        413,
        414,
        415,
        421,
        422,
        431,
        501,
        505,
    )


def test_there_are_at_least_sixty_bad_requests():
    assert len(FORMS) + len(ADDRESSES) + len(LINES) >= 60


@pytest.mark.parametrize("path", ["/v1/images", "/x-anylabeling/v1/predict", "/label-studio/predict", "/v1/text"])
@pytest.mark.parametrize(
    "kind", ["", "application/json", "multipart/form-data; boundary=x", "application/octet-stream"]
)
def test_random_bodies_are_refused(address, path, kind):
    body = np.random.default_rng(len(path) + len(kind)).bytes(2000)
    check_problem(exchange(address, raw("POST", path, body, **({"content_type": kind} if kind else {}))), BODY_REFUSED)


# --- connections ---------------------------------------------------------------------------------------------------------


def test_a_cut_upload_is_dropped(address):
    whole = segment_form(GOOD, prompts="sky")
    for length in (10, 100, 300, len(whole) - 1):
        answer = exchange(address, whole[:length], end=True)
        assert answer is None or answer.status == 400


def test_an_upload_that_stands_still_is_refused_in_time_and_holds_nobody_up(address):
    whole = segment_form(GOOD, prompts="sky")
    start = time.monotonic()
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(whole[:-50])
        good = exchange(address, segment_form(GOOD, prompts="grass"))
        assert good is not None
        assert good.status == 200
        assert time.monotonic() - start < 0.9, "a good request waited for the slow one"
        answer = read_answer(connection)
    check_problem(answer, (408,))
    assert 0.8 < time.monotonic() - start < 8


def test_an_upload_that_drips_is_refused_in_time(address):
    whole, start = segment_form(GOOD, prompts="sky"), time.monotonic()
    with socket.create_connection(address, timeout=10) as connection:
        try:
            for place in range(0, len(whole), 20):
                connection.sendall(whole[place : place + 20])
                time.sleep(0.1)
                if time.monotonic() - start > 2:
                    break
        except OSError:
            pass
        answer = read_answer(connection)
    assert answer is None or answer.status == 408
    assert time.monotonic() - start < 6


@pytest.mark.parametrize("beginning", [b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "])
def test_a_request_whose_head_never_ends_is_closed_in_time(address, beginning):
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(beginning)
        start = time.monotonic()
        answer = read_answer(connection)
    assert answer is None or answer.status in (400, 408)
    assert time.monotonic() - start < 6


def test_a_head_that_drips_is_closed_in_time(address):
    start = time.monotonic()
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        with contextlib.suppress(OSError):
            while time.monotonic() - start < 8:
                connection.sendall(b"X-Slow: a\r\n")
                time.sleep(0.1)
    assert time.monotonic() - start < 6


def test_a_client_that_never_reads_its_answer_is_closed_in_time(address):
    """The answers of many requests do not fit into the socket's buffers; the service must not wait for ever."""
    request = raw("GET", "/v1/examples/beach")
    with socket.create_connection(address, timeout=1) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        start, sent = time.monotonic(), 0
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() - start < 20:
                with contextlib.suppress(TimeoutError):
                    sent += connection.send(request)
                time.sleep(0.005)
    assert time.monotonic() - start < 15


def test_clients_that_leave_at_once(address):
    for length in (0, 1, 50, 5000):
        for _ in range(25):
            connection = socket.create_connection(address, timeout=5)
            connection.sendall(segment_form(GOOD, prompts="sky")[:length])
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not an end
            connection.close()


def test_clients_that_leave_before_their_answer(address):
    for _ in range(20):
        connection = socket.create_connection(address, timeout=5)
        connection.sendall(segment_form(jpeg(), prompts="sky, grass, water", refine="true"))
        connection.close()


def test_requests_behind_one_another_are_answered_in_order(address):
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(raw("GET", "/health") + raw("GET", "/admin.php") + raw("GET", "/health"))
        content = b""
        while content.count(b"HTTP/1.1") < 3 or not content.endswith(b"}"):
            content += connection.recv(65536)
    assert re.findall(rb"HTTP/1\.1 (\d+)", content) == [b"200", b"404", b"200"]


def test_a_client_that_asks_before_it_sends_is_refused_at_once(address):
    request = raw("POST", "/v1/segment", content_length="1000000000", expect="100-continue",
                  content_type=f"multipart/form-data; boundary={BOUNDARY}")  # fmt: skip
    start = time.monotonic()
    check_problem(exchange(address, request, timeout=8), (413,))
    assert time.monotonic() - start < 6


def test_endless_chunks_are_cut_off(address):
    head = raw(
        "POST", "/v1/segment", transfer_encoding="chunked", content_type=f"multipart/form-data; boundary={BOUNDARY}"
    )
    block = b"10000\r\n" + b"a" * 65536 + b"\r\n"
    start = time.monotonic()
    with socket.create_connection(address, timeout=10) as connection, contextlib.suppress(OSError):
        connection.sendall(head)
        while time.monotonic() - start < 15:
            connection.sendall(block)
            time.sleep(0.01)
    assert time.monotonic() - start < 10


def test_a_large_upload_is_refused_before_it_is_read(address):
    """The answer is there although the client has sent a part only."""
    request = raw(
        "POST",
        "/v1/segment",
        b"a" * 1000,
        content_length="900000000",
        content_type=f"multipart/form-data; boundary={BOUNDARY}",
    )
    start = time.monotonic()
    check_problem(exchange(address, request), (413,))
    assert time.monotonic() - start < 6


def test_a_hundred_clients_at_once_get_an_answer_or_503(address):
    connections = [socket.create_connection(address, timeout=30) for _ in range(100)]
    try:
        for connection in connections:
            connection.sendall(segment_form(GOOD, prompts="sky"))
        answers = [read_answer(connection) for connection in connections]
    finally:
        for connection in connections:
            connection.close()
    statuses = {answer.status for answer in answers if answer is not None}
    assert len(answers) == 100
    assert statuses <= {200, 503}
    assert all("retry-after" in answer.headers for answer in answers if answer is not None and answer.status == 503)


# --- ids of others -------------------------------------------------------------------------------------------------------


def test_a_deleted_image_is_gone(address):
    opened = exchange(address, segment_form(GOOD, "/v1/images")).json()["id"]
    assert exchange(address, raw("DELETE", f"/v1/images/{opened}")).status == 204
    for request in (
        raw("GET", f"/v1/images/{opened}/features"), raw("GET", f"/v1/images/{opened}/picture"),
        raw("DELETE", f"/v1/images/{opened}"), json_post(f"/v1/images/{opened}/segment", {"prompts": "sky"}),
    ):  # fmt: skip
        check_problem(exchange(address, request), (404,))


def test_ids_cannot_be_guessed(address):
    ids = [exchange(address, segment_form(GOOD, "/v1/images")).json()["id"] for _ in range(8)]
    assert len(set(ids)) == 8
    assert all(len(one) >= 20 for one in ids)
    assert not any(a[:6] == b[:6] for a in ids for b in ids if a != b)  # no counter, no time


TOKEN = "s3cret-Word"


@pytest.fixture(scope="module")
def guarded(segmenter):
    options = ServeOptions(**BOUNDS, token=TOKEN)
    with live_service(create_app(options, segmenter), options) as found:
        yield found


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"anyone:{password}".encode()).decode()


@pytest.mark.parametrize(
    "headers",
    [
        {}, {"authorization": ""}, {"authorization": "Bearer"}, {"authorization": "Bearer "}, {"authorization": f"bearer {TOKEN}x"},
        {"authorization": f"Bearer {TOKEN[:-1]}"}, {"authorization": TOKEN}, {"authorization": "Bearer \xe9\xff"},
        {"authorization": "Basic !!!"}, {"authorization": basic("wrong")}, {"token": "wrong"}, {"cookie": f"token={TOKEN}"},
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "path", ["/v1/models", "/metrics", "/x-anylabeling/v1/models", "/label-studio/health", "/v1//models", "/nowhere"]
)
def test_a_wrong_token_opens_nothing(guarded, headers, path):
    check_problem(exchange(guarded, raw("GET", path, **headers)), (401, 404) if path == "/nowhere" else (401,))


@pytest.mark.parametrize(
    "headers", [{"authorization": f"Bearer {TOKEN}"}, {"authorization": basic(TOKEN)}, {"token": TOKEN}]
)
def test_the_right_token_works_in_the_three_forms_that_clients_send(guarded, headers):
    assert exchange(guarded, raw("GET", "/v1/models", **headers)).status == 200


def test_a_large_body_without_a_token_is_not_read(guarded):
    request = raw(
        "POST",
        "/v1/segment",
        b"a" * 100,
        content_length="2000000",
        content_type=f"multipart/form-data; boundary={BOUNDARY}",
    )
    check_problem(exchange(guarded, request), (401,))


# --- what is sent back ---------------------------------------------------------------------------------------------------


def test_sentences_hold_no_control_characters(address):
    """A name from a client comes back quoted in JSON, never raw in a header."""
    answer = exchange(address, segment_form(GOOD, prompts="sky", method="a\r\nX-Evil: 1"))
    check_problem(answer, (422,))
    assert "x-evil" not in answer.headers


def test_every_answer_has_the_headers_that_protect_browsers(address):
    for request in (raw("GET", "/"), raw("GET", "/nowhere"), raw("GET", "/docs"), raw("POST", "/v1/segment")):
        headers = exchange(address, request).headers
        assert "script-src 'self'" in headers["content-security-policy"]
        assert "unsafe-inline" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers


def test_a_long_list_of_bad_values_is_cut(address):
    answer = exchange(address, json_post("/v1/text", {"prompts": [1] * 400}))
    check_problem(answer, (422,))
    assert len(answer.body) < 3000
