"""Frozen values that pass between the stages. Building one with shapes that do not fit together is a ShapeError."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from talk2dino.errors import InputError, ShapeError, suggestion
from talk2dino.io.legend import format_share
from talk2dino.io.masks import (
    parse_segmentation,
    read_segmentation,
    save_segmentation,
    segmentation_bytes,
    to_coco,
    to_polygons,
)
from talk2dino.io.overlay import draw_overlay

if TYPE_CHECKING:
    import fiftyone
    import supervision
    import torch
    from PIL import Image
    from torch import Tensor

    from talk2dino.annotations.objects import Evidence
    from talk2dino.annotations.types import AnnotatedObject
    from talk2dino.io.images import ImageSource


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """The encoded form of images of one size, or of the windows of one image.

    Attributes:
        patches: (B, h, w, D) patch features that words are compared with.
        image_size: (height, width) of the original images, to which score maps are upsampled.
        pixels: (B, 3, H', W') RGB 0..255, each image or window at the size at which it is labelled; refinement and
            superpixels read them.
        attention: (B, M, h, w) CLS-row logits of the last block, before softmax; CLS and registers dropped. None for methods
            without them.
        cls: (B, D) or (B, C) embedding of the whole image. None for methods without one.
        model: name of the model that encoded the images.
        space: fingerprint of the weights that decide which words fit these features; empty if unknown.
        mode: "whole", "slide" or "square".
        boxes: in slide mode, (top, left, bottom, right) of each window; the batch then holds the windows of one image.
        canvas: in slide mode, (height, width) of the resized image that the boxes refer to.
        notes: what happened on the way in, such as a rotation that was undone.
    """

    patches: Tensor
    image_size: tuple[int, int]
    pixels: Tensor | None = None
    attention: Tensor | None = None
    cls: Tensor | None = None
    model: str = ""
    space: str = ""
    mode: str = "whole"
    boxes: tuple[tuple[int, int, int, int], ...] | None = None
    canvas: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.patches.ndim != 4:
            raise ShapeError(f"patches must be (B, h, w, D); got {tuple(self.patches.shape)}")
        b, h, w, _ = self.patches.shape
        if self.attention is not None and (self.attention.shape[:1], self.attention.shape[2:]) != ((b,), (h, w)):
            raise ShapeError(
                f"attention must be (B, M, h, w) with B={b}, h={h}, w={w}; got {tuple(self.attention.shape)}"
            )
        if self.cls is not None and (self.cls.ndim != 2 or self.cls.shape[0] != b):
            raise ShapeError(f"cls must be (B, D) with B={b}; got {tuple(self.cls.shape)}")
        if (self.boxes is None) != (self.canvas is None) or (self.boxes is not None and len(self.boxes) != b):
            raise ShapeError("features of slide mode need a canvas and one box per window")

    def __len__(self) -> int:
        return self.patches.shape[0]

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w): number of patches down and across."""
        return self.patches.shape[1], self.patches.shape[2]

    def __getitem__(self, index: int) -> ImageFeatures:
        """The features of one image, as a batch of one; for windows of one image (ShapeError), see :meth:`window`."""
        if self.boxes is not None:
            raise ShapeError(
                "features of slide mode hold the windows of one image and cannot be indexed; use window(i)"
            )
        return self.window(index)

    def window(self, index: int) -> ImageFeatures:
        """One image or window, as a batch of one without boxes; ``image_size`` becomes the window's size."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of a batch of {len(self)}")
        size = self.image_size
        if self.boxes is not None:
            top, left, bottom, right = self.boxes[index]
            size = (bottom - top, right - left)
        own = {name: tensor[index : index + 1 or None] for name, tensor in self._tensors().items()}
        return replace(self, **own, image_size=size, boxes=None, canvas=None)

    @classmethod
    def stack(cls, several: Sequence[ImageFeatures]) -> ImageFeatures:
        """One batch of the features of several images or windows of one size; everything else is the first one's."""
        import torch

        each = [features._tensors() for features in several]
        joined: dict[str, Any] = {name: torch.cat([tensors[name] for tensors in each]) for name in each[0]}
        return replace(several[0], **joined)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> ImageFeatures:
        """Move the features; ``dtype`` applies to everything but the pixels."""
        moved = {n: tensor.to(device, None if n == "pixels" else dtype) for n, tensor in self._tensors().items()}
        return replace(self, **moved)

    def _tensors(self) -> dict[str, Any]:
        given = {name: getattr(self, name) for name in ("patches", "pixels", "attention", "cls")}
        return {name: tensor for name, tensor in given.items() if tensor is not None}


