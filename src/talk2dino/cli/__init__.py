"""The command line: one thin file per verb; this file only gathers them.

Results go to stdout, progress and messages to stderr. Exit codes: 0 done, 1 failure, 2 wrong usage, 3 part of a batch
failed, 130 interrupted (Ctrl-C, SIGTERM, SIGHUP).
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer


@dataclass(frozen=True)
class Verb:
    """One verb: its function in the module of the same name, its line in the root help, and what can be resumed.

    Attributes:
        resumable: options without which nothing is kept of an interrupted call; empty if something always is, None if nothing
            ever is.
    """

    help: str
    resumable: tuple[str, ...] | None = None


VERBS: dict[str, Verb] = {
    "segment": Verb("Segment images and videos with words.", ()),
    "glossary": Verb("Look up what Chinese words are understood as."),
    "models": Verb("List the named models and whether they are on this machine."),
    "annotations": Verb("Convert labelling formats, and compare with corrected ones."),
    "vocabulary": Verb("Make files of classes from words, examples and images."),
    "find": Verb("List the images of a folder that answer to words.", ()),
    "compare": Verb("Show the methods side by side, on an image or a benchmark.", ()),
    "evaluate": Verb("Measure mIoU on a benchmark, with the published protocol.", ("--out", "-o")),
    "freeda": Verb("Build the prototypes of the method freeda.", ()),
    "extract": Verb("Turn images and captions into features for training.", ()),
    "train": Verb("Train psi on extracted features.", ()),
    "train-text": Verb("Train a text tower for another language.", ()),
    "store": Verb("Check, convert and merge stores of features."),
    "export": Verb("Write the vision model as ONNX."),
    "serve": Verb("Open a web page and an HTTP service."),
    "scale": Verb("Segment and extract with many machines: plan, work, merge.", ()),
    "bench": Verb("Measure how fast this machine is."),
}

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


def build_app(only: str | None = None) -> typer.Typer:
    """The Typer application with every verb, or with one of them, so that the others are not imported."""
    import typer

    from talk2dino.threads import prepare

    app = typer.Typer(
        name="talk2dino",
        help="Open-vocabulary segmentation: an image and words in, a label for every pixel out.",
        epilog="Each verb explains itself: talk2dino segment --help",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings=_CONTEXT,
    )

    @app.callback(invoke_without_command=True)
    def root(
        version: bool = typer.Option(False, "--version", "-V", help="Print the version and exit."),
        threads: int | None = typer.Option(None, min=1, help="CPU threads. [default: by the cores available]"),
    ) -> None:
        prepare(threads)  # before torch is loaded
        if version:
            from talk2dino import __version__

            typer.echo(__version__)
            raise typer.Exit()

    for name in [only] if only in VERBS else VERBS:
        own = name.replace("-", "_")
        module = importlib.import_module(f"talk2dino.cli.{own}")
        handler, kind = getattr(module, own), getattr(module, "COMMAND", None)
        if isinstance(handler, typer.Typer):
            app.add_typer(handler, name=name, short_help=VERBS[name].help, context_settings=_CONTEXT)
        else:
            app.command(name, cls=kind, short_help=VERBS[name].help, context_settings=_CONTEXT)(handler)
    return app


def main() -> None:
    """Entry point: errors that a user can cause become one sentence and an exit code, never a traceback."""
    from talk2dino.cli.console import show_messages, show_warnings
    from talk2dino.errors import Talk2DinoError

    show_messages()
    show_warnings()
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) == signal.SIG_DFL:
            signal.signal(getattr(signal, name), _interrupt)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    arguments = sys.argv[1:]
    verb = arguments[0] if arguments else ""
    try:
        build_app(verb)(arguments, standalone_mode=True)
    except Talk2DinoError as error:
        print(f"talk2dino: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        _report_interruption(verb, arguments)
        sys.exit(130)
    except SystemExit as leaving:  # typer turns Ctrl-C into this, without a message
        if leaving.code == 130:
            _report_interruption(verb, arguments)
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _report_interruption(verb: str, arguments: list[str]) -> None:
    """Say what was kept of an interrupted call, which differs from verb to verb."""
    needed = VERBS[verb].resumable if verb in VERBS else None
    message = "interrupted"
    if needed is not None:
        if not needed or any(argument.startswith(needed) for argument in arguments):
            message = "interrupted; finished work is kept, and the same command resumes it"
        else:
            message = f"interrupted; nothing was kept, since {needed[0]} was not given"
    print(f"talk2dino: {message}", file=sys.stderr)
