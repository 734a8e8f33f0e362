"""X-AnyLabeling's remote server protocol: requests as its client builds them, answers read as its client reads them.

The two functions repeat what ``RemoteServer.get_available_models`` and ``RemoteServer.predict_shapes`` of CVHub520/X-AnyLabeling
(commit 0f38687) do; the shapes are also checked against the fields and limits of X-AnyLabeling-Server's ``Shape`` (aad6ffa).
"""

from __future__ import annotations

import base64
import math

import numpy as np
import pytest
from PIL import Image, ImageDraw

from talk2dino.server.app import create_app
from talk2dino.server.options import ServeOptions
from talk2dino.server.shapes import polygon_shapes
from talk2dino.types import Segmentation

SERVER = "/x-anylabeling"  # what a user appends to server_url


def available_models(client, headers):
    response = client.get(f"{SERVER}/v1/models", headers=headers)
    response.raise_for_status()
    return response.json().get("data", {})


def predict_shapes(client, headers, model, image: bytes, text_prompt=None, marks=(), **params):
    params = {"conf_threshold": 0.0, "iou_threshold": 0.0, "epsilon_factor": 0.001, **params}
    if text_prompt:
        params["text_prompt"] = text_prompt.rstrip(".")
    if marks:
        params["marks"] = list(marks)
    payload = {"model": model, "image": f"data:image/png;base64,{base64.b64encode(image).decode()}", "params": params}
    response = client.post(f"{SERVER}/v1/predict", json=payload, headers=headers)
    response.raise_for_status()
    data = response.json().get("data", {})
    for shape in data.get("shapes", []):
        assert {"label", "shape_type", "points"} <= set(shape)
        assert all(len(point) == 2 for point in shape["points"])
    return data


def check_shape(shape, width, height):
    """The limits of X-AnyLabeling-Server's ``Shape``."""
    assert shape["shape_type"] == "polygon"
    assert shape["score"] is None or 0 <= shape["score"] <= 1
    assert 0 <= shape["direction"] <= 2 * math.pi
    assert shape["group_id"] is None or shape["group_id"] > 0
    assert len(shape["points"]) >= 4
    assert shape["points"][0] == shape["points"][-1]
    x, y = np.array(shape["points"]).T
    assert x.min() >= 0
    assert y.min() >= 0
    assert x.max() <= width
    assert y.max() <= height


def drawn(shapes, label, size):
    """The pixels inside the polygons of a label."""
    canvas = Image.new("1", size)
    for shape in shapes:
        if shape["label"] == label:
            outline = Image.new("1", (8 * size[0], 8 * size[1]))
            ImageDraw.Draw(outline).polygon([(8 * x, 8 * y) for x, y in shape["points"]], fill=1)
            small = np.array(outline)[4::8, 4::8]
            canvas = Image.fromarray(np.array(canvas) ^ small)
    return np.array(canvas)


HEADERS = {"Content-Type": "application/json", "Token": ""}


def test_the_list_of_models_shows_the_loaded_one_with_its_widgets(client):
    models = available_models(client, HEADERS)
    assert list(models) == ["micro"]
    widgets = {widget["name"]: widget["value"] for widget in models["micro"]["widgets"]}
    assert models["micro"]["display_name"]
    assert models["micro"]["batch_processing_mode"] == "text_prompt"
    assert {"edit_text", "button_send"} <= set(widgets)
    threshold = client.get("/v1/models").json()["loaded"]["threshold"]
    assert widgets["edit_conf"] == round(threshold, 2)


def test_polygons_cover_what_the_service_labels(client, beach):
    shapes = predict_shapes(client, HEADERS, "micro", beach, "sand, sky, water", conf_threshold=0.5)["shapes"]
    assert {"sand", "sky"} <= {shape["label"] for shape in shapes}
    for shape in shapes:
        check_shape(shape, 480, 360)
    fields = {"prompts": "sand, sky, water", "background": "0.5", "format": "png"}
    content = client.post("/v1/segment", files={"image": ("a.png", beach)}, data=fields).content
    labels = Segmentation.from_bytes(content)
    for name in ("sand", "sky"):
        mask, polygons = labels.mask(name), drawn(shapes, name, (480, 360))
        assert (mask & polygons).sum() / (mask | polygons).sum() > 0.95