@dataclass(frozen=True, eq=False)
class TextFeatures:
    """Class names and the embeddings that patches are compared with.

    Attributes:
        names: N class names.
        embeddings: (R, D) float32, L2-normalised; R = N unless ``counts`` says otherwise.
        negative: how many of the last names are negative prompts: pixels that they win become background.
        model: name of the model that made the embeddings.
        space: fingerprint of the weights that decide which images fit these words; empty if unknown.
        clip: (N, C) CLIP text embeddings, for methods that also compare with CLIP's image embedding.
        notes: what was changed on the way in, such as a duplicate that was dropped.
        understood: (given, understood, how) of each prompt that was looked up or translated.
        counts: number of consecutive embeddings of each name, whose best score counts; empty: one each.
        calibration: (R, 2) slope and offset that bring the cosine of each embedding to the scale of the model's words; None
            for words themselves.
    """

    names: tuple[str, ...]
    embeddings: Tensor
    negative: int = 0
    model: str = ""
    space: str = ""
    clip: Tensor | None = None
    notes: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    understood: tuple[tuple[str, str, str], ...] = ()
    calibration: Tensor | None = None

    def __post_init__(self) -> None:
        rows = sum(self.counts) if self.counts else len(self.names)
        if self.embeddings.ndim != 2 or self.embeddings.shape[0] != rows:
            raise ShapeError(f"embeddings must be (N, D) with N={rows}; got {tuple(self.embeddings.shape)}")
        if self.counts and (len(self.counts) != len(self.names) or min(self.counts) < 1):
            raise ShapeError(f"counts must be {len(self.names)} positive numbers, one per name; got {self.counts}")
        if self.calibration is not None and self.calibration.shape != (rows, 2):
            raise ShapeError(f"calibration must be (R, 2) with R={rows}; got {tuple(self.calibration.shape)}")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def positive(self) -> int:
        """How many of the names can appear as labels."""
        return len(self.names) - self.negative

    def rows(self) -> list[Tensor]:
        """The (K, D) embeddings of each name."""
        return list(self.embeddings.split(list(self.counts) or [1] * len(self)))

    def __add__(self, other: TextFeatures) -> TextFeatures:
        """The classes of both, negatives last. A class of both is averaged: words as synonyms are, others by their scores.

        Where a class has several embeddings on one side (``counts``), all embeddings of both sides are kept instead.

        Raises:
            InputError: made by different models or methods, or a name that is a class in one and negative in the other.
        """
        import torch

        if not isinstance(other, TextFeatures):
            return NotImplemented
        _check_joinable(self, other)
        both = (self, other)
        wanted = dict.fromkeys(name for text in both for name in text.names[: text.positive])
        unwanted = dict.fromkeys(name for text in both for name in text.names[text.positive :])
        if clash := sorted(wanted.keys() & unwanted.keys()):
            raise InputError(f"{', '.join(clash)}: a name cannot be both a prompt and a negative prompt")
        names = (*wanted, *unwanted)
        parts = [text.parts() for text in both]
        joined = [_average([part[name] for part in parts if name in part]) for name in names]
        counts = tuple(len(rows) for rows, _, _ in joined)
        shared = [name for name in names if all(name in part for part in parts)]
        averaged = (f"averaged what both sides give for: {', '.join(shared)}",) if shared else ()
        calibrated = any(text.calibration is not None for text in both)
        clips = [clip for _, _, clip in joined if clip is not None]
        return replace(
            self, names=names, embeddings=torch.cat([rows for rows, _, _ in joined]) if joined else self.embeddings,
            negative=len(unwanted), model=self.model or other.model, space=self.space or other.space,
            calibration=torch.cat([scale for _, scale, _ in joined]) if calibrated and joined else None,
            clip=torch.cat(clips) if clips else None, counts=() if set(counts) <= {1} else counts,
            notes=(*self.notes, *other.notes, *averaged),
            understood=tuple(dict.fromkeys((*self.understood, *other.understood))),
        )  # fmt: skip

    def parts(self) -> dict[str, tuple[Tensor, Tensor, Tensor | None]]:
        """The embeddings, calibration and CLIP embedding of each name."""
        import torch

        neutral = torch.tensor([[1.0, 0.0]]).repeat(len(self.embeddings), 1)
        scales = (neutral if self.calibration is None else self.calibration).split(list(self.counts) or [1] * len(self))
        clips = [None] * len(self) if self.clip is None else self.clip.split(1)
        return dict(zip(self.names, zip(self.rows(), scales, clips, strict=True), strict=True))


