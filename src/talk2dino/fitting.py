"""Words fitted to images: adapted to images without labels, tuned with corrected masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from talk2dino.annotations import load_annotations
from talk2dino.annotations.types import UNLABELLED
from talk2dino.encoded import encode_files, unit_patches
from talk2dino.errors import DataError, InputError
from talk2dino.io.images import LoadedImage, read_image
from talk2dino.io.names import readable
from talk2dino.types import Segmentation
from talk2dino.words.adaptation import PatchSample, adapt
from talk2dino.words.examples import patch_coverage
from talk2dino.words.tuning import LabelledPatches, tune
from talk2dino.words.vocabulary import read_vocabulary, save_vocabulary

if TYPE_CHECKING:
    from talk2dino.progress import ProgressCallback
    from talk2dino.segmenter import Segmenter
    from talk2dino.types import ImageFeatures, TextFeatures

#: Label of pixels that belong to none of the classes, and of those whose class is not known.
NONE, UNKNOWN = -1, -2
_SAVED = (".labels.png", ".npz")


def adapt_to_images(
    text: TextFeatures, paths: Sequence[Path], segmenter: Segmenter, *, mode: str = "whole", refine: bool = False,
    batch_size: int = 4, read: Callable[[Path], LoadedImage] = read_image, progress: ProgressCallback | None = None,
) -> TextFeatures:  # fmt: skip
    """Fit the vectors of words to images without labels; see :func:`talk2dino.words.adaptation.adapt`.

    Args:
        refine: for masks that will be refined.
        batch_size, read, progress: see :func:`talk2dino.encoded.encode_files`.

    Raises:
        InputError: the method has no words, or its words are not on the scale of a threshold.
    """
    sample = PatchSample(text, _threshold(segmenter))
    for _, features in encode_files(segmenter, paths, mode=mode, batch_size=batch_size, read=read, progress=progress):
        sample.add(unit_patches(segmenter, features).flatten(0, 2))
    return adapt(sample, refine=refine)


def tune_with_masks(
    text: TextFeatures, masks: Iterable[tuple[Path, np.ndarray]], segmenter: Segmenter, *, mode: str = "whole",
    progress: ProgressCallback | None = None,
) -> tuple[TextFeatures, float]:  # fmt: skip
    """Fit the vectors of words to corrected masks; see :func:`talk2dino.words.tuning.tune`.

    Args:
        masks: images, and (H, W) integers: the index of the class in ``text``, NONE or UNKNOWN.

    Raises:
        InputError: a mask of another size than its image; no mask has a patch of one of the classes.
    """
    threshold, labels = _threshold(segmenter), dict(masks)
    images = []
    for path, features in encode_files(segmenter, list(labels), mode=mode, progress=progress):
        if labels[path].shape != features.image_size:
            height, width = labels[path].shape
            raise InputError(
                f"the mask of {readable(path)} has {width} x {height} pixels, but the image has "
                f"{features.image_size[1]} x {features.image_size[0]}"
            )
        images.append(label_patches(labels[path], features, unit_patches(segmenter, features)))
    return tune(text, images, threshold)


def label_patches(labels: np.ndarray, features: ImageFeatures, patches: torch.Tensor) -> LabelledPatches:
    """The patches of an image that lie at least half in one class, or in none.

    Args:
        labels: (H, W) class indices, NONE or UNKNOWN. patches: (B, h, w, D) of length 1.
    """
    present = [int(value) for value in np.unique(labels) if value != UNKNOWN]
    if not present:
        return LabelledPatches(patches[:0].flatten(0, 2), torch.zeros(0, dtype=torch.long))
    shares = torch.stack([patch_coverage(labels == value, features) for value in present])  # [K, B, h, w]
    share, index = shares.max(0)
    chosen = share >= 0.5
    return LabelledPatches(patches[chosen.to(patches.device)].cpu(), torch.tensor(present)[index[chosen]])


def read_masks(source: Path, images: Sequence[Path], names: Sequence[str]) -> list[tuple[Path, np.ndarray]]:
    """Corrected masks and their images.

    Args:
        source: a folder of saved segmentations (NAME.labels.png, NAME.npz), or anything that
            :func:`talk2dino.annotations.load_annotations` reads.
        images: where the images are; they are found by name.
        names: the classes, in order. Pixels of other classes, and pixels without a label, are left out.

    Raises:
        DataError: no masks there, or none of an image that is given.
    """
    by_stem = {path.stem: path for path in images}
    saved = sorted(path for path in source.iterdir() if path.name.endswith(_SAVED)) if source.is_dir() else []
    found: list[tuple[Path, np.ndarray]] = []
    if saved:
        for path in saved:
            stem = next(path.name.removesuffix(suffix) for suffix in _SAVED if path.name.endswith(suffix))
            if stem in by_stem:
                found.append((by_stem[stem], _in_order(Segmentation.load(path), names)))
    else:
        for image in load_annotations(source, images=_folder_of(images)).images:
            if Path(image.name).stem in by_stem:
                classes = list(dict.fromkeys((*names, *(one.name for one in image.objects))))
                labels = image.labels(classes)
                labels[(labels == UNLABELLED) | (labels >= len(names))] = UNKNOWN
                found.append((by_stem[Path(image.name).stem], labels))
    if not found:
        raise DataError(
            f"{readable(source)} has no masks of these {len(images)} images: masks and images go together by name"
        )
    return found


def _in_order(saved: Segmentation, names: Sequence[str]) -> np.ndarray:
    """The labels of a saved segmentation as indices of ``names``."""
    order = [names.index(name) if name in names else UNKNOWN for name in saved.names]
    if saved.background is not None:
        order[saved.background] = NONE
    return np.array(order)[saved.labels]


def _folder_of(images: Sequence[Path]) -> Path | None:
    return images[0].parent if images else None


def _threshold(segmenter: Segmenter) -> float:
    segmenter.method.check_examples()
    threshold = segmenter.method.cosine_threshold
    if threshold is None:
        raise InputError(f"{segmenter.method.name} compares images with prototypes, which cannot be adapted or tuned")
    return threshold


def adapt_once(
    text: TextFeatures, paths: Sequence[Path], segmenter: Segmenter, kept: Path, key: str, **options: Any
) -> TextFeatures:  # fmt: skip
    """As :func:`adapt_to_images`, but the result is kept in the file ``kept`` and read from there while ``key`` is the same."""
    if kept.is_file():
        try:
            found, made = read_vocabulary(kept)
            if made == key:
                return found
        except DataError:  # from an interrupted write of another program: it is made again
            pass
    adapted = adapt_to_images(text, paths, segmenter, **options)
    save_vocabulary(adapted, kept, made=key)
    return adapted
