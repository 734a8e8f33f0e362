"""``talk2dino train``: a feature store in, a projection out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

_STRATEGY = "max (published), pairwise-max, mean, softmax, sampled, average-attention, cls or mean-patch."
_Store = Annotated[
    list[Path], typer.Argument(help="Stores of 'talk2dino extract'; several are one.", show_default=False)
]
_Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for what comes out; goes on with a stopped run.")]
_Val = Annotated[list[Path] | None, typer.Option("--val", help="Store to validate on; repeatable.")]
_Config = Annotated[Path | None, typer.Option(help="YAML file with settings; flags win over it.")]
_Model = Annotated[str | None, typer.Option("--model", "-m", help="Refuse stores of another model than this.")]
_Strategy = Annotated[str | None, typer.Option(help=_STRATEGY)]
_HeadTemperature = Annotated[float | None, typer.Option(help="Of softmax and sampled [1.0].")]
_Side = Annotated[str | None, typer.Option(help="Which side is mapped: text (published), vision or both.")]
_Depth = Annotated[int | None, typer.Option(help="Layers of the projection, 1 is linear [2].")]
_Width = Annotated[int | None, typer.Option(help="Width of hidden layers [as the output].")]
_Activation = Annotated[str | None, typer.Option(help="tanh (published), relu, gelu or sigmoid.")]
_SharedDim = Annotated[int | None, typer.Option(help="Width of the space where both sides meet, with --side both.")]
_Temperature = Annotated[float | None, typer.Option(help="Of the loss [0.07].")]
_Learned = Annotated[bool | None, typer.Option(help="Learn the temperature.")]
_Scale = Annotated[bool | None, typer.Option(help="Divide the loss by B^2, as the published code does.")]
_Mask = Annotated[bool | None, typer.Option(help="Other captions of a picture are no negatives of it.")]
_Optimizer = Annotated[str | None, typer.Option(help="adam (published) or adamw.")]
_Lr = Annotated[float | None, typer.Option(help="Learning rate [1e-4].")]
_Decay = Annotated[float | None, typer.Option(help="Weight decay [0].")]
_Schedule = Annotated[str | None, typer.Option(help="constant (published) or cosine.")]
_Warmup = Annotated[int | None, typer.Option(help="Steps of warm-up [0].")]
_Batch = Annotated[int | None, typer.Option(help="Captions a step, over all processes [128].")]
_Epochs = Annotated[int | None, typer.Option(help="Passes over the captions [100].")]
_Steps = Annotated[int | None, typer.Option(help="Stop after so many steps instead.")]
_Seed = Annotated[int | None, typer.Option(help="[123]")]
_Share = Annotated[float | None, typer.Option(help="Share of the pictures kept out to validate [0].")]
_Every = Annotated[int | None, typer.Option(help="Steps between validations [an epoch].")]
_SaveEvery = Annotated[int | None, typer.Option(help="Steps between checkpoints [an epoch].")]
_Verify = Annotated[bool, typer.Option("--verify/--no-verify", help="Compare the store with its checksums first.")]
_Published = Annotated[bool, typer.Option("--published", help="Write projection.pth in the published layout, too.")]
_Board = Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard logs, too (extra 'log').")]
_Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
_AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


def train(
    store: _Store,
    out: _Out,
    val: _Val = None,
    config: _Config = None,
    model: _Model = None,
    strategy: _Strategy = None,
    head_temperature: _HeadTemperature = None,
    side: _Side = None,
    depth: _Depth = None,
    width: _Width = None,
    activation: _Activation = None,
    shared_dim: _SharedDim = None,
    temperature: _Temperature = None,
    learned_temperature: _Learned = None,
    published_scale: _Scale = None,
    mask_same_image: _Mask = None,
    optimizer: _Optimizer = None,
    lr: _Lr = None,
    weight_decay: _Decay = None,
    schedule: _Schedule = None,
    warmup_steps: _Warmup = None,
    batch_size: _Batch = None,
    epochs: _Epochs = None,
    max_steps: _Steps = None,
    seed: _Seed = None,
    validation_share: _Share = None,
    validate_every: _Every = None,
    save_every: _SaveEvery = None,
    verify: _Verify = True,
    published: _Published = False,
    tensorboard: _Board = False,
    device: _Device = "auto",
    as_json: _AsJson = False,
) -> None:
    """Train a projection between text and vision on extracted features; by default the published recipe.

    Ctrl-C saves; the same command goes on from there, exactly. Several processes: torchrun --nproc-per-node N -m
    talk2dino train ...
    """
    given = locals()
    others = {"store", "out", "val", "config", "model", "verify", "published", "tensorboard", "device", "as_json"}
    flags = {name: value for name, value in given.items() if name not in others and value is not None}
    _run(flags, store, out, val, config, model, verify, published, tensorboard, device, as_json)


def _run(
    flags: dict[str, Any], store: list[Path], out: Path, val: list[Path] | None, config: Path | None, model: str | None,
    verify: bool, published: bool, tensorboard: bool, device: str, as_json: bool,
) -> None:  # fmt: skip
    import json
    import os
    import sys

    from talk2dino.cli.progress import progress
    from talk2dino.errors import DataError, InputError
    from talk2dino.features.store import FeatureStore
    from talk2dino.training.fit import fit
    from talk2dino.training.options import FitConfig

    try:
        settings = FitConfig.build(**{**_read_yaml(config), **flags})
    except InputError as error:
        raise typer.BadParameter(str(error)) from None
    features = FeatureStore.open(store, verify=verify)
    made_by = features.manifests[0].model.get("name")
    if model is not None and model != made_by:
        raise DataError(f"{store[0]} holds features of the model {made_by}, not of {model}")
    validation = FeatureStore.open(val, verify=verify) if val else None
    if validation and (different := features.manifests[0].differences(validation.manifests[0])):
        raise DataError(f"{store[0]} and the validation store do not belong together: {'; '.join(different)}")
    first = os.environ.get("RANK", "0") == "0"
    for folder, manifest in zip(store, features.manifests, strict=True) if first else ():
        if not manifest.complete:
            told = f"{manifest.images:,} pictures are used; 'talk2dino extract' goes on with the rest"
            print(f"talk2dino: {folder} is not finished: its {told}", file=sys.stderr)
    with progress(0, f"train ({settings.strategy})", "step") as bar:

        def watch(record: dict[str, Any]) -> None:
            bar.reached(record["step"], record["total_steps"], record["first_step"])
            if "validation_loss" not in record:
                return
            told = [f"{name} {record[name]:.3f}" for name in record if "@" in name and record[name] is not None]
            if record["validation_loss"] is None:
                told.append("the validation loss is not finite (are the held-out features?); best/ stays what it was")
            else:
                told.insert(0, f"validation_loss {record['validation_loss']:.3f}")
            bar.message(f"step {record['step']}: {', '.join(told)}")

        result = fit(
            features, settings, out, validation=validation, device=device, published=published,
            tensorboard=tensorboard, watch=watch,
        )  # fmt: skip
    if not first:
        return
    if not result.drawn:
        told = "curves.png and heads.png are not drawn, for matplotlib is not installed: pip install 'talk2dino[plots]'"
        print(f"talk2dino: {told}, and the same command draws them", file=sys.stderr)
    if as_json:
        typer.echo(json.dumps({"folder": str(out), "steps": result.steps, **result.metrics}))
    else:
        loss = result.metrics.get("loss")
        typer.echo(f"{out}: {result.steps:,} steps{'' if loss is None else f', loss {loss:.4f}'}")
        typer.echo(f'use it: talk2dino segment PICTURES --projection {out} --model {made_by} --prompts "..."')


def _read_yaml(path: Path | None) -> dict[str, Any]:
    import yaml

    from talk2dino.errors import InputError

    if path is None:
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold 'name: value' lines; got {type(content).__name__}")
    return content