def _average(parts: list[tuple[Tensor, Tensor, Tensor | None]]) -> tuple[Tensor, Tensor, Tensor | None]:
    """One class from those of one or two sides: (embeddings, calibration, CLIP embedding)."""
    import torch
    import torch.nn.functional as F

    if len(parts) == 1:
        return parts[0]
    rows, scales, clips = zip(*parts, strict=True)
    scales = tuple(scale.to(rows[0].device) for scale in scales)
    clip = F.normalize(torch.stack(clips).mean(0), dim=-1, eps=1e-6) if clips[0] is not None else None
    if [len(one) for one in rows] != [1, 1]:
        return torch.cat(rows), torch.cat(scales), clip
    mean = torch.stack([row * scale[:, :1] for row, scale in zip(rows, scales, strict=True)]).mean(0)
    scale = torch.stack(scales).mean(0)
    if any((one != one.new_tensor([[1.0, 0.0]])).any() for one in scales):
        scale = torch.cat([mean.norm(dim=-1, keepdim=True), scale[:, 1:]], dim=1)  # the average of both scores
    return F.normalize(mean, dim=-1, eps=1e-6), scale, clip


def _check_joinable(first: TextFeatures, second: TextFeatures) -> None:
    """Refuse words and examples that live in different spaces."""
    if (first.space and second.space and first.space != second.space) or (
        first.embeddings.shape[1] != second.embeddings.shape[1]
    ):
        made = (
            f"{text.model or 'an unknown model'} ({text.space.partition(':')[0] or 'unknown method'})"
            for text in (first, second)
        )
        raise InputError(
            f"cannot join words or examples of {' and '.join(made)}: their weights or methods differ. Encode both with one "
            "segmenter"
        )
    if len(first) and len(second) and (first.clip is None) != (second.clip is None):
        raise InputError("cannot join classes with and without CLIP text embeddings: encode both with one segmenter")


