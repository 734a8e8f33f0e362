"""What a run leaves besides the projection: config.json, curves.png, heads.png, a model card, the published layout."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from talk2dino.errors import InputError
from talk2dino.features.store import FeatureStore
from talk2dino.io.atomic import atomic_path, write_atomically
from talk2dino.models.catalog import CATALOG
from talk2dino.models.projection import to_original
from talk2dino.training.aligner import Aligner
from talk2dino.training.options import FitConfig


def write_report(
    folder: Path,
    aligner: Aligner,
    head_counts: Tensor,
    store: FeatureStore,
    validation: FeatureStore | None,
    *,
    published: bool = False,
) -> bool:
    """Write everything that is made from a finished run; figures only when matplotlib is there, which is returned."""
    records = read_metrics(folder)
    drawn = _draw(folder, records, head_counts)
    write_atomically(folder / "README.md", model_card(aligner, records, head_counts, store, validation, drawn))
    if published:
        write_published(folder / "projection.pth", aligner)
    return drawn


def describe(aligner: Aligner, store: FeatureStore) -> dict[str, Any]:
    """config.json: settings, sizes, and what the features came from."""
    manifests = store.manifests
    base = manifests[0].model.get("name") if manifests else None  # only what others can find by that name
    if base not in CATALOG and "/" not in (base or ""):
        base = None
    return {
        "format": "talk2dino-alignment-1",
        **({"base_model": base} if base else {}),
        "settings": aligner.config.model_dump(),
        "text_projection": None if aligner.text_projection is None else aligner.text_projection.config(),
        "vision_projection": None if aligner.vision_projection is None else aligner.vision_projection.config(),
        "model": manifests[0].model if manifests else {},
        "preprocessing": manifests[0].preprocessing if manifests else {},
        "data": {
            "images": store.num_view_images,
            "captions": store.num_captions,
            "sources": [m.source for m in manifests],
        },
    }


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl, in order."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def write_published(path: Path, aligner: Aligner) -> None:
    """The projection as the published code saves it: a pickled state dict.

    Raises:
        InputError: for a projection on the vision side or another activation, which that layout has no place for.
    """
    check_published(aligner.config)
    assert aligner.text_projection is not None
    content = io.BytesIO()
    torch.save(to_original(aligner.text_projection), content)
    write_atomically(path, content.getvalue())


def check_published(config: FitConfig) -> None:
    """Refuse settings whose projection the published layout has no place for, before anything is trained."""
    if config.side != "text" or config.activation != "tanh":
        raise InputError(
            f"the published layout holds a projection of the text side with tanh, nothing else; got side '{config.side}' "
            f"with {config.activation}: leave out --published"
        )


def model_card(
    aligner: Aligner,
    records: list[dict[str, Any]],
    head_counts: Tensor,
    store: FeatureStore,
    validation: FeatureStore | None,
    drawn: bool,
) -> str:
    """README.md of the folder: what this is, how it was made, what came out."""
    config = aligner.config
    last: dict[str, Any] = {}
    for record in records:
        last.update(record)
    model = store.manifests[0].model if store.manifests else {}
    settings = "\n".join(f"| {name} | {value} |" for name, value in config.model_dump().items())
    figures = "\n".join(
        f"| {name} | {'not finite' if value is None else f'{value:.4f}'} |"
        for name, value in last.items()
        if name == "loss" or "@" in name or "valid" in name
    )
    held_out = "" if validation is None else f"\n| pictures to validate on | {validation.num_view_images:,} |"
    heads = ""
    if int(head_counts.sum()):
        shares = ", ".join(f"{100 * count / int(head_counts.sum()):.1f}" for count in head_counts.tolist())
        heads = f"\nHow often each attention head stood for its picture, in %: {shares}.\n"
    pictures = "\n![loss and retrieval](curves.png)\n" if drawn else ""
    if drawn and heads:
        pictures += "\n![chosen heads](heads.png)\n"
    return f"""# A Talk2DINO alignment

Maps text embeddings and vision features into one space (mapped side: {config.side}); trained on image-caption pairs
alone, without masks or class names. The encoders stay as they were.

| encoders | {model.get("name", "not recorded: trained on tensors in memory")} |
|---|---|
| pictures | {store.num_view_images:,} |
| captions | {store.num_captions:,} |{held_out}
| steps | {last.get("step", 0):,} |

## Results at the end

| figure | value |
|---|---|
{figures}
{heads}{pictures}
## Settings

| setting | value |
|---|---|
{settings}

## Use

    talk2dino segment PICTURES --projection THIS-FOLDER --prompts "..."

It fits these encoders only. It inherits what they and the captions are biased to, and was not measured on other data.
"""


def _draw(folder: Path, records: list[dict[str, Any]], head_counts: Tensor) -> bool:
    """curves.png and heads.png; False when matplotlib is not installed (extra 'plots')."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
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
        axes[1].set(xlabel="step", ylabel="recall (%)", title="Retrieval on held-out pictures")
        axes[1].legend(fontsize=8)
    axes[0].legend(fontsize=8)
    with atomic_path(folder / "curves.png") as temporary:
        figure.savefig(temporary, dpi=120)
    if int(head_counts.sum()):
        figure = Figure(figsize=(6, 3.5), layout="constrained")
        axis = figure.subplots()
        axis.bar(range(len(head_counts)), (100 * head_counts / head_counts.sum()).tolist())
        axis.axhline(100 / len(head_counts), color="grey", linewidth=1, linestyle=":")
        axis.set(xlabel="attention head", ylabel="chosen (%)", title="Head nearest to the picture's own caption")
        axis.set_xticks(range(len(head_counts)))
        with atomic_path(folder / "heads.png") as temporary:
            figure.savefig(temporary, dpi=120)
    return True
