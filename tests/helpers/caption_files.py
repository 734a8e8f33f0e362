"""Small caption sources on disk, and what a source yields."""

import io
import json
import tarfile

from PIL import Image

from talk2dino.captions import Record

#: Rows of (file name, caption) as Flickr30k has them, and the records that they make.
ROWS_PER_CAPTION = [
    ("a.jpg", "one"),
    ("b.jpg", "two"),
    ("a.jpg", "three"),
    ("c.jpg", "four"),
    ("a.jpg", "one"),
    ("b.jpg", ""),
]
RECORDS = [(0, "a.jpg", ("one", "three")), (1, "b.jpg", ("two",)), (2, "c.jpg", ("four",))]


def jpeg(colour=(200, 30, 60), size=(31, 23)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "JPEG")
    return buffer.getvalue()


def listed(source, wanted=lambda number: True):
    """(number, key, captions or the reason for skipping) of each wanted record."""
    return [(number, r.key, r.captions if isinstance(r, Record) else r.reason) for number, r in source.records(wanted)]


def make_tar(path, entries):
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def coco_file(folder, content, name="captions_train2014"):
    """A captions file with its image folder."""
    (folder / name.removeprefix("captions_")).mkdir(exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    file = folder / "annotations" / f"{name}.json"
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return file


def metadata_folder(folder, text):
    folder.mkdir(parents=True)
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "a.jpg", "text": text}))
