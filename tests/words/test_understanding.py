"""Prompts in letters that a model does not read: looked up, translated or refused, and always shown."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from talk2dino import Segmenter
from talk2dino.errors import CheckpointError, InputError, PromptError
from talk2dino.folder import FolderOptions, run_folder
from talk2dino.models.config import SegmenterConfig
from talk2dino.models.loading import load_parts
from talk2dino.words.prompts import read_prompts
from talk2dino.words.scripts import check_languages, language_names, scripts_of
from talk2dino.words.understanding import describe_understood, understand


class Reverse:
    """A translator whose English is the text backwards."""

    def __init__(self, *scripts: str) -> None:
        self.scripts, self.asked = frozenset(scripts), []

    def reads(self, scripts):
        return bool(scripts & self.scripts)

    def __call__(self, texts):
        self.asked += texts
        return [(text[::-1], "translated by reverse") for text in texts]


@pytest.fixture(scope="module")
def english():
    """micro as if it read English only, as the published models do."""
    parts = load_parts("micro")
    parts.config = replace(parts.config, languages=("en",), name="english")
    return Segmenter(parts, device="cpu", dtype="float32")


@pytest.mark.parametrize(
    ("text", "scripts"),
    [
        ("sky", {"LATIN"}), ("天空", {"CJK"}), ("Ｔ恤", {"LATIN", "CJK"}), ("ｶﾒﾗ", {"KATAKANA"}), ("人々", {"CJK"}),
        ("ラーメン", {"KATAKANA"}), ("авто", {"CYRILLIC"}), ("차", {"HANGUL"}), ("5 µm filter", {"LATIN"}), ("🚗 42", set()),
        ("λόγος", {"GREEK"}), ("árbol", {"LATIN"}), ("ˈarbol", {"LATIN"}),
    ],
)  # fmt: skip
def test_scripts(text, scripts):
    assert scripts_of(text) == scripts


def test_languages_are_checked():
    assert check_languages(["en", "zh", "en"]) == ("en", "zh")
    assert language_names(("en", "zh", "es")) == "English, Chinese and Spanish"
    with pytest.raises(InputError, match="unknown language 'spanish'; did you mean es\\? Accepted: en, es"):
        check_languages(["spanish"])
    with pytest.raises(InputError, match="at least one language"):
        check_languages([])


def test_texts_that_the_model_reads_pass_as_they_are():
    prompts = read_prompts(["sky", "árbol", "🚗", "C3"])
    assert understand(prompts, "vitb", ["en"]) == (prompts, ())
    prompts = read_prompts(["天空", "sky", "T恤"])
    assert understand(prompts, "micro", ["en", "zh"]) == (prompts, ())


def test_chinese_goes_through_the_glossary_and_names_stay():
    prompts = read_prompts({"天空": None, "car": ["汽车", "红色的汽车", "van"], "sky": None})
    read, shown = understand(prompts, "vitb", ["en"])
    assert read.names == ("天空", "car", "sky")
    assert read.synonyms == (("sky",), ("car", "red car", "van"), ("sky",))
    assert shown == (
        ("天空", "sky", "glossary"), ("汽车", "car", "glossary"), ("红色的汽车", "red car", "glossary, composed"),
    )  # fmt: skip
    assert describe_understood(shown)[0] == "天空 -> sky (glossary)"


@pytest.mark.parametrize(
    ("text", "languages", "message"),
    [
        ("斑马腿", ["en"], r"^the glossary has no English for '斑马腿'; did you mean 斑马 \(zebra\) or .* The model m reads "
         r"English: use an English word, --translate auto \(a translation model\), or --text FOLDER"),
        ("汽车car", ["en"], r"^the prompt '汽车car' mixes Chinese characters and Latin letters; did you mean 汽车 \(car\)"),
        ("авто", ["en"], r"^the prompt 'авто' is written in Cyrillic, and the glossary knows Chinese only\. The model"),
        ("авто", ["en", "zh"], r"Cyrillic.* The model m reads English and Chinese: use an English word"),
        ("こいぬ", ["en"], "written in Japanese kana"), ("차", ["en"], "Korean letters"),
        ("red авто", ["en"], "mixes Cyrillic and Latin letters"),
        ("天空", ["es"], r"The model m reads Spanish: use a word that it reads, --translate auto"),
        ("sky", ["ru"], "written in Latin letters.* reads Russian"),
    ],
)  # fmt: skip
def test_what_no_one_knows_is_refused(text, languages, message):
    with pytest.raises(PromptError, match=message):
        understand(read_prompts([text]), "m", languages)


def test_a_translator_gets_what_the_glossary_does_not_have():
    translate = Reverse("CYRILLIC", "CJK")
    read, shown = understand(read_prompts(["авто", "天空", "斑马腿", "sky"]), "vitb", ["en"], translate)
    assert translate.asked == ["авто", "斑马腿"]
    assert read.synonyms == (("отва",), ("sky",), ("腿马斑",), ("sky",))
    assert [how for _, _, how in shown] == ["translated by reverse", "glossary", "translated by reverse"]
    with pytest.raises(PromptError, match=r"Korean letters.*: use an English word or --text FOLDER"):
        understand(read_prompts(["차"]), "vitb", ["en"], translate)


def test_an_english_model_gives_the_same_for_both_languages(english, tmp_path):
    text = english.encode_text(["天空", "一辆汽车"], negative=["树"])
    same = english.encode_text(["sky", "car"], negative=["tree"])
    assert torch.equal(text.embeddings, same.embeddings)
    assert text.names == ("天空", "一辆汽车", "树")
    assert text.understood[1] == ("一辆汽车", "car", "glossary, composed")
    image = torch.zeros(3, 67, 71, dtype=torch.uint8)
    result = english.segment(image.permute(1, 2, 0).numpy(), text)
    assert result.info["understood"] == [list(one) for one in text.understood]
    assert english.segment(image.permute(1, 2, 0).numpy(), same).info["understood"] == []
    joined = text + english.encode_text(["船"])
    assert [given for given, _, _ in joined.understood] == ["天空", "一辆汽车", "树", "船"]


def test_other_words_for_a_class_are_another_run(english, tmp_path, monkeypatch):
    """A changed glossary or translation decides whether a finished image is done again."""
    from PIL import Image

    Image.new("RGB", (71, 67)).save(tmp_path / "a.png")
    options = FolderOptions(
        images=(str(tmp_path / "a.png"),), prompts=read_prompts(["天空", "船"]), out=tmp_path / "out", save=("palette",)
    )
    assert run_folder(options, segmenter=english).done == 1
    assert run_folder(options, segmenter=english).skipped == 1
    from talk2dino.words import understanding

    monkeypatch.setattr(
        understanding.chinese_glossary(), "nouns", {**understanding.chinese_glossary().nouns, "船": "ship"}
    )
    assert run_folder(options, segmenter=english).done == 1


def test_micro_reads_chinese_itself():
    config = load_parts("micro").config
    assert config.languages == ("en", "zh")
    assert SegmenterConfig.from_dict(config.to_dict(), "here") == config
    assert "languages" not in SegmenterConfig("x").to_dict()
    with pytest.raises(CheckpointError, match="here: unknown language 'klingon'"):
        SegmenterConfig.from_dict({**config.to_dict(), "languages": ["klingon"]}, "here")


def test_a_report_says_what_was_looked_up(english):
    from talk2dino.evaluation.options import EvaluationOptions
    from talk2dino.evaluation.report import terminal_table
    from talk2dino.evaluation.runs import evaluate

    asked = EvaluationOptions(benchmark="world", prompts="chinese", limit=1, device="cpu")
    report = evaluate(asked, segmenter=english).reports[0]
    assert "looked up or translated: 天空 -> sky, 草地 -> grass" in terminal_table(report)
