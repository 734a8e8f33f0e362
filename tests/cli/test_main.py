"""What the command line makes of the ways in which a command can end."""

from __future__ import annotations

import sys
import warnings

import pytest
import typer

from talk2dino import cli
from talk2dino.errors import DataError, Talk2DinoWarning


def end_with(error):
    """An application whose one command ends with an error."""
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def command() -> None:
        raise error

    return app


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "talk2dino: interrupted\n"),
        (DataError("no such thing"), 1, "talk2dino: no such thing\n"),
        (typer.Exit(3), 3, ""),
    ],
)
def test_exit_code_and_message(monkeypatch, capfd, error, code, message):
    monkeypatch.setattr(cli, "build_app", lambda: end_with(error))
    monkeypatch.setattr(sys, "argv", ["talk2dino"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == code
    assert capfd.readouterr().err.lstrip("\n").startswith(message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["segment", "a.png", "-p", "sky"],
            "interrupted; what was finished is kept, the same command goes on from there",
        ),
        (["evaluate", "-b", "world", "-oout"], "interrupted; what was finished is kept, the same command goes on"),
        (["evaluate", "-b", "world"], "interrupted; without --out nothing was kept, the same command starts anew"),
        (["compare", "a.png", "-p", "sky"], "interrupted; without --benchmark nothing was kept"),
        (["compare", "--benchmark=world"], "interrupted; what was finished is kept"),
        (["bench"], "interrupted\n"),
    ],
)
def test_an_interrupted_command_says_what_was_kept(monkeypatch, capfd, arguments, message):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "build_app", lambda: interrupted)
    monkeypatch.setattr(sys, "argv", ["talk2dino", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 130
    assert capfd.readouterr().err.startswith(f"talk2dino: {message}")


def test_warnings_are_one_line_without_the_source(monkeypatch, capfd):
    class Unsuitable(Talk2DinoWarning):
        pass

    def warn(*_, **__):
        warnings.warn("not for photographs", Unsuitable, stacklevel=1)

    monkeypatch.setattr(cli, "build_app", lambda: warn)
    monkeypatch.setattr(sys, "argv", ["talk2dino", "models"])
    cli.main()
    assert capfd.readouterr().err == "talk2dino: WARNING: not for photographs\n"
