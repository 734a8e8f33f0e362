"""Label Studio's ML backend: the exchange that was recorded with a real Label Studio, the images that are fetched, mistakes."""

from __future__ import annotations

import base64
import json
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from talk2dino.annotations.brush_rle import decode_brush
from talk2dino.errors import DataError, InputError
from talk2dino.server.label_config import read_controls
from talk2dino.server.label_studio_images import LabelStudioImages

ROOT = Path(__file__).parents[2]
RECORDED = json.loads((ROOT / "tests/data/label_studio/exchange.json").read_text(encoding="utf-8"))
CONFIG = '<View><Image name="photo" value="$image"/><BrushLabels name="areas" toName="photo">{}<Label value="sand"/></BrushLabels></View>'
KEY = "legacy-key"
PERSONAL = "head.body.sign"  # a personal access token looks like this


class FakeStudio:
    """Serves files as Label Studio does: only with the key; the addresses that were asked for are kept."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files, self.asked, self.redirects = files, Counter[str](), dict[str, str]()

    @contextmanager
    def listening(self):
        studio = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                studio.asked[self.path] += 1
                if self.headers["Authorization"] not in (f"Token {KEY}", "Bearer access-1"):
                    self.answer(401, b"")
                elif self.path in studio.redirects:
                    self.answer(302, b"", Location=studio.redirects[self.path])
                else:
                    found = studio.files.get(self.path)
                    self.answer(404 if found is None else 200, found or b"")

            def do_POST(self):
                sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                studio.asked[self.path] += 1
                right = self.path == "/api/token/refresh/" and sent == {"refresh": PERSONAL}
                self.answer(200 if right else 401, b'{"access": "access-1"}' if right else b"{}")

            def answer(self, status, content, **headers):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


@pytest.fixture
def studio(beach):
    picture = (ROOT / RECORDED["image"]).read_bytes()
    recorded = [
        step["request"]["tasks"][0]["data"]["image"] for step in RECORDED["exchange"] if "predict" in step["path"]
    ]
    fake = FakeStudio(
        dict.fromkeys(recorded, picture) | {"/data/upload/1/beach.png": beach, "/data/upload/1/text.txt": b"no"}
    )
    with fake.listening() as address:
        fake.address = address
        yield fake


@pytest.fixture
def connected(studio, client_of, monkeypatch):
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", KEY)
    return client_of(label_studio=studio.address, token="topsecret")


BASIC = {"Authorization": "Basic " + base64.b64encode(b"talk2dino:topsecret").decode()}


def predict(client, data: list[dict], config: str = CONFIG.format("")):
    tasks = [{"id": number, "data": one} for number, one in enumerate(data)]
    return client.post(
        "/label-studio/predict", json={"tasks": tasks, "label_config": config, "project": "1.1"}, headers=BASIC
    )


def mask_of(region) -> np.ndarray:
    size = region["original_height"], region["original_width"]
    if region["type"] == "brushlabels":
        return decode_brush(region["value"]["rle"], size)
    canvas = Image.new("1", (4 * size[1], 4 * size[0]))
    points = [(x * 4 * size[1] / 100, y * 4 * size[0] / 100) for x, y in region["value"]["points"]]
    ImageDraw.Draw(canvas).polygon(points, fill=1)
    return np.array(canvas)[2::4, 2::4]


@pytest.mark.parametrize("step", RECORDED["exchange"], ids=lambda step: step["path"].rpartition("/")[2])
def test_the_recorded_requests_get_the_answers_that_label_studio_accepted(connected, step):
    answer = connected.request(step["method"], step["path"], json=step["request"], headers=step["headers"])
    assert answer.status_code == step["status"]
    if "results" not in step["response"]:
        assert answer.json() == step["response"]
        return
    assert answer.json()["model_version"] == step["response"]["model_version"]
    (ours,), (theirs,) = answer.json()["results"], step["response"]["results"]
    assert [set(region) for region in ours["result"]] == [set(region) for region in theirs["result"]]
    for region, recorded in zip(ours["result"], theirs["result"], strict=True):
        for name in ("type", "from_name", "to_name", "original_width", "original_height", "image_rotation"):
            assert region[name] == recorded[name]
        a, b = mask_of(region), mask_of(recorded)
        assert (a & b).sum() / (a | b).sum() > 0.97  # it was recorded in bfloat16


def test_every_label_gets_its_region_and_synonyms_are_its_words(connected, studio):
    config = CONFIG.format('<Label value="up there" predicted_values="sky, heaven"/>').replace(
        'name="areas"', 'name="areas" model_score_threshold="0"'
    )
    (result,) = predict(connected, [{"image": "/data/upload/1/beach.png"}], config).json()["results"]
    masks = {region["value"]["brushlabels"][0]: mask_of(region) for region in result["result"]}
    assert set(masks) == {"up there", "sand"}
    assert masks["up there"][:40].mean() > 0.7
    assert masks["sand"][-40:].mean() > 0.7


def test_a_task_that_fails_does_not_stop_the_others(connected):
    answer = predict(
        connected, [{"image": "/data/upload/1/beach.png"}, {"image": "/data/upload/1/none.png"}, {"text": "x"}]
    )
    assert answer.status_code == 200
    good, missing, other = answer.json()["results"]
    assert good["result"]
    assert "result" not in missing  # Label Studio skips entries without it
    assert "Label Studio answered 404" in missing["error"]
    assert "no address of an image under 'image'" in other["error"]


def test_if_every_task_fails_so_does_the_request(connected):
    answer = predict(connected, [{"image": "/data/upload/1/text.txt"}])
    assert answer.status_code == 422
    assert "task 0" in answer.json()["detail"]


def test_only_the_one_label_studio_is_asked(connected, studio):
    for address in (
        "http://127.0.0.1:9/data/upload/1/beach.png", "//127.0.0.1:9/data/x", "https://example.org/a.png", "file:///etc/passwd",
        "/api/projects", "/data/../api/projects", "/data/%2e%2e/api/projects", "\\\\127.0.0.1\\data\\x", "/data/a b",
        f"http://user@{studio.address[7:]}/data/upload/1/beach.png", "/data/x\r\nX-Evil: 1", "", "data:text/plain,hello",
    ):  # fmt: skip
        answer = predict(connected, [{"image": address}])
        assert answer.status_code == 422, address
    assert studio.asked == Counter()


def test_a_redirect_is_followed_within_label_studio_only(connected, studio):
    studio.redirects = {"/data/upload/1/here": "/data/upload/1/beach.png", "/data/upload/1/away": "http://127.0.0.1:9/data/a.png",
                        "/data/upload/1/api": "/api/projects", "/data/upload/1/round": "/data/upload/1/round"}  # fmt: skip
    assert predict(connected, [{"image": "/data/upload/1/here"}]).status_code == 200
    for path, message in (
        ("away", "fetches images from"),
        ("api", "not the address of a file"),
        ("round", "answered 302"),
    ):
        answer = predict(connected, [{"image": f"/data/upload/1/{path}"}])
        assert answer.status_code == 422
        assert message in answer.json()["detail"]
    assert "/api/projects" not in studio.asked


def test_a_personal_access_token_is_exchanged_and_kept_for_a_while(studio, beach):
    images = LabelStudioImages(studio.address, PERSONAL, 10_000_000)
    for _ in range(3):
        assert images.fetch("/data/upload/1/beach.png") == beach
    assert studio.asked["/api/token/refresh/"] == 1
    with pytest.raises(DataError, match="does not accept the token in LABEL_STUDIO_API_KEY"):
        LabelStudioImages(studio.address, "not.a.token", 10_000_000).fetch("/data/upload/1/beach.png")


def test_images_of_cloud_storage_come_through_label_studio(studio, beach):
    path = f"/tasks/7/resolve/?fileuri={base64.urlsafe_b64encode(b's3://bucket/beach.png').decode()}".replace(
        "=", "%3D"
    )
    studio.files[path.replace("fileuri%3D", "fileuri=")] = beach
    images = LabelStudioImages(studio.address, KEY, 10_000_000)
    assert images.fetch("s3://bucket/beach.png", 7) == beach


def test_large_images_wrong_keys_and_silence_are_errors(studio):
    with pytest.raises(DataError, match="more than 1,000 bytes"):
        LabelStudioImages(studio.address, KEY, 1000).fetch("/data/upload/1/beach.png")
    with pytest.raises(DataError, match=r"answered 401.*check the API key"):
        LabelStudioImages(studio.address, "wrong", 10_000_000).fetch("/data/upload/1/beach.png")
    with pytest.raises(DataError, match="cannot be reached"):
        LabelStudioImages("http://127.0.0.1:9", KEY, 1000).fetch("/data/upload/1/beach.png")
    with pytest.raises(InputError, match="must look like"):
        LabelStudioImages("ftp://127.0.0.1", KEY, 1000)


def test_without_an_address_or_a_key_the_answer_says_what_to_set(client_of, studio, monkeypatch, beach):
    monkeypatch.delenv("LABEL_STUDIO_API_KEY", raising=False)
    assert "--label-studio URL" in predict(client_of(), [{"image": "/data/upload/1/beach.png"}]).json()["detail"]
    answer = predict(client_of(label_studio=studio.address), [{"image": "/data/upload/1/beach.png"}])
    assert "LABEL_STUDIO_API_KEY" in answer.json()["detail"]
    inline = f"data:image/png;base64,{base64.b64encode(beach).decode()}"
    assert predict(client_of(), [{"image": inline}]).status_code == 200


def test_connecting_checks_the_configuration(connected):
    def setup(config):
        return connected.post("/label-studio/setup", json={"project": "1.1", "schema": config}, headers=BASIC)

    assert setup(CONFIG.format("")).json() == {"model_version": "talk2dino-micro"}
    assert setup("<View></View>").status_code == 200  # a project that has no configuration yet
    answer = setup(
        '<View><Image name="i" value="$image"/><RectangleLabels name="r" toName="i"><Label value="a"/></RectangleLabels></View>'
    )
    assert answer.status_code == 422
    assert "BrushLabels or PolygonLabels" in answer.json()["detail"]


def test_events_are_accepted(connected):
    assert connected.post("/label-studio/webhook", json={"action": "PROJECT_UPDATED"}, headers=BASIC).json() == {}


def test_configurations():
    (control,) = read_controls(
        CONFIG.format('<Label value="a b" alias="ab" predicted_values="x, y ,"/><Label value="$dynamic"/>')
    )
    assert (control.name, control.image, control.key, control.polygons) == ("areas", "photo", "image", False)
    assert control.labels == {"ab": ("x", "y"), "sand": ("sand",)}
    both = CONFIG.format("").replace(
        "</View>", '<PolygonLabels name="p" toName="photo"><Label value="a"/></PolygonLabels></View>'
    )
    assert [one.polygons for one in read_controls(both)] == [False, True]
    for config, message in (
        ("<View", "not valid XML"), ("<View/>", "has no BrushLabels"), (CONFIG.format("").replace("photo\"><", 'other"><'), "has no"),
        ('<!DOCTYPE a [<!ENTITY b "c">]>' + CONFIG.format(""), "document type or entities"),
        (CONFIG.format("").replace('name="areas"', 'name="areas" model_score_threshold="high"'), "must be a number"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=message):
            read_controls(config)
