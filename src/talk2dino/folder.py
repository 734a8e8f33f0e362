"""Many images from disk to disk: what ``talk2dino segment`` does, for Python users as well.

    images --> batches of one seen size --> read, segment, write (a few workers side by side) --> files, journal

Images that the model sees at one size form a batch; each worker takes a batch from reading to writing. So decoding, the
forward pass and writing overlap, no more than one batch per worker is in memory, and on a CPU the cores share images
instead of single operations. One bad image never stops the others, and a run that was stopped can be resumed: the journal
``.talk2dino.jsonl`` in the output folder says which results are finished, and what they were made with.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from talk2dino.annotations.collecting import Collection, own_folders
from talk2dino.annotations.objects import ObjectOptions
from talk2dino.annotations.writing import WriteOptions
from talk2dino.errors import InputError, Talk2DinoError
from talk2dino.io.atomic import remove_leftovers, save_png
from talk2dino.io.find import STDIN, missing_file, search_images
from talk2dino.io.images import MAX_PIXELS, LoadedImage, image_size, read_image
from talk2dino.io.journal import Journal
from talk2dino.io.lock import folder_lock
from talk2dino.types import Segmentation, TextFeatures
from talk2dino.video.find import split_videos
from talk2dino.video.job import VIDEO_SUFFIX, VideoJob, VideoResult, check_kinds, source_stamp
from talk2dino.video.options import VideoOptions
from talk2dino.vocabularies import Asked
from talk2dino.words.example_files import ExampleFile
from talk2dino.words.prompts import PromptList
from talk2dino.words.understanding import describe_understood
from talk2dino.workers import choose_workers, group, run_batches

if TYPE_CHECKING:
    from talk2dino.pipeline import Background
    from talk2dino.progress import ProgressCallback
    from talk2dino.segmenter import Segmenter

log = logging.getLogger(__name__)

Kind = Literal[
    "overlay", "palette", "json", "npz",
    "coco", "coco-panoptic", "cvat", "cvat-masks", "label-studio", "labelme", "yolo", "voc", "geojson",
]  # fmt: skip
#: Kinds that are written per image; the others are labelling formats, written once for all images of the run.
SUFFIX: dict[str, str] = {"overlay": ".overlay.png", "palette": ".labels.png", "json": ".json", "npz": ".npz"}
JOURNAL = ".talk2dino.jsonl"
ADAPTED = ".talk2dino.adapted.safetensors"

#: Largest images, in pixels, whose windows share a batch in slide mode.
SLIDE_TOGETHER = 4_000_000


class FolderOptions(BaseModel):
    """One run over many images."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    images: tuple[str, ...] = Field(description="files, folders, glob patterns, or '-' for standard input")
    prompts: PromptList | None = Field(
        default=None, description="words; may be left out if there are examples or vocabularies"
    )
    negative: PromptList | None = None
    examples: tuple[ExampleFile, ...] = Field(default=(), description="classes by example")
    negative_examples: tuple[ExampleFile, ...] = Field(default=(), description="regions whose likes become background")
    examples_per_class: int = Field(default=1, ge=1, le=64, description="most embeddings per class of the examples")
    vocabulary: tuple[Path, ...] = Field(default=(), description="files of talk2dino vocabulary")
    adapt: bool = Field(default=False, description="look at all images first, and fit the words to them")
    out: Path = Path("out")
    save: tuple[Kind, ...] = ("overlay", "palette")
    model: str = "auto"
    projection: Path | None = None
    text: Path | None = Field(default=None, description="text tower written by train-text, for other languages")
    translate: str | None = Field(default=None, description="auto, or a Marian model: translates prompts into English")
    method: str = "talk2dino"
    method_options: dict[str, Any] = Field(default_factory=dict)
    background: float | bool | None = Field(default=None, description="threshold, or True for the method's own")
    thresholds: dict[str, float] = Field(default_factory=dict, description="thresholds of single classes")
    clean: bool | None = None
    refine: bool = False
    mode: Literal["whole", "slide", "square"] = "whole"
    device: str = "auto"
    dtype: str = "auto"
    engine: str = "torch"
    batch_size: int = Field(default=4, ge=1, le=256)
    workers: int | None = Field(default=None, ge=1, le=64)
    recursive: bool = False
    allow_truncated: bool = False
    max_pixels: int = Field(default=MAX_PIXELS, ge=1)
    overwrite: bool = False
    overlay: dict[str, Any] = Field(default_factory=dict, description="options of Segmentation.overlay")
    video: VideoOptions = Field(default=VideoOptions(), description="which frames of videos, and how")
    objects: ObjectOptions = Field(default=ObjectOptions(), description="labelling formats: what becomes an object")
    writing: WriteOptions = Field(default=WriteOptions(), description="labelling formats: how objects are written")

    @model_validator(mode="after")
    def _check(self) -> FolderOptions:
        from talk2dino.device import check_device_name, check_dtype_name
        from talk2dino.engines import check_engine_name
        from talk2dino.methods import check_options
        from talk2dino.words.translate import check_language_options

        check_options(self.method, self.method_options)
        check_language_options(self.text, self.translate)
        check_device_name(self.device)
        check_dtype_name(self.dtype)
        check_engine_name(self.engine)
        numbers = [*self.thresholds.values(), float(self.background or 0)]
        if wrong := [number for number in numbers if not -1 <= number <= 1]:
            raise InputError(f"a background threshold must be a number from -1 to 1; got {wrong[0]}")
        self.asked.check()
        if self.adapt and str(STDIN) in self.images:
            raise InputError("adapting looks at all images first, so it cannot read one from standard input")
        names = self.asked.names()
        if unknown := [name for name in self.thresholds if names is not None and name not in names]:
            raise InputError(f"thresholds name classes that are not among the prompts: {', '.join(unknown[:5])}")
        if not self.save:
            raise InputError(f"save must name at least one of {', '.join(get_args(Kind))}")
        if not self.formats and (self.objects, self.writing) != (ObjectOptions(), WriteOptions()):
            raise InputError(
                "instances, smallest_area, split, polygons, tolerance and polygon_iou apply to labelling formats, and save "
                "names none: add one, such as coco"
            )
        if self.objects.split and not self.objects.instances:
            raise InputError("split divides the objects that instances makes: ask for both")
        return self

    @property
    def files(self) -> tuple[str, ...]:
        """Kinds that are written per image."""
        return tuple(kind for kind in self.save if kind in SUFFIX)

    @property
    def formats(self) -> tuple[str, ...]:
        """Labelling formats, written once for all images."""
        return tuple(dict.fromkeys(kind for kind in self.save if kind not in SUFFIX))

    @property
    def counted(self) -> str:
        """What ``progress=`` counts: "image", or "frame" if all inputs are videos."""
        videos, others = split_videos(self.images, as_video=self.video.as_video)
        return "frame" if videos and not others else "image"

    @property
    def asked(self) -> Asked:
        """The classes, in whatever form they were given."""
        return Asked(
            self.prompts, self.negative, self.examples, self.negative_examples, self.examples_per_class, self.vocabulary
        )

    def load(self, device: str | None = None) -> Segmenter:
        """The segmenter, on the device of the options or another one."""
        from talk2dino.segmenter import Segmenter

        return Segmenter.from_pretrained(
            self.model, method=self.method, projection=self.projection, text=self.text, translate=self.translate,
            device=device or self.device, dtype=self.dtype, engine=self.engine, **self.method_options,
        )  # fmt: skip

    def ask(self, segmenter: Segmenter) -> tuple[TextFeatures, dict[str, Any]]:
        """The encoded classes and the keyword arguments of ``segment_batch``; wrong options are reported before the work."""
        text = self.asked.encode(segmenter, mode=self.mode)
        settings: dict[str, Any] = {
            "background": self.asked_background(segmenter.method.threshold, text.names), "clean": self.clean,
            "refine": self.refine, "mode": self.mode,
        }  # fmt: skip
        segmenter.segment_batch([], text, **settings)
        return text, settings

    def asked_background(self, default: float | None, names: Sequence[str]) -> Background:
        """The ``background=`` argument of the segmenter; single thresholds imply a background.

        Args:
            default: the method's own threshold. names: all classes.
        """
        from talk2dino.pipeline import join_thresholds

        return join_thresholds(self.background, self.thresholds, names, default)


