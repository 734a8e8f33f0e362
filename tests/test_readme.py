"""Both READMEs have the same sections, commands and limits, and what they name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENGLISH, CHINESE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md"))


def code_blocks(text: str) -> list[str]:
    """The fenced blocks without their comments."""
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.S)
    return ["\n".join(line.partition("  # ")[0].rstrip() for line in block.splitlines()) for block in blocks]


def test_both_have_the_same_headings_and_code():
    levels = [re.findall(r"^(#+) ", re.sub(r"```.*?```", "", text, flags=re.S), re.M) for text in (ENGLISH, CHINESE)]
    assert levels[0] == levels[1]
    assert len(levels[0]) >= 6
    assert code_blocks(ENGLISH) == code_blocks(CHINESE)


@pytest.mark.parametrize("part", [r"^- ", r"^\| "])
def test_both_have_as_many_limits_and_rows(part):
    assert len(re.findall(part, ENGLISH, re.M)) == len(re.findall(part, CHINESE, re.M)) > 3


def test_the_readme_is_short_and_its_links_lead_somewhere():
    assert len(ENGLISH.splitlines()) <= 150
    for text in (ENGLISH, CHINESE):
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (ROOT / target).exists(), target


def test_flags_in_the_readme_exist():
    from typer.main import get_command

    from talk2dino.cli import build_app

    commands = get_command(build_app()).commands
    for line in re.findall(r"^\$ talk2dino (.*)$", ENGLISH, re.M):
        verb, _, rest = line.partition(" ")
        command = commands[verb]
        while hasattr(command, "commands"):  # a group, such as "annotations compare"
            verb, _, rest = rest.partition(" ")
            command = command.commands[verb]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", re.sub(r'"[^"]*"', "", rest))) <= known, line
