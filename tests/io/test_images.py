"""Every kind of image is read or refused with one clear sentence; nothing global of Pillow's is touched."""

from __future__ import annotations

import io
import os
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, features

from talk2dino.errors import ImageError
from talk2dino.io.images import MAX_PIXELS, image_size, read_image

H, W = 29, 41


@pytest.fixture(scope="module")
def smooth():
    """(H, W, 3): gradients, which lossy formats keep, with no symmetry."""
    rows, columns = np.mgrid[:H, :W]
    return np.stack([rows * 8, columns * 6, 255 - rows * 4 - columns * 3], axis=2).astype(np.uint8)


@pytest.fixture(scope="module")
def large():
    """(208, 272, 3): enough data that half a file is half a picture."""
    return np.random.default_rng(7).integers(0, 255, (13, 17, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)


def encoded(image, kind: str, **options) -> bytes:
    content = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(content, kind, **options)
    return content.getvalue()


def png(width: int, height: int, depth: int, colour: int, data: bytes, extra: bytes = b"") -> bytes:
    """A PNG from raw scan lines, for kinds that Pillow does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


# Sources


def test_every_source_gives_the_same_pixels(smooth, tmp_path):
    content = encoded(smooth, "PNG")
    path = tmp_path / "天空 🐈 ñ.png"
    path.write_bytes(content)
    with open(path, "rb") as file:
        from_file = read_image(file)
    for picture in (
        read_image(path), read_image(str(path)), read_image(content), read_image(bytearray(content)), from_file,
        read_image(io.BytesIO(content)), read_image(Image.open(path)), read_image(smooth), read_image(read_image(path)),
    ):  # fmt: skip
        assert np.array_equal(picture.array, smooth)
        assert picture.array.dtype == np.uint8
        assert picture.array.flags.c_contiguous
        assert picture.array.flags.writeable
        assert picture.size == (H, W)
        assert picture.notes == ()
    assert read_image(path).name == "天空 🐈 ñ.png"
    assert read_image(path).path == path
    assert read_image(content).path is None


def test_arrays(smooth):
    grey = smooth[..., 0]
    assert np.array_equal(read_image(grey).array, np.stack([grey] * 3, axis=2))
    assert np.array_equal(read_image(grey[..., None]).array, np.stack([grey] * 3, axis=2))
    rgba = np.dstack([smooth, np.full((H, W), 255, np.uint8)])
    rgba[0, 0] = (10, 20, 30, 0)
    rgba[0, 1] = (10, 20, 30, 127)
    read = read_image(rgba).array
    assert read[0, 0].tolist() == [255, 255, 255]
    assert read[0, 1].tolist() == [133, 138, 143]
    assert np.array_equal(read[1:], smooth[1:])
    backwards = smooth[::-1, :, ::-1]
    assert np.array_equal(read_image(backwards).array, backwards)
    assert read_image(backwards).array.flags.c_contiguous


def test_an_array_is_copied(smooth):
    source = smooth.copy()
    read_image(source).array[:] = 0
    assert np.array_equal(source, smooth)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((H, W, 3), np.float32), "float32.*not uint8"),
        (np.zeros((H, W, 3), np.uint16), "uint16.*not uint8"),
        (np.zeros((3, H, W), np.uint8), "channels-first.*transpose"),
        (np.zeros((2, H, W, 3), np.uint8), "batch"),
        (np.zeros((H, W, 2), np.uint8), "not an image"),
        (np.zeros(H, np.uint8), "not an image"),
        (np.zeros((0, W, 3), np.uint8), "no pixels"),
    ],
)
def test_arrays_that_are_refused(array, says):
    with pytest.raises(ImageError, match=says):
        read_image(array)


def test_other_sources_are_refused():
    with pytest.raises(ImageError, match="int"):
        read_image(5)
    with pytest.raises(ImageError, match="open as text"):
        read_image(io.StringIO("text"))
    with pytest.raises(ImageError, match="no pixels"):
        read_image(Image.new("RGB", (0, 5)))


def test_torch_tensors(smooth):
    import torch

    tensor = torch.from_numpy(smooth)
    for given in (tensor, tensor.permute(2, 0, 1), tensor / 255, (tensor / 255).permute(2, 0, 1).double()):
        read = read_image(given)
        assert np.array_equal(read.array, smooth)
        assert read.array.flags.c_contiguous
        assert read.name == "tensor"
    grey = np.repeat(smooth[..., :1], 3, axis=2)
    assert np.array_equal(read_image(tensor[None, :, :, 0]).array, grey)
    assert np.array_equal(read_image(tensor[..., :1]).array, grey)
    assert read_image(torch.zeros(3, 5, 3, dtype=torch.uint8)).size == (5, 3)  # channels first
    read_image(tensor).array[:] = 0
    assert tensor.any()  # copied


@pytest.mark.parametrize(
    ("shape", "dtype", "value", "says"),
    [
        ((2, 3, H, W), "uint8", 0, "batch"),
        ((H, W), "uint8", 0, r"uint8 \(29, 41\) is not an image.*\(3, H, W\)"),
        ((4, H, W), "uint8", 0, "not an image"),
        ((3, H, W), "int64", 0, "int64.*uint8 0..255"),
        ((3, H, W), "float32", 1.01, r"values 1.01..1.01.*0..1"),
        ((3, H, W), "float32", -0.01, "floating point 0..1"),
        ((3, H, W), "float16", float("nan"), "nan"),
        ((3, 0, W), "float32", 0, "not an image"),
    ],
)
def test_tensors_that_are_refused(shape, dtype, value, says):
    import torch

    with pytest.raises(ImageError, match=says):
        read_image(torch.full(shape, value, dtype=getattr(torch, dtype)))


def test_standard_input(smooth, monkeypatch):
    class Input:
        buffer = io.BytesIO(encoded(smooth, "PNG"))
        isatty = staticmethod(lambda: False)

    monkeypatch.setattr("sys.stdin", Input)
    read = read_image("-")
    assert np.array_equal(read.array, smooth)
    assert (read.name, read.path) == ("standard input", None)
    with pytest.raises(ImageError, match="standard input is empty"):
        read_image("-")
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(ImageError, match="nothing is piped in"):
        read_image("-")


@pytest.mark.parametrize("orientation", [1, 4, 5, 8])
def test_image_size_is_that_of_the_image_as_read(smooth, tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "x.jpg").write_bytes(encoded(smooth, "JPEG", exif=exif))
    assert image_size(tmp_path / "x.jpg") == read_image(tmp_path / "x.jpg").size
    assert image_size(tmp_path / "x.jpg") == ((W, H) if orientation >= 5 else (H, W))
    assert image_size(tmp_path / "y.jpg") is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
@pytest.mark.timeout(20)
def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "x.jpg")
    assert image_size(tmp_path / "x.jpg") is None
    with pytest.raises(ImageError, match=r"x\.jpg is a device or a pipe"):
        read_image(tmp_path / "x.jpg")


@pytest.mark.skipif(os.name != "posix", reason="names are Unicode on this system")
def test_a_name_that_is_not_utf8(smooth, tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    path.write_bytes(encoded(smooth, "PNG"))
    read = read_image(path)
    assert (read.name, read.path) == (r"caf\xe9.png", path)
    path.write_bytes(b"")
    with pytest.raises(ImageError, match=r"caf\\xe9\.png is empty"):
        read_image(path)


def test_heic(smooth, monkeypatch):
    header = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic"
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    with pytest.raises(ImageError, match="HEIC image, which needs the package pillow-heif: run pip install"):
        read_image(header)
    monkeypatch.undo()
    pytest.importorskip("pillow_heif").register_heif_opener()
    assert np.abs(read_image(encoded(smooth, "HEIF", quality=95)).array.astype(int) - smooth).max() <= 16
    with pytest.raises(ImageError, match="starts like HEIF"):
        read_image(header)


# Kinds that are handled


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("JPEG", {"quality": 95}, 8), ("JPEG", {"quality": 95, "progressive": True}, 8), ("PNG", {}, 0),
        ("WEBP", {"lossless": True}, 0), ("BMP", {}, 0), ("TIFF", {}, 0), ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("PPM", {}, 0), ("JPEG2000", {}, 0), ("AVIF", {"quality": 95}, 12), ("QOI", {}, 0),
    ],
)  # fmt: skip
def test_formats(smooth, kind, options, tolerance):
    module = {"WEBP": "webp", "JPEG2000": "jpg_2000", "AVIF": "avif"}.get(kind)
    if module and not features.check(module):
        pytest.skip(f"Pillow was built without {kind}")
    if kind == "QOI" and "QOI" not in Image.SAVE:
        pytest.skip("this Pillow does not write QOI")
    content = encoded(smooth, kind, **options)
    read = read_image(content)
    assert np.abs(read.array.astype(int) - smooth).max() <= tolerance
    assert read.notes == ()


def test_cmyk(smooth):
    read = read_image(encoded(Image.fromarray(smooth).convert("CMYK"), "JPEG", quality=95))
    assert np.abs(read.array.astype(int) - smooth).max() <= 12
    assert "CMYK" in read.notes[0]


def test_sixteen_bit_grey_and_colour(smooth):
    grey = smooth[..., 0].astype(np.uint16) * 257
    grey[0, 0] = 128  # rounds down
    grey[0, 1] = 129  # rounds up
    read = read_image(encoded(Image.fromarray(grey), "PNG"))
    expected = smooth[..., 0].copy()
    expected[0, :2] = (0, 1)
    assert np.array_equal(read.array, np.stack([expected] * 3, axis=2))
    assert read.notes == ("16 bit scaled to 8",)
    assert np.array_equal(read_image(encoded(Image.fromarray(grey), "TIFF")).array, read.array)
    colour = (smooth.astype(">u2") * 257).astype(">u2")
    lines = b"".join(b"\x00" + line.tobytes() for line in colour)
    assert np.array_equal(read_image(png(W, H, 16, 2, lines)).array, smooth)


def test_thirty_two_bit_grey():
    ramp = np.arange(H * W).reshape(H, W)
    assert read_image(Image.fromarray((ramp / (H * W)).astype(np.float32))).array.max() == 255
    assert read_image(Image.fromarray((ramp % 256).astype(np.float32))).array[0, :3, 0].tolist() == [0, 1, 2]
    assert read_image(Image.fromarray((ramp % 256).astype(np.int32))).array[0, :3, 0].tolist() == [0, 1, 2]
    stretched = read_image(Image.fromarray((ramp * 1e6 - 5).astype(np.float32)))
    assert (stretched.array.min(), stretched.array.max()) == (0, 255)
    assert "stretched" in stretched.notes[0]
    holes = ramp.astype(np.float32) % 256
    holes[0, 0], holes[0, 1] = np.nan, np.inf
    assert read_image(Image.fromarray(holes)).array[0, :3, 0].tolist() == [0, 0, 2]


def test_palette_with_and_without_transparency(smooth):
    palette = Image.fromarray(smooth).quantize(64)
    assert np.array_equal(read_image(encoded(palette, "PNG")).array, np.asarray(palette.convert("RGB")))
    index = palette.getpixel((3, 5))
    read = read_image(encoded(palette, "PNG", transparency=index))
    assert read.array[5, 3].tolist() == [255, 255, 255]
    assert read.notes == ("transparency put on white",)
    other = np.asarray(palette) != index
    assert np.array_equal(read.array[other], np.asarray(palette.convert("RGB"))[other])


def test_grey_with_alpha_and_one_bit(smooth):
    grey = Image.fromarray(smooth[..., 0])
    grey_alpha = Image.merge("LA", (grey, Image.new("L", grey.size, 0)))
    assert (read_image(encoded(grey_alpha, "PNG")).array == 255).all()
    lines = b"".join(b"\x00" + bytes(8 * W // 2) for _ in range(H))  # 16-bit grey and alpha, all clear
    assert (read_image(png(W, H, 16, 4, lines)).array == 255).all()
    bits = smooth[..., 0] > 99
    assert np.array_equal(read_image(encoded(Image.fromarray(bits), "PNG")).array[..., 1], np.where(bits, 255, 0))
    keyed = read_image(encoded(grey, "PNG", transparency=int(smooth[2, 0, 0])))
    assert keyed.array[2, 0].tolist() == [255, 255, 255]
    assert keyed.array[3, 0].tolist() == [24, 24, 24]


def test_rgba_on_white():
    clear = Image.new("RGBA", (W, H), (200, 0, 0, 0))
    clear.putpixel((1, 2), (200, 0, 0, 255))
    read = read_image(encoded(clear, "PNG"))
    assert read.array[0, 0].tolist() == [255, 255, 255]
    assert read.array[2, 1].tolist() == [200, 0, 0]


def test_lab():
    lab = Image.new("LAB", (W, H), (136, 208, 195))  # red
    red, green, blue = read_image(lab).array[0, 0].tolist()
    assert red > 230
    assert max(green, blue) < 60


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(smooth, kind, orientation):
    undo = {  # how the file is stored so that turning it upright gives the picture back
        1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]  # fmt: skip
    stored = Image.fromarray(smooth)
    stored = stored if undo is None else stored.transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(stored, kind, exif=exif, **{"JPEG": {"quality": 97}, "WEBP": {"lossless": True}}.get(kind, {}))
    for source in (content, Image.open(io.BytesIO(content))):
        read = read_image(source)
        assert read.size == (H, W)
        assert np.abs(read.array.astype(int) - smooth).max() <= (8 if kind == "JPEG" else 0)
        if kind != "TIFF":  # Pillow turns those itself
            assert ("EXIF rotation applied" in read.notes) == (orientation != 1)


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\x00\x00", b"Exif\x00\x00II*\x00", b"Exif\x00\x00MM\x00*\xff\xff\xff\xff", b"Exif\x00\x00nonsense",
        b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff\x12\x01\x03\x00\x01\x00\x00\x00\x63\x00\x00\x00",
        b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00", bytes(range(256)),
    ],
)  # fmt: skip
def test_damaged_exif_does_not_matter(smooth, exif):
    assert read_image(encoded(smooth, "JPEG", exif=exif)).size == (H, W)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_read(kind):
    frames = [Image.new("RGB", (W, H), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=40)
    read = read_image(content)
    red, green, blue = read.array[H // 2, W // 2].tolist()
    assert red > 200
    assert max(green, blue) < 60
    assert read.notes == ("animated: first frame used",)


def test_of_several_pages_the_first_is_read():
    pages = [Image.new("L", (W, H), value) for value in (200, 100)]
    read = read_image(encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:]))
    assert read.array.mean() == 200
    assert read.notes == ("several pages: first used",)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_thin_pictures(size):
    assert read_image(encoded(Image.new("RGB", size, (9, 8, 7)), "PNG")).size == size[::-1]


# Kinds that are refused


def test_missing_empty_folder_and_foreign_files(tmp_path, smooth):
    Image.fromarray(smooth).save(tmp_path / "street.png")
    with pytest.raises(ImageError, match=r"no such file: .*stret\.png; did you mean street\.png"):
        read_image(tmp_path / "stret.png")
    with pytest.raises(ImageError, match="is a folder"):
        read_image(tmp_path)
    with pytest.raises(ImageError, match="no such file"):
        read_image("bad\0name.png")
    with pytest.raises(ImageError, match="a URL"):
        read_image("https://example.org/x.png")
    (tmp_path / "empty.jpg").write_bytes(b"")
    with pytest.raises(ImageError, match=r"empty\.jpg is empty \(0 bytes\)"):
        read_image(tmp_path / "empty.jpg")
    (tmp_path / "text.png").write_text("not an image, a sentence")
    with pytest.raises(ImageError, match=r"text\.png is not an image.*accepted: JPEG, PNG"):
        read_image(tmp_path / "text.png")
    with pytest.raises(ImageError, match="a PDF document"):
        read_image(b"%PDF-1.7 and so on")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    (tmp_path / "locked.png").write_bytes(b"x")
    (tmp_path / "locked.png").chmod(0)
    with pytest.raises(ImageError, match="permission denied"):
        read_image(tmp_path / "locked.png")


@pytest.mark.parametrize("cut", [0.5, 0.9, -2])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("GIF", {}), ("BMP", {}), ("TIFF", {}),
        ("JPEG", {"progressive": True, "exif": b"Exif\x00\x00 a thumbnail's end \xff\xd9"}),
    ],
)  # fmt: skip
def test_truncated_files_are_refused_unless_asked(large, kind, options, cut):
    whole = encoded(large, kind, **options)
    part = whole[: cut if cut < 0 else int(cut * len(whole))]
    if kind in ("GIF", "PNG") and cut == -2:
        assert np.array_equal(read_image(part).array, large)  # every pixel is there
        return
    with pytest.raises(ImageError, match=r"is truncated .*--allow-truncated"):
        read_image(part)
    read = read_image(part, allow_truncated=True)
    assert read.notes == ("truncated: read the part that is there",)
    close = (np.abs(read.array.astype(int) - read_image(whole).array) < 24).all(axis=2)
    if options.get("progressive"):  # all of the picture, but coarse
        assert np.corrcoef(read.array.ravel(), read_image(whole).array.ravel())[0, 1] > (0.5 if cut == 0.5 else 0.9)
    else:
        assert close.mean() > (0.2 if cut == 0.5 else 0.7)
    assert read_image(whole, allow_truncated=True).notes == ()


def test_truncated_in_the_header_nothing_can_be_read(large):
    for kind, length in (("JPEG", 40), ("PNG", 30), ("WEBP", 60), ("PNG", 90)):
        for allow in (False, True):
            if kind == "PNG" and length == 90 and allow:
                continue  # some pixels
            with pytest.raises(ImageError, match=r"truncated or damaged|is truncated"):
                read_image(encoded(large, kind)[:length], allow_truncated=allow)


@pytest.mark.skipif(not features.check("jpg_2000"), reason="Pillow was built without JPEG 2000")
def test_a_file_of_which_nothing_is_left(large):
    part = encoded(large, "JPEG2000")[:2000]
    with pytest.raises(ImageError, match=r"is damaged .*--allow-truncated"):
        read_image(part)
    with pytest.raises(ImageError, match="nothing of it can be read"):
        read_image(part, allow_truncated=True)


def test_a_damaged_middle_is_told_from_a_missing_end(large):
    whole = bytearray(encoded(large, "PNG"))
    middle = len(whole) // 2
    whole[middle : middle + 20] = bytes(20)
    with pytest.raises(ImageError, match="is damaged"):
        read_image(bytes(whole))
    assert read_image(bytes(whole), allow_truncated=True).notes == ("damaged: read the part that is there",)


def test_reading_truncated_files_leaves_other_threads_alone(large):
    part = encoded(large, "JPEG")[:900]
    outcomes: list[str] = []

    def lenient():
        for _ in range(20):
            read_image(part, allow_truncated=True)
            outcomes.append(f"global {ImageFile.LOAD_TRUNCATED_IMAGES}")

    def strict():
        for _ in range(20):
            try:
                read_image(part)
            except ImageError:
                outcomes.append("refused")

    threads = [threading.Thread(target=work) for work in (lenient, strict, lenient, strict)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["global False"] * 40 + ["refused"] * 40


@pytest.mark.parametrize("pillow_limit", [None, 10, 89_478_485])
def test_a_decompression_bomb_is_refused_by_its_header(monkeypatch, pillow_limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillow_limit)
    bomb = png(60_000, 50_000, 8, 2, bytes(1000))
    with pytest.raises(ImageError, match=r"3,000,000,000 pixels \(60000 x 50000\).*limit of 180,000,000.*--max-pixels"):
        read_image(bomb)
    assert MAX_PIXELS == 180_000_000


def test_the_limit_is_the_callers_not_pillows(monkeypatch, smooth):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow itself would refuse
    content = encoded(smooth, "PNG")
    assert read_image(content).size == (H, W)
    assert read_image(content, max_pixels=H * W).size == (H, W)
    with pytest.raises(ImageError, match="1,189 pixels"):
        read_image(content, max_pixels=H * W - 1)
    lazy = Image.open(io.BytesIO(content)) if Image.MAX_IMAGE_PIXELS is None else Image.fromarray(smooth)
    with pytest.raises(ImageError, match="1,189 pixels"):
        read_image(lazy, max_pixels=100)
    assert read_image(content, max_pixels=None).size == (H, W)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about damaged tags
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("allow", [False, True])
def test_whatever_is_damaged_the_error_is_ours(smooth, kind, allow):
    whole = encoded(smooth, kind)
    draws = np.random.default_rng(11)
    messages = []
    for _ in range(60):
        damaged = bytearray(whole)
        for position in draws.integers(0, len(whole), 6):
            damaged[position] = draws.integers(256)
        try:
            assert read_image(bytes(damaged), allow_truncated=allow, max_pixels=10**7).array.ndim == 3
        except ImageError as error:
            messages.append(str(error))
    assert not any("\n" in message for message in messages)
    assert messages or kind not in ("PNG", "WEBP")


@pytest.mark.parametrize("content", [b"P", b"no", b"GIF", b"II*", b"\x28\0\0", b"\xff\xd8\xff"])
def test_files_of_a_few_bytes_are_no_images(content):
    """Pillow's checks of the first bytes fail on them with errors of their own."""
    with pytest.raises(ImageError, match=r"not an image that can be read|truncated or damaged"):
        read_image(content)
