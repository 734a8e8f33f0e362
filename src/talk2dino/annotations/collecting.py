"""The objects of a folder run: kept on disk, one line per image, until a single pass writes the data-set files.

Memory holds the place of each line only, so the number of images does not matter. A line is written before the run's journal
names it; a run that is killed in between leaves a line that nobody reads. The pass reads the lines in the order of the
images, so a run that was resumed writes the same files as one that was not.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talk2dino.annotations.exports import annotated_image
from talk2dino.annotations.formats import FORMATS, check_data
from talk2dino.annotations.objects import ObjectOptions
from talk2dino.annotations.sizes import read_world_file
from talk2dino.annotations.types import AnnotatedImage
from talk2dino.annotations.writing import DataSet, WriteOptions
from talk2dino.errors import DataError, InputError
from talk2dino.io.atomic import remove_leftovers, writing_failed
from talk2dino.io.find import STDIN
from talk2dino.io.names import readable

if TYPE_CHECKING:
    from talk2dino.io.journal import Journal
    from talk2dino.progress import ProgressCallback
    from talk2dino.types import Segmentation

log = logging.getLogger(__name__)

LINES = ".talk2dino.objects.jsonl"


class Collection:
    """The objects of the images of one folder run.

    Args:
        out: folder of the run. formats: names from :data:`FORMATS`.
        objects, writing: what becomes an object, and how it is written.
        paths: all images of the run, whose common folder is the one that names are relative to.

    Raises:
        InputError: classes or file names that a format cannot hold. DataError: no image has the world file that GeoJSON needs.
    """

    def __init__(
        self, out: Path, formats: Sequence[str], objects: ObjectOptions, writing: WriteOptions, *,
        classes: Sequence[str], paths: Sequence[Path],
    ) -> None:  # fmt: skip
        self.out, self.formats, self.objects, self.writing = out, formats, objects, writing
        self.classes = tuple(classes)
        if not classes:
            raise InputError("labelling formats need classes, which this method does not have: choose another method")
        self.lines = out / LINES
        self.key = json.dumps(objects.model_dump(), sort_keys=True)
        folders = {os.path.dirname(os.path.abspath(path)) for path in paths if path != STDIN}
        self.root = Path(os.path.commonpath(folders)) if folders else Path()
        for name in formats:
            check_data(FORMATS[name], self.classes, [self.name(path) for path in paths])
        if "geojson" in formats and not any(read_world_file(path) for path in paths):
            raise DataError("no image has a world file, such as photo.pgw or photo.wld, which GeoJSON needs")

    def name(self, path: Path) -> str:
        """How the data set calls an image: its path below the common folder."""
        return "stdin" if path == STDIN else Path(os.path.relpath(path, self.root)).as_posix()

    def image(self, seg: Segmentation, path: Path) -> AnnotatedImage:
        """The objects of one image.

        Raises:
            InputError: objects are to be split, but the method has no attention maps. DataError: a damaged world file.
        """
        return annotated_image(seg, path, self.objects, name=self.name(path))

    def add(self, image: AnnotatedImage) -> dict[str, Any]:
        """Keep the objects of one image; not for several threads at once.

        Returns:
            What the journal has to keep of it.
        """
        line = (json.dumps(image.as_record(), ensure_ascii=True) + "\n").encode("ascii")
        try:
            with open(self.lines, "ab") as file:
                start = file.seek(0, os.SEEK_END)
                file.write(line)
        except OSError as error:
            raise writing_failed(self.lines, error) from error
        return {"key": self.key, "at": [start, len(line)]}

    def holds(self, entry: Mapping[str, Any] | None) -> bool:
        """Whether the objects that the journal names are there, and are those that are asked for."""
        if not entry or entry.get("key") != self.key:
            return False
        start, length = entry["at"]
        return self.lines.is_file() and self.lines.stat().st_size >= start + length

    def images(self, places: Iterable[Sequence[int]]) -> Iterator[AnnotatedImage]:
        """Read the images back, one at a time.

        Raises:
            DataError: a line is damaged.
        """
        with open(self.lines, "rb") as file:
            for start, length in places:
                file.seek(start)
                try:
                    yield AnnotatedImage.from_record(json.loads(file.read(length)))
                except (ValueError, KeyError, TypeError):
                    raise DataError(
                        f"{readable(self.lines)} is damaged at byte {start:,}: run the command again with --overwrite"
                    ) from None

    def write(
        self, places: Sequence[Sequence[int]], model: str, journal: Journal, progress: ProgressCallback | None = None
    ) -> list[Path]:
        """Write the file of each format, unless it is there and nothing has changed since.

        Args:
            places: what :meth:`add` returned as ``at``, in the order of the images. journal: of the run; remembers what was
                written.
        """
        written = []
        known = {record["data_set"]: record.get("digest") for record in journal.records if "data_set" in record}
        for name in self.formats:
            chosen = FORMATS[name]
            target = self.out / chosen.target
            content = [name, self.key, self.writing.model_dump(), self.classes, [list(place) for place in places]]
            digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
            written.append(target)
            if target.exists() and known.get(name) == digest:
                continue
            for folder, _, _ in os.walk(target.with_suffix("")):  # of a run that was killed while it wrote
                remove_leftovers(folder)
            data = DataSet(self.classes, model, self.root, self.objects.instances)
            images = _counted(self.images(places), len(places), f"writing {chosen.target}", progress)
            for note in chosen.write(target, data, images, self.writing):
                log.info("%s: %s", target, note)
            journal.add({"data_set": name, "digest": digest})
        return written


def _counted(
    images: Iterator[AnnotatedImage], total: int, note: str, progress: ProgressCallback | None
) -> Iterator[AnnotatedImage]:
    """The images, with a report now and then."""
    last = time.monotonic()
    for done, image in enumerate(images, start=1):
        yield image
        if progress is not None and time.monotonic() - last > 0.5:
            last = time.monotonic()
            progress(done, total, note)


def own_folders(out: Path, records: Iterable[Mapping[str, Any]]) -> list[Path]:
    """Folders of PNGs that earlier runs wrote to ``out``, which are no images to segment."""
    names = {record["data_set"] for record in records if record.get("data_set") in FORMATS}
    targets = [out / FORMATS[name].target for name in names]
    return [target.with_suffix("") for target in targets]
