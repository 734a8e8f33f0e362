"""START HERE. An image and words in, a label for every pixel out.

    words --> prompts --> CLIP text --> psi ----------------+
                                                            v
    image --> RGB --> windows --> DINO --> patches ---> cosine --> cleaning --> upsample --> refine --> labels
                                      \\--> CLS-row attention -------^

Encode once, ask often: :meth:`Segmenter.encode_image` pays for the vision model, :meth:`Segmenter.decode` is cheap and can be
repeated with other words. What happens in between is in :mod:`talk2dino.pipeline`; what is particular to each method is in
:mod:`talk2dino.methods`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from talk2dino import pipeline
from talk2dino.device import choose_device, choose_dtype
from talk2dino.engines import check_engine
from talk2dino.errors import InputError, ShapeError
from talk2dino.io.frames import Frame, choose_frames, frames_of, read_seconds
from talk2dino.io.images import ImageSource, read_image
from talk2dino.io.sequences import open_frames
from talk2dino.methods import check_options, make_method, method_facts
from talk2dino.methods.base import Method
from talk2dino.models.loading import HubOptions, Parts, load_parts
from talk2dino.models.preprocess import check_mode
from talk2dino.models.vit import VisionTransformer
from talk2dino.pipeline import Background
from talk2dino.steady import FrameSegmenter
from talk2dino.towers import Towers
from talk2dino.types import ImageFeatures, Segmentation, TextFeatures
from talk2dino.words.examples import Examples, embed_examples
from talk2dino.words.prompts import PromptList, Prompts
from talk2dino.words.translate import make_translator


class Segmenter:
    """Open-vocabulary segmentation with frozen models; all methods are used through this class.

    Args:
        models: the models, as :func:`talk2dino.models.loading.load_parts` returns them, or the ``towers`` of another segmenter,
            which then are shared. Most callers want :meth:`from_pretrained`.
        device: "auto" (CUDA, then MPS, then CPU) or a torch device.
        dtype: of the vision model: "auto" (bfloat16 where the hardware computes in it, else float32), "float32", "bfloat16",
            "float16" or a torch dtype. Text, similarity and everything after are float32.
        engine: what runs the vision model: "torch", "compile" (torch.compile), "openvino" or "onnx" (ONNX Runtime).
        method: "talk2dino", or one of the methods it is compared with; see :func:`talk2dino.methods.method_names`.
        options: of the method, such as ``prototypes`` for freeda.

    Attributes:
        name, config: of the model.
        vision, text: the vision model, and the text model with its tokenizer and templates.
        projection, vision_projection: psi, and a projection of the patches; None for models that need none.
    """

    def __init__(
        self, models: Parts | Towers, *, device: str | torch.device = "auto", dtype: str | torch.dtype = "auto",
        engine: str = "torch", method: str = "talk2dino", **options: Any,
    ) -> None:  # fmt: skip
        if not isinstance(models, Towers):
            models = Towers(models, device=device, dtype=dtype, engine=engine)
        self.towers: Towers = models
        self.method: Method = make_method(method, self.towers, **options)
        self.name, self.config = models.name, models.config
        self.device, self.dtype, self.engine = models.device, models.dtype, models.engine
        self.vision, self.text = models.vision, models.text
        self.projection, self.vision_projection = models.projection, models.vision_projection

    @classmethod
    def from_pretrained(
        cls, model: str | Path = "auto", *, method: str = "talk2dino", projection: str | Path | None = None,
        text: str | Path | None = None, translate: str | Path | None = None,
        device: str | torch.device = "auto", dtype: str | torch.dtype = "auto", engine: str = "torch",
        revision: str | None = None, cache_dir: str | Path | None = None, local_files_only: bool = False,
        **options: Any,
    ) -> Segmenter:  # fmt: skip
        """Load a model.

        Args:
            model: a name of the catalog (``talk2dino models``), a local folder, a hub id, or "auto": vitb if it is cached or
                can be downloaded, else the embedded micro with a warning.
            method, device, dtype, engine, options: see the class.
            projection: a file or folder with your own psi, used instead of the model's.
            text: a folder written by ``train-text``: a text tower for other languages, used instead of CLIP's.
            translate: translate prompts that neither the text tower nor the glossary knows: "auto", or a Marian model as a
                folder or hub id. Needs the extra ``translate``.
            revision, cache_dir, local_files_only: as in the Hugging Face ecosystem. HF_HOME, HF_HUB_OFFLINE and HF_TOKEN are
                honoured. No remote code is run and no untrusted file is unpickled.

        Raises:
            ModelNotFoundError: no such model, or the hub cannot be reached.
            CheckpointError: damaged or foreign weights; sizes that do not fit together.
            InputError: an unknown device, dtype, engine, method or option.
            MissingExtraError: a library that the engine or the method needs is not installed.
        """
        check_options(method, options)  # wrong arguments are reported before anything is loaded
        device = choose_device(device)
        check_engine(engine, device, choose_dtype(dtype, device, engine=engine))
        translator = None if translate is None else make_translator(translate, local_files_only=local_files_only)
        parts = load_parts(
            model, projection=projection, text=text, hub=HubOptions(revision, cache_dir, local_files_only),
            needs_projection="projection" in method_facts(method).towers,
        )  # fmt: skip
        towers = Towers(parts, device=device, dtype=dtype, engine=engine, translator=translator)
        return cls(towers, method=method, **options)

    def with_method(self, method: str, **options: Any) -> Segmenter:
        """Another method on the same models, which are not loaded again."""
        return Segmenter(self.towers, method=method, **options)

    def __repr__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return (
            f"Segmenter({self.name!r}, method={self.method.name!r}, images of {self.method.size} px in patches of "
            f"{self.method.patch_size}, {dtype} on {self.device}, engine={self.engine!r})"
        )

    @property
    def clip_vision(self) -> VisionTransformer | None:
        """CLIP's image tower, loaded on first use; None if the checkpoint has none."""
        return self.towers.clip_vision

    # --- encode once -----------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def encode_image(self, images: ImageSource | Sequence[ImageSource], *, mode: str = "whole") -> ImageFeatures:
        """Run the vision model.

        Args:
            images: one image or a list of images of one size: a path, bytes, a PIL image, an (H, W, 3) uint8 RGB array, or a
                tensor.
            mode: "whole": short side to the model's size, aspect ratio kept on the patch grid. "slide": the published
                protocol's windows (one image only). "square": squashed to the model's size, as the published demo does.

        Returns:
            ImageFeatures with patches (B, h, w, D); in slide mode B counts the windows.

        Raises:
            ImageError: an image that cannot be read.
            ShapeError: images of different sizes, or several in slide mode.
        """
        sources = cast("Sequence[ImageSource]", images if isinstance(images, list | tuple) else [images])
        loaded = [read_image(one) for one in sources]
        if not loaded:
            raise InputError("no image was given")
        if len({one.size for one in loaded}) > 1:
            sizes = sorted({f"{one.size[0]} x {one.size[1]}" for one in loaded})
            raise ShapeError(
                f"encode_image takes images of one size; got {', '.join(sizes[:4])}. Use segment_batch instead"
            )
        views = [pipeline.plan_view(one.size, mode, self.method) for one in loaded]
        if views[0].boxes is not None and len(loaded) > 1:
            raise ShapeError("images that are cut into windows are encoded one at a time; use segment_batch instead")
        batch_size = len(loaded) if len(loaded) > 1 else pipeline.WINDOW_BATCH
        encoded = list(pipeline.encode_images(loaded, views, self.method, batch_size=batch_size))
        return encoded[0] if len(encoded) == 1 else ImageFeatures.stack(encoded)

    def encode_text(
        self, prompts: Prompts | PromptList, *, negative: Prompts | PromptList | None = None,
        templates: Sequence[str] | None = None,
    ) -> TextFeatures:  # fmt: skip
        """Run the text model and psi.

        Args:
            prompts: a list of class names, or a mapping from class to synonyms, whose embeddings are averaged. A string is
                split at commas, as on the command line.
            negative: names whose pixels become background.
            templates: used instead of the model's own; each with one ``{}``.

        Returns:
            TextFeatures with (N, D) L2-normalised embeddings, negatives last.

        Raises:
            PromptError: empty, too long, or not text.
        """
        return self.method.encode_text(prompts, negative=negative, templates=templates)

    @torch.inference_mode()
    def encode_examples(
        self, examples: Examples, *, negative: Examples | None = None, per_class: int = 1, mode: str = "whole"
    ) -> TextFeatures:  # fmt: skip
        """Classes by example, which can be joined with words: ``segmenter.encode_text(["sky"]) + examples``.

        Args:
            examples: a mapping from class to a list of (image, region). The image is a source as in :meth:`encode_image`,
                or ImageFeatures of one image. The region is a mask, (H, W) bool; a box (x0, y0, x1, y1); or a point (x, y),
                in pixels of the image.
            negative: regions whose likes become background. ``examples`` may then be empty.
            per_class: most embeddings per class. Examples that are unlike get one embedding per cluster, chosen by
                silhouette; the others are averaged.
            mode: as in :meth:`encode_image`.

        Returns:
            TextFeatures with L2-normalised embeddings, negatives last.

        Raises:
            InputError: a region without pixels, outside its image or of another size; a method without named classes.
        """
        self.method.check_examples()
        return embed_examples(
            examples, negative, per_class=per_class, encode=lambda image: self.encode_image(image, mode=mode),
            compared=self.method.compared_patches, threshold=self.method.cosine_threshold,
        )  # fmt: skip

    # --- ask often -------------------------------------------------------------------------------------------------

    def decode(
        self, image: ImageFeatures, text: TextFeatures, *, background: Background = None, clean: bool | None = None,
        refine: bool = False, return_scores: bool = False, return_evidence: bool = False,
    ) -> list[Segmentation]:  # fmt: skip
        """Label every pixel of encoded images.

        Args:
            image, text: from :meth:`encode_image` and :meth:`encode_text` of this segmenter, or of one with the same weights.
            background: None or False: every pixel gets a class. True: the method's default threshold. A number: the
                threshold, on the scale of the scores (0..1 for published models of talk2dino, cosines -1..1 otherwise). A
                mapping from class to threshold; classes that it does not name take the default.
            clean: background cleaning; None: on exactly when a background is asked for and the method has it. Cleaning in the
                published variant couples classes: adding a prompt can change the scores of the others.
            refine: sharpen the masks with PAMR.
            return_scores: also return (N, H, W) float32 scores.
            return_evidence: also return what objects are scored and split with; see :class:`talk2dino.annotations.objects.Evidence`.

        Returns:
            One Segmentation per image (in slide mode: a list of one).

        Raises:
            InputError: a threshold that is out of range; features or words of another model.
        """
        options = pipeline.read_options(
            self.method, text.names, background, clean, refine, return_scores, return_evidence
        )
        pipeline.check_features(image, text, self.method)
        singles = [image] if image.boxes is not None else [image[i] for i in range(len(image))]
        return [pipeline.decode_image(one, text, self.method, options) for one in singles]

    def segment(
        self, image: ImageSource, prompts: Prompts | PromptList | TextFeatures, *, background: Background = None,
        clean: bool | None = None, refine: bool = False, mode: str = "whole",
        negative: Prompts | PromptList | None = None, return_scores: bool = False, return_evidence: bool = False,
    ) -> Segmentation:  # fmt: skip
        """An image and words in, a label for every pixel out. Arguments as in :meth:`decode` and :meth:`encode_image`.

        Example:
            >>> segmenter = Segmenter.from_pretrained("micro")
            >>> result = segmenter.segment("scene.png", ["sky", "grass", "ball"])
            >>> result.labels.shape, result.names
            ((360, 480), ('sky', 'grass', 'ball'))
        """
        return self.segment_batch(
            [image], prompts, background=background, clean=clean, refine=refine, mode=mode, negative=negative,
            return_scores=return_scores, return_evidence=return_evidence,
        )[0]  # fmt: skip

    def segment_batch(
        self, images: Sequence[ImageSource], prompts: Prompts | PromptList | TextFeatures, *,
        background: Background = None, clean: bool | None = None, refine: bool = False, mode: str = "whole",
        negative: Prompts | PromptList | None = None, return_scores: bool = False, return_evidence: bool = False,
        batch_size: int = 8,
    ) -> list[Segmentation]:  # fmt: skip
        """Segment images of any sizes; those that the model sees at one size go through it together.

        Args:
            prompts: as in :meth:`encode_text`, or its result.
            batch_size: images per forward pass; in slide mode, images whose windows share forward passes.

        Returns:
            One Segmentation per image, in order.

        Raises:
            InputError: as in :meth:`decode`; ``negative`` together with text features, which hold their own.
        """
        check_mode(mode)
        text = self._text(prompts, negative)
        options = pipeline.read_options(
            self.method, text.names, background, clean, refine, return_scores, return_evidence
        )
        loaded = [read_image(image) for image in images]
        return pipeline.segment_images(loaded, text, self.method, options, mode=mode, batch_size=batch_size)

    def _text(
        self, prompts: Prompts | PromptList | TextFeatures, negative: Prompts | PromptList | None
    ) -> TextFeatures:
        if not isinstance(prompts, TextFeatures):
            return self.encode_text(prompts, negative=negative)
        if negative:
            raise InputError("text features hold their own negative prompts: give negative= to encode_text instead")
        return prompts

    def segment_video(
        self, video: str | Path | Iterable[ImageSource], prompts: Prompts | PromptList | TextFeatures, *,
        every: float | str | None = None, start: float | str = 0.0, end: float | str | None = None, steady: bool = True,
        keyframe_every: int = 1, background: Background = None, clean: bool | None = None, refine: bool = False,
        mode: str = "whole", negative: Prompts | PromptList | None = None, return_scores: bool = False,
        fps: float = 25.0, allow_truncated: bool = False, batch_size: int = 4,
    ) -> Iterator[tuple[Frame, Segmentation]]:  # fmt: skip
        """Segment the frames of a video, one after the other, with memory that does not depend on its length.

        Args:
            video: a video file (extra ``video``), a folder of images, an animated image, or an iterable of images.
            prompts, background, clean, refine, mode, negative, return_scores: as in :meth:`segment`.
            every: segment the first frame of each such period: seconds, or text such as "0.5s"; None: every frame.
            start, end: first time, and the time before which to stop: seconds, or text such as "1:30".
            steady: carry scores along with the motion and blend them with those of the next frame, so that masks do not
                flicker. Nothing is carried over a cut.
            keyframe_every: run the vision model on every so many frames, and carry the scores to the frames between.
            fps: frames per second of a folder or an iterable; files hold their own times.
            allow_truncated: read the part that is there of a damaged file.
            batch_size: key frames per forward pass.

        Returns:
            An iterator of (frame, segmentation); a frame has its number, seconds and image.

        Raises:
            ImageError: not a video, without frames, or damaged.
            InputError: as in :meth:`segment_batch`; no frame between start and end.

        Example:
            >>> for frame, result in segmenter.segment_video("street.mp4", "road, car, sky", keyframe_every=4):
            ...     print(frame.number, frame.seconds, result.shares())
        """
        text = self._text(prompts, negative)
        options = pipeline.read_options(self.method, text.names, background, clean, refine, return_scores)
        check_mode(mode)
        segment = FrameSegmenter(
            text, self.method, options, mode=mode, steady=steady, keyframe_every=keyframe_every, batch_size=batch_size
        )
        if isinstance(video, str | Path):
            source = open_frames(video, fps=fps, allow_truncated=allow_truncated)
            numbers = choose_frames(
                source.times, every=None if every is None else read_seconds(every), start=read_seconds(start),
                end=None if end is None else read_seconds(end),
            )  # fmt: skip
            return segment(source.read(numbers))
        if (every, start, end) != (None, 0.0, None):
            raise InputError("every, start and end need a file or a folder; choose the images of an iterable yourself")
        return segment(frames_of(video, fps))

    # --- keep ------------------------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write model.safetensors (published layout), config.json and, if it has its own, tokenizer.json."""
        from talk2dino.models.saving import save_model

        return save_model(self.towers, Path(folder))

    def push_to_hub(self, repository: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload what :meth:`save_pretrained` writes to a hub repository; returns its address."""
        from talk2dino.models.saving import push_model

        return push_model(self.towers, repository, private=private, token=token)
