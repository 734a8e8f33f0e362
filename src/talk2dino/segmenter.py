"""START HERE. A picture and words in, a label for every pixel out.

    words --> prompts --> CLIP text --> psi ----------------+
                                                            v
    picture --> RGB --> windows --> DINO --> patches ---> cosine --> cleaning --> upsample --> refine --> labels
                                        \\--> CLS-row attention -------^

Encode once, ask often: :meth:`Segmenter.encode_image` pays for the backbone, :meth:`Segmenter.decode` is cheap and can be
repeated with other words.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from talk2dino.device import choose_device, choose_dtype
from talk2dino.engines import IN_TORCH, Engine, check_engine, make_engine
from talk2dino.engines.forward import InParts
from talk2dino.errors import InputError, ShapeError
from talk2dino.io.images import Picture, read_image
from talk2dino.io.palette import class_palette
from talk2dino.models.config import SegmenterConfig
from talk2dino.models.loading import HubOptions, Parts, load_parts
from talk2dino.models.preprocess import (
    check_mode,
    grid_size,
    normalise,
    resize_image,
    slide_size,
    to_pixels,
    window_pixels,
)
from talk2dino.prompts import PromptList, Prompts, read_prompts
from talk2dino.stages.background import clean_background
from talk2dino.stages.refine import refine as refine_masks
from talk2dino.stages.similarity import cosine_similarity
from talk2dino.stages.upsample import Resize, label_pixels, resized_rows, upsample
from talk2dino.stages.windows import average_windows, full_batches, window_boxes
from talk2dino.types import ImageFeatures, Segmentation, TextFeatures

Image = Any  # a path, bytes, a PIL image, a Picture, or an (H, W, 3) uint8 RGB array
Background = bool | float | Mapping[str, float] | None

#: Windows that go through the vision model at once in slide mode.
WINDOW_BATCH = 8


@dataclass(frozen=True)
class DecodeOptions:
    """How maps become labels; what ``background=``, ``clean=`` and ``refine=`` come to once checked."""

    thresholds: Tensor | None  # (N,), or None for no background
    clean: bool
    refine: bool
    return_scores: bool


class Segmenter:
    """Open-vocabulary segmentation with a frozen vision model, a frozen text model and psi.

    Args:
        parts: the models, as :func:`talk2dino.models.loading.load_parts` gives them. Most callers want
            :meth:`from_pretrained`.
        device: "auto" (CUDA, then MPS, then CPU) or a torch device.
        dtype: of the vision model: "auto" (bfloat16 where the hardware computes in it, else float32), "float32",
            "bfloat16", "float16" or a torch dtype. Text, similarity and everything after are float32.
        engine: what runs the vision model: "torch", "compile" (torch.compile), "openvino" or "onnx" (ONNX Runtime); see
            :mod:`talk2dino.engines`.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        engine: str = "torch",
    ) -> None:
        self.device = choose_device(device)
        self.dtype = choose_dtype(dtype, self.device, engine=engine)
        self.config: SegmenterConfig = parts.config
        # Engines that export read float32 weights, whatever they compute in.
        self.vision = parts.vision.to(self.device, self.dtype if engine in IN_TORCH else torch.float32)
        self.text = parts.text.to(self.device)
        self.projection = (
            None if parts.projection is None else parts.projection.to(self.device).eval().requires_grad_(False)
        )
        self.vision_projection = (
            None
            if parts.vision_projection is None
            else parts.vision_projection.to(self.device).eval().requires_grad_(False)
        )
        self._clip_vision, self._late_clip_vision = parts.clip_vision, parts.late_clip_vision
        self.engine = engine
        self.run_vision: Engine = InParts(make_engine(engine, self.vision, device=self.device, dtype=self.dtype))

    @property
    def clip_vision(self) -> Any:
        """CLIP's image tower, for the systems compared with; float32 on the CPU until they take it. None if there is none."""
        if self._clip_vision is None and self._late_clip_vision is not None:
            self._clip_vision = self._late_clip_vision()
        return self._clip_vision

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = "auto",
        *,
        projection: str | Path | None = None,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        engine: str = "torch",
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> Segmenter:
        """Load a model.

        Args:
            model: a name of the catalog (``talk2dino models``), a local folder, a hub id, or "auto": vitb when it is
                cached or can be downloaded, else the embedded micro with a warning.
            projection: a file or folder with a psi of one's own, instead of the model's.
            device, dtype, engine: see the class.
            revision, cache_dir, local_files_only: as in the Hugging Face ecosystem. HF_HOME, HF_HUB_OFFLINE and HF_TOKEN
                are honoured. No remote code is run and no untrusted file is unpickled.

        Raises:
            ModelNotFoundError: no such model, or the hub cannot be reached.
            CheckpointError: damaged or foreign weights; sizes that do not fit together.
            InputError: an unknown device, dtype or engine. MissingExtraError: the engine's library is not installed.
        """
        hub = HubOptions(revision, cache_dir, local_files_only)
        device = choose_device(device)
        chosen = choose_dtype(dtype, device, engine=engine)
        check_engine(engine, device, chosen)  # what is wrong is told before anything is loaded
        return cls(load_parts(model, projection=projection, hub=hub), device=device, dtype=dtype, engine=engine)

    @property
    def name(self) -> str:
        return self.config.name

    # --- encode once ---------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def encode_image(self, images: Image | Sequence[Image], *, mode: str = "whole") -> ImageFeatures:
        """Run the vision model.

        Args:
            images: one picture or a list of pictures of one size: a path, bytes, a PIL image or an (H, W, 3) uint8 RGB array.
            mode: "whole": short side to the model's size, aspect ratio kept on the patch grid. "slide": the published
                protocol's windows (one picture only). "square": squashed to the training size, as the published demo does.

        Returns:
            ImageFeatures with patches (B, h, w, D) and attention (B, M, h, w); in slide mode B counts the windows.

        Raises:
            ImageError: a picture that cannot be read, or too elongated for whole mode.
            ShapeError: pictures of different sizes, or several in slide mode.
        """
        check_mode(mode)
        several = isinstance(images, (list, tuple))
        sources: Sequence[Any] = images if several else [images]
        pictures = [read_image(image) for image in sources]
        if not pictures:
            raise InputError("no picture was given")
        if len({p.array.shape for p in pictures}) > 1:
            sizes = sorted({f"{p.array.shape[0]} x {p.array.shape[1]}" for p in pictures})
            raise ShapeError(
                f"encode_image takes pictures of one size; got {', '.join(sizes[:4])}. segment_batch groups them"
            )
        if mode == "slide":
            if len(pictures) > 1:
                raise ShapeError("slide mode takes one picture at a time; segment_batch loops over them")
            return next(self._encode_windows(pictures))
        target = self.seen_size(*pictures[0].size, mode=mode)
        pixels = torch.stack([to_pixels(resize_image(p.array, target)) for p in pictures])
        return self._encode_pixels(pixels, pictures[0].size)

    def seen_size(self, height: int, width: int, *, mode: str = "whole") -> tuple[int, int]:
        """(height, width) at which the vision model sees a picture; pictures of one such size make a batch.

        Raises:
            ImageError: too elongated for whole mode.
        """
        if mode == "slide":
            return self._canvas(height, width)
        size = self.config.size // self.vision.patch_size * self.vision.patch_size
        return (size, size) if mode == "square" else grid_size(height, width, size, self.vision.patch_size)

    def _canvas(self, height: int, width: int) -> tuple[int, int]:
        return slide_size(height, width, self.config.size, longest=round(2048 * self.config.size / 448))

    def _encode_pixels(self, pixels: Tensor, image_size: tuple[int, int]) -> ImageFeatures:
        """(B, 3, H', W') RGB 0..255 on the patch grid to features."""
        pixels = pixels.to(self.device)
        out = self.run_vision(normalise(pixels))
        return ImageFeatures(out.patches, out.attention, out.cls, image_size, pixels, self.name)

    @torch.inference_mode()
    def _encode_windows(self, pictures: Sequence[Picture]) -> Iterator[ImageFeatures]:
        """Slide mode: the features of one picture after the other; a forward pass holds windows of several."""
        window = self.config.size
        canvases = [self._canvas(*picture.size) for picture in pictures]
        boxes = [tuple(window_boxes(*canvas, window, window // 2)) for canvas in canvases]
        size = window // self.vision.patch_size * self.vision.patch_size
        crops = (
            crop
            for picture, canvas, own in zip(pictures, canvases, boxes, strict=True)
            for crop in window_pixels(picture.array, canvas, own, size)
        )
        encoded = (self._encode_pixels(batch, (size, size)) for batch in full_batches(crops, WINDOW_BATCH))
        windows = (features[i] for features in encoded for i in range(len(features)))
        for picture, canvas, own in zip(pictures, canvases, boxes, strict=True):
            parts = list(islice(windows, len(own)))
            yield ImageFeatures(
                torch.cat([p.patches for p in parts]), torch.cat([p.attention for p in parts]),
                torch.cat([p.cls for p in parts]), picture.size,
                torch.cat([p.pixels for p in parts if p.pixels is not None]), self.name, own, canvas,
            )  # fmt: skip

    @torch.inference_mode()
    def encode_text(
        self,
        prompts: Prompts | PromptList,
        *,
        negative: Prompts | PromptList | None = None,
        templates: Sequence[str] | None = None,
    ) -> TextFeatures:
        """Run the text model and psi.

        Args:
            prompts: a list of names, or a projection from class to synonyms, whose embeddings are averaged.
            negative: names whose pixels become background.
            templates: instead of the model's own; each with one ``{}``.

        Returns:
            TextFeatures with (N, D) L2-normalised embeddings, negatives last.

        Raises:
            PromptError: empty, too long, or not text.
        """
        asked = read_prompts(prompts)
        against = read_prompts(negative) if negative is not None else PromptList((), ())
        clash = set(asked.names) & set(against.names)
        if clash:
            raise InputError(f"{', '.join(sorted(clash))}: a name cannot be a prompt and a negative prompt at once")
        raw = self.text.embed_classes([*asked.synonyms, *against.synonyms], templates).to(self.device)
        mapped = raw if self.projection is None else self.projection(raw)
        embeddings = F.normalize(mapped, dim=-1, eps=1e-6)
        names = asked.names + against.names
        return TextFeatures(names, embeddings, len(against), self.name, asked.notes + against.notes)

    # --- ask often -------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def decode(
        self,
        image: ImageFeatures,
        text: TextFeatures,
        *,
        background: Background = None,
        clean: bool | None = None,
        refine: bool = False,
        return_scores: bool = False,
    ) -> list[Segmentation]:
        """Label every pixel of encoded pictures.

        Args:
            image, text: from :meth:`encode_image` and :meth:`encode_text`.
            background: None or False: every pixel gets a class. True: the model's threshold. A number: the threshold
                (sigmoid scale 0..1 for published models, cosine -1..1 for the "paper" variant). A projection from class to
                threshold; classes that it does not name take the model's.
            clean: background cleaning; None: on exactly when a background is asked for. Cleaning in the published
                variant couples classes: adding a prompt can change the scores of the others.
            refine: sharpen the masks with PAMR.
            return_scores: also return (N, H, W) float32 scores.

        Returns:
            One Segmentation a picture (in slide mode: a list of one).

        Raises:
            InputError: a threshold that is not a number in range. ShapeError: features of another model's size.
        """
        options = self._options(text, background, clean, refine, return_scores)
        if image.boxes is not None:
            assert image.canvas is not None
            maps = average_windows(self._window_maps(image, text, options), image.boxes, image.canvas)
            return [self._finish(maps, self._to_image(image.canvas, image, align_corners=False), image, text, options)]
        results = []
        for one in (image[i] for i in range(len(image))):
            maps, resizes = self._maps(one, text, options)
            results.append(self._finish(maps[0], resizes, one, text, options))
        return results

    def _maps(self, image: ImageFeatures, text: TextFeatures, options: DecodeOptions) -> tuple[Tensor, list[Resize]]:
        """(B, N, ., .) maps of the classes, and the resizes that still lead to the picture's size."""
        patches = image.patches if self.vision_projection is None else self.vision_projection(image.patches.float())
        scores = cosine_similarity(patches, text.embeddings)
        if self.config.variant == "published":
            scores = torch.sigmoid(scores)
        if options.clean:
            scores = clean_background(scores, patches, image.attention, text.embeddings, variant=self.config.variant)
        seen = (image.grid[0] * self.vision.patch_size, image.grid[1] * self.vision.patch_size)
        if not options.refine:
            return scores, [Resize(*seen, True), *self._to_image(seen, image, align_corners=False)]
        if image.pixels is None:
            raise InputError("refinement needs the pixels of the picture; encode it again with encode_image")
        refined = refine_masks(upsample(scores, seen), image.pixels)
        return refined, self._to_image(seen, image, align_corners=False)

    @staticmethod
    def _to_image(size: tuple[int, int], image: ImageFeatures, *, align_corners: bool) -> list[Resize]:
        return [] if size == image.image_size else [Resize(*image.image_size, align_corners)]

    def _window_maps(self, image: ImageFeatures, text: TextFeatures, options: DecodeOptions) -> Iterator[Tensor]:
        """(N, bottom - top, right - left) maps of one window after the other."""
        assert image.boxes is not None
        whole = replace(image, boxes=None, canvas=None)
        for index, (top, left, bottom, right) in enumerate(image.boxes):
            size = (bottom - top, right - left)
            window = replace(whole[index], image_size=size)
            maps, resizes = self._maps(window, text, options)
            yield resized_rows(maps[0], resizes, 0, size[0])

    def _finish(
        self, maps: Tensor, resizes: list[Resize], image: ImageFeatures, text: TextFeatures, options: DecodeOptions
    ) -> Segmentation:
        """(N, ., .) maps to a Segmentation at the picture's size."""
        background = options.thresholds is not None or text.negative > 0
        labels = label_pixels(maps, resizes, options.thresholds, text.negative)
        names = text.names[: text.positive]
        scores = None
        if options.return_scores:
            full = resized_rows(maps, resizes, 0, image.image_size[0])
            if background:
                constant = 0.0 if options.thresholds is None else float(options.thresholds.min())
                full = torch.cat([full.new_full((1, *full.shape[1:]), constant), full[: text.positive]])
            scores = full.float().cpu().numpy()
        info = {
            "mode": "slide" if image.boxes is not None else "whole",
            "seen": list(
                image.canvas or (image.grid[0] * self.vision.patch_size, image.grid[1] * self.vision.patch_size)
            ),
            "thresholds": None
            if options.thresholds is None
            else sorted({round(float(t), 6) for t in options.thresholds}),
            "cleaning": self.config.variant if options.clean else None,
            "refined": options.refine,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "engine": self.engine,
            "negative": list(text.names[text.positive :]),
            "notes": list(text.notes),
            "source": self.config.source,
        }
        return Segmentation(
            labels.cpu().numpy(),
            ("background", *names) if background else names,
            class_palette(len(names) + int(background), background=0 if background else None),
            0 if background else None,
            scores,
            self.name,
            info,
        )

    def _options(
        self, text: TextFeatures, background: Background, clean: bool | None, refine: bool, return_scores: bool
    ) -> DecodeOptions:
        """Check what was asked and fill in the model's defaults."""
        if text.embeddings.shape[1] != (self.projection.out_dim if self.projection else self.text.dim):
            raise ShapeError(
                f"text features of {text.embeddings.shape[1]} dimensions do not belong to the model {self.name}"
            )
        thresholds = None
        if isinstance(background, Mapping):
            unknown = [name for name in background if name not in text.names]
            if unknown:
                raise InputError(f"thresholds name classes that were not asked for: {', '.join(unknown[:5])}")
            values = [
                self.check_threshold(background[n] if n in background else self.default_threshold()) for n in text.names
            ]
            thresholds = torch.tensor(values)
        elif background is True:
            thresholds = torch.full((len(text),), self.default_threshold())
        elif background is not None and background is not False:
            thresholds = torch.full((len(text),), self.check_threshold(background))
        if clean is None:
            clean = thresholds is not None
        return DecodeOptions(thresholds, bool(clean), bool(refine), return_scores)

    def default_threshold(self) -> float:
        """The threshold that was tuned for this model.

        Raises:
            InputError: if nobody tuned one.
        """
        if self.config.threshold is None:
            raise InputError(
                f"the model {self.name} has no tuned background threshold; name one, for example background=0.55"
            )
        return self.config.threshold

    def check_threshold(self, value: Any) -> float:
        """A number on the scale of this model's scores, or InputError."""
        low, high = (0.0, 1.0) if self.config.variant == "published" else (-1.0, 1.0)
        if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
            raise InputError(f"a background threshold must be a number from {low:g} to {high:g}; got {value!r}")
        if math.isnan(value) or not low <= value <= high:
            raise InputError(f"a background threshold must be from {low:g} to {high:g}; got {value}")
        return float(value)

    # --- all at once -----------------------------------------------------------------------------------------------

    def segment(
        self,
        image: Image,
        prompts: Prompts | PromptList,
        *,
        background: Background = None,
        clean: bool | None = None,
        refine: bool = False,
        mode: str = "whole",
        negative: Prompts | None = None,
        return_scores: bool = False,
    ) -> Segmentation:
        """A picture and words in, a label for every pixel out. Arguments as in :meth:`decode` and :meth:`encode_image`.

        Example:
            >>> segmenter = Segmenter.from_pretrained("micro")
            >>> result = segmenter.segment("scene.png", ["sky", "grass", "ball"])
            >>> result.labels.shape, result.names
            ((360, 480), ('sky', 'grass', 'ball'))
        """
        results = self.segment_batch(
            [image], prompts, background=background, clean=clean, refine=refine, mode=mode, negative=negative,
            return_scores=return_scores,
        )  # fmt: skip
        return results[0]

    def segment_batch(
        self,
        images: Sequence[Image],
        prompts: Prompts | PromptList | TextFeatures,
        *,
        background: Background = None,
        clean: bool | None = None,
        refine: bool = False,
        mode: str = "whole",
        negative: Prompts | None = None,
        return_scores: bool = False,
        batch_size: int = 8,
    ) -> list[Segmentation]:
        """Segment several pictures of any sizes; those that the vision model sees at one size go through it together.

        Args:
            prompts: as in :meth:`segment`, or text features that were encoded before.
            batch_size: pictures a forward pass; in slide mode, pictures whose windows share forward passes.

        Returns:
            One Segmentation a picture, in order.
        """
        check_mode(mode)
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1; got {batch_size}")
        text = prompts if isinstance(prompts, TextFeatures) else self.encode_text(prompts, negative=negative)
        self._options(text, background, clean, refine, return_scores)  # a wrong option is told before the work
        pictures = [read_image(image) for image in images]
        groups: dict[tuple[int, int], list[int]] = {}
        for index, picture in enumerate(pictures):
            seen = (0, 0) if mode == "slide" else self.seen_size(*picture.size, mode=mode)  # windows are all alike
            groups.setdefault(seen, []).append(index)
        results: dict[int, Segmentation] = {}
        for seen, indices in groups.items():
            for start in range(0, len(indices), batch_size):
                chosen = indices[start : start + batch_size]
                together = [pictures[i] for i in chosen]
                encoded = self._encode_windows(together) if mode == "slide" else self._encode_alike(together, seen)
                for i, features in zip(chosen, encoded, strict=True):
                    (result,) = self.decode(
                        features, text, background=background, clean=clean, refine=refine, return_scores=return_scores
                    )
                    info = {**result.info, "mode": mode, "notes": [*result.info["notes"], *pictures[i].notes]}
                    results[i] = replace(result, info=info)
        return [results[i] for i in range(len(pictures))]

    @torch.inference_mode()
    def _encode_alike(self, pictures: Sequence[Picture], seen: tuple[int, int]) -> list[ImageFeatures]:
        """One forward pass for pictures that are seen at one size; features of each by itself."""
        pixels = torch.stack([to_pixels(resize_image(p.array, seen)) for p in pictures])
        features = self._encode_pixels(pixels, seen)
        return [replace(features[i], image_size=picture.size) for i, picture in enumerate(pictures)]

    # --- keep ------------------------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write model.safetensors (published layout), config.json and, if it has its own, tokenizer.json."""
        from talk2dino.models.saving import save_model

        return save_model(self, Path(folder))

    def push_to_hub(self, repository: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload what :meth:`save_pretrained` writes to a hub repository; returns its address."""
        from talk2dino.models.saving import push_model

        return push_model(self, repository, private=private, token=token)
