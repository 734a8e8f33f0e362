"""Pairs of sentences from files, or one sentence that says what is wrong with them."""

from __future__ import annotations

import pytest

from talk2dino.errors import DataError, InputError
from talk2dino.training.text.pairs import Pairs, read_pairs
from talk2dino.world import CLASSES
from talk2dino.world.spanish import SPANISH, spanish_names, write_pairs

TWO = Pairs(("cielo azul", "un árbol"), ("blue sky", "a tree"))


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        (tmp_path / name).write_text(content, encoding="utf-8")
        return tmp_path / name

    return write


def test_every_form_gives_the_same(write):
    tsv = write("a.tsv", "\ufeffcielo azul\tblue sky\nun árbol\ta tree\n")
    jsonl = write(
        "a.jsonl", '{"text": "cielo azul", "english": "blue sky"}\n{"text": "un árbol", "english": "a tree"}\n'
    )
    texts, english = write("es.txt", "cielo azul\nun árbol\n"), write("en.txt", "blue sky\na tree")
    assert read_pairs([tsv]) == read_pairs([jsonl]) == read_pairs([texts, english]) == TWO
    assert len(read_pairs([tsv, jsonl])) == 4
    assert TWO.fingerprint() == read_pairs([tsv]).fingerprint() != Pairs(TWO.english, TWO.texts).fingerprint()


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        ({"a.tsv": "cielo\tsky\nárbol\n"}, DataError, "line 2 of .*a.tsv has 1 columns; expected two"),
        ({"a.tsv": "cielo\tsky\tx\n"}, DataError, "line 1 of .* has 3 columns"),
        ({"a.tsv": "cielo\t\n"}, DataError, "line 1 of .*a.tsv lacks its English text"),
        ({"a.tsv": ""}, DataError, "no pairs"),
        ({"a.jsonl": '{"text": "cielo"}\n'}, DataError, "line 1 of .*a.jsonl is not a pair"),
        ({"a.jsonl": "cielo\n"}, DataError, "line 1 of .* is not a pair"),
        ({"a.jsonl": '{"text": 3, "english": "sky"}'}, DataError, "is not a pair"),
        ({"es.txt": "a\nb\nc\n", "t.txt": "a\nb\n"}, DataError, "es.txt has 3 lines and .*t.txt has 2: line i"),
        ({"a.txt": "a\n"}, InputError, "expected a .tsv file"),
        ({"a.csv": "a,b\n"}, InputError, "a .jsonl file .*; got .*a.csv"),
        ({"gone.tsv": None}, DataError, "cannot read the file of pairs"),
    ],
)
def test_what_is_not_pairs_is_refused(write, tmp_path, files, error, message):
    paths = [tmp_path / name if content is None else write(name, content) for name, content in files.items()]
    with pytest.raises(error, match=message):
        read_pairs(paths)


def test_unequal_numbers_are_not_pairs():
    with pytest.raises(DataError, match="2 texts and 1 English texts"):
        Pairs(("a", "b"), ("c",))


def test_spanish_captions_of_the_drawn_world():
    assert write_pairs(50, 3) == write_pairs(50, 3) != write_pairs(50, 4)
    assert set(SPANISH) == {concept.name for concept in CLASSES} == set(spanish_names())
    for concept in CLASSES:
        assert len(SPANISH[concept.name]) == len(concept.english)
    found = dict(write_pairs(6000))
    assert found["una pelota roja"] == "a red ball"
    assert found["un barco rojo"] == "a red boat"
    text = " ".join(found)
    assert all(name in text for name in spanish_names().values())
