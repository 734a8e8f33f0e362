"""The command line: one small file a verb; this file only gathers them.

Results go to stdout, progress and messages to stderr. Exit codes: 0 done, 1 failure, 2 wrong usage, 3 part of a batch
failed, 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys

#: verb -> (module of this package, function). A verb's module is imported only when that verb (or --help) is asked for.
VERBS: dict[str, tuple[str, str]] = {
    "segment": ("segment", "segment"),
    "models": ("models", "models"),
    "evaluate": ("evaluate", "evaluate"),
    "compare": ("compare", "compare"),
    "freeda": ("freeda", "freeda"),
    "extract": ("extract", "extract"),
    "train": ("train", "train"),
    "store": ("store", "store"),
    "export": ("export", "export"),
    "bench": ("bench", "bench"),
}


def build_app():
    """The Typer application with every verb."""
    import typer

    app = typer.Typer(
        name="talk2dino",
        help="Open-vocabulary segmentation: a picture and words in, a label for every pixel out.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )

    @app.callback(invoke_without_command=True)
    def root(version: bool = typer.Option(False, "--version", help="Print the version and leave.")) -> None:
        if version:
            from talk2dino import __version__

            typer.echo(__version__)
            raise typer.Exit()

    for verb, (module, function) in VERBS.items():
        loaded = importlib.import_module(f"talk2dino.cli.{module}")
        handler = getattr(loaded, function)
        if isinstance(handler, typer.Typer):
            app.add_typer(handler, name=verb)
        else:
            app.command(verb)(handler)
    return app


def main() -> None:
    """Entry point: errors that a user can cause become one sentence and an exit code, never a traceback."""
    from talk2dino.errors import Talk2DinoError

    show_warnings_plainly()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    arguments = sys.argv[1:]
    if arguments[:1] == ["segment"]:
        from talk2dino.cli.segment import fill_background

        arguments = ["segment", *fill_background(arguments[1:])]
    try:
        build_app()(arguments, standalone_mode=True)
    except Talk2DinoError as error:
        print(f"talk2dino: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        _tell_interrupted(arguments)
        sys.exit(130)
    except SystemExit as leaving:  # typer turns Ctrl-C into this, without a word
        if leaving.code == 130:
            _tell_interrupted(arguments)
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


#: Verbs whose finished work lies on disk when they are interrupted, with the options that make it so (None: always).
_RESUMABLE: dict[str, tuple[str, ...] | None] = {
    "segment": None, "extract": None, "train": None, "freeda": None, "evaluate": ("--out", "-o"),
    "compare": ("--benchmark", "-b"),
}  # fmt: skip


def _tell_interrupted(arguments: list[str]) -> None:
    """What was kept of an interrupted call: the truth differs from verb to verb."""
    verb = arguments[0] if arguments else ""
    if verb not in _RESUMABLE:
        told = "interrupted"
    elif (needed := _RESUMABLE[verb]) is None or any(a.startswith(needed) for a in arguments):
        told = "interrupted; what was finished is kept, the same command goes on from there"
    else:
        told = f"interrupted; without {needed[0]} nothing was kept, the same command starts anew"
    print(f"talk2dino: {told}", file=sys.stderr)


def show_warnings_plainly() -> None:
    """This package's warnings as one line on stderr, without the source's path and line."""
    import warnings

    from talk2dino.errors import Talk2DinoWarning

    warnings.simplefilter("always", Talk2DinoWarning)
    original = warnings.showwarning

    def show(message, category, filename, lineno, file=None, line=None):
        if issubclass(category, Talk2DinoWarning):
            print(f"talk2dino: WARNING: {message}", file=sys.stderr)
        else:
            original(message, category, filename, lineno, file, line)

    warnings.showwarning = show
