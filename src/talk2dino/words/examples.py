"""Classes by example: a region of an image stands in for a word.

region --> mask --> share of each patch inside --> mean of the patches inside = the example's vector
vectors of a class --> clusters, if they are unlike --> one embedding per cluster
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Union

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from talk2dino.errors import InputError, PromptError
from talk2dino.stages.clusters import separate_clusters
from talk2dino.types import ImageFeatures, TextFeatures
from talk2dino.words.prompts import read_prompts

if TYPE_CHECKING:
    from talk2dino.io.images import ImageSource

#: A mask (H, W), bool or 0 and 1 (or 255); a box (x0, y0, x1, y1) or a point (x, y) in pixels of the image.
Region = Union[np.ndarray, "Tensor", Sequence[float]]
#: Class -> its examples: (image, region); an encoded image is not encoded again.
Examples = Mapping[str, Sequence[tuple["ImageSource | ImageFeatures", Region]]]
#: Share of a patch that must be inside the region.
INSIDE = 0.5
#: Most embeddings per class.
MOST_PER_CLASS = 64


@dataclass(frozen=True)
class Seen:
    """One example as the model sees it.

    Attributes:
        vector: (D,) mean of the patches inside, of length 1.
        inside, outside: (D,) means of the L2-normalised patches inside the region, and of those that no region of the
            class touches in this image; outside is None if there are none.
    """

    vector: Tensor
    inside: Tensor
    outside: Tensor | None


def embed_examples(
    examples: Examples, negative: Examples | None, *, per_class: int, encode: Callable[[ImageSource], ImageFeatures],
    compared: Callable[[ImageFeatures], Tensor], threshold: float | None,
) -> TextFeatures:  # fmt: skip
    """Classes and their embeddings from regions of images.

    Args:
        examples, negative: regions of the classes, and of what becomes background.
        per_class: most embeddings per class; how many a class gets is chosen by silhouette.
        encode: the features of one image.
        compared: their (B, h, w, D) patches in the space of the class embeddings.
        threshold: cosine from which a patch belongs to a word; see :func:`calibration_of`. None: no calibration.

    Raises:
        InputError: no examples; a region that is empty, outside its image or of another size. PromptError: a bad name.
    """
    if isinstance(per_class, bool) or not isinstance(per_class, int) or not 1 <= per_class <= MOST_PER_CLASS:
        raise InputError(f"per_class must be a whole number from 1 to {MOST_PER_CLASS}; got {per_class!r}")
    wanted, unwanted = _by_name(examples), _by_name(negative or {})
    if clash := sorted(wanted.keys() & unwanted.keys()):
        raise InputError(f"{', '.join(clash)}: a name cannot be both a class and a negative class")
    if not wanted and not unwanted:
        raise InputError("no examples were given: name at least one class with one (image, region)")
    by_image: dict[object, tuple[ImageSource | ImageFeatures, dict[str, list[Region]]]] = {}
    for name, pairs in (*wanted.items(), *unwanted.items()):
        for image, region in pairs:
            key = str(image) if isinstance(image, str | Path) else id(image)
            by_image.setdefault(key, (image, {}))[1].setdefault(name, []).append(region)
    seen: dict[str, list[Seen]] = {name: [] for name in (*wanted, *unwanted)}
    for source, regions in by_image.values():  # each image is encoded once, and one at a time is in memory
        features = source if isinstance(source, ImageFeatures) else encode(source)
        if len(features) > 1 and features.boxes is None:
            raise InputError(f"an example's image must be one image; got features of {len(features)} images")
        patches = F.normalize(compared(features).float(), dim=-1, eps=1e-6)
        for name, several in regions.items():
            seen[name] += _look_at(name, several, patches, features)
    classes = [cluster_examples(several, per_class) for several in seen.values()]
    rows = [row for own in classes for row in own]
    counts = tuple(map(len, classes))
    return TextFeatures(
        tuple(seen), torch.stack([row.vector for row in rows]), len(unwanted), features.model, features.space,
        counts=() if set(counts) == {1} else counts,
        calibration=None if threshold is None else calibration_of(rows, threshold),
    )  # fmt: skip


def _look_at(name: str, regions: Sequence[Region], patches: Tensor, features: ImageFeatures) -> list[Seen]:
    """The examples of one class in one image, of (B, h, w, D) normalised patches."""
    try:
        masks = [region_mask(region, features.image_size) for region in regions]
    except InputError as error:
        raise InputError(f"example of {name!r}: {error}") from None
    shares = torch.stack([patch_coverage(mask, features) for mask in masks]).to(patches.device)
    outside = patches[shares.amax(0) == 0]
    means = [patches[share >= min(INSIDE, float(share.max()) * 0.999)].mean(0) for share in shares]
    return [
        Seen(F.normalize(mean, dim=-1, eps=1e-6), mean, outside.mean(0) if len(outside) else None) for mean in means
    ]


def cluster_examples(seen: Sequence[Seen], most: int) -> list[Seen]:
    """The embeddings of a class, at most ``most``: the mean of each cluster of its examples."""
    vectors = torch.stack([one.vector for one in seen])
    labels = separate_clusters(vectors.cpu(), most).tolist()
    found = []
    for label in sorted(set(labels)):
        members = [one for one, own in zip(seen, labels, strict=True) if own == label]
        outside = [one.outside for one in members if one.outside is not None]
        vector = F.normalize(torch.stack([one.vector for one in members]).mean(0), dim=-1, eps=1e-6)
        inside = torch.stack([one.inside for one in members]).mean(0)
        found.append(Seen(vector, inside, torch.stack(outside).mean(0) if outside else None))
    return found


def calibration_of(rows: Sequence[Seen], threshold: float) -> Tensor:
    """Slopes and offsets that let examples stand beside words.

    Patches are more similar to each other than to words: without a calibration, examples win everywhere. With p and q the
    mean cosines of an embedding with the patches inside and outside its regions, the middle of p and q is brought to the
    model's background threshold t, and p - q to t, if it is larger:

        slope = min(1, t / (p - q)),  offset = t - slope (p + q) / 2

    The words of the embedded model reach 1.5 t inside and 0.4 t outside on average.

    Args:
        rows: one per embedding. Where a class covers whole images, ``outside`` is the mean of the other embeddings'.
        threshold: t, a cosine.

    Returns:
        (R, 2) float32.
    """
    others = [row.outside for row in rows if row.outside is not None]
    found = []
    for row in rows:
        outside = row.outside if row.outside is not None else torch.stack(others).mean(0) if others else None
        p = float(row.vector @ row.inside)
        q = p - threshold if outside is None else float(row.vector @ outside)
        slope = min(1.0, threshold / max(p - q, 1e-6))
        found.append((slope, threshold - slope * (p + q) / 2))
    return torch.tensor(found)


def _by_name(examples: Examples) -> dict[str, list[tuple[ImageSource | ImageFeatures, Region]]]:
    """Checked class names and their examples."""
    if not isinstance(examples, Mapping):
        raise InputError(
            'examples must map each class to a list of (image, region), such as {"bolt": [("photo.jpg", (10, 20, 90, 60))]}; '
            f"got {type(examples).__name__}"
        )
    found: dict[str, list[tuple[ImageSource | ImageFeatures, Region]]] = {}
    for given, pairs in examples.items():
        if not isinstance(given, str):
            raise PromptError(f"a class name must be text, got {type(given).__name__} {str(given)[:60]}")
        name = read_prompts([given]).names[0]
        if isinstance(pairs, str) or not isinstance(pairs, Sequence) or not pairs:
            raise InputError(f"the examples of {name!r} must be a list of at least one (image, region)")
        for pair in pairs:
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise InputError(f"an example of {name!r} must be a pair (image, region); got {type(pair).__name__}")
            found.setdefault(name, []).append((pair[0], pair[1]))
    return found


# --- from a region to patches --------------------------------------------------------------------------------------------


def region_mask(region: Region, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool of a region of an image of ``size`` = (H, W).

    Raises:
        InputError: no pixel is inside, another size than the image's, outside the image, or none of the accepted forms.
    """
    height, width = size
    if isinstance(region, torch.Tensor):
        region = region.detach().cpu().numpy()
    if isinstance(region, np.ndarray) and region.ndim == 2:
        if region.shape != size:
            raise InputError(f"the mask has {_size(region.shape)} pixels, but the image has {_size(size)}")
        mask = region != 0
        if not mask.any():
            raise InputError("the mask has no pixels: mark at least one pixel of the class")
        return mask
    numbers = _numbers(region)
    mask = np.zeros(size, dtype=bool)
    if len(numbers) == 2:
        x, y = numbers
        if not (0 <= x < width and 0 <= y < height):
            raise InputError(f"the point ({x:g}, {y:g}) is outside the image of {_size(size)} pixels")
        mask[int(y), int(x)] = True
        return mask
    x0, y0, x1, y1 = numbers
    if x0 >= x1 or y0 >= y1:
        raise InputError(f"the box ({_list(numbers)}) has no pixels: x0 must be less than x1, and y0 less than y1")
    if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
        raise InputError(f"the box ({_list(numbers)}) reaches outside the image of {_size(size)} pixels")
    mask[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))] = True
    return mask


