"""Mutation run over the core: break one line at a time and see whether a test fails.

    python benchmarks/mutants.py                              # at most an hour on two cores
    python benchmarks/mutants.py --only stages/refine.py --count 3

mutmut (pinned in the Makefile) makes the mutants, finds the tests that reach each function and runs them in forked
processes, so that a mutant costs seconds and not a start of torch. cosmic-ray starts pytest anew for every mutant and
changes the tree that it is run in. What this file adds: a copy of the tree in ``build/mutants`` (the working tree is never
touched), a fixed random sample per module, and a table. Mutants that change only a text, what an error says, or where a
tensor lies are left out: the last cannot be noticed without a GPU. mutmut changes no decorated functions, so in the copy a
decorator becomes a call after the function. Module constants and compiled kernels stay as they are.

The run can be stopped; the same command resumes it unless a file of the tree has changed. Runs with ``--only`` use separate copies.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from talk2dino.io.markdown import markdown_table

ROOT = Path(__file__).parents[1]
SOURCE = Path("src/talk2dino")
#: Modules to mutate -> the tests that may notice.
TARGETS = {
    "segmenter.py": ("tests/test_segmenter.py", "tests/test_pipeline.py"),
    "pipeline.py": ("tests/test_segmenter.py", "tests/test_pipeline.py"),
    "stages/*.py": ("tests/stages", "tests/test_golden.py"),
    "models/checkpoint.py": ("tests/models/test_checkpoint.py", "tests/models/test_weights.py", "tests/models/test_vit.py"),
    "models/projection.py": ("tests/models/test_projection.py", "tests/models/test_weights.py"),
    "models/weights.py": ("tests/models/test_weights.py", "tests/models/test_projection.py"),
    "models/fingerprint.py": ("tests/models/test_fingerprint.py", "tests/models/test_projection.py"),
    "models/layouts.py": (
        "tests/models/test_checkpoint.py", "tests/models/test_weights.py", "tests/models/test_vit.py",
        "tests/models/test_fingerprint.py", "tests/models/test_hub_towers.py",
    ),
    "models/loading.py": ("tests/models/test_checkpoint.py", "tests/models/test_projection.py"),
    "models/vit.py": ("tests/models/test_vit.py", "tests/models/test_vision.py", "tests/test_golden.py"),
    "models/text.py": ("tests/models/test_text.py", "tests/models/test_text_cache.py", "tests/test_golden.py"),
    "models/preprocess.py": ("tests/models/test_preprocess.py", "tests/test_segmenter.py", "tests/test_pipeline.py"),
    "models/tokenizer.py": ("tests/models/test_tokenizer.py", "tests/models/test_text.py"),
    "training/aligner.py": ("tests/training/test_aligner.py", "tests/training/test_loss.py", "tests/training/test_fit.py"),
    "training/loss.py": ("tests/training/test_loss.py", "tests/training/test_processes.py"),
    "training/validation.py": ("tests/training/test_validation.py",),
    "training/batches.py": ("tests/training/test_batches.py", "tests/training/test_fit.py"),
    "features/store.py": ("tests/features/test_store.py", "tests/features/test_extraction.py"),
    "features/writer.py": ("tests/features/test_extraction.py",),
    "evaluation/metrics.py": ("tests/evaluation/test_metrics.py",),
    "evaluation/journal.py": ("tests/evaluation/test_journal.py",),
    "io/masks.py": ("tests/io/test_masks.py",), "io/images.py": ("tests/io/test_images.py",),
    "io/atomic.py": ("tests/io/test_atomic.py", "tests/io/test_overlay.py"),
    "io/journal.py": ("tests/io/test_journal.py", "tests/evaluation/test_journal.py"),
    "io/lock.py": ("tests/io/test_lock.py",),
}  # fmt: skip
#: mutmut's exit codes: 0 no test failed, 33 no test reaches the function; None was not run yet, 34 is skipped.
SURVIVED = (0, 33)
GOAL = 0.92
#: Mutants that behave as the original: (module, changed lines) -> why. They are not counted.
EQUIVALENT: dict[tuple[str, str], str] = {}
#: Arguments that change nothing here: UTF-8 is the default on this system, and ``zip(strict=True)`` only states a fact.
UNNOTICED = ("encoding", "strict")
#: Changed lines that only matter on a GPU.
DEVICES = re.compile(r"device|cuda|mps|map_location")


@dataclass(frozen=True)
class Mutant:
    """One changed function: mutmut's name for it, where the change is in our source, and its diff."""

    name: str
    line: int
    diff: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="MODULE", help="below src/talk2dino, such as stages/refine.py")
    parser.add_argument("--count", type=int, default=25, help="mutants per module [25]")
    parser.add_argument("--seed", type=int, default=0, help="of the sample [0]")
    parser.add_argument("--processes", type=int, default=2, help="tests that run side by side [2]")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "build" / "mutants", help="folder of the copy [build/mutants]"
    )
    options = parser.parse_args()

    modules = chosen_modules(options.only)
    selection = hashlib.sha256(" ".join(modules).encode()).hexdigest()[:8] if options.only else "all"
    tree = copy_tree(options.work.resolve() / selection, modules)
    if not (tree / "mutants" / "mutmut-stats.json").is_file():
        prepare(tree, all_tests(modules), options.processes)
        keep_targets(tree, modules)
    samples = {module: sample(tree, module, options.count, options.seed) for module in modules}
    waiting = [m.name for module in modules for m in samples[module] if outcomes(tree, module)[m.name] is None]
    if waiting and (done := mutmut(tree, *waiting, processes=options.processes)).returncode:
        return done.returncode
    return report(tree, samples)


