"""One video from disk to disk, piece by piece, so that a run that was stopped goes on where it was.

    frames --> groups of PIECE_FRAMES --> FrameSegmenter --> draw and write (a thread) --> piece on disk, state, journal
    last piece --> join --> NAME.overlay.mp4, NAME.labels/, NAME.jsonl

The pieces lie in ``.NAME.video`` in the output folder until the video is finished. With each piece, what the next frame
builds on is stored as well; so the pieces of a resumed run join without a seam.
"""

from __future__ import annotations

import io
import json
import logging
import math
import os
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from fractions import Fraction
from itertools import groupby
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from talk2dino.errors import InputError
from talk2dino.io.atomic import atomic_path, remove_leftovers, write_atomically, writing_failed
from talk2dino.io.frames import Frame, FrameSource, choose_frames
from talk2dino.io.journal import Journal
from talk2dino.io.sequences import open_frames
from talk2dino.io.video import VideoFile
from talk2dino.pipeline import read_options
from talk2dino.progress import ProgressCallback
from talk2dino.steady import Carried, FrameSegmenter
from talk2dino.types import Segmentation, TextFeatures
from talk2dino.video.encode import PieceWriter
from talk2dino.video.job import VideoJob, VideoResult, check_kinds
from talk2dino.video.join import Sound, join_pieces
from talk2dino.video.overlay import VideoOverlay

if TYPE_CHECKING:
    from talk2dino.segmenter import Segmenter

log = logging.getLogger(__name__)

#: Frames per piece: at most so many are segmented again after a kill.
PIECE_FRAMES = 64
#: Results that wait to be drawn and written.
WAITING = 4


def run_video(
    job: VideoJob, segmenter: Segmenter, text: TextFeatures, *, progress: ProgressCallback | None = None
) -> VideoResult:
    """Segment a video and write the results, all of them or none; pieces of an earlier run are used.

    Args:
        progress: called after each frame.

    Raises:
        ImageError: the video cannot be read. OutputError: a result cannot be written.
        InputError: options that do not fit the video or the method.
    """
    check_kinds(job.save)
    return _VideoRun(job, segmenter, text, progress)()