def test_without_a_threshold_every_pixel_belongs_to_a_class(client, beach):
    shapes = predict_shapes(client, HEADERS, "micro", beach, "sand.sky")["shapes"]  # full stops separate, too
    covered = drawn(shapes, "sand", (480, 360)) | drawn(shapes, "sky", (480, 360))
    assert covered.mean() > 0.97


def test_a_box_is_an_example_of_an_object_without_a_name(client, beach):
    marks = [
        {"type": "rectangle", "data": [20, 300, 200, 350], "label": 1},
        {"type": "point", "data": [240, 20], "label": 0},
    ]
    shapes = predict_shapes(client, HEADERS, "micro", beach, marks=marks)["shapes"]
    assert {shape["label"] for shape in shapes} == {"AUTOLABEL_OBJECT"}
    covered = drawn(shapes, "AUTOLABEL_OBJECT", (480, 360))
    assert covered[325, 100]
    assert not covered[20, 240]


def test_nothing_asked_gives_no_shapes(client, beach):
    assert predict_shapes(client, HEADERS, "micro", beach)["shapes"] == []


def test_errors_have_a_status_that_the_client_shows_and_the_documented_body(client, beach):
    for model, image, status, code in (
        ("other", beach, 404, "MODEL_NOT_FOUND"),
        ("micro", b"hello", 415, "NOT_AN_IMAGE"),
    ):
        payload = {"model": model, "image": base64.b64encode(image).decode(), "params": {"text_prompt": "sky"}}
        answer = client.post(f"{SERVER}/v1/predict", json=payload, headers=HEADERS)
        assert answer.status_code == status
        assert answer.json()["success"] is False
        assert answer.json()["error"]["code"] == code
        assert len(answer.json()["error"]["message"]) > 10


def test_the_other_addresses_of_the_protocol(client):
    assert client.get(f"{SERVER}/health").json()["status"] == "healthy"
    assert client.get(f"{SERVER}/v1/models/micro/info").json()["data"]["model_id"] == "micro"
    assert client.get(f"{SERVER}/v1/models/other/info").status_code == 404


def test_the_token_comes_in_the_header_that_the_client_sends(client_of):
    client = client_of(token="s3cret")
    assert available_models(client, {**HEADERS, "Token": "s3cret"})
    assert client.get(f"{SERVER}/v1/models", headers={**HEADERS, "Token": "wrong"}).status_code == 401


def test_an_image_may_be_as_large_as_an_upload(client_of, beach):
    """Base64 takes a third more bytes; the limit is on the image."""
    client = client_of(max_upload=len(beach) + 10_000)
    assert predict_shapes(client, HEADERS, "micro", beach, "sky")["shapes"]
    payload = {"model": "micro", "image": "A" * 4_000_000, "params": {"text_prompt": "sky"}}
    assert client.post(f"{SERVER}/v1/predict", json=payload).status_code == 413


def test_holes_are_bridged_and_specks_are_left_out():
    labels = np.zeros((97, 131), dtype=np.uint8)
    labels[11:83, 17:109] = 1
    labels[31:53, 41:67] = 0
    labels[90, 120] = 1
    palette = np.array([[0, 0, 0], [255, 0, 0]], dtype=np.uint8)
    shapes = polygon_shapes(Segmentation(labels, ("background", "car"), palette, 0), 0.0)
    assert len(shapes) == 1
    labels[90, 120] = 0
    assert np.array_equal(drawn(shapes, "car", (131, 97)), labels == 1)


@pytest.mark.parametrize("fineness", [0.0, 0.001, 0.01])
def test_fineness_sets_the_number_of_points(fineness):
    rows, columns = np.mgrid[:211, :307]
    labels = ((rows - 101) ** 2 + (columns - 149) ** 2 < 83**2).astype(np.uint8)
    palette = np.array([[0, 0, 0], [255, 0, 0]], dtype=np.uint8)
    (shape,) = polygon_shapes(Segmentation(labels, ("background", "disc"), palette, 0), fineness)
    few, many = {0.0: (300, 500), 0.001: (30, 250), 0.01: (5, 30)}[fineness]
    assert few < len(shape["points"]) < many


def test_the_documentation_lists_the_protocol():
    document = create_app(ServeOptions(model="micro")).openapi()
    assert {f"{SERVER}/v1/models", f"{SERVER}/v1/predict"} <= set(document["paths"])
