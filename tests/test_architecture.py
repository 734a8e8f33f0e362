"""Imports run down the list of CONTRIBUTING.md, without circles; methods and libraries are known only where they belong."""

from __future__ import annotations

from pathlib import Path

import pytest
from imports import HOMES, MAY_NAME_METHODS, SOURCE, import_order, violations

#: What is still wrong today: this list may only shrink.
KNOWN: set[str] = set()


def test_imports_run_down_the_list_of_contributing():
    found = set(violations(SOURCE, import_order(), HOMES, MAY_NAME_METHODS))
    assert sorted(found - KNOWN) == [], "new violations; see the order of imports in CONTRIBUTING.md"
    assert sorted(KNOWN - found) == [], "these are fixed: remove them from KNOWN"


@pytest.fixture
def check(tmp_path: Path):
    """Write modules of a small package "talk2dino" and list their violations; everything it needs is there and in order."""

    def run(**files: str) -> list[str]:
        package = tmp_path / "talk2dino"
        sources = {
            "cli/__init__": "",
            "methods/__init__": "",
            "io/__init__": "",
            "errors": "",
            "io/masks": "",
            "__init__": "",
        }
        sources |= {name.replace("__", "/", 1): text for name, text in files.items()}
        for name, text in sources.items():
            (package / name).parent.mkdir(parents=True, exist_ok=True)
            (package / f"{name}.py").write_text(text)
        order = ["cli", "methods", "io", "errors"]
        return violations(package, order, {"typer": ("cli",)}, {"cli/table.py": frozenset({"freeda"})})

    return run


def test_imports_down_the_list_are_allowed(check):
    assert check(cli__segment="from talk2dino.io import masks\nimport typer", io__images="from ..errors import E") == []


@pytest.mark.parametrize(
    "source",
    [
        "import talk2dino.cli",
        "from talk2dino import cli",
        "from ..cli import segment",
        "from talk2dino.cli import segment",
        "def f():\n    from talk2dino.cli import segment",
        "class A:\n    def f(self):\n        if True:\n            import talk2dino.cli",
        "if TYPE_CHECKING:\n    import os\nelse:\n    import talk2dino.cli",
        "import importlib\nimportlib.import_module('talk2dino.cli')",
        "LOADED_ON_FIRST_USE = {'name': ('talk2dino.cli', 'f')}",
    ],
)
def test_an_import_up_the_list_is_found(check, source):
    assert check(io__images=source) == ["upward: talk2dino.io.images imports talk2dino.cli"]


def test_imports_for_type_checkers_do_not_count(check):
    upward = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from talk2dino.cli import segment\n    import typer"
    )
    assert check(io__images=upward) == []


def test_a_circle_inside_a_folder_is_found(check):
    found = check(
        io__a="from talk2dino.io.b import x",
        io__b="def f():\n    from talk2dino.io import c",
        io__c="from .a import y",
        io__outside="from talk2dino.io.a import x",
    )
    assert found == [
        "circle: talk2dino.io.a imports talk2dino.io.b",
        "circle: talk2dino.io.b imports talk2dino.io.c",
        "circle: talk2dino.io.c imports talk2dino.io.a",
    ]


def test_a_module_outside_the_list_and_a_name_without_a_module_are_found(check):
    found = check(video="", io__images="from talk2dino import Segmenter, __version__\nfrom talk2dino.io.gone import f")
    assert found == [
        "name: talk2dino.io.images imports talk2dino.Segmenter, which is no module: import it from where it is defined",
        "name: talk2dino.io.images imports talk2dino.io.gone, which is no module: import it from where it is defined",
        "order: talk2dino.video is missing from the list",
    ]


def test_a_library_has_one_home(check):
    assert check(io__images="def f():\n    import typer") == [
        "library: talk2dino.io.images imports typer; only cli may"
    ]


def test_only_methods_and_tables_name_a_method(check):
    source = "if system.method.name == 'freeda' or name in ('talk2dino', 'x'):\n    pass\nformat = 'talk2dino'"
    assert check(io__images=source) == [
        "method: talk2dino.io.images names freeda",
        "method: talk2dino.io.images names talk2dino",
    ]
    assert check(io__images="", methods__other=source, cli__table=source) == [
        "method: talk2dino.cli.table names talk2dino"
    ]
    assert check(cli__table="", io__images='"""Not a name: freeda."""') == []


def test_the_document_holds_the_order():
    order = import_order()
    assert order[0] == "cli"
    assert order[-1] == "errors"
    assert len(set(order)) == len(order) > 15
