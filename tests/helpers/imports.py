"""Read the imports of a source tree and list those that break the rules of CONTRIBUTING.md.

    python tests/helpers/imports.py

prints the violations of ``src/talk2dino``, one per line. ``tests/test_architecture.py`` holds them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "talk2dino"

#: Library -> the only folders or modules of the package that may import it.
HOMES = {
    "typer": ("cli",), "tqdm": ("cli",), "rich": ("cli", "evaluation"),
    "transformers": ("methods", "models", "training", "words"), "huggingface_hub": ("models",), "tokenizers": ("models", "training"),
    "sqlite3": ("models",), "openvino": ("engines",), "onnx": ("engines",), "onnxruntime": ("engines",),
    "pyarrow": ("captions", "scale"), "numba": ("stages",), "llvmlite": ("stages",), "triton": ("stages",),
    "faiss": ("methods",), "diffusers": ("methods",), "skimage": ("methods",), "scipy": ("methods", "evaluation"),
    "yaml": ("io", "cli"), "pycocotools": ("io", "evaluation"),
    "fastapi": ("server",), "starlette": ("server",), "uvicorn": ("server", "cli"), "prometheus_client": ("server",),
    "anyio": ("server",), "python_multipart": ("server",),
    "av": ("io", "video"), "ray": ("scale",), "duckdb": ("scale",), "fsspec": ("scale",),
    "supervision": ("annotations",), "fiftyone": ("annotations",),
}  # fmt: skip

#: Names of methods that only methods/ may know, and the names that other files may spell for another reason.
METHOD_NAMES = frozenset({"clip-dense", "dino-clusters", "freeda"})
MAY_NAME_METHODS: dict[str, frozenset[str]] = {
    "cli/__init__.py": frozenset({"freeda"}),  # a verb
    "evaluation/matching.py": frozenset({"freeda"}),  # an extra
    "evaluation/paper.py": METHOD_NAMES,  # a table of published figures
}


def import_order(document: Path = ROOT / "CONTRIBUTING.md") -> list[str]:
    """Folders and modules of the package from the top to the bottom, as the document's block of ``a > b > c`` lists them."""
    found = re.search(r"^```text\n((?:\w+ >|> ?\w+)[^`]*)```$", document.read_text(encoding="utf-8"), re.MULTILINE)
    if not found:
        raise ValueError(f"{document.name} has no ```text block that lists the order of imports as 'cli > speed > ...'")
    return re.findall(r"\w+", found[1])


def violations(
    source: Path, order: list[str], homes: Mapping[str, tuple[str, ...]], may_name: Mapping[str, frozenset[str]]
) -> list[str]:
    """All violations of the package in ``source``, sorted, without line numbers so that they stay the same when code moves."""
    package = source.name
    trees = {_module_name(path, source): ast.parse(path.read_bytes()) for path in sorted(source.rglob("*.py"))}
    packages = {_module_name(path, source) for path in source.rglob("__init__.py")}
    rank = {f"{package}.{name}": position for position, name in enumerate(order)}
    rank |= {f"{package}.__main__": -1, package: len(order)}
    edges: dict[str, set[str]] = {}
    found = [f"order: no module or folder is called {name}" for name in order if f"{package}.{name}" not in trees]
    for name in {_unit(module) for module in trees} - set(rank):
        found.append(f"order: {name} is missing from the list")
    for module, tree in trees.items():
        targets = set(imports(tree, module, module in packages, set(trees)))
        edges[module] = {target for target in targets if target in trees and target not in (module, package)}
        for target in targets - set(trees):
            if target.startswith(f"{package}."):
                found.append(f"name: {module} imports {target}, which is no module: import it from where it is defined")
        for target in edges[module]:
            if rank.get(_unit(target), 99) < rank.get(_unit(module), -1):
                found.append(f"upward: {module} imports {target}")
        unit = _unit(module).removeprefix(f"{package}.")
        for library in {target.split(".")[0] for target in targets} & set(homes):
            if unit not in homes[library]:
                found.append(f"library: {module} imports {library}; only {' and '.join(homes[library])} may")
        file = module.removeprefix(f"{package}.").replace(".", "/")
        file += "/__init__.py" if module in packages else ".py"
        if unit != "methods":
            named = named_methods(tree) - may_name.get(file, frozenset())
            found += [f"method: {module} names {name}" for name in named]
    return sorted({*found, *(f"circle: {a} imports {b}" for a, b in circular(edges))})


def imports(tree: ast.AST, module: str, is_package: bool, modules: set[str]) -> Iterator[str]:
    """Dotted names that a module imports, inside functions too, but not under ``if TYPE_CHECKING``.

    ``from package import name`` is the module ``package.name`` where there is one, else ``package``. The name of a module
    as a string, as in a table of what is imported on first use, counts as an import; the package's own ``__init__`` with
    its public names does not.
    """
    root = module.split(".")[0]
    for node in _without_type_checking(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parents = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parents, *filter(None, [node.module])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                public = base == root and not alias.name.startswith("__")
                yield full if full in modules or public else base
        elif isinstance(node, ast.Constant) and node.value in modules and module != root:
            yield str(node.value)


def named_methods(tree: ast.AST) -> set[str]:
    """Methods whose names stand in a module as a string constant, and "talk2dino" where something is compared with it."""
    compared = [node for node in ast.walk(tree) if isinstance(node, ast.Compare)]
    ours = {"talk2dino"} & {c.value for node in compared for c in ast.walk(node) if isinstance(c, ast.Constant)}
    constants = {c.value for c in ast.walk(tree) if isinstance(c, ast.Constant) and isinstance(c.value, str)}
    return ours | constants & METHOD_NAMES


def circular(edges: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    """The imports that are part of a circle: those whose target leads back to the module."""
    reached = {module: _reached(module, edges) for module in edges}
    return [(module, target) for module in edges for target in edges[module] if module in reached[target]]


def _reached(start: str, edges: Mapping[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        fresh = edges[waiting.pop()] - seen
        seen |= fresh
        waiting += fresh
    return seen


def _without_type_checking(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in node.orelse:
                yield other
                yield from _without_type_checking(other)
        else:
            yield node
            yield from _without_type_checking(node)


def _module_name(path: Path, source: Path) -> str:
    parts = [source.name, *path.relative_to(source).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _unit(module: str) -> str:
    """The folder or module directly below the package: talk2dino.io.masks -> talk2dino.io."""
    return ".".join(module.split(".")[:2])


if __name__ == "__main__":
    print("\n".join(violations(SOURCE, import_order(), HOMES, MAY_NAME_METHODS)))
