"""``talk2dino train-text``: pairs of sentences to a text tower for another language."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

_PAIRS = "Pairs: .tsv (text, tab, English), .jsonl (text, english), or two .txt files, TEXTS ENGLISH, with equal lines."
_LANGUAGE = "Code of the texts' language, such as es; repeatable, or several with commas."
_MODEL = "Whose text space: a name from 'talk2dino models', a folder, or a hub id."
_ENCODER = "new, or a pretrained encoder of transformers: a folder or a hub id. [default: new]"
_ENGLISH = "Learn the English texts as well, so that the tower reads both. [default: on]"
_VALIDATION_SHARE = "Share of the pairs (0..1) to validate on. [default: 0.02]"
_Number: TypeAlias = float | None
_Count: TypeAlias = int | None
_Word: TypeAlias = str | None
_Switch: TypeAlias = bool | None


def train_text(
    context: typer.Context,
    pairs: Annotated[list[Path], typer.Argument(help=_PAIRS, show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the tower. An interrupted run is resumed.")],
    language: Annotated[list[str], typer.Option("--language", "-l", help=_LANGUAGE)],
    model: Annotated[str, typer.Option("--model", "-m", help=_MODEL)] = "auto",
    config: Annotated[Path | None, typer.Option(help="YAML file with settings; flags take precedence.")] = None,
    encoder: Annotated[_Word, typer.Option(help=_ENCODER)] = None,
    english: Annotated[_Switch, typer.Option("--english/--no-english", help=_ENGLISH)] = None,
    template: Annotated[
        list[str] | None, typer.Option(help="Prompt template with {}; repeatable. [default: {}]")
    ] = None,
    vocabulary: Annotated[_Count, typer.Option(help="Tokens of a new encoder, at most. [default: 8000]")] = None,
    width: Annotated[_Count, typer.Option(help="Width of a new encoder. [default: 192]")] = None,
    depth: Annotated[_Count, typer.Option(help="Layers of a new encoder. [default: 3]")] = None,
    heads: Annotated[_Count, typer.Option(help="Attention heads of a new encoder. [default: 3]")] = None,
    mse: Annotated[_Number, typer.Option(help="Weight of the squared error. [default: 1.0]")] = None,
    cosine: Annotated[_Number, typer.Option(help="Weight of 1 - cosine. [default: 1.0]")] = None,
    lr: Annotated[_Number, typer.Option(help="Learning rate. [default: 5e-4]")] = None,
    weight_decay: Annotated[_Number, typer.Option(help="Weight decay. [default: 0.01]")] = None,
    schedule: Annotated[_Word, typer.Option(help="constant or cosine. [default: cosine]")] = None,
    warmup_steps: Annotated[_Count, typer.Option(help="Steps of warm-up. [default: 50]")] = None,
    batch_size: Annotated[_Count, typer.Option(help="Texts per step. [default: 128]")] = None,
    epochs: Annotated[_Count, typer.Option(help="Passes over the texts. [default: 10]")] = None,
    max_steps: Annotated[_Count, typer.Option(help="Steps; replaces --epochs. [default: none]")] = None,
    seed: Annotated[_Count, typer.Option(help="Of weights, batches and dropout. [default: 123]")] = None,
    validation_share: Annotated[_Number, typer.Option(help=_VALIDATION_SHARE)] = None,
    save_every: Annotated[_Count, typer.Option(help="Steps between checkpoints. [default: an epoch]")] = None,
    log_every: Annotated[_Count, typer.Option(help="Steps per record of metrics.jsonl. [default: 50]")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Distil a text tower for another language into the text space of a model.

    The result is a folder for --text of segment, evaluate and compare. It belongs to the text space of the model, and other
    models refuse it. Needs the extra 'translate'. Ctrl-C saves a checkpoint, and the same command resumes from it.

    Example: talk2dino train-text pairs.tsv --language es --model vitb --encoder FacebookAI/xlm-roberta-base --out es
    """
    from talk2dino.cli.console import message
    from talk2dino.cli.progress import ProgressBar
    from talk2dino.cli.usage import split_names, usage
    from talk2dino.device import check_device_name
    from talk2dino.io.console import print_json
    from talk2dino.io.settings import build_options, read_yaml
    from talk2dino.training.text.fit import train_text as run
    from talk2dino.training.text.options import TextTrainOptions
    from talk2dino.training.text.pairs import read_pairs

    with usage("--config"):
        settings = read_yaml(config) if config else {}
    with usage():
        fields = TextTrainOptions.model_fields
        settings |= {name: value for name, value in context.params.items() if name in fields and value is not None}
        settings |= {"templates": template} if template else {}
        options = build_options(TextTrainOptions, settings | {"languages": split_names(language)})
        found = read_pairs(pairs)
    with usage("--device"):
        check_device_name(device)
    with ProgressBar("distilling", "step") as bar:

        def show(done: int, total: int, note: str = "") -> None:
            bar(done, total)
            if note:
                message(f"step {done}: {note}")

        result = run(found, options, out, model=model, device=device, progress=show)
    if as_json:
        print_json({"folder": str(out), "steps": result.steps, **result.metrics})
    else:
        typer.echo(f"{out}: {result.steps:,} steps, loss {result.metrics.get('loss', float('nan')):.6g}")
        typer.echo(f'use it with: talk2dino segment IMAGES --model {result.model} --text {out} --prompts "..."')
