"""The contract of a method: what it brings, so that the pipeline can segment images with it.

A method compares words with image features. It brings three functions and some facts about itself; images, sizes, windows,
batches, background, refinement and labels are the pipeline's. See docs/methods.md for a worked example.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from talk2dino.errors import InputError
from talk2dino.progress import ProgressCallback
from talk2dino.towers import Towers, check_fork
from talk2dino.types import ImageFeatures, TextFeatures
from talk2dino.words.prompts import PromptList, Prompts, read_prompts
from talk2dino.words.understanding import understand

#: Cosine from which a patch belongs to a word, for models without a tuned threshold.
UNTUNED_THRESHOLD = 0.25


@dataclass(frozen=True)
class Facts:
    """What the rest of the package has to know about a method.

    Attributes:
        summary: one line for people.
        towers: the models whose weights decide the results: "vision", "text", "projection", "vision_projection",
            "clip_vision".
        modes: the modes that it supports.
        evaluation_mode: the mode in which benchmarks run it; None: the benchmark's own.
        can_clean: whether it has background cleaning.
        matched: whether its segments have no class and are matched to the truth in an evaluation.
        thread_safe: whether several images can be segmented side by side.
    """

    summary: str
    towers: tuple[str, ...]
    modes: tuple[str, ...] = ("whole", "slide", "square")
    evaluation_mode: str | None = None
    can_clean: bool = False
    matched: bool = False
    thread_safe: bool = False


@dataclass(frozen=True)
class Preparation:
    """Something that a method needs and that is computed once, such as freeda's prototypes.

    Attributes:
        what: what it is, in words.
        advice: how to do without it, or to provide it.
        folder: where it belongs below the cache; the name depends on everything that decides the content.
        done: a file in the folder that exists once it is finished.
        run: builds it in a folder, or finds it finished there, and returns the options to add.
        impossible: why it cannot be built here; empty if it can.
    """

    what: str
    advice: str
    folder: str = ""
    done: str = ""
    run: Callable[[Path, ProgressCallback | None], Mapping[str, object]] | None = None
    impossible: str = ""

    def finished(self, folder: Path) -> bool:
        return (folder / self.done).is_file()

    def build(self, folder: Path, progress: ProgressCallback | None = None) -> Mapping[str, object]:
        return {} if self.run is None else self.run(folder, progress)


class Method(ABC):
    """Base of all methods.

    Args:
        towers: the models that it runs on.
        size: short side of the images in pixels, and side of the windows in slide mode; None: the model's own.
        patch_size: images are resized to multiples of it, in pixels; None: the vision model's patches.

    Attributes:
        threshold: default background threshold on the scale of the scores; None: the caller has to choose one.
        threshold_source: where the default threshold comes from.
        threshold_range: lowest and highest accepted threshold.
    """

    name: ClassVar[str]
    facts: ClassVar[Facts]
    threshold: float | None = None
    threshold_source: str = ""
    threshold_range: tuple[float, float] = (-1.0, 1.0)

    def __init__(self, towers: Towers, *, size: int | None = None, patch_size: int | None = None) -> None:
        if size is not None and (not isinstance(size, int) or size < 1):
            raise InputError(f"size must be a positive number of pixels; got {size!r}")
        self.towers = towers
        self.patch_size = patch_size or towers.vision.patch_size
        self.size = (size or towers.config.size) // self.patch_size * self.patch_size or self.patch_size

    @abstractmethod
    def encode_pixels(self, pixels: Tensor) -> ImageFeatures:
        """(B, 3, H, W) RGB 0..255, H and W multiples of ``patch_size``, to features of B images."""

    @abstractmethod
    def embed_classes(self, synonyms: Sequence[Sequence[str]], templates: Sequence[str] | None) -> Tensor:
        """One list of synonyms per class to (N, D) embeddings in the space of the patches."""

    @abstractmethod
    def score(self, image: ImageFeatures, text: TextFeatures, *, clean: bool) -> Tensor:
        """The features of one image or window (B = 1) to (N, h, w) scores, at the patch grid or any finer one."""

    def compared_patches(self, image: ImageFeatures) -> Tensor:
        """(B, h, w, D) patch features in the space of the class embeddings, not normalised."""
        return image.patches

    @property
    def cosine_threshold(self) -> float | None:
        """The cosine from which a patch belongs to a word; None where examples are on the scale of words by themselves.

        Examples are calibrated with it: patches are more similar to each other than to words.
        """
        return UNTUNED_THRESHOLD if self.threshold is None else self.threshold

    def check_examples(self) -> None:
        """Refuse examples where an image region cannot stand in for a word.

        Raises:
            InputError: says why.
        """
        if self.facts.matched:
            raise InputError(f"{self.name} has no named classes, so examples have no effect: use another method")

    @property
    def options(self) -> dict[str, object]:
        """The method's own options as JSON values, for results and resolved configurations."""
        return {}

    def fingerprints(self) -> dict[str, str]:
        """Digests of what else decides the results, such as a file of prototypes."""
        return {}

    @classmethod
    def benchmark_options(cls, benchmark: str) -> Mapping[str, object]:
        """Options that the published evaluation of this method sets for one benchmark."""
        return {}

    @classmethod
    def preparation(
        cls, towers: Towers, options: Mapping[str, object], *, drawn: bool, scenes: int
    ) -> Preparation | None:
        """What has to be built before the method can be made with ``options``; None: nothing.

        Args:
            drawn: whether the images are drawn scenes (:mod:`talk2dino.world`). scenes: how many to build it from.
        """
        return None

    def fit(self, images: Iterable[ImageFeatures], count: int) -> TextFeatures:
        """``count`` clusters of the segments of unlabelled images, to be used in place of words (``facts.matched``)."""
        raise NotImplementedError(f"{self.name} has classes of its own")

    @property
    def space(self) -> str:
        """Fingerprint of the space in which words and patches meet."""
        return f"{self.name}:{self.towers.fingerprint(self.facts.towers)}"

    @torch.inference_mode()
    def encode_text(
        self, prompts: Prompts | PromptList, *, negative: Prompts | PromptList | None = None,
        templates: Sequence[str] | None = None,
    ) -> TextFeatures:  # fmt: skip
        """See :meth:`talk2dino.Segmenter.encode_text`."""
        check_fork()
        wanted = read_prompts(prompts)
        unwanted = read_prompts(negative) if negative else PromptList((), ())
        if clash := set(wanted.names) & set(unwanted.names):
            raise InputError(f"{', '.join(sorted(clash))}: a name cannot be both a prompt and a negative prompt")
        towers = self.towers
        everything = PromptList(wanted.names + unwanted.names, wanted.synonyms + unwanted.synonyms)
        read, understood = understand(everything, towers.name, towers.languages, towers.translator)
        embeddings = self.embed_classes(read.synonyms, templates)
        return TextFeatures(
            read.names, embeddings, len(unwanted), towers.name, self.space, notes=wanted.notes + unwanted.notes,
            understood=understood,
        )  # fmt: skip