class _VideoRun:
    def __init__(
        self, job: VideoJob, segmenter: Segmenter, text: TextFeatures, progress: ProgressCallback | None
    ) -> None:
        self.job, self.segmenter, self.progress = job, segmenter, progress
        options = job.options
        self.source: FrameSource = open_frames(
            job.path, fps=options.fps, allow_truncated=job.allow_truncated, max_pixels=job.max_pixels
        )
        self.numbers = choose_frames(self.source.times, every=options.every, start=options.start, end=options.end)
        settings = dict(job.settings)
        mode, method = settings.pop("mode"), segmenter.method
        checked = read_options(method, text.names, settings["background"], settings["clean"], settings["refine"], False)
        self.segment = FrameSegmenter(
            text, method, checked, mode=mode, steady=options.steady, keyframe_every=options.keyframe_every,
            batch_size=job.batch_size,
        )  # fmt: skip
        self.overlay = VideoOverlay(**job.overlay) if "overlay" in job.save else None
        self.rate = len(self.numbers) / max(1e-3, self._end() - self._seconds(0))
        self.aspect = self.source.aspect if isinstance(self.source, VideoFile) else Fraction(1)

    def __call__(self) -> VideoResult:
        self.journal = self._open_work()
        pieces = [record for record in self.journal.records if "piece" in record]
        if pieces:
            log.info(
                "%s: %d of %d frames are finished already", self.source.name, self._done(pieces), len(self.numbers)
            )
            self.segment.carried = self._load_state(pieces[-1]["piece"])
        done = pieces[-1]["last"] if pieces else -1
        self.finished = self._done(pieces)
        if self.progress is not None and pieces:
            self.progress(self.finished, len(self.numbers))
        frames = self.source.read(self.numbers[self.numbers > done])
        for piece, group in groupby(
            frames, lambda frame: int(np.searchsorted(self.numbers, frame.number)) // PIECE_FRAMES
        ):
            self._do_piece(piece, group)
        return self._finish()

    # --- pieces -------------------------------------------------------------------------------------------------------

    def _open_work(self) -> Journal:
        """The journal of the pieces; those made with other settings are thrown away."""
        work = self.job.work
        journal = Journal(work / "journal.jsonl", sync=False, damaged="skip")
        if not journal.records or journal.records[0].get("stamp") != self.job.stamp:
            if journal.records:
                log.info("%s: an unfinished run with other settings is discarded", self.source.name)
            shutil.rmtree(work, ignore_errors=True)
            journal = Journal(work / "journal.jsonl", sync=False)
            journal.add({"stamp": self.job.stamp})
        remove_leftovers(work)
        return journal

    def _do_piece(self, piece: int, frames: Iterator[Frame]) -> None:
        """Segment the frames of one piece; it counts once its files, the state after it and its record are written."""
        work = self.job.work
        counts: np.ndarray | None = None
        with ExitStack() as stack, ThreadPoolExecutor(1, "video") as pool:
            writer = _Writer(self, piece, stack)
            running: deque[Future[None]] = deque()
            try:
                for frame, result in self.segment(frames):
                    found = np.bincount(result.labels.ravel(), minlength=len(result.names))
                    counts = found if counts is None else counts + found
                    running.append(pool.submit(writer.add, frame, result))
                    if len(running) > WAITING:
                        running.popleft().result()
                    self.finished += 1
                    if self.progress is not None:
                        self.progress(self.finished, len(self.numbers))
                while running:
                    running.popleft().result()
            except BaseException:
                for waiting in running:
                    waiting.cancel()
                raise
        if self.segment.carried is not None:
            content = io.BytesIO()
            np.savez(content, **self.segment.carried.arrays())  # type: ignore[arg-type]
            write_atomically(work / f"{piece:06d}.npz", content.getvalue())
        assert counts is not None  # a group has frames
        about = {"names": result.names, "background": result.background, "palette": result.palette.tolist(),
                 "size": result.size, "model": result.model, "info": result.info}  # fmt: skip
        self.journal.add({
            "piece": piece, "first": writer.first, "last": frame.number, "frames": writer.frames, "counts": counts.tolist(),
            "about": json.loads(json.dumps(about, default=str)),
        })  # fmt: skip
        for old in work.glob("*.npz"):
            if old.name < f"{piece:06d}.npz":
                old.unlink()

    def _load_state(self, piece: int) -> Carried | None:
        path = self.job.work / f"{piece:06d}.npz"
        if not self.segment.carries:
            return None
        with np.load(path, allow_pickle=False) as arrays:
            return Carried.from_arrays(dict(arrays), self.segmenter.device)

    # --- the end ------------------------------------------------------------------------------------------------------

    def _finish(self) -> VideoResult:
        """Join the pieces, and remove them."""
        job, pieces = self.job, [record for record in self.journal.records if "piece" in record]
        if not pieces:
            raise InputError(f"{self.source.name} has no frame that can be read between start and end")
        notes = list(self.source.notes)
        if missing := len(self.numbers) - self._done(pieces):
            notes.append(f"{missing} of {len(self.numbers)} frames could not be read and are missing")
        about = pieces[-1]["about"]
        if "overlay" in job.save:
            if any(side % 2 for side in about["size"]):
                notes.append("the overlay was enlarged to an even number of pixels, as H.264 needs it")
            notes += self._join_overlays(pieces)
        if "json" in job.save:
            self._join_lines(pieces, about)
        if "palette" in job.save and (job.work / "labels").is_dir():
            target = job.target("palette")
            shutil.rmtree(target, ignore_errors=True)
            os.replace(job.work / "labels", target)
        shutil.rmtree(job.work, ignore_errors=True)
        counts = np.sum([record["counts"] for record in pieces], axis=0)
        order = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
        shares = {about["names"][i]: float(counts[i] / counts.sum()) for i in order}
        info = {name: value for name, value in about["info"].items() if name not in ("frame", "seconds", "encoded")}
        info |= {"steady": job.options.steady, "keyframe_every": job.options.keyframe_every}
        return VideoResult(
            job.path, self._done(pieces), round(self._end() - self._seconds(0), 6), shares,
            {kind: str(job.target(kind)) for kind in job.save}, tuple(notes), info=info,
        )  # fmt: skip

    def _join_overlays(self, pieces: list[dict[str, Any]]) -> list[str]:
        start = float(self.source.times[pieces[0]["first"]])
        files = [
            (self.job.work / f"{record['piece']:06d}.mp4", float(self.source.times[record["first"]]) - start)
            for record in pieces
        ]
        sound = None
        if isinstance(self.source, VideoFile):
            origin = self.source.first_seconds
            sound = Sound(self.source.path, origin + start, origin + self._end())
        with atomic_path(self.job.target("overlay")) as path:
            return join_pieces(files, self._end() - start, path, sound)

    def _join_lines(self, pieces: list[dict[str, Any]], about: dict[str, Any]) -> None:
        """A first line about the video, then one line per frame."""
        categories = [
            {"id": i, "name": name, "color": colour}
            for i, (name, colour) in enumerate(zip(about["names"], about["palette"], strict=True))
        ]
        height, width = about["size"]
        first = {
            "video": self.source.path.name, "height": height, "width": width, "frames": self._done(pieces),
            "categories": categories, "background": about["background"], "model": about["model"], "info": about["info"],
        }  # fmt: skip
        for name in ("frame", "seconds", "encoded"):
            first["info"] = {key: value for key, value in first["info"].items() if key != name}
        with atomic_path(self.job.target("json")) as path, open(path, "wb") as out:
            out.write(_line(first))
            for record in pieces:
                with open(self.job.work / f"{record['piece']:06d}.jsonl", "rb") as piece:
                    shutil.copyfileobj(piece, out)

    def _done(self, pieces: list[dict[str, Any]]) -> int:
        return sum(record["frames"] for record in pieces)

    def _seconds(self, index: int) -> float:
        return float(self.source.times[self.numbers[index]])

    def _end(self) -> float:
        """When the last chosen frame ends, in seconds from the first frame of the video."""
        number, times = int(self.numbers[-1]), self.source.times
        until = float(times[number + 1]) if number + 1 < len(times) else self.source.duration
        if self.job.options.every is not None:
            until = max(until, float(times[number]) + self.job.options.every)
        return min(until, self.source.duration, max(float(times[number]) + 1e-3, self.job.options.end or math.inf))


