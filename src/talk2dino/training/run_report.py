"""What a run leaves besides the projection: config.json, figures, a model card, and the published layout."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from talk2dino.errors import InputError, Talk2DinoWarning
from talk2dino.features.store import FeatureStore
from talk2dino.io.atomic import atomic_path, write_atomically
from talk2dino.io.journal import Record
from talk2dino.io.markdown import markdown_table
from talk2dino.models.catalog import CATALOG
from talk2dino.models.projection import to_original
from talk2dino.training.aligner import Aligner
from talk2dino.training.checkpoint import RunState
from talk2dino.training.options import TrainOptions

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_report(
    folder: Path, aligner: Aligner, state: RunState, records: Sequence[Record], store: FeatureStore,
    validation: FeatureStore | None, *, write_pth: bool = False,
) -> None:  # fmt: skip
    """Write figures, the model card and, with ``write_pth``, the published layout; warns if matplotlib is missing."""
    data = [("images", f"{store.num_view_images:,}"), ("captions", f"{store.num_captions:,}")]
    if validation is not None:
        data.append(("validation images", f"{validation.num_view_images:,}"))
    model = store.manifests[0].model if store.manifests else {}
    table = markdown_table(
        ("encoders", model.get("name", "not recorded (features in memory)")), [*data, ("steps", f"{state.step:,}")]
    )
    figures = _draw(folder, records, state.head_counts)
    write_atomically(folder / "README.md", _model_card(aligner, table, records, state.head_counts, figures))
    if write_pth and aligner.text_projection is not None:
        content = io.BytesIO()
        torch.save(to_original(aligner.text_projection), content)
        write_atomically(folder / "projection.pth", content.getvalue())
    if not figures:
        warnings.warn(
            "curves.png and heads.png are not drawn because matplotlib is not installed: pip install 'talk2dino[plots]', then "
            "run the same command again",
            Talk2DinoWarning,
            stacklevel=3,
        )


def describe(aligner: Aligner, store: FeatureStore) -> dict[str, Any]:
    """The contents of config.json: settings, sizes, and what the features were made from."""
    manifests = store.manifests
    base = manifests[0].model.get("name") if manifests else None
    public = base in CATALOG or "/" in (base or "")  # others can find the model by this name
    return {
        "format": "talk2dino-alignment-1",
        **({"base_model": base} if public else {}),
        "settings": aligner.options.model_dump(),
        "text_projection": None if aligner.text_projection is None else aligner.text_projection.config(),
        "vision_projection": None if aligner.vision_projection is None else aligner.vision_projection.config(),
        "model": manifests[0].model if manifests else {},
        "preprocessing": manifests[0].preprocessing if manifests else {},
        "data": {
            "images": store.num_view_images,
            "captions": store.num_captions,
            "sources": [manifest.source for manifest in manifests],
        },
    }


def check_published_layout(options: TrainOptions) -> None:
    """Raise InputError for settings whose projection the published layout cannot hold."""
    if options.side != "text" or options.activation != "tanh":
        raise InputError(
            "the published layout holds a projection of the text side with tanh; got side "
            f"'{options.side}' with {options.activation}: leave out --write-pth"
        )


def _model_card(
    aligner: Aligner, data: str, records: Sequence[Record], head_counts: Tensor, figures: Sequence[str]
) -> str:
    last = {name: value for record in records for name, value in record.items()}
    results = [
        (name, "not finite" if value is None else f"{value:.6g}")
        for name, value in last.items()
        if name in ("loss", "validation_loss") or "@" in name
    ]
    heads = ""
    if total := int(head_counts.sum()):
        shares = ", ".join(f"{100 * count / total:.1f}" for count in head_counts.tolist())
        heads = f"\nHow often each attention head was chosen, in %: {shares}.\n"
    images = "".join(f"\n![{name.removesuffix('.png')}]({name})\n" for name in figures)
    return f"""# A Talk2DINO projection

Maps text embeddings and vision features into one space (projected side: {aligner.options.side}). It was trained on images
with captions only, without masks or class names; the encoders were frozen.

{data}

## Final results

{markdown_table(("metric", "value"), results)}
{heads}{images}
## Settings

{markdown_table(("setting", "value"), aligner.options.model_dump().items())}

## Use

    talk2dino segment IMAGES --projection THIS-FOLDER --prompts "..."

Use it with these encoders only. It inherits their biases and those of the captions, and was not evaluated on other data.
"""


def _draw(folder: Path, records: Sequence[Record], head_counts: Tensor) -> list[str]:
    """Draw curves.png and, if heads were chosen, heads.png; returns their names, none without matplotlib."""
    try:
        drawn = {"curves.png": _curves(records)}
        if int(head_counts.sum()):
            drawn["heads.png"] = _heads(head_counts)
    except ImportError:
        return []
    for name, figure in drawn.items():
        with atomic_path(folder / name) as temporary:
            figure.savefig(temporary, dpi=120)
    return list(drawn)


def _curves(records: Sequence[Record]) -> Figure:
    """Loss over steps and, if there was validation, recall at k over steps."""
    from matplotlib.figure import Figure

    training = [r for r in records if "loss" in r]
    validated = [r for r in records if "validation_loss" in r]
    figure = Figure(figsize=(10 if validated else 5.5, 4), layout="constrained")
    axes = figure.subplots(1, 2 if validated else 1, squeeze=False)[0]
    axes[0].plot([r["step"] for r in training], [r["loss"] for r in training], label="training", linewidth=1)
    axes[0].set(xlabel="step", ylabel="InfoNCE", title="Loss")
    if validated:
        steps = [r["step"] for r in validated]
        losses = [float("nan") if r["validation_loss"] is None else r["validation_loss"] for r in validated]
        axes[0].plot(steps, losses, label="validation", marker=".")
        for name in (key for key in validated[-1] if "@" in key):
            style = "-" if name.startswith("image") else "--"
            axes[1].plot(steps, [100 * r[name] for r in validated], style, label=name.replace("_", " "), marker=".")
        axes[1].set(xlabel="step", ylabel="recall (%)", title="Retrieval on held-out images")
        axes[1].legend(fontsize=8)
    axes[0].legend(fontsize=8)
    return figure


def _heads(head_counts: Tensor) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axis = figure.subplots()
    axis.bar(range(len(head_counts)), (100 * head_counts / head_counts.sum()).tolist())
    axis.axhline(100 / len(head_counts), color="grey", linewidth=1, linestyle=":")
    axis.set(xlabel="attention head", ylabel="chosen (%)", title="Head closest to the image's own caption")
    axis.set_xticks(range(len(head_counts)))
    return figure