def _numbers(region: object) -> list[float]:
    """The numbers of a box or a point."""
    try:
        numbers = [float(value) for value in region]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) not in (2, 4) or not np.isfinite(numbers).all():
        raise InputError(
            "a region must be a mask (H, W), a box (x0, y0, x1, y1) or a point (x, y) in pixels; "
            f"got {type(region).__name__} {str(region)[:60]}"
        )
    return numbers


def patch_coverage(mask: np.ndarray, features: ImageFeatures) -> Tensor:
    """Share of each patch that lies inside a mask.

    Args:
        mask: (H, W) bool, of the image's size.
        features: say how the image was seen: whole, squashed, or in windows.

    Returns:
        (B, h, w) float32, 0..1.
    """
    height, width = mask.shape
    boxes = features.boxes or ((0, 0, height, width),)
    rows, columns = features.canvas or (height, width)
    h, w = features.grid
    sums = np.zeros((height + 1, width + 1))  # sums[y, x]: pixels inside above and left of the corner (x, y)
    sums[1:, 1:] = mask.cumsum(0).cumsum(1)
    shares = []
    for top, left, bottom, right in boxes:
        y = np.linspace(top, bottom, h + 1) * height / rows
        x = np.linspace(left, right, w + 1) * width / columns
        corners = _interpolate(_interpolate(sums, y).T, x).T
        area = np.outer(np.diff(y), np.diff(x))
        shares.append(np.diff(np.diff(corners, axis=0), axis=1) / area)
    return torch.from_numpy(np.stack(shares)).float()


def _interpolate(rows: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Rows at fractional places."""
    lower = np.clip(np.floor(places).astype(int), 0, len(rows) - 2)
    share = (places - lower)[:, None]
    return rows[lower] * (1 - share) + rows[lower + 1] * share


def _size(size: Sequence[int]) -> str:
    return f"{size[1]} x {size[0]}"


def _list(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)
