"""Frozen values that pass between the stages. Shapes are checked when a value is built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from talk2dino.errors import InputError, ShapeError, suggestion
from talk2dino.io.legend import format_share
from talk2dino.io.masks import read_segmentation, save_segmentation, to_coco, to_polygons
from talk2dino.io.overlay import draw_overlay

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor

    from talk2dino.io.images import ImageSource


@dataclass(frozen=True)
class ImageFeatures:
    """What the vision model says of a batch of equally sized pictures: pay once, decode often.

    Attributes:
        patches: (B, h, w, D) patch features after the final norm.
        attention: (B, M, h, w) CLS-row logits of the last block, before softmax; CLS and registers dropped.
        cls: (B, D) CLS feature after the final norm.
        image_size: (height, width) of the pictures as they came, to which maps are upsampled.
        pixels: (B, 3, H', W') RGB 0..255 float, the resized picture that the model saw; refinement needs it.
        model: name of the model that made the features.
        boxes: in slide mode the batch holds the windows of one picture; (top, left, bottom, right) of each.
        canvas: in slide mode (height, width) of the resized picture that the boxes refer to.
    """

    patches: Tensor
    attention: Tensor
    cls: Tensor
    image_size: tuple[int, int]
    pixels: Tensor | None = None
    model: str = ""
    boxes: tuple[tuple[int, int, int, int], ...] | None = None
    canvas: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.patches.ndim != 4:
            raise ShapeError(f"patches must be (B, h, w, D); got {tuple(self.patches.shape)}")
        b, h, w, d = self.patches.shape
        if self.attention.ndim != 4 or (self.attention.shape[0], *self.attention.shape[2:]) != (b, h, w):
            raise ShapeError(
                f"attention must be (B, M, h, w) with B={b}, h={h}, w={w}; got {tuple(self.attention.shape)}"
            )
        if tuple(self.cls.shape) != (b, d):
            raise ShapeError(f"cls must be (B, D) = ({b}, {d}); got {tuple(self.cls.shape)}")
        if (self.boxes is None) != (self.canvas is None) or (self.boxes is not None and len(self.boxes) != b):
            raise ShapeError("in slide mode features need a canvas and one box a window")

    def __len__(self) -> int:
        return self.patches.shape[0]

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w): number of patches down and across."""
        return self.patches.shape[1], self.patches.shape[2]

    def __getitem__(self, index: int) -> ImageFeatures:
        """The features of one picture, as a batch of one. Windows of slide mode belong together and are not split."""
        if self.boxes is not None:
            raise ShapeError("features of slide mode hold the windows of one picture; they cannot be indexed")
        if not -len(self) <= index < len(self):
            raise IndexError(f"picture {index} of a batch of {len(self)}")
        rows = slice(index % len(self), index % len(self) + 1)
        pixels = None if self.pixels is None else self.pixels[rows]
        return replace(
            self, patches=self.patches[rows], attention=self.attention[rows], cls=self.cls[rows], pixels=pixels
        )

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> ImageFeatures:
        pixels = None if self.pixels is None else self.pixels.to(device)
        return replace(
            self, patches=self.patches.to(device, dtype), attention=self.attention.to(device, dtype),
            cls=self.cls.to(device, dtype), pixels=pixels,
        )  # fmt: skip


@dataclass(frozen=True)
class TextFeatures:
    """Class names and their embeddings in the vision model's space.

    Attributes:
        names: N class names as they came.
        embeddings: (N, D) float32: psi of the mean text embedding, L2-normalised.
        negative: how many of the last names are negative prompts: pixels that they win become background.
        model: name of the model that made the embeddings.
        notes: what was changed on the way in, such as a duplicate that was dropped.
    """

    names: tuple[str, ...]
    embeddings: Tensor
    negative: int = 0
    model: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.embeddings.ndim != 2 or self.embeddings.shape[0] != len(self.names):
            raise ShapeError(f"embeddings must be (N, D) with N={len(self.names)}; got {tuple(self.embeddings.shape)}")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def positive(self) -> int:
        """Number of names that can appear as labels."""
        return len(self.names) - self.negative


@dataclass(frozen=True, eq=False, repr=False)
class Segmentation:
    """A label for every pixel of one image.

    Two segmentations are equal if all their fields are; arrays are compared by value. They are not hashable.

    Attributes:
        labels: (H, W) integer array; value i stands for ``names[i]``.
        names: class names; with a background, ``names[0]`` is ``"background"``.
        palette: (N, 3) uint8 RGB, one colour per name.
        background: index of the background in names, or None when every pixel belongs to a class.
        scores: (N, H, W) float32 on request, else None.
        model: name of the model (and projection) that made it.
        info: how it was made: method, mode, thresholds, cleaning, dtype, sizes.
    """

    labels: np.ndarray
    names: tuple[str, ...]
    palette: np.ndarray
    background: int | None = None
    scores: np.ndarray | None = None
    model: str = ""
    info: dict[str, Any] = field(default_factory=dict)

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
        plain = [(s.names, s.background, s.model, s.info, s.scores is None) for s in (self, other)]
        arrays = [(self.labels, other.labels), (self.palette, other.palette)]
        if self.scores is not None and other.scores is not None:
            arrays.append((self.scores, other.scores))
        return plain[0] == plain[1] and all(np.array_equal(mine, theirs) for mine, theirs in arrays)

    def __hash__(self) -> int:
        raise TypeError(
            "a Segmentation holds arrays and cannot be hashed; use the image's name or id(segmentation) as the key"
        )

    def __repr__(self) -> str:
        shares = [f"{name} {format_share(share)}" for name, share in self.shares().items()]
        if len(shares) > 6:
            shares[6:] = [f"{len(shares) - 6} more"]
        background = "no background" if self.background is None else f"background={self.names[self.background]!r}"
        parts = [f"{self.size[0]} x {self.size[1]} (height x width)", f"{len(self.names)} names", background]
        parts += ["with scores"] if self.scores is not None else []
        return f"<Segmentation {', '.join(parts)}: {', '.join(shares)}>"

    @classmethod
    def load(cls, path: str | Path) -> Segmentation:
        """Read what :meth:`save` wrote (.png, .npz or .json), or any palette or grey PNG; only .npz holds scores.

        Raises:
            ImageError: no such file. DataError: the file is damaged or holds no segmentation.
        """
        return cls(*read_segmentation(path))

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
        """Draw the classes over the image; see :func:`talk2dino.io.overlay.draw_overlay`.

        Args:
            image: the segmented image: a path, PIL image, array, ...
            opacity: 0 (the image) .. 1 (plain colours).
            legend: add a panel with names and area shares.
            contours: draw lines between regions.
            max_size: longest side of the drawn image in pixels, without its legend; by default that of the image.
        """
        return draw_overlay(image, self, opacity=opacity, legend=legend, contours=contours, max_size=max_size)

    def to_coco(self, image_id: int = 0, *, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """One COCO annotation per class, with compressed RLE, area and box."""
        return to_coco(self, image_id, category_ids=category_ids)

    def polygons(self) -> dict[str, list[list[tuple[float, float]]]]:
        """Outlines of each class as closed rings of (x, y) pixel corners; a hole is a separate ring."""
        return to_polygons(self)
