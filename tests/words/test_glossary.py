"""The glossary: every class name of the benchmarks, at least 1,500 things, both scripts, and words that are composed."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from importlib import resources

import pytest

from talk2dino.evaluation import class_tables
from talk2dino.words.glossary import MODIFIERS, NOUNS, benchmark_aliases, chinese_glossary, simplify_text
from talk2dino.world import CLASSES

FOLDER = resources.files("talk2dino") / "assets" / "glossary"


def rows(name: str) -> list[list[str]]:
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# SPDX-License-Identifier: Apache-2.0"
    head, *entries = [line.split("\t") for line in lines if not line.startswith("#")]
    assert head == {NOUNS: ["english", "also", "chinese"], MODIFIERS: ["english", "chinese"]}[name]
    return entries


def test_every_class_name_of_the_benchmarks_has_chinese_words():
    names = {n for table in vars(class_tables) if table.endswith("_NAMES") for n in getattr(class_tables, table)}
    assert len(names) == 290
    known = {row[0] for row in rows(NOUNS)} | set(benchmark_aliases())
    assert names - known == set()
    assert benchmark_aliases()["wall-brick"] == "brick wall"


def test_the_size_and_the_form_of_the_tables():
    assert len({row[0] for row in rows(NOUNS)}) >= 1500
    for name in (NOUNS, MODIFIERS):
        table = rows(name)
        assert len({len(row) for row in table}) == 1
        for english, *_, chinese in table:
            assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9' -]*", english), english
            assert chinese, english
            assert all(word == word.strip() and re.search(r"[㐀-鿿]|^CD$|^ATM$", word) for word in chinese.split(" "))
        words = Counter(simplify_text(word) for row in table for word in set(row[-1].split(" ")))
        assert [word for word, count in words.items() if count > 1] == []  # one word, one meaning
        english_words = Counter(row[0] for row in table)
        assert [word for word, count in english_words.items() if count > 1] == []


def test_traditional_variants_are_listed():
    """For each pair of characters, every word with the simplified one has its other form in the same row."""
    pairs = dict(
        zip(
            "马车鱼鸟龙门风飞见贝长钟铁钢银门页头汉语电视听红绿蓝黄",
            "馬車魚鳥龍門風飛見貝長鐘鐵鋼銀門頁頭漢語電視聽紅綠藍黃",
            strict=True,
        )
    )
    for english, *_, chinese in rows(NOUNS) + rows(MODIFIERS):
        for word in chinese.split(" "):
            for simple in set(word) & set(pairs):
                others = [w for w in chinese.split(" ") if len(w) == len(word) and simple not in w]
                position = word.index(simple)
                assert any(w[position] == pairs[simple] for w in others), f"{english}: {word} has no traditional form"


@pytest.mark.parametrize(
    ("given", "english"),
    [
        ("斑马线", "zebra crossing"), ("斑馬線", "zebra crossing"), ("人行橫道", "zebra crossing"), ("計程車", "taxi"),
        ("红绿灯", "traffic light"), ("T恤", "t-shirt"), ("Ｔ恤", "t-shirt"), (" 天 空 ", "sky"), ("U盘", "flash drive"),
    ],
)  # fmt: skip
def test_words_are_found_in_both_scripts(given, english):
    found = chinese_glossary().look_up(given)
    assert found is not None
    assert (found.english, found.how) == (english, "glossary")


@pytest.mark.parametrize(
    ("given", "english"),
    [
        ("红色的汽车", "red car"), ("紅色汽車", "red car"), ("一辆红色的大汽车", "red big car"), ("两只黑猫", "black cat"),
        ("一只小狗", "puppy"), ("木桌子", "wooden table"), ("玻璃窗户", "glass window"), ("SUV 汽车", "suv car"),
        ("桌子上的杯子", "cup on the table"), ("天上的云", "clouds in the sky"), ("猫的尾巴", "cat tail"),
        ("厨房水槽", "kitchen sink"), ("戴眼镜的人", "person wearing glasses"), ("騎著自行車的人", "person riding bicycle"),
        ("3个苹果", "apple"), ("生锈的铁管", "rusty iron pipe"),
    ],
)  # fmt: skip
def test_words_are_composed(given, english):
    found = chinese_glossary().look_up(given)
    assert found is not None
    assert (found.english, found.how) == (english, "glossary, composed")


@pytest.mark.parametrize(
    "given", ["斑马腿", "汽车car", "的", "红色的", "一辆", "坐标系变换", "sky", "", "人人人人", "马" * 4000]
)
def test_unknown_words_have_no_meaning(given):
    assert chinese_glossary().look_up(given) is None


def test_very_long_texts_are_not_composed():
    assert chinese_glossary().look_up("红色的" * 7 + "汽车") is not None
    assert chinese_glossary().look_up("红色的" * 8 + "汽车") is None


def test_near_entries_come_with_their_english():
    assert chinese_glossary().near("斑马腿")[:2] == [("斑马", "zebra"), ("斑马线", "zebra crossing")]
    assert ("斑马线", "zebra crossing") in chinese_glossary().near("斑马钱")
    assert chinese_glossary().near("水果车")[0] == (
        "水车",
        "water wheel",
    )  # the last word says what kind of thing it is
    assert chinese_glossary().near("xyz") == []


def test_chinese_words_for_english_ones():
    assert chinese_glossary().words_for("Zebra crossing")[:2] == ["斑马线", "斑馬線"]
    assert chinese_glossary().words_for("unheard of") == []


def test_the_words_of_the_drawn_world_mean_what_they_stand_for():
    for concept in CLASSES:
        for word in concept.chinese:
            assert chinese_glossary().look_up(word) is not None, word


def test_keys_are_normalised():
    assert all(unicodedata.normalize("NFKC", word).lower() == word for word in chinese_glossary().nouns)
