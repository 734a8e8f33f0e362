"""The mutation run: which mutants count, where they are, and what the report says. mutmut itself is not needed."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "mutants.py"
SOURCE = (
    "import os\n\n\ndef size(x, device):\n    if x < 3:\n        raise ValueError('small')\n    return x.to(device)\n"
)
MUTANTS = {
    "orig": ("x < 3", "ValueError('small')", "x.to(device)"),
    "1": ("x <= 3", "ValueError('small')", "x.to(device)"),
    "2": ("x < 4", "ValueError('small')", "x.to(device)"),
    "3": ("x < 3", "ValueError(None)", "x.to(device)"),  # what an error says
    "4": ("x < 3", "ValueError('small')", "x.to(None)"),  # where a tensor lies
}


@pytest.fixture(scope="module")
def mutants():
    spec = importlib.util.spec_from_file_location("mutants", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["mutants"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["mutants"]


@pytest.fixture
def tree(tmp_path: Path, mutants, monkeypatch) -> Path:
    """A copy as mutmut leaves it: one function with four mutants, of which one survived."""
    monkeypatch.setattr(mutants, "ROOT", tmp_path)  # the lines are those of the working tree
    for folder in (tmp_path, tmp_path / "mutants"):
        (folder / mutants.SOURCE).mkdir(parents=True)
    (tmp_path / mutants.SOURCE / "a.py").write_text(SOURCE)
    text = "".join(
        f"def x_size__mutmut_{name}(x, device):\n    if {test}:\n        raise {error}\n    return {value}\n"
        for name, (test, error, value) in MUTANTS.items()
    )
    (tmp_path / "mutants" / mutants.SOURCE / "a.py").write_text(text)
    codes = {f"talk2dino.a.x_size__mutmut_{n}": code for n, code in ((1, 1), (2, 0), (3, 0), (4, 0))}
    (tmp_path / "mutants" / mutants.SOURCE / "a.py.meta").write_text(json.dumps({"exit_code_by_key": codes}))
    return tmp_path


def test_a_sample_holds_changes_of_behaviour_with_their_lines(mutants, tree):
    found = mutants.sample(tree, "a.py", 9, seed=0)
    assert {(m.name[-1], m.line) for m in found} == {("1", 5), ("2", 5)}
    assert next(m.diff for m in found if m.name[-1] == "2") == "-    if x < 3:\n+    if x < 4:"
    assert mutants.sample(tree, "a.py", 1, seed=4) == mutants.sample(tree, "a.py", 1, seed=4)


def test_the_report_lists_survivors_and_the_rate(mutants, tree, capsys):
    assert mutants.report(tree, {"a.py": mutants.sample(tree, "a.py", 9, seed=0)}) == 1
    printed = capsys.readouterr().out
    assert "src/talk2dino/a.py:5 (talk2dino.a.x_size__mutmut_2)\n-    if x < 3:\n+    if x < 4:" in printed
    assert "| all | 2 | 1 | 50.0 % |" in printed


def test_texts_do_not_count(mutants):
    def behaviour(line: str) -> str:
        function = ast.parse(f"def f(a):\n    {line}").body[0]
        assert isinstance(function, ast.FunctionDef)
        return mutants.without_texts(function)

    assert behaviour("raise E('x', a)") == behaviour("raise E(None)")
    assert behaviour("g(a, 'x')") == behaviour("g(a, 'XXxXX')")
    assert behaviour("g(a, 1)") != behaviour("g(a, 2)")
    assert behaviour("raise E('x')") != behaviour("raise F('x')")


def test_every_target_has_modules_and_tests(mutants):
    modules = mutants.chosen_modules(None)
    assert "stages/refine.py" in modules
    assert all((mutants.ROOT / test).exists() for tests in modules.values() for test in tests)
    with pytest.raises(SystemExit, match=r"no module to mutate: stages/gone\.py"):
        mutants.chosen_modules(["stages/gone.py"])
