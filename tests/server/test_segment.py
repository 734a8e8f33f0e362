"""``POST /v1/segment`` and what can be asked of an encoded image: the same answers as the Segmenter gives."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load

from service import keep_image, post_image
from talk2dino import Segmentation
from talk2dino.annotations import FORMATS, load_annotations
from talk2dino.io.rle import decode_rle
from talk2dino.server.answers import MEDIA_TYPES

WORDS = ["grass", "sand", "tree", "car", "mushroom"]


def labels_of(document) -> np.ndarray:
    """(H, W) labels of a JSON answer."""
    labels = np.full((document["height"], document["width"]), document["background"] or 0)
    for annotation in document["annotations"]:
        labels[decode_rle(annotation["segmentation"])] = annotation["category_id"]
    return labels


@pytest.mark.parametrize(
    ("fields", "arguments"),
    [
        ({}, {}),
        ({"background": "true"}, {"background": True}),
        ({"background": "0.6", "clean": "false"}, {"background": 0.6, "clean": False}),
        ({"threshold": {"car": 0.7}}, {"background": {"car": 0.7} | dict.fromkeys(["grass", "sand", "tree", "mushroom"], 0.58)}),
        ({"negative": "boat, ball", "refine": "true"}, {"negative": ["boat", "ball"], "refine": True}),
        ({"mode": "slide"}, {"mode": "slide"}),
        ({"mode": "square", "background": "true"}, {"mode": "square", "background": True}),
    ],
)  # fmt: skip
def test_labels_are_those_of_the_segmenter(client, segmenter, beach, fields, arguments):
    answer = post_image(client, beach, prompts=WORDS, **fields)
    assert answer.status_code == 200, answer.text
    wanted = segmenter.segment(beach, WORDS, **arguments)
    document = answer.json()
    assert document["names"] == list(wanted.names)
    assert document["background"] == wanted.background
    assert document["shares"] == pytest.approx(wanted.shares(), abs=1e-4)
    assert document["palette"] == wanted.palette.tolist()
    # The last bits of a word's vector depend on the words that it was encoded with, and may decide a pixel.
    assert (labels_of(document) != wanted.labels).sum() <= 3
    assert document["info"] == json.loads(json.dumps(wanted.info))


def test_formats(client, segmenter, beach, tmp_path):
    wanted = segmenter.segment(beach, WORDS)
    for format, suffix in (("png", ".png"), ("npz", ".npz")):
        answer = post_image(client, beach, prompts=WORDS, format=format)
        (tmp_path / f"labels{suffix}").write_bytes(answer.content)
        assert Segmentation.load(tmp_path / f"labels{suffix}") == wanted
    overlay = post_image(client, beach, prompts=WORDS, format="overlay")
    assert overlay.headers["content-type"] == "image/png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(overlay.content))), np.asarray(wanted.overlay(beach)))


@pytest.mark.parametrize("format", ["coco", "cvat", "cvat-masks", "label-studio"])
def test_labelling_formats_hold_the_labels(client, segmenter, beach, tmp_path, format):
    answer = post_image(client, beach, prompts=WORDS, format=format)
    assert answer.headers["content-type"].split(";")[0] == MEDIA_TYPES[format]
    path = tmp_path / FORMATS[format].target
    path.write_bytes(answer.content)
    (image,) = load_annotations(path, format).images
    assert np.array_equal(image.labels(WORDS), segmenter.segment(beach, WORDS).labels)
    if format == "cvat-masks":
        refused = post_image(client, beach, prompts="a:b", format=format)
        assert (refused.status_code, refused.headers["content-type"]) == (422, "application/problem+json")
        assert "must not contain ':'" in refused.json()["detail"]


def test_synonyms_as_on_the_command_line_and_as_json(client, beach):
    answers = [
        post_image(client, beach, prompts=prompts).json()["shares"]
        for prompts in (
            "grass, sand, car=red car|automobile",
            {"grass": None, "sand": [], "car": ["red car", "automobile"]},
        )
    ]
    assert answers[0] == answers[1]
    assert answers[0] != post_image(client, beach, prompts="grass, sand, car").json()["shares"]


def test_other_methods(client, segmenter, beach):
    answer = post_image(client, beach, prompts=WORDS, method="clip-dense")
    wanted = segmenter.with_method("clip-dense").segment(beach, WORDS)
    assert np.array_equal(labels_of(answer.json()), wanted.labels)
    refused = post_image(client, beach, prompts=WORDS, method="freeda")
    assert refused.status_code == 422
    assert "freeda build" in refused.json()["detail"]
    assert post_image(client, beach, prompts=WORDS, method="nonsense").json()["accepted"][0] == "talk2dino"


# --- encode once, ask often ----------------------------------------------------------------------------------------------


def test_an_encoded_image_gives_the_same_answers(client, beach):
    sent = client.post("/v1/images", files={"image": ("scene.png", beach)}).json()
    assert (sent["width"], sent["height"], sent["grid"]) == (480, 360, [16, 21])
    asked = {"prompts": WORDS, "background": True, "refine": True}
    again = client.post(f"/v1/images/{sent['id']}/segment", json=asked)
    once = post_image(client, beach, **asked)
    assert again.json() == once.json()
    slide = client.post(f"/v1/images/{sent['id']}/segment", json={"prompts": WORDS, "mode": "slide"})
    assert slide.json()["info"]["mode"] == "slide"


def test_features_hold_what_is_needed_to_label_pixels_elsewhere(client, segmenter, beach):
    id = keep_image(client, beach)
    answer = client.get(f"/v1/images/{id}/features")
    assert answer.headers["content-type"] == "application/vnd.safetensors"
    tensors = load(answer.content)
    about = json.loads(answer.content[8 : 8 + int.from_bytes(answer.content[:8], "little")])["__metadata__"]
    encoded = segmenter.encode_image(beach)
    assert tensors["patches"].dtype == np.float16
    assert np.allclose(tensors["patches"], encoded.patches[0].numpy(), rtol=1e-3, atol=1e-3)
    assert np.array_equal(tensors["attention"], encoded.attention[0].numpy())
    assert tensors["heads"].shape == (6, 192)
    assert np.allclose(np.linalg.norm(tensors["heads"], axis=1), 1, atol=1e-5)
    assert (about["image_size"], about["seen_size"], about["patch_size"]) == ("360 480", "128 168", "8")
    assert (about["threshold"], about["threshold_range"], about["variant"]) == ("0.58", "0 1", "published")
    words = client.post("/v1/text", json={"prompts": WORDS, "negative": "boat"}).json()
    vectors = np.frombuffer(base64.b64decode(words["embeddings"]), "<f4").reshape(6, words["dim"])
    expected = segmenter.encode_text(WORDS, negative=["boat"]).embeddings.numpy()
    np.testing.assert_allclose(vectors, expected, atol=1e-6)  # texts may have been encoded in other batches
    assert (words["names"], words["negative"]) == ([*WORDS, "boat"], 1)
    etag = answer.headers["etag"]
    assert client.get(f"/v1/images/{id}/features", headers={"If-None-Match": etag}).status_code == 304


def test_a_strip_is_encoded_in_windows_and_has_no_features_file(client):
    content = io.BytesIO()
    Image.fromarray(np.full((11, 1300, 3), 90, np.uint8)).save(content, "PNG")
    sent = client.post("/v1/images", files={"image": ("strip.png", content.getvalue())}).json()
    assert sent["mode"] == "slide"
    assert client.get(f"/v1/images/{sent['id']}/features").status_code == 409
    assert client.post(f"/v1/images/{sent['id']}/segment", json={"prompts": "sky"}).status_code == 200


def test_examples_by_box_point_mask_and_another_image(client, segmenter, beach):
    id = keep_image(client, beach)
    mask = segmenter.segment(beach, WORDS).mask("car")
    counts = segmenter.segment(beach, WORDS).to_coco()
    rle = next(a["segmentation"] for a in counts if a["category_id"] == WORDS.index("car"))
    for region, given in (
        ({"box": [10, 20, 110, 90]}, (10, 20, 110, 90)),
        ({"point": [101, 203]}, (101, 203)),
        ({"rle": rle}, mask),
        ({"box": [10, 20, 110, 90], "image": keep_image(client, beach)}, (10, 20, 110, 90)),
    ):
        text = segmenter.encode_text(["grass", "sand"]) + segmenter.encode_examples({"this": [(beach, given)]})
        wanted = segmenter.segment_batch([beach], text)[0]
        answer = client.post(
            f"/v1/images/{id}/segment", json={"prompts": ["grass", "sand"], "examples": {"this": [region]}}
        )
        assert answer.status_code == 200, answer.text
        assert np.array_equal(labels_of(answer.json()), wanted.labels)
        once = post_image(client, beach, prompts=["grass", "sand"], examples={"this": [region]})
        assert once.json()["shares"] == wanted.shares()


def test_the_picture_is_upright(client):
    array = np.random.default_rng(0).integers(0, 255, (37, 53, 3), np.uint8)
    content, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(array).save(content, "PNG", exif=exif)
    answer = client.get(f"/v1/images/{keep_image(client, content.getvalue())}/picture")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), np.rot90(array, -1))


def test_a_forgotten_image_is_gone(client, beach):
    id = keep_image(client, beach)
    assert client.delete(f"/v1/images/{id}").status_code == 204
    for answer in (client.delete(f"/v1/images/{id}"), client.get(f"/v1/images/{id}/features")):
        assert answer.status_code == 404
        assert answer.json()["type"].endswith("no-such-image")
