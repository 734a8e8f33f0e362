"""What the command line makes of the ways in which a command can end."""

from __future__ import annotations

import sys

import pytest
import typer

from talk2dino import cli
from talk2dino.errors import DataError


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
        (KeyboardInterrupt(), 130, "talk2dino: interrupted; what was finished is kept, the same command goes on"),
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
