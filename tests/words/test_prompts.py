"""Prompts from Python, the command line and files are read alike, or refused with one sentence."""

from __future__ import annotations

import json

import pytest

from talk2dino.errors import PromptError
from talk2dino.words.prompts import (
    LONGEST_PROMPT,
    MOST_PROMPTS,
    PromptList,
    parse_prompts,
    read_prompt_file,
    read_prompts,
)

SKY_CAR = PromptList(("sky", "car"), (("sky",), ("red car", "automobile")))


@pytest.fixture
def write(tmp_path):
    def write(name: str, content: str):
        path = tmp_path / name
        path.write_text(content, encoding="utf-8")
        return path

    return write


def test_every_form_gives_the_same(write):
    for prompts in (
        {"sky": None, "car": ["red car", "automobile"]}, {"sky": [], "car": ("red car", "automobile")},
        {"sky": "sky", "car": [" red  car ", "automobile\n"]}, "sky, car=red car|automobile", SKY_CAR,
    ):  # fmt: skip
        assert read_prompts(prompts) == SKY_CAR
    for line in ("sky, car=red car|automobile", "sky，car = red car | automobile ;", "\nsky\ncar=red car|automobile\n"):
        assert parse_prompts(line) == SKY_CAR
    for name, content in (
        ("p.txt", "# classes\n\nsky # the blue one\n  car = red car | automobile\t#x\n"),
        ("p.txt", "\ufeffsky\r\ncar=red car|automobile"),
        ("p.json", '{"sky": null, "car": ["red car", "automobile"]}'),
        ("p.yaml", "sky:\ncar:\n  - red car\n  - automobile\n"),
        ("p.YML", "{sky: sky, car: [red car, automobile]}"),
    ):
        assert read_prompt_file(write(name, content)) == SKY_CAR
    for name, content in (("l.json", '["sky", "天空"]'), ("l.yaml", "- sky\n- 天空"), ("l.txt", "sky\n天空")):
        assert read_prompt_file(write(name, content)) == read_prompts(["sky", "天空"])


def test_a_string_is_split_at_commas_and_a_backslash_keeps_one():
    assert read_prompts("sky, grass").names == ("sky", "grass")
    assert parse_prompts(r"salt\, pepper, 草地、沙滩；海\，岸").names == ("salt, pepper", "草地", "沙滩", "海，岸")
    assert read_prompts(["sky, grass"]).names == ("sky, grass",)  # a list is taken as it is


def test_a_number_sign_starts_a_comment_in_files_only(write):
    assert read_prompt_file(write("p.txt", "sand # tail\nC#\n#grass\n")).names == ("sand", "C#")
    assert parse_prompts("C#, F#").names == ("C#", "F#")
    for line in ("sky, sand # tail", "#grass"):
        with pytest.raises(PromptError, match=r"contains a comment; only prompt files may: remove it from '#' on"):
            parse_prompts(line)


def test_duplicates_are_kept_once_and_noted():
    for prompts in (["sky", "car", " sky", "car", "sky"], "sky, car, sky, car=automobile"):
        read = read_prompts(prompts)
        assert read.names == ("sky", "car")
        assert read.notes == ("duplicate prompts kept once: sky, car",)
    assert read.synonyms == (("sky",), ("car",))  # the first wins


def test_commas_in_a_prompt_file_are_noted(write):
    read = read_prompt_file(write("p.txt", "sky, grass, car\nroad\n"))
    assert read.names == ("sky, grass, car", "road")
    assert read.notes == ("'sky, grass, car' is one class: a prompt file has one class per line",)
    assert read_prompt_file(write("p.txt", "car = a car, parked | automobile")).notes == ()


@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        ([], "no prompts were given"), ({}, "no prompts were given"), ("", "no prompts"), (" ,，\n", "no prompts"),
        (5, "a list of names or a mapping, got int"), (b"sky", "got bytes"), (["sky", ""], "a prompt is empty"),
        (["sky", " \t"], "a prompt is empty"), ({"": "sky"}, "a prompt is empty"), ({"sky": ["a", ""]}, "is empty"),
        ([7], "must be text, got int 7; put it in quotes"), ([True], "got bool True; put it in quotes"),
        ([None], "must be text, got NoneType"), ([["sky"]], "must be text, got list"), ([{"car": "x"}], "got dict"),
        ({"car": {"red": "red car"}}, "synonyms of 'car' must be a text or a list of texts, got dict.*nested"),
        ({"car": 7}, "got int"), ({"car": [["a"]]}, "must be text, got list"), ({7: "car"}, "got int 7"),
        (["x" * (LONGEST_PROMPT + 1)], "501 characters.*at most 500.*77 tokens"), (["a\0b"], "not text"),
        (["a\udce9b"], "not text"), (["..."], r"'\.\.\.' has no letter, digit or symbol"), (["|"], "no letter"),
        ("|", r"'\|' has synonyms but no class name; write NAME=A\|B"), ("car|auto", r"write NAME=car\|auto"),
        ("sky, =red", "'=red' has no class name before '='"), ("car=--", "'--' has no letter"),
        ([str(i) for i in range(MOST_PROMPTS + 1)], "20,001 prompts were given; at most 20,000"),
    ],
)  # fmt: skip
def test_refusals(prompts, says):
    with pytest.raises(PromptError, match=says):
        read_prompts(prompts)


def test_the_limits_themselves_are_accepted():
    assert len(read_prompts(["x" * LONGEST_PROMPT])) == 1
    assert len(read_prompts([str(i) for i in range(MOST_PROMPTS)])) == MOST_PROMPTS
    assert read_prompts(["🐟", "7", "天"]).names == ("🐟", "7", "天")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("p.json", '{"car": {"red": "red car"}}', r"prompt file .*p\.json: the synonyms of 'car' must be"),
        ("p.yaml", "vehicle:\n  car: red car\n", "classes cannot be nested"), ("p.yaml", "- no\n- sky", "quotes"),
        ("p.yaml", "- car: red car", "must be text, got dict"), ("p.json", "[", r"cannot read the prompt file .*p\.json"),
        ("p.yaml", "a: [", r"cannot read the prompt file .*p\.yaml"), ("p.json", "[" * 100_000, "cannot read"),
        ("p.json", '"sky"', "expected a list of names, or a mapping"), ("p.yaml", "", "expected a list of names"),
        ("p.txt", "\n# nothing\n", r"p\.txt: no prompts were given"), ("p.txt", "|\n", "no class name"),
        ("p.txt", "\ud800", "as UTF-8 text"), ("q.txt", None, r"no prompt file at .*q\.txt"),
    ],
)  # fmt: skip
def test_files_that_are_refused(tmp_path, name, content, says):
    if content is not None:
        (tmp_path / name).write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(PromptError, match=says) as caught:
        read_prompt_file(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_json_file_may_hold_many(write):
    names = [f"class {i}" for i in range(500)]
    assert read_prompt_file(write("p.json", json.dumps(names))).names == tuple(names)