@dataclass(frozen=True)
class ImageResult:
    """What became of one image: files and shares, or the reason why it failed."""

    path: Path
    segmentation: Segmentation | None = None
    files: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    error: str | None = None

    @property
    def summary(self) -> str:
        """What was found, in one line."""
        shares = {} if self.segmentation is None else self.segmentation.shares()
        return ", ".join(f"{name} {100 * share:.1f} %" for name, share in list(shares.items())[:8])

    def as_dict(self) -> dict[str, Any]:
        """One JSON line."""
        if self.segmentation is None:
            return {"image": str(self.path), "error": self.error}
        done = self.segmentation
        return {
            "image": str(self.path), "size": list(done.size), "shares": done.shares(), "model": done.model,
            "files": self.files, "info": done.info,
        }  # fmt: skip


@dataclass(frozen=True)
class FolderResult:
    """Counts of a run: images done now, finished before, and those that failed; files of labelling formats."""

    done: int
    skipped: int
    failed: tuple[ImageResult | VideoResult, ...]
    out: Path
    data_sets: tuple[Path, ...] = ()
    unit: str = "image"  # what was counted: "image", "video", or "input" for both

    @property
    def exit_code(self) -> int:
        """0 done, 1 every image failed, 3 some failed."""
        if not self.failed:
            return 0
        return 3 if self.done + self.skipped else 1


