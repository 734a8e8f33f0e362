"""The command line as a whole: help, start-up, and how a call can end."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import subprocess
import sys
import warnings

import pytest
import typer
from typer.testing import CliRunner

from talk2dino import __version__, cli
from talk2dino.errors import DataError, Talk2DinoWarning

HEAVY = ("torch", "numpy", "PIL", "transformers", "tokenizers", "pydantic", "yaml")


@pytest.fixture
def main(monkeypatch):
    """Call ``main`` with arguments and a function in the place of the verbs; logging, warnings and signals are put back."""
    log = logging.getLogger("talk2dino")
    before = list(log.handlers), log.level, log.propagate
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def call(arguments, verb):
        monkeypatch.setattr(cli, "build_app", lambda only: verb)
        monkeypatch.setattr(sys, "argv", ["talk2dino", *arguments])
        with warnings.catch_warnings():
            cli.main()

    yield call
    log.handlers[:], log.level, log.propagate = before
    for number, handler in handlers.items():
        signal.signal(number, handler)


def ending_with(error):
    """An application whose only command raises an error."""
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def command() -> None:
        raise error

    return app


# --- help and start-up -------------------------------------------------------------------------------------------------


def shown(*arguments: str) -> str:
    done = CliRunner().invoke(cli.build_app(), arguments, prog_name="talk2dino", env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    return done.output


def test_short_options_of_the_root():
    assert shown("-h") == shown("--help")
    assert shown("-V") == shown("--version") == f"{__version__}\n"


def test_root_help_has_the_whole_line_of_every_verb():
    words = " ".join(shown("-h").split())
    for name, verb in cli.VERBS.items():
        assert f"{name} {verb.help}" in words


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_short_help(verb):
    assert shown(verb, "-h") == shown(verb, "--help")


def commands(name: str, handler) -> list[str]:
    """A verb, or all commands of a verb that is a group, such as "store check"."""
    if not isinstance(handler, typer.Typer):
        return [name]
    own = [f"{name} {one.name or one.callback.__name__}" for one in handler.registered_commands]
    return own + [
        line for one in handler.registered_groups for line in commands(f"{name} {one.name}", one.typer_instance)
    ]


VERBS = [
    line
    for name in cli.VERBS
    for line in commands(
        name, getattr(importlib.import_module(f"talk2dino.cli.{name.replace('-', '_')}"), name.replace("-", "_"))
    )
]


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_an_example(verb):
    assert f"Example: talk2dino {verb}" in shown(*verb.split(), "-h")


@pytest.mark.parametrize("arguments", [["unknown-verb"], ["--unknown-option"], ["models", "--unknown-option"]])
def test_wrong_usage_exits_2(arguments):
    assert CliRunner().invoke(cli.build_app(), arguments).exit_code == 2


@pytest.mark.parametrize("code", ["import talk2dino", "from talk2dino.cli import build_app; build_app()"])
def test_importing_the_package_and_its_verbs_loads_no_heavy_library(code):
    code += f"; import sys; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# --- how a call can end ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "talk2dino: interrupted\n"),
        (DataError("no such file"), 1, "talk2dino: no such file\n"),
        (typer.Exit(3), 3, ""),
    ],
)
def test_exit_code_and_message(main, capfd, error, code, message):
    with pytest.raises(SystemExit) as left:
        main([], ending_with(error))
    assert left.value.code == code
    assert capfd.readouterr().err.lstrip("\n") == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["segment", "a.png", "-p", "sky"], "interrupted; finished work is kept, and the same command resumes it"),
        (["evaluate", "-b", "world", "-oout"], "interrupted; finished work is kept, and the same command resumes it"),
        (["evaluate", "-b", "world"], "interrupted; nothing was kept, since --out was not given"),
        (["compare", "a.png", "-p", "sky"], "interrupted; finished work is kept, and the same command resumes it"),
        (["compare", "--benchmark=world"], "interrupted; finished work is kept, and the same command resumes it"),
        (["bench"], "interrupted"),
    ],
)
def test_an_interrupted_call_says_what_was_kept(main, capfd, arguments, message):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as left:
        main(arguments, interrupted)
    assert left.value.code == 130
    assert capfd.readouterr().err == f"talk2dino: {message}\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_to_stop_end_a_call_like_ctrl_c(main, capfd, number):
    signal.signal(number, signal.SIG_DFL)

    def stopped(*_, **__):
        os.kill(os.getpid(), number)
        raise AssertionError("not stopped")

    with pytest.raises(SystemExit) as left:
        main(["segment"], stopped)
    assert left.value.code == 130
    assert "the same command resumes it" in capfd.readouterr().err


def test_warnings_are_one_line_without_the_source(main, capfd):
    class Unsuitable(Talk2DinoWarning):
        pass

    main(["models"], lambda *_, **__: warnings.warn("not for photographs", Unsuitable, stacklevel=1))
    assert capfd.readouterr().err == "talk2dino: WARNING: not for photographs\n"


def test_threads_are_decided_before_torch_is_loaded(tmp_path):
    report = "lambda: print(os.environ['OMP_NUM_THREADS'], os.environ['OMP_WAIT_POLICY'], file=sys.stderr)"
    code = (
        f"import atexit, os, sys; atexit.register({report}); from talk2dino import cli; "
        "sys.argv = ['talk2dino', '--threads', '1', 'models', '--json']; cli.main()"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_"))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stderr.split()[-2:] == ["1", "passive"]
    kept = subprocess.run(
        [sys.executable, "-c", code.replace("'--threads', '1', ", "")], capture_output=True, text=True, check=True,
        env=environment | {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "active"},
    )  # fmt: skip
    assert kept.stderr.split()[-2:] == ["2", "active"]