def chosen_modules(only: list[str] | None) -> dict[str, tuple[str, ...]]:
    """Module -> tests, for all targets or those asked for."""
    found = {
        path.relative_to(ROOT / SOURCE).as_posix(): tests
        for pattern, tests in TARGETS.items() for path in sorted((ROOT / SOURCE).glob(pattern)) if path.name != "__init__.py"
    }  # fmt: skip
    empty = [pattern for pattern in TARGETS if not any((ROOT / SOURCE).glob(pattern))]
    wrong = [name for name in only or () if name not in found]
    if wrong or (empty and not only):
        sys.exit(f"no module to mutate: {', '.join(wrong or empty)}; correct TARGETS or choose from {', '.join(found)}")
    return {name: tests for name, tests in found.items() if not only or name in only}


def all_tests(modules: dict[str, tuple[str, ...]]) -> list[str]:
    return sorted({test for tests in modules.values() for test in tests})


def copy_tree(work: Path, modules: dict[str, tuple[str, ...]]) -> Path:
    """A copy of the working tree with mutmut's settings; an earlier copy of the same files and settings is kept."""
    listed = subprocess.run(
        ["git", "ls-files", "-zco", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    files = [Path(name) for name in sorted(listed.split("\0")) if name and (ROOT / name).is_file()]
    folders = sorted({file.parts[0] for file in files} - {"src", "tests"})
    settings = {
        "source_paths": ["src"], "only_mutate": [str(SOURCE / name) for name in modules], "also_copy": folders,
        "pytest_add_cli_args": ["-q", "-m", "not long", "-p", "no:cacheprovider"],
        "pytest_add_cli_args_test_selection": all_tests(modules),
        "process_isolation": "forkserver", "use_git_change_detection": False, "timeout_multiplier": 4.0,
        "timeout_constant": 15.0,
    }  # fmt: skip
    table = "\n\n[tool.mutmut]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
    digest = hashlib.sha256(table.encode())
    for file in files:
        digest.update(f"{file}\0".encode() + (ROOT / file).read_bytes())
    stamp, tree = work / "digest", work / "tree"
    if not stamp.is_file() or stamp.read_text() != digest.hexdigest():
        shutil.rmtree(work, ignore_errors=True)
        for file in files:
            (tree / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / file, tree / file)
        for module in modules:
            text = (tree / SOURCE / module).read_text(encoding="utf-8")
            (tree / SOURCE / module).write_text(without_decorators(text), encoding="utf-8")
        with open(tree / "pyproject.toml", "a", encoding="utf-8") as project:
            project.write(table)
        stamp.write_text(digest.hexdigest())
    return tree


def without_decorators(text: str) -> str:
    """``@decorator`` above a function to ``function = decorator(function)`` below it, which mutmut does not pass over."""
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef) or len(node.decorator_list) != 1:
            continue
        decorator = node.decorator_list[0]
        if ast.unparse(decorator) not in ("staticmethod", "classmethod"):
            lines[decorator.lineno - 1] = ""
            lines[node.end_lineno - 1] += (
                f"\n{' ' * node.col_offset}{node.name} = {ast.unparse(decorator)}({node.name})"
            )
    return "\n".join(lines) + "\n"


def prepare(tree: Path, tests: list[str], processes: int) -> None:
    """Make the mutants and record which tests reach which function; mutmut then stops, because no mutant has this name."""
    # Python never finds a folder of its path that did not exist when it started.
    (tree / "mutants" / "src").mkdir(parents=True, exist_ok=True)
    print("making the mutants and running the tests once", flush=True)
    mutmut(tree, "no-such-mutant", processes=processes, quiet=True)
    if not (tree / "mutants" / "mutmut-stats.json").is_file():
        print("mutmut could not run the tests; without it they end like this:", flush=True)
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not long", *tests]
        subprocess.run(command, cwd=tree, env=os.environ | {"PYTHONPATH": str(tree / "src")})
        sys.exit(1)


def keep_targets(tree: Path, modules: dict[str, tuple[str, ...]]) -> None:
    """Of the tests that reach a function, keep those of its module; where only processes reach it, take all of them."""
    path = tree / "mutants" / "mutmut-stats.json"
    stats = json.loads(path.read_text())
    reached = stats["tests_by_mangled_function_name"]
    for module, wanted in modules.items():
        package = ".".join(["talk2dino", *Path(module).with_suffix("").parts])
        of_module = sorted(test for test in stats["duration_by_test"] if test.startswith(wanted))
        source = (tree / "mutants" / SOURCE / module).read_text(encoding="utf-8")
        for name in re.findall(r"def (x\w+)__mutmut_orig\(", source):
            function = f"{package}.{name}"
            own = [test for test in reached.get(function, ()) if test.startswith(wanted)]
            reached[function] = own or of_module
    path.write_text(json.dumps(stats))


def mutmut(tree: Path, *names: str, processes: int, quiet: bool = False) -> subprocess.CompletedProcess[bytes]:
    """Run mutmut in the copy, tests with one thread each. Processes that the tests start see the mutants too."""
    environment = os.environ | {
        "PYTHONPATH": str(tree / "mutants" / "src"), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"
    }  # fmt: skip
    command = [sys.executable, "-m", "mutmut", "run", f"--max-children={processes}", *names]
    return subprocess.run(command, cwd=tree, env=environment, capture_output=quiet)


def sample(tree: Path, module: str, count: int, seed: int) -> list[Mutant]:
    """``count`` mutants of a module, the same ones for the same seed; a change of the source exchanges few of them."""
    text = (tree / "mutants" / SOURCE / module).read_text(encoding="utf-8")
    lines, functions = text.splitlines(), {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and "__mutmut_" in node.name:
            functions[node.name] = (without_texts(node), lines[node.lineno - 1 : node.end_lineno])
    source = (ROOT / SOURCE / module).read_text(encoding="utf-8").splitlines()
    found = []
    package = ".".join(["talk2dino", *Path(module).with_suffix("").parts])
    for short, mutated in functions.items():
        original = functions[re.sub(r"__mutmut_\w+$", "__mutmut_orig", short)]
        if mutated[0] != original[0]:
            found.append(_mutant(f"{package}.{short}", source, original[1], mutated[1]))
    found = [mutant for mutant in found if not DEVICES.search(mutant.diff)]
    order = {mutant.name: hashlib.sha256(f"{seed}/{module}/{mutant.diff}".encode()).digest() for mutant in found}
    chosen = sorted(found, key=lambda mutant: order[mutant.name])[:count]
    return [mutant for mutant in chosen if (module, mutant.diff) not in EQUIVALENT]


def _mutant(name: str, source: list[str], before: list[str], after: list[str]) -> Mutant:
    offset = next((i for i, (a, b) in enumerate(zip(before[1:], after[1:], strict=False), 1) if a != b), 0)
    start = next((i for i in range(len(source)) if source[i + 1 : i + len(before)] == before[1:]), 0)
    changes = list(difflib.unified_diff(before[1:], after[1:], n=0, lineterm=""))[2:]
    return Mutant(name, start + offset + 1, "\n".join(line for line in changes if not line.startswith("@@")))


def without_texts(function: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """What a function does: its body without the texts in it, what its errors say, and arguments of :data:`UNNOTICED`."""

    class Blank(ast.NodeTransformer):
        def visit_keyword(self, node: ast.keyword) -> ast.AST | None:
            return None if node.arg in UNNOTICED else self.generic_visit(node)

        def visit_Constant(self, node: ast.Constant) -> ast.Constant:
            return ast.Constant("") if isinstance(node.value, str) else node

        def visit_Raise(self, node: ast.Raise) -> ast.Raise:
            raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            return ast.Raise(raised, None)

    copy = ast.parse(ast.unparse(function)).body[0]
    copy.name = ""  # type: ignore[attr-defined]
    return ast.dump(Blank().visit(copy))


def outcomes(tree: Path, module: str) -> dict[str, int | None]:
    """Mutant -> mutmut's exit code; None where it has not been run. Those of a damaged file are run again."""
    path = tree / "mutants" / SOURCE / f"{module}.meta"
    try:
        return defaultdict(lambda: None, json.loads(path.read_text())["exit_code_by_key"])
    except (OSError, ValueError):  # mutmut was killed while it wrote
        path.unlink(missing_ok=True)
        return defaultdict(lambda: None)


def report(tree: Path, samples: dict[str, list[Mutant]]) -> int:
    """Print the survivors and the rate per module; 0 if the goal is reached."""
    rows, killed, total = [], 0, 0
    for module, mutants in samples.items():
        codes = outcomes(tree, module)
        survivors = [mutant for mutant in mutants if codes[mutant.name] in SURVIVED]
        run = sum(codes[mutant.name] is not None for mutant in mutants)
        for mutant in sorted(survivors, key=lambda mutant: mutant.line):
            print(f"{SOURCE / module}:{mutant.line} ({mutant.name})\n{mutant.diff}\n")
        rows.append((module, run, run - len(survivors), f"{100 * (run - len(survivors)) / max(1, run):.0f} %"))
        killed, total = killed + run - len(survivors), total + run
    rows.append(("all", total, killed, f"{100 * killed / max(1, total):.1f} %"))
    print(markdown_table(("module", "mutants", "noticed", "rate"), rows, align="lrrr"))
    return 0 if total and killed >= GOAL * total else 1


if __name__ == "__main__":
    sys.exit(main())
