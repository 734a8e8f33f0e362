"""``talk2dino train``: a feature store to a projection."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

if TYPE_CHECKING:
    from talk2dino.training.options import TrainOptions

_VAL = "Store to validate on; repeatable. [default: none]"
_PUBLISHED = (
    "Train exactly as the published code: the defaults, with --published-scale and --keep-partial-batch. Settings that "
    "contradict it are refused."
)
_STRATEGY = "max, pairwise-max, mean, softmax, sampled, average-attention, cls or mean-patch. [default: max]"
_PUBLISHED_SCALE = "Divide the loss by B^2, as the published code does. [default: off]"
_MASK_SAME_IMAGE = "Do not use other captions of an image as negatives. [default: off]"
_KEEP_PARTIAL_BATCH = "Train on the last, smaller batch of an epoch, as published. [default: off]"
_VALIDATION_SHARE = "Share of images (0..1) to validate on. [default: 0.0]"
_WRITE_PTH = "Write projection.pth too, for the published code."
_Number: TypeAlias = float | None
_Count: TypeAlias = int | None
_Word: TypeAlias = str | None
_Switch: TypeAlias = bool | None


def train(
    context: typer.Context,
    store: Annotated[
        list[Path], typer.Argument(help="Stores from 'talk2dino extract'; several count as one.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the results. An interrupted run is resumed.")],
    val: Annotated[list[Path] | None, typer.Option(help=_VAL)] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with settings; flags take precedence.")] = None,
    model: Annotated[_Word, typer.Option("--model", "-m", help="Refuse stores of another model than this.")] = None,
    published: Annotated[bool, typer.Option("--published", help=_PUBLISHED)] = False,
    strategy: Annotated[_Word, typer.Option(help=_STRATEGY)] = None,
    head_temperature: Annotated[_Number, typer.Option(help="Of softmax and sampled. [default: 1.0]")] = None,
    side: Annotated[_Word, typer.Option(help="Side that is projected: text, vision or both. [default: text]")] = None,
    depth: Annotated[_Count, typer.Option(help="Layers of the projection; 1 is linear. [default: 2]")] = None,
    width: Annotated[_Count, typer.Option(help="Width of hidden layers. [default: the output's]")] = None,
    activation: Annotated[_Word, typer.Option(help="tanh, relu, gelu or sigmoid. [default: tanh]")] = None,
    shared_dim: Annotated[_Count, typer.Option(help="Shared width, with --side both. [default: the vision's]")] = None,
    temperature: Annotated[_Number, typer.Option(help="Of the loss. [default: 0.07]")] = None,
    learned_temperature: Annotated[_Switch, typer.Option(help="Train the temperature. [default: off]")] = None,
    published_scale: Annotated[_Switch, typer.Option(help=_PUBLISHED_SCALE)] = None,
    mask_same_image: Annotated[_Switch, typer.Option(help=_MASK_SAME_IMAGE)] = None,
    optimizer: Annotated[_Word, typer.Option(help="adam or adamw. [default: adam]")] = None,
    lr: Annotated[_Number, typer.Option(help="Learning rate. [default: 1e-4]")] = None,
    weight_decay: Annotated[_Number, typer.Option(help="Weight decay. [default: 0.0]")] = None,
    schedule: Annotated[_Word, typer.Option(help="constant or cosine. [default: constant]")] = None,
    warmup_steps: Annotated[_Count, typer.Option(help="Steps of warm-up. [default: 0]")] = None,
    batch_size: Annotated[_Count, typer.Option(help="Captions per step, over all processes. [default: 128]")] = None,
    keep_partial_batch: Annotated[_Switch, typer.Option(help=_KEEP_PARTIAL_BATCH)] = None,
    epochs: Annotated[_Count, typer.Option(help="Passes over the captions. [default: 100]")] = None,
    max_steps: Annotated[_Count, typer.Option(help="Steps; replaces --epochs. [default: none]")] = None,
    seed: Annotated[_Count, typer.Option(help="Of weights, batches and sampling. [default: 123]")] = None,
    validation_share: Annotated[_Number, typer.Option(help=_VALIDATION_SHARE)] = None,
    validation_limit: Annotated[_Count, typer.Option(help="Validation images, at most. [default: 5000]")] = None,
    validate_every: Annotated[_Count, typer.Option(help="Steps between validations. [default: an epoch]")] = None,
    save_every: Annotated[_Count, typer.Option(help="Steps between checkpoints. [default: an epoch]")] = None,
    log_every: Annotated[_Count, typer.Option(help="Steps per record of metrics.jsonl. [default: 50]")] = None,
    verify: Annotated[bool, typer.Option(help="Compare the checksums of the stores first.")] = True,
    write_pth: Annotated[bool, typer.Option("--write-pth", help=_WRITE_PTH)] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard logs (extra 'log').")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Train a projection between text and vision on extracted features.

    The defaults follow the paper; --published also takes over what only the published code does. Ctrl-C saves a checkpoint,
    and the same command resumes from it. To use several processes: torchrun --nproc-per-node N -m talk2dino train ...

    Example: talk2dino train features --out run --validation-share 0.05
    """
    from talk2dino.cli.console import message
    from talk2dino.cli.progress import ProgressBar
    from talk2dino.cli.usage import usage
    from talk2dino.device import check_device_name
    from talk2dino.errors import InputError
    from talk2dino.io.console import print_json
    from talk2dino.io.settings import build_options, read_yaml
    from talk2dino.training.fit import train as run
    from talk2dino.training.options import BESIDE_THE_PAPER, TrainOptions
    from talk2dino.training.processes import is_first_process
    from talk2dino.training.run_report import check_published_layout

    with usage("--config"):
        settings = read_yaml(config) if config else {}
    with usage():
        fields = TrainOptions.model_fields
        flags = {name: value for name, value in context.params.items() if name in fields and value is not None}
        options = build_options(TrainOptions, (BESIDE_THE_PAPER if published else {}) | settings | flags)
        if published and (wanted := options.against_published()):
            raise InputError(_contradiction(options, wanted, flags, config))
    with usage("--write-pth"):
        if write_pth:
            check_published_layout(options)
    with usage("--device"):
        check_device_name(device)
    with ProgressBar(f"training ({options.strategy})", "step") as bar:

        def show(done: int, total: int, note: str = "") -> None:
            bar(done, total)
            if note:
                message(f"step {done}: {note}")

        result = run(
            store, options, out, validation=val, model=model, verify=verify, device=device, write_pth=write_pth,
            tensorboard=tensorboard, progress=show,
        )  # fmt: skip
    if not is_first_process():
        return
    if as_json:
        print_json({"folder": str(out), "steps": result.steps, **result.metrics})
    else:
        loss = result.metrics.get("loss")
        typer.echo(f"{out}: {result.steps:,} steps{'' if loss is None else f', loss {loss:.6g}'}")
        typer.echo(f'use it with: talk2dino segment IMAGES --projection {out} --model {result.model} --prompts "..."')


def _contradiction(options: TrainOptions, wanted: dict[str, Any], flags: dict[str, Any], config: Path | None) -> str:
    """What contradicts --published, by the flag that was given or the line of the configuration."""

    def written(name: str, value: object) -> str:
        if name not in flags:
            return f"'{name}: {str(value).lower() if isinstance(value, bool) else value}' in {config}"
        flag = name.replace("_", "-")
        return f"--{'' if value else 'no-'}{flag}" if isinstance(value, bool) else f"--{flag} {value}"

    sentences = [
        f"{written(name, getattr(options, name))} contradicts --published, which trains with {_plain(name, value)}"
        for name, value in wanted.items()
    ]
    return f"{'; '.join(sentences)}: leave out one of the two"


def _plain(name: str, value: object) -> str:
    """A setting as the help words it: "epochs 100", "no width", "mask same image off"."""
    words = name.replace("_", " ")
    if isinstance(value, bool):
        return f"{words} {'on' if value else 'off'}"
    return f"no {words}" if value is None else f"{words} {value}"