def run_folder(
    options: FolderOptions, *, segmenter: Segmenter | None = None,
    on_result: Callable[[ImageResult | VideoResult], None] | None = None, progress: ProgressCallback | None = None,
) -> FolderResult:  # fmt: skip
    """Segment images and videos and write the results; what is finished is skipped when the run is repeated.

    Args:
        segmenter: one that is loaded already; model, method, device, dtype and engine of the options are then not used.
        on_result: called with each result: the images in their order, then the videos.
        progress: called after each image, and after each frame of a video.

    Raises:
        ImageError: no image was found. OutputError: the folder cannot be written, or another run is writing to it.
        Talk2DinoError: the model cannot be loaded, or an option does not fit it.
    """
    videos, others = split_videos(options.images, as_video=options.video.as_video)
    if videos:
        check_kinds(options.save)
    paths: list[Path] = []
    if others or not videos:
        found = search_images(others, options.recursive)
        paths = found.paths
        if found.note:
            log.info("%s", found.note)
    with folder_lock(options.out):
        remove_leftovers(options.out)
        return _Run(options, paths, videos, segmenter, on_result, progress)()


class _Run:
    """One run over a list of images."""

    def __init__(
        self, options: FolderOptions, paths: list[Path], videos: list[Path], segmenter: Segmenter | None,
        on_result: Callable[[ImageResult | VideoResult], None] | None, progress: ProgressCallback | None,
    ) -> None:  # fmt: skip
        self.options, self.on_result, self.progress = options, on_result, progress
        self.journal = Journal(options.out / JOURNAL, sync=False, damaged="skip")
        self.paths = _without_own_results(paths, options.out, self.journal.records)
        self.videos = videos
        self.names = result_names([*self.paths, *videos], self.journal.records)
        self.segmenter = segmenter or options.load()
        self.lock, self.stopping = threading.Lock(), threading.Event()
        self.ready: dict[Path, ImageResult] = {}  # finished, but an image before it is not
        self.shown = 0
        self.failed: list[ImageResult | VideoResult] = []

    def __call__(self) -> FolderResult:
        options, segmenter = self.options, self.segmenter
        self.text, self.settings = options.ask(segmenter)
        self.collection: Collection | None = None
        if options.formats:
            classes = self.text.names[: self.text.positive]
            self.collection = Collection(
                options.out, options.formats, options.objects, options.writing, classes=classes, paths=self.paths
            )
        self.key = _settings_key(options, segmenter, self.settings, self.text)
        if options.adapt and self.paths:
            self._adapt()
        self.finished = {record["result"]: record for record in self.journal.records if "result" in record}
        todo = [path for path in self.paths if options.overwrite or not self._is_done(path)]
        videos = [path for path in self.videos if options.overwrite or not self._is_done(path)]
        skipped = len(self.paths) + len(self.videos) - len(todo) - len(videos)
        if skipped:
            log.info("%s finished already; --overwrite does them again", _count(skipped, self._what()))
        if todo or videos:
            log.info(
                "%s with %s, %s on %s%s: %s, %s", segmenter.method.name, segmenter.name,
                str(segmenter.dtype).removeprefix("torch."), segmenter.device,
                "" if segmenter.engine == "torch" else f" ({segmenter.engine})", _count(len(todo) + len(videos), self._what()),
                _count(self.text.positive, "class", "classes"),
            )  # fmt: skip
            for note in (*self.text.notes, *describe_understood(self.text.understood)):
                log.info("%s", note)
            if todo:
                self._segment_all(todo)
            for path in videos:
                self._segment_video(path)
        data_sets = self._write_data_sets()
        done = len(todo) + len(videos) - len(self.failed)
        return FolderResult(done, skipped, tuple(self.failed), options.out, data_sets, self._what())

    def _adapt(self) -> None:
        """Fit the words to the images; the key then stands for the images as well."""
        from talk2dino.fitting import adapt_once

        options = self.options
        stamps = "".join(f"{os.path.abspath(path)} {self._stamp(path)}\n" for path in self.paths if path.is_file())
        self.key = hashlib.sha256(f"adapted {stamps}".encode("utf-8", "surrogateescape")).hexdigest()[:16]
        log.info("fitting the words to %s", _count(len(self.paths)))
        read = partial(read_image, allow_truncated=options.allow_truncated, max_pixels=options.max_pixels)
        self.text = adapt_once(
            self.text, self.paths, self.segmenter, options.out / ADAPTED, self.key, mode=options.mode,
            refine=options.refine, batch_size=options.batch_size, read=read,
        )  # fmt: skip

    def _is_done(self, path: Path) -> bool:
        name = self.names[path]
        record = self.finished.get(name)
        if path == STDIN or record is None or record.get("stamp") != self._stamp(path):
            return False
        if path in self.videos:
            return all((self.options.out / (name + VIDEO_SUFFIX[kind])).exists() for kind in self.options.save)
        present = all((self.options.out / (name + SUFFIX[kind])).is_file() for kind in self.options.files)
        return present and (self.collection is None or self.collection.holds(record.get("objects")))

    def _write_data_sets(self) -> tuple[Path, ...]:
        """One pass over the objects of all images that are done, in their order."""
        failed = {result.path for result in self.failed} & set(self.paths)
        done = [self.finished[self.names[path]] for path in self.paths if path not in failed]
        if self.collection is None or not done:
            return ()
        if failed:
            log.info(
                "%s failed and %s missing from the labelling formats",
                _count(len(failed)),
                "is" if len(failed) == 1 else "are",
            )
        places = [record["objects"]["at"] for record in done]
        return tuple(self.collection.write(places, self.segmenter.name, self.journal, self.progress))

    def _stamp(self, path: Path) -> str:
        """The settings and the state of the file that a result was made from."""
        if path == STDIN:
            return self.key
        if path in self.videos:
            return f"{self.key}-{source_stamp(path)}-{self.options.video.model_dump_json()}"
        stat = path.stat()
        return f"{self.key}-{stat.st_size}-{stat.st_mtime_ns}"

    # --- batches and workers -----------------------------------------------------------------------------------------

    def _segment_all(self, todo: list[Path]) -> None:
        size = self.options.batch_size
        self.waiting, self.total = deque(todo), len(todo)
        workers = choose_workers(self.segmenter, self.options.workers, -(-len(todo) // size))
        try:
            run_batches(group(todo, self._seen, size), self._do_batch, workers=workers, stopping=self.stopping)
        finally:
            for path in filter(self.ready.__contains__, self.waiting):  # after an interruption
                self._show(self.ready[path])

    def _seen(self, path: Path) -> object:
        """Images with equal values can share a forward pass."""
        from talk2dino.pipeline import plan_view, view_key

        size = image_size(path)
        if size is None:
            return None
        try:
            key = view_key(plan_view(size, self.options.mode, self.segmenter.method))
        except Talk2DinoError:  # reported when the image's turn comes
            return None
        # Windows are all alike, but a large image is company enough for itself: a batch is in memory at once.
        return path if key[0] == "slide" and size[0] * size[1] > SLIDE_TOGETHER else key

    def _what(self) -> str:
        return "image" if not self.videos else "input" if self.paths else "video"

    # --- videos ------------------------------------------------------------------------------------------------------

    def _segment_video(self, path: Path) -> None:
        from talk2dino.video.run import run_video

        options, name, stamp = self.options, self.names[path], ""
        try:
            stamp = self._stamp(path)
            job = VideoJob(
                path, name, options.out, options.save, options.video, self.settings, stamp, options.overlay,
                options.allow_truncated, options.max_pixels, options.batch_size,
            )  # fmt: skip
            result = run_video(job, self.segmenter, self.text, progress=self.progress)
        except Talk2DinoError as error:
            result = VideoResult(path, error=_naming(path, error))
        except FileNotFoundError:
            result = VideoResult(path, error=str(missing_file(path)))
        if result.error is None:
            self.journal.add({"result": name, "stamp": stamp, "source": os.path.abspath(path)})
        else:
            self.failed.append(result)
        if self.on_result is not None:
            self.on_result(result)

    # --- images ------------------------------------------------------------------------------------------------------

    def _do_batch(self, paths: list[Path]) -> None:
        batch = []
        for path in paths:
            if self.stopping.is_set():
                return
            try:
                picture = read_image(
                    path, allow_truncated=self.options.allow_truncated, max_pixels=self.options.max_pixels
                )
                batch.append((path, picture))
            except Talk2DinoError as error:
                self._fail(path, error)
        if batch and not self.stopping.is_set():
            self._segment(batch)

    def _segment(self, batch: list[tuple[Path, LoadedImage]]) -> None:
        try:
            results = self.segmenter.segment_batch(
                [picture for _, picture in batch], self.text, batch_size=self.options.batch_size,
                return_evidence=self.collection is not None, **self.settings,
            )  # fmt: skip
        except Talk2DinoError as error:
            if len(batch) == 1:
                self._fail(batch[0][0], error)
            else:
                for one in batch:
                    self._segment([one])
            return
        for (path, picture), result in zip(batch, results, strict=True):
            self._write(path, picture, result)

    def _write(self, path: Path, picture: LoadedImage, result: Segmentation) -> None:
        try:
            image = None if self.collection is None else self.collection.image(result, path)
        except Talk2DinoError as error:
            self._fail(path, error)
            return
        files: dict[str, str] = {}
        for kind in self.options.files:
            target = self.options.out / (self.names[path] + SUFFIX[kind])
            if kind == "overlay":
                save_png(result.overlay(picture, **self.options.overlay), target, compress_level=1)
            else:
                result.save(target)
            files[kind] = str(target)
        record: dict[str, Any] = {
            "result": self.names[path], "stamp": self._stamp(path), "source": os.path.abspath(path)
        }  # fmt: skip
        with self.lock:
            if self.collection is not None and image is not None:
                record["objects"] = self.collection.add(image)
            self.finished[self.names[path]] = record
            self.journal.add(record)
        self._finish(ImageResult(path, result, files, tuple(picture.notes)))

    def _fail(self, path: Path, error: Talk2DinoError) -> None:
        self._finish(ImageResult(path, error=_naming(path, error)))

    def _finish(self, result: ImageResult) -> None:
        """Show results in the order of the images, whatever the order of the work."""
        with self.lock:
            self.ready[result.path] = result
            while self.waiting and self.waiting[0] in self.ready:
                self._show(self.ready.pop(self.waiting.popleft()))

    def _show(self, result: ImageResult) -> None:
        self.shown += 1
        if result.error is not None:
            self.failed.append(result)
        if self.on_result is not None:
            self.on_result(result)
        if self.progress is not None:
            self.progress(self.shown, self.total)


def _naming(path: Path, error: Talk2DinoError) -> str:
    """The message of an error, with the file in front if it does not name it."""
    text = str(error)
    return text if str(path) in text or path.name in text else f"{path}: {text}"


def result_names(paths: Iterable[Path], records: Iterable[dict[str, Any]] = ()) -> dict[Path, str]:
    """A name in the output folder for each image; images of one name keep apart, also from those of earlier runs."""
    owners: dict[str, str | None] = {record["result"]: record.get("source") for record in records if "result" in record}
    names: dict[Path, str] = {}
    for path in paths:
        source = os.path.abspath(path)
        if path == STDIN:
            names[path] = "stdin"
            continue
        hashed = f"{path.stem}_{hashlib.sha256(os.fsencode(source)).hexdigest()[:8]}"
        for name in (path.stem, path.name, f"{path.parent.name}_{path.name}", hashed):
            if owners.get(name, source) in (source, None):
                break
        owners[name] = source
        names[path] = name
    return names


def _without_own_results(paths: list[Path], out: Path, records: Sequence[dict[str, Any]]) -> list[Path]:
    """Images that are not results of an earlier run into the same folder."""
    own = {record["result"] + suffix for record in records if "result" in record for suffix in SUFFIX.values()}
    folder = os.path.realpath(out)
    below = [os.path.realpath(one) + os.sep for one in own_folders(out, records)]
    kept = [
        path
        for path in paths
        if (path.name not in own or os.path.realpath(path.parent) != folder)
        and not os.path.realpath(path).startswith(tuple(below))
    ]
    if len(kept) < len(paths):
        log.info("%s in %s are results of an earlier run and were passed over", _count(len(paths) - len(kept)), out)
    return kept


def _settings_key(options: FolderOptions, segmenter: Segmenter, settings: dict[str, Any], text: TextFeatures) -> str:
    """A digest of everything that decides a result besides the image: weights, words, options."""
    method, prompts, files = segmenter.method, options.prompts, options.asked.digest()
    decides = {
        "method": method.name, "options": method.options, "weights": segmenter.towers.checksums(method.facts.towers, quick=True),
        "files": method.fingerprints(), "dtype": str(segmenter.dtype), "engine": segmenter.engine, "size": method.size,
        "templates": segmenter.text.templates, "names": prompts and prompts.names, "synonyms": prompts and prompts.synonyms,
        "negative": None if options.negative is None else options.negative.synonyms, "settings": settings,
        "truncated": options.allow_truncated, "overlay": options.overlay, "understood": text.understood,
        **({"classes": files} if files else {}),
    }  # fmt: skip
    return hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _count(number: int, what: str = "image", several: str = "") -> str:
    return f"1 {what}" if number == 1 else f"{number} {several or f'{what}s'}"
