"""The work behind ``talk2dino segment``: a folder of pictures, one bad one never stops the others."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from talk2dino.cli.progress import progress
from talk2dino.errors import ImageError, OutputError, Talk2DinoError
from talk2dino.io.atomic import atomic_path
from talk2dino.io.find import find_images
from talk2dino.io.images import Picture, read_image
from talk2dino.prompts import PromptList, parse_prompts, read_prompt_file
from talk2dino.types import Segmentation, TextFeatures

SUFFIX = {"overlay": ".overlay.png", "palette": ".labels.png", "json": ".json", "npz": ".npz"}
STATE = ".talk2dino.jsonl"  # one line a finished picture; a line cut short by a crash is passed over


@dataclass
class SegmentRun:
    """One call of the command; calling it returns the exit code."""

    settings: dict[str, Any]
    out: Path
    kinds: list[str]
    batch_size: int
    allow_truncated: bool
    overwrite: bool
    as_json: bool
    failed: list[str] = field(default_factory=list)

    def __call__(
        self, pictures: list[str], recursive: bool, prompts: str | None, prompt_file: Path | None, negative: str | None
    ) -> int:
        asked = parse_prompts(prompts) if prompts is not None else read_prompt_file(prompt_file)  # type: ignore[arg-type]
        against = parse_prompts(negative) if negative else None
        self.paths = find_images(pictures, recursive)
        self.stems = self._result_names(self.paths)
        self._open_folder(asked, against)
        todo = [path for path in self.paths if self.overwrite or not self._is_done(path)]
        skipped = len(self.paths) - len(todo)
        if skipped:
            print(
                f"talk2dino: {skipped} pictures are finished already and skipped (--overwrite does them again)",
                file=sys.stderr,
            )
        if todo:
            self._segment_all(todo, asked, against)
        done = len(todo) - len(self.failed)
        if self.failed:
            print(
                f"talk2dino: {done} pictures done, {len(self.failed)} failed: {', '.join(self.failed[:10])}",
                file=sys.stderr,
            )
        elif not self.as_json:
            print(f"talk2dino: {done} pictures done, results in {self.out}", file=sys.stderr)
        if not self.failed:
            return 0
        return 3 if len(self.failed) < len(self.paths) else 1

    # --- the output folder ---------------------------------------------------------------------------------------

    def _open_folder(self, asked: PromptList, against: PromptList | None) -> None:
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"the output folder {self.out} cannot be made ({error.strerror}); choose another with --out"
            ) from None
        if not os.access(self.out, os.W_OK | os.X_OK):
            raise OutputError(f"the output folder {self.out} is not writable; choose another with --out")
        what = {
            **self.settings,
            "device": None,
            "asked": asked.synonyms,
            "names": asked.names,
            "against": against and against.names,
        }
        self.key = hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:16]
        self.finished: dict[str, str] = {}
        state = self.out / STATE
        for line in state.read_text(encoding="utf-8", errors="replace").splitlines() if state.is_file() else ():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                entry = json.loads(line)
                self.finished[entry["result"]] = entry["stamp"]

    @staticmethod
    def _result_names(paths: list[Path]) -> dict[Path, str]:
        """A name below the output folder for each picture; pictures of the same name keep apart."""
        names: dict[Path, str] = {}
        taken: set[str] = set()
        for path in paths:
            for name in (path.stem, path.name, f"{path.parent.name}_{path.name}"):
                if name not in taken:
                    break
            else:
                name = f"{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
            taken.add(name)
            names[path] = name
        return names

    def _is_done(self, path: Path) -> bool:
        same = self.finished.get(self.stems[path]) == self._stamp(path)
        return same and all((self.out / (self.stems[path] + SUFFIX[kind])).is_file() for kind in self.kinds)

    def _stamp(self, path: Path) -> str:
        stat = path.stat()
        return f"{self.key}-{stat.st_size}-{stat.st_mtime_ns}"

    # --- the pictures ----------------------------------------------------------------------------------------------

    def _segment_all(self, todo: list[Path], asked: PromptList, against: PromptList | None) -> None:
        from talk2dino.models.loading import stderr_warnings
        from talk2dino.segmenter import Segmenter

        stderr_warnings()
        s = self.settings
        self.segmenter = Segmenter.from_pretrained(
            s["model"], mapping=s["mapping"], device=s["device"], dtype=s["dtype"]
        )
        text = self.segmenter.encode_text(asked, negative=against)
        background = s["background"]
        if s["thresholds"]:
            default = self.segmenter.default_threshold() if background in (None, True) else background
            background = dict.fromkeys(asked.names, default) | s["thresholds"]
        self.options = {"background": background, "clean": s["clean"], "refine": s["refine"], "mode": s["mode"]}
        self.segmenter.segment_batch([], text, **self.options)  # a wrong option is told before the work
        about = f"model {self.segmenter.name}, {str(self.segmenter.dtype).removeprefix('torch.')} on {self.segmenter.device}"
        print(f"talk2dino: {about}, {len(text.names)} prompts, {len(todo)} pictures", file=sys.stderr)
        for note in text.notes:
            print(f"talk2dino: {note}", file=sys.stderr)
        with progress(len(todo), "segmenting") as self.shown:
            for batch in self._batches(todo):
                self._segment_batch(batch, text)
                self.shown.advance(len(batch))

    def _batches(self, todo: list[Path]) -> Iterator[list[tuple[Path, Picture]]]:
        """Readable pictures in batches of one size, in order; a change of size starts a new batch."""
        batch: list[tuple[Path, Picture]] = []
        for path in todo:
            try:
                picture = read_image(path, allow_truncated=self.allow_truncated)
            except ImageError as error:
                self._fail(path, error)
                self.shown.advance()
                continue
            if batch and (picture.size != batch[0][1].size or len(batch) == self.batch_size):
                yield batch
                batch = []
            batch.append((path, picture))
        if batch:
            yield batch

    def _segment_batch(self, batch: list[tuple[Path, Picture]], text: TextFeatures) -> None:
        try:
            results = self.segmenter.segment_batch(
                [p for _, p in batch], text, batch_size=self.batch_size, **self.options
            )
        except ImageError as error:
            if len(batch) == 1:
                self._fail(batch[0][0], error)
                return
            for one in batch:
                self._segment_batch([one], text)
            return
        for (path, picture), result in zip(batch, results, strict=True):
            self._write(path, picture, result)

    def _write(self, path: Path, picture: Picture, result: Segmentation) -> None:
        files = {}
        for kind in self.kinds:
            target = self.out / (self.stems[path] + SUFFIX[kind])
            if kind == "overlay":
                with atomic_path(target) as temporary:
                    result.overlay(picture.array).save(temporary, format="PNG")
            else:
                result.save(target)
            files[kind] = str(target)
        with open(self.out / STATE, "a", encoding="utf-8") as state:
            state.write(json.dumps({"result": self.stems[path], "stamp": self._stamp(path)}, ensure_ascii=False) + "\n")
        for note in picture.notes:
            self.shown.message(f"{path}: {note}")
        if self.as_json:
            line = {
                "picture": str(path),
                "size": list(result.size),
                "shares": result.shares(),
                "model": result.model,
                "files": files,
                "info": result.info,
            }
            print(json.dumps(line, ensure_ascii=False), flush=True)
        else:
            shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in list(result.shares().items())[:8])
            self.shown.message(f"{path}: {shares}")

    def _fail(self, path: Path, error: Talk2DinoError) -> None:
        self.failed.append(str(path))
        message = str(error) if str(path) in str(error) or path.name in str(error) else f"{path}: {error}"
        self.shown.message(f"talk2dino: {message}")
        if self.as_json:
            print(json.dumps({"picture": str(path), "error": str(error)}, ensure_ascii=False), flush=True)
