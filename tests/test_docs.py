"""What the documents name exists: verbs, flags, scripts, links and headings. And they are in plain English."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "recipes/published/README.md"]
PROSE = [*PAGES, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
         ROOT / "src/talk2dino/assets/micro/README.md"]  # fmt: skip
FLAG = re.compile(r"(?<![\w-])--?[a-zA-Z][\w-]*")

#: Phrases that are not idiomatic, and rates without "per", as in "a line a picture" and "images a second".
DIALECT = (
    r"\bis told\b", r"\bare told\b", r"\bof one's own\b", r"\bthat is none\b", r"\bby a hair\b",
    r"\ban? \w+ an? (picture|image|caption|record|shard|class|benchmark|scene|size|second|verb)\b",
    r"\b(pictures|images|captions|records|steps|scenes) an? (second|minute|hour)\b",
    r"\b[Pp]ictures?\b",
)  # fmt: skip


@cache
def flags_of_verbs() -> dict[str, set[str]]:
    """ "segment" or "store merge" -> its flags."""
    from typer.main import get_command

    from talk2dino.cli import build_app

    def collect(name: str, command) -> dict[str, set[str]]:
        inner = getattr(command, "commands", {})
        if inner:
            return {verb: flags for one, own in inner.items() for verb, flags in collect(f"{name} {one}", own).items()}
        return {name: {flag for one in command.params for flag in (*one.opts, *one.secondary_opts)} | {"-h", "--help"}}

    app = get_command(build_app())
    return {verb: flags for name, own in app.commands.items() for verb, flags in collect(name, own).items()}


def code_of(text: str) -> list[str]:
    """Lines of indented and fenced blocks, with continued lines joined, and the code spans of the text."""
    text = re.sub(r"\\\n\s*", " ", text)
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    rest = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()] + re.findall(r"^ {4}(.*)$", rest, re.M)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^ {4}.*$", "", rest, flags=re.M))
    return [re.sub(r'"[^"]*"', "TEXT", line.partition("  #")[0]) for line in lines + spans]


def flags_of_script(path: Path) -> set[str]:
    return set(re.findall(r'add_argument\(\s*"(--[\w-]+)"', path.read_text(encoding="utf-8")))


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [*PAGES, ROOT / "recipes/published/recipe.sh"], ids=ids)
def test_verbs_and_flags_exist(path):
    text = path.read_text(encoding="utf-8")
    lines = code_of(text) if path.suffix == ".md" else re.sub(r"\\\n\s*", " ", text).splitlines()
    for line in lines:
        for command in re.findall(r"(?:^|\s)(?:-m )?talk2dino ((?!import)[a-z].*)", line):
            words = command.split()
            if words[0] not in flags_of_verbs() and len(words) == 1:
                assert any(verb.startswith(words[0] + " ") for verb in flags_of_verbs()), line  # such as "store"
                continue
            verb = next((" ".join(words[:n]) for n in (1, 2, 3) if " ".join(words[:n]) in flags_of_verbs()), command)
            assert verb in flags_of_verbs(), line
            assert set(FLAG.findall(command)) <= flags_of_verbs()[verb], line


@pytest.mark.parametrize("path", PAGES, ids=ids)
def test_scripts_and_their_flags_exist(path):
    for line in code_of(path.read_text(encoding="utf-8")):
        for name, rest in re.findall(r"\bpython ((?:benchmarks|recipes|examples)/\S+\.py)(.*)", line):
            assert (ROOT / name).is_file(), line
            assert set(FLAG.findall(rest)) <= flags_of_script(ROOT / name), line


@pytest.mark.parametrize("path", PAGES, ids=ids)
def test_flags_in_the_text_exist_somewhere(path):
    scripts = [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "recipes").rglob("*.py")]
    known = set().union(*flags_of_verbs().values(), *map(flags_of_script, scripts))
    for span in re.findall(r"`(-[^`\n]+)`", path.read_text(encoding="utf-8")):
        assert set(FLAG.findall(span)) <= known, span


@pytest.mark.parametrize("path", PROSE, ids=ids)
def test_links_lead_to_files_and_headings(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, heading = target.partition("#")
        linked = path.parent / name if name else path
        assert linked.exists(), target
        if heading:
            assert heading in headings(linked), target


def headings(path: Path) -> set[str]:
    """The anchors of the headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", PROSE, ids=ids)
def test_plain_english(path):
    text = re.sub(r"^```.*?^```|^ {4}.*?$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    text = " ".join(re.sub(r"`[^`]*`|\]\([^)]*\)", "", text).split())
    for phrase in DIALECT:
        found = re.search(f".{{0,30}}(?:{phrase}).{{0,30}}", text)
        assert found is None, found and found.group()