@dataclass(frozen=True, eq=False, repr=False)
class Segmentation:
    """A label for every pixel of one image. Equality compares all fields by value.

    Attributes:
        labels: (H, W) integer array; value i stands for ``names[i]``.
        names: class names; with a background, ``names[0]`` is ``"background"``.
        palette: (N, 3) uint8 RGB, one colour per name.
        background: index of the background in names, or None when every pixel belongs to a class.
        scores: (N, H, W) float32 on request, else None.
        model: name of the model (and projection) that made it.
        info: how it was made: method, mode, thresholds, cleaning, dtype, sizes.
        evidence: on request, what objects are scored and split with; not saved and not compared.
    """

    labels: np.ndarray
    names: tuple[str, ...]
    palette: np.ndarray
    background: int | None = None
    scores: np.ndarray | None = None
    model: str = ""
    info: dict[str, Any] = field(default_factory=dict)
    evidence: Evidence | None = None

    def __post_init__(self) -> None:
        if self.labels.ndim != 2 or not np.issubdtype(self.labels.dtype, np.integer):
            raise ShapeError(f"labels must be (H, W) integers; got {self.labels.dtype} {self.labels.shape}")
        if self.palette.shape != (len(self.names), 3):
            raise ShapeError(f"palette must be (N, 3) with N={len(self.names)}; got {self.palette.shape}")
        if self.scores is not None and self.scores.shape != (len(self.names), *self.labels.shape):
            raise ShapeError(
                f"scores must be (N, H, W) = {(len(self.names), *self.labels.shape)}; got {self.scores.shape}"
            )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Segmentation):
            return NotImplemented
        mine, theirs = ((s.names, s.background, s.model, s.info, s.scores is None) for s in (self, other))
        return mine == theirs and all(
            np.array_equal(getattr(self, name), getattr(other, name)) for name in ("labels", "palette", "scores")
        )

    def __hash__(self) -> int:
        raise TypeError(
            "a Segmentation holds arrays and cannot be hashed; use the image's name or id(segmentation) as the key"
        )

    def __repr__(self) -> str:
        shares = [f"{name} {format_share(share)}" for name, share in self.shares().items()]
        if len(shares) > 6:
            shares[6:] = [f"{len(shares) - 6} more"]
        background = "no background" if self.background is None else f"background={self.names[self.background]!r}"
        size = f"{self.size[0]} x {self.size[1]} (height x width), {len(self.names)} names"
        scores = "" if self.scores is None else ", with scores"
        return f"<Segmentation {size}, {background}{scores}: {', '.join(shares)}>"

    @classmethod
    def load(cls, path: str | Path) -> Segmentation:
        """Read what :meth:`save` wrote (.png, .npz or .json), or any palette or grey PNG; only .npz holds scores.

        Raises:
            ImageError: no such file. DataError: the file is damaged or holds no segmentation.
        """
        return cls(**read_segmentation(path))

    @classmethod
    def from_bytes(cls, content: bytes, suffix: str = ".png", *, name: str = "the content") -> Segmentation:
        """Read what :meth:`to_bytes` made; ``name`` stands for it in messages.

        Raises:
            DataError: the content is damaged or holds no segmentation.
        """
        return cls(**parse_segmentation(content, suffix, name))

    def to_bytes(self, suffix: str = ".png") -> bytes:
        """What :meth:`save` writes to a file with this suffix: ".png", ".npz" or ".json"."""
        return segmentation_bytes(self, suffix)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.labels.shape[0], self.labels.shape[1]

    def shares(self) -> dict[str, float]:
        """Share of the image area that each class covers (0..1), largest first; classes without a pixel are left out."""
        counts = np.bincount(self.labels.reshape(-1), minlength=len(self.names))[: len(self.names)]
        order = np.argsort(-counts, kind="stable")
        return {self.names[i]: float(counts[i] / self.labels.size) for i in order if counts[i]}

    def mask(self, name: str) -> np.ndarray:
        """(H, W) bool: the pixels of a class.

        Raises:
            InputError: no such name; similar ones are suggested.
        """
        if name not in self.names:
            raise InputError(f"no class named {name!r} in this segmentation{suggestion(name, self.names)}")
        return self.labels == self.names.index(name)

    def save(self, path: str | Path) -> Path:
        """Write a palette PNG, .npz or .json (COCO), chosen by the suffix, whole or not at all.

        Raises:
            InputError: any other suffix. OutputError: the file cannot be written.
        """
        return save_segmentation(self, path)

    def overlay(
        self, image: ImageSource, *, opacity: float = 0.55, legend: bool = True, contours: bool = True,
        max_size: int | None = None,
    ) -> Image.Image:  # fmt: skip
        """Draw the classes over the image; the arguments are those of :func:`talk2dino.io.overlay.draw_overlay`."""
        return draw_overlay(image, self, opacity=opacity, legend=legend, contours=contours, max_size=max_size)

    def to_coco(self, image_id: int = 0, *, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """One COCO annotation per class, with compressed RLE, area and box."""
        return to_coco(self, image_id, category_ids=category_ids)

    def polygons(self) -> dict[str, list[list[tuple[float, float]]]]:
        """Outlines of each class as closed rings of (x, y) pixel corners; a hole is a separate ring."""
        return to_polygons(self)

    def objects(self, **options: Any) -> tuple[AnnotatedObject, ...]:
        """One object per class, or with ``instances=True`` one per connected part.

        Args:
            options: instances, smallest_area, split: see :class:`talk2dino.annotations.objects.ObjectOptions`. Scores and
                ``split`` need a segmentation with evidence (``return_evidence=True``).
        """
        from talk2dino.annotations.exports import segmentation_objects, split_options

        return segmentation_objects(self, split_options(options)[0])

    def export(
        self, path: str | Path, format: str, *, image: str | Path = "image.png", **options: Any
    ) -> tuple[str, ...]:
        """Write a labelling format, such as "coco" or "cvat"; see :data:`talk2dino.annotations.formats.FORMATS`.

        Args:
            image: the image file, to which the format refers by its name.
            options: those of :meth:`objects`, and polygons, tolerance, polygon_iou: see
                :class:`talk2dino.annotations.writing.WriteOptions` and :class:`~talk2dino.annotations.outlines.OutlineOptions`.

        Returns:
            Notes: what the format could not hold.

        Raises:
            InputError: an unknown format or option. OutputError: the file cannot be written.
        """
        from talk2dino.annotations.exports import export_segmentation, split_options

        objects, writing = split_options(options)
        return export_segmentation(self, path, format, image=image, objects=objects, options=writing)

    def to_supervision(self, **options: Any) -> supervision.Detections:
        """For the package supervision; options as in :meth:`objects`. MissingExtraError if it is not installed."""
        from talk2dino.annotations.exports import split_options, to_supervision

        return to_supervision(self, split_options(options)[0])

    def to_fiftyone(self, **options: Any) -> fiftyone.Detections:
        """For the package FiftyOne; options as in :meth:`objects`. MissingExtraError if it is not installed."""
        from talk2dino.annotations.exports import split_options, to_fiftyone

        return to_fiftyone(self, split_options(options)[0])