class _Writer:
    """Writes the results of one piece, under temporary names until the stack closes without an error."""

    def __init__(self, run: _VideoRun, piece: int, stack: ExitStack) -> None:
        self.run, self.piece, self.stack = run, piece, stack
        self.first, self.frames = -1, 0
        self._video: PieceWriter | None = None
        self._lines: IO[bytes] | None = None

    def add(self, frame: Frame, result: Segmentation) -> None:
        work, save = self.run.job.work, self.run.job.save
        if not self.frames:
            self.first, self._start = frame.number, frame.seconds
        self.frames += 1
        if "palette" in save:
            result.save(work / "labels" / f"{frame.number:06d}.png")
        if "json" in save:
            if self._lines is None:
                path = self.stack.enter_context(atomic_path(work / f"{self.piece:06d}.jsonl"))
                self._lines = self.stack.enter_context(path.open("wb"))
            try:
                self._lines.write(_line(frame_record(frame, result)))
            except OSError as error:
                raise writing_failed(work, error) from error
        if self.run.overlay is not None:
            drawn = self.run.overlay(frame.image.array, result)
            if self._video is None:
                path = self.stack.enter_context(atomic_path(work / f"{self.piece:06d}.mp4"))
                writer = PieceWriter(path, drawn.shape[:2], self.run.rate, self.run.aspect)
                self._video = self.stack.enter_context(writer)
            self._video.add(drawn, frame.seconds - self._start)


def frame_record(frame: Frame, result: Segmentation) -> dict[str, Any]:
    """One JSON line per frame: its number, time stamp, and a compressed run-length code per class."""
    keys = ("category_id", "segmentation", "area", "bbox")
    annotations = [{key: annotation[key] for key in keys} for annotation in result.to_coco()]
    return {"frame": frame.number, "seconds": round(frame.seconds, 6), "annotations": annotations}


def _line(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
