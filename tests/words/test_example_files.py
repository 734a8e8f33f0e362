"""Examples as the command line names them."""

import numpy as np
import pytest
from PIL import Image

from talk2dino.errors import DataError, InputError
from talk2dino.io.palette import class_palette
from talk2dino.types import Segmentation
from talk2dino.words.example_files import parse_example, read_example_files, read_mask


@pytest.fixture
def files(tmp_path):
    Image.new("RGB", (31, 23)).save(tmp_path / "a:b=c.png")
    mask = np.zeros((23, 31), np.uint8)
    mask[3:7, 5:11] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path


def test_masks_boxes_and_points(files):
    image = files / "a:b=c.png"  # the class ends at the first "=", the region starts at the last ":"
    examples = [parse_example(f"my part={image}:{region}") for region in (files / "mask.png", "5,3,11,7", " 5.5, 3")]
    assert [(one.name, one.image, one.region) for one in examples] == [
        ("my part", image, files / "mask.png"), ("my part", image, (5, 3, 11, 7)), ("my part", image, (5.5, 3)),
    ]  # fmt: skip
    found = read_example_files([*examples, parse_example(f"b={image}:1,2")])
    assert list(found) == ["my part", "b"]
    assert [region for _, region in found["my part"]][1:] == [(5, 3, 11, 7), (5.5, 3)]
    assert np.argwhere(found["my part"][0][1])[[0, -1]].tolist() == [[3, 5], [6, 10]]


def test_the_digest_follows_the_content(files):
    image = files / "a:b=c.png"
    digests = {
        parse_example(f"{name}={image}:{region}").digest()
        for name in "ab"
        for region in ("1,2", "1,3", files / "mask.png")
    }
    before = parse_example(f"a={image}:{files / 'mask.png'}").digest()
    assert len(digests) == 6
    Image.new("L", (31, 23), 1).save(files / "mask.png")
    assert parse_example(f"a={image}:{files / 'mask.png'}").digest() != before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("my part", "cannot be read; expected NAME=IMAGE:MASK.png"),
        ("=IMAGE:1,2", "cannot be read"),
        ("a=IMAGE", "cannot be read"),
        ("a=nowhere.png:1,2", "does not exist: nowhere.png"),
        ("a=IMAGE:nowhere.png", "does not exist: nowhere.png"),
        ("a=IMAGE:1,2,3", "needs 2 or 4 numbers"),
        ("a=IMAGE:1,2.3.4", "needs 2 or 4 numbers"),
    ],
)
def test_examples_that_are_refused(files, text, message):
    with pytest.raises(InputError, match=message):
        parse_example(text.replace("IMAGE", str(files / "mask.png")))


def test_the_mask_of_a_class_in_a_saved_segmentation(files):
    labels = np.zeros((23, 31), np.uint8)
    labels[:5], labels[5:9] = 1, 2
    names = ("background", "sky", "ball")
    path = Segmentation(labels, names, class_palette(names, 0), 0).save(files / "x.labels.png")
    assert np.array_equal(read_mask(path, "ball"), labels == 2)
    with pytest.raises(InputError, match="without the class 'cube'; it has background, sky, ball"):
        read_mask(path, "cube")


def test_one_bit_masks_and_colour_images(files):
    mask = np.zeros((23, 31), bool)
    mask[2] = True
    Image.fromarray(mask).save(files / "one.png")
    assert np.array_equal(read_mask(files / "one.png", "a"), mask)
    with pytest.raises(DataError, match="colour image"):
        read_mask(files / "a:b=c.png", "a")
