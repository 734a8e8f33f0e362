"""What is handled, and what is refused with one clear sentence."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from talk2dino.errors import ImageError, OutputError
from talk2dino.io.atomic import write_atomically
from talk2dino.io.find import find_images
from talk2dino.io.images import read_image

RED = np.zeros((7, 11, 3), np.uint8)
RED[..., 0] = 200


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "P", "L", "LA", "RGBA", "1", "I;16", "F"])
def test_colour_modes(mode, tmp_path):
    if mode == "I;16":
        image = Image.fromarray(np.full((7, 11), 51200, np.uint16))
    elif mode == "F":
        image = Image.fromarray(np.full((7, 11), 200, np.float32))
    else:
        image = Image.fromarray(RED).convert(mode)
    kind = "TIFF" if mode in ("CMYK", "F") else "PNG"
    path = tmp_path / f"图 🐟.{kind.lower()}"
    path.write_bytes(encoded(image, kind))
    picture = read_image(path)
    assert picture.array.shape == (7, 11, 3)
    assert picture.array.dtype == np.uint8
    if mode in ("RGB", "P", "RGBA", "CMYK"):
        assert np.abs(picture.array[3, 5].astype(int) - [200, 0, 0]).max() <= 5
    if mode == "I;16":
        assert np.abs(picture.array.astype(int) - 200).max() <= 1


def test_transparency_goes_on_white():
    assert read_image(Image.new("RGBA", (11, 7))).array.min() == 255


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    upright = np.zeros((8, 16, 3), np.uint8)
    upright[:4, :8] = 255  # bright top left
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # PIL transposes that undo each orientation
    image = Image.fromarray(upright)
    if orientation > 1:
        image = image.transpose(Image.Transpose(back[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = read_image(encoded(image, "PNG", exif=exif))
    assert picture.array.shape == (8, 16, 3)
    assert picture.array[1, 2].min() == 255
    assert picture.array[6, 13].max() == 0
    assert bool(picture.notes) == (orientation > 1)


def test_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (9, 5), c) for c in ((200, 0, 0), (0, 200, 0))]
    picture = read_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert tuple(picture.array[2, 2]) == (200, 0, 0)
    assert any("first frame" in note for note in picture.notes)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_truncated(kind, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    content = encoded(Image.fromarray(noise), kind)
    path = tmp_path / f"cut.{kind.lower()}"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError, match="cut"):
        read_image(path)
    picture = read_image(path, allow_truncated=True)
    assert picture.array.shape == (64, 64, 3)
    assert picture.notes
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_refused(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no picture")
    for name, words in (("empty.png", "empty"), ("text.jpg", "text.jpg"), ("tekst.jpg", "text.jpg")):
        with pytest.raises(ImageError, match=words):
            read_image(tmp_path / name)
    with pytest.raises(ImageError, match="folder"):
        read_image(tmp_path)
    for array in (np.zeros((3, 8, 9), np.uint8), np.zeros((8, 9, 3)), np.zeros((0, 9, 3), np.uint8)):
        with pytest.raises(ImageError):
            read_image(array)


def test_decompression_bomb():
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )
    with pytest.raises(ImageError, match="60000"):
        read_image(bomb)


def test_finding(tmp_path):
    for name in ("b10.png", "b9.png", "note.txt"):
        (tmp_path / name).write_bytes(encoded(Image.fromarray(RED), "PNG"))
    assert [p.name for p in find_images([tmp_path, tmp_path / "b9.png"])] == ["b9.png", "b10.png"]
    assert [p.name for p in find_images([str(tmp_path / "*1*.png")])] == ["b10.png"]
    with pytest.raises(ImageError, match="absent"):
        find_images([tmp_path / "absent.png"])
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ImageError, match="nothing"):
        find_images([tmp_path / "nothing"])


def test_atomic_writing(tmp_path):
    target = tmp_path / "a.txt"
    write_atomically(target, "first")
    with pytest.raises(OutputError, match="file"):
        write_atomically(target / "below.txt", "x")
    assert target.read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
