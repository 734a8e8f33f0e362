"""The work behind ``talk2dino segment``: a folder of pictures, one bad one never stops the others.

Pictures that the model sees at one size form a batch; a few workers each take a batch from reading to writing. So
decoding, the forward pass and writing overlap, no more than one batch a worker is in memory, and on a CPU the cores share
pictures instead of single operations, which wastes less of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talk2dino.cli.progress import progress
from talk2dino.errors import ImageError, OutputError, Talk2DinoError
from talk2dino.io.atomic import atomic_path
from talk2dino.io.find import find_images
from talk2dino.io.images import Picture, image_size, read_image
from talk2dino.prompts import PromptList, parse_prompts, read_prompt_file
from talk2dino.types import Segmentation

if TYPE_CHECKING:
    from talk2dino.segmenter import Segmenter

SUFFIX = {"overlay": ".overlay.png", "palette": ".labels.png", "json": ".json", "npz": ".npz"}
STATE = ".talk2dino.jsonl"  # one line a finished picture; a line cut short by a crash is passed over

#: Largest pictures, in pixels, whose windows share a batch in slide mode.
SLIDE_TOGETHER = 4_000_000

#: Batches' worth of pictures that a picture waits for others of its size.
LOOK_AHEAD = 16


@dataclass
class SegmentRun:
    """One call of the command; calling it returns the exit code. ``segmenter``: one that is loaded already."""

    settings: dict[str, Any]
    out: Path
    kinds: list[str]
    batch_size: int
    allow_truncated: bool
    overwrite: bool
    as_json: bool
    workers: int | None = None
    segmenter: Segmenter | None = None
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
        self.failed = [str(path) for path in todo if str(path) in set(self.failed)]
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
        from talk2dino.methods import wrap_segmenter
        from talk2dino.segmenter import Segmenter

        s = self.settings
        self.model = self.segmenter or Segmenter.from_pretrained(
            s["model"], projection=s["projection"], device=s["device"], dtype=s["dtype"], engine=s["engine"]
        )
        self.system = wrap_segmenter(s["method"], self.model, **s["method_options"])
        text = self.system.encode_text(asked, negative=against) if against else self.system.encode_text(asked)
        background = s["background"]
        if s["thresholds"]:
            default = self.model.default_threshold() if background in (None, True) else background
            background = dict.fromkeys(asked.names, default) | s["thresholds"]
        self.options = {"background": background, "clean": s["clean"], "refine": s["refine"], "mode": s["mode"]}
        self.system.segment_batch([], text, **self.options)  # a wrong option is told before the work
        about = f"model {self.model.name}, {str(self.model.dtype).removeprefix('torch.')} on {self.model.device}"
        if s["engine"] != "torch":
            about += f" with {s['engine']}"
        if s["method"] != "talk2dino":
            about = f"method {s['method']}, {about}"
        print(f"talk2dino: {about}, {len(asked.names)} prompts, {len(todo)} pictures", file=sys.stderr)
        for note in asked.notes:
            print(f"talk2dino: {note}", file=sys.stderr)
        workers, threads = self._share_cores(len(todo))
        with progress(len(todo), "segmenting") as self.shown, _torch_threads(threads):
            self.told = _InOrder(todo)
            try:
                self._work(self._batches(todo), text, workers, threads)
            finally:
                self.told.rest()

    def _share_cores(self, pictures: int) -> tuple[int, int]:
        """(workers, torch threads of each)."""
        import torch

        threads = torch.get_num_threads()
        if self.system is not self.model:
            return 1, threads  # the compared systems are not made for several at a time
        batches = -(-pictures // self.batch_size)
        workers = min(self.workers or min(4, max(2, threads)), batches)
        return workers, max(1, threads // workers)

    def _work(self, batches: Iterator[list[Path]], text: Any, workers: int, threads: int) -> None:
        import torch

        self.lock, self.stopping = threading.Lock(), threading.Event()
        pool = ThreadPoolExecutor(workers, "segment", initializer=torch.set_num_threads, initargs=(threads,))
        running: set[Future[None]] = set()
        try:
            for batch in batches:
                running.add(pool.submit(self._do_batch, batch, text))
                if len(running) == workers:
                    finished, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in finished:
                        future.result()
            for future in running:
                future.result()
        except BaseException:
            self.stopping.set()  # what is past its forward pass is still written
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _batches(self, todo: list[Path]) -> Iterator[list[Path]]:
        """Batches of pictures that the model sees at one size, roughly in order."""
        groups: dict[Any, list[tuple[int, Path]]] = {}  # the group whose first picture has waited longest comes first
        for number, path in enumerate(todo):
            size = self._seen_size(path)
            groups.setdefault(size, []).append((number, path))
            oldest = next(iter(groups))
            if len(groups[size]) == self.batch_size:
                ready = size
            elif number - groups[oldest][0][0] >= LOOK_AHEAD * self.batch_size:
                ready = oldest
            else:
                continue
            yield [path for _, path in groups.pop(ready)]
        yield from ([path for _, path in group] for group in groups.values())

    def _seen_size(self, path: Path) -> Any:
        size = image_size(path)
        if self.settings["mode"] == "slide":
            # Windows are all alike, but a large picture is company enough for itself: a batch is in memory at once.
            return "slide" if size is not None and size[0] * size[1] <= SLIDE_TOGETHER else path
        if size is None or self.model is not self.system:
            return size
        try:
            return self.model.seen_size(*size, mode=self.settings["mode"])
        except ImageError:
            return None

    def _do_batch(self, paths: list[Path], text: Any) -> None:
        batch = []
        for path in paths:
            if self.stopping.is_set():
                return
            try:
                batch.append((path, read_image(path, allow_truncated=self.allow_truncated)))
            except ImageError as error:
                self._fail(path, error)
        if batch and not self.stopping.is_set():
            self._segment_batch(batch, text)

    def _segment_batch(self, batch: list[tuple[Path, Picture]], text: Any) -> None:
        try:
            results = self.system.segment_batch([p for _, p in batch], text, batch_size=self.batch_size, **self.options)
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
                    result.overlay(picture.array).save(temporary, format="PNG", compress_level=1)
            else:
                result.save(target)
            files[kind] = str(target)
        stamp = json.dumps({"result": self.stems[path], "stamp": self._stamp(path)}, ensure_ascii=False)
        shares = result.shares()
        lines = [f"{path}: {note}" for note in picture.notes]
        out = None
        if self.as_json:
            line = {
                "picture": str(path), "size": list(result.size), "shares": shares, "model": result.model, "files": files,
                "info": result.info,
            }  # fmt: skip
            out = json.dumps(line, ensure_ascii=False)
        else:
            largest = ", ".join(f"{name} {100 * share:.1f} %" for name, share in list(shares.items())[:8])
            lines.append(f"{path}: {largest}")
        with self.lock:
            with open(self.out / STATE, "a", encoding="utf-8") as state:
                state.write(stamp + "\n")
            self._tell(path, lines, out)

    def _fail(self, path: Path, error: Talk2DinoError) -> None:
        message = str(error) if str(path) in str(error) or path.name in str(error) else f"{path}: {error}"
        out = json.dumps({"picture": str(path), "error": str(error)}, ensure_ascii=False) if self.as_json else None
        with self.lock:
            self.failed.append(str(path))
            self._tell(path, [f"talk2dino: {message}"], out)

    def _tell(self, path: Path, lines: list[str], out: str | None) -> None:
        self.shown.advance()

        def say() -> None:
            for line in lines:
                self.shown.message(line)
            if out is not None:
                print(out, flush=True)

        self.told.add(path, say)


class _InOrder:
    """What is to be said of each picture, said in the order of the pictures whatever the order of the work."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self.order = list(paths)
        self.next = 0
        self.ready: dict[Path, Callable[[], None]] = {}

    def add(self, path: Path, say: Callable[[], None]) -> None:
        self.ready[path] = say
        while self.next < len(self.order) and self.order[self.next] in self.ready:
            self.ready.pop(self.order[self.next])()
            self.next += 1

    def rest(self) -> None:
        """After an interruption: what is left, in order."""
        for path in self.order[self.next :]:
            if path in self.ready:
                self.ready.pop(path)()


@contextlib.contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    """Torch's threads of an operation, for a while."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
