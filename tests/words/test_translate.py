"""Translation with a tiny random Marian twin: real classes of transformers, its sentencepiece models trained here."""

from __future__ import annotations

import json
import sys
import warnings

import pytest
import torch
from command import run_here
from PIL import Image

from talk2dino.errors import CheckpointError, InputError, MissingExtraError, ModelNotFoundError, PromptError
from talk2dino.models.text_tower import load_encoder
from talk2dino.words import translate
from talk2dino.words.translate import AutoTranslator, MarianTranslator, files_fingerprint, make_translator

TEXTS = ["пешеходный переход", "дерево", "красная машина", "дом у озера"]
ENGLISH = ["zebra crossing", "tree", "red car", "house by the lake"]


def make_marian(folder, favour: str | None = "▁tree"):
    """Write a random Marian model that favours one English piece; None: one that says nothing."""
    import sentencepiece
    from transformers import MarianConfig, MarianMTModel

    folder.mkdir()
    pieces = {}
    for name, lines in (("source", TEXTS), ("target", ENGLISH)):
        (folder / "lines").write_text("\n".join(lines * 20), encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            input=str(folder / "lines"), model_prefix=str(folder / name), vocab_size=47 if name == "source" else 41,
            user_defined_symbols=["▁tree"] if name == "target" else [], minloglevel=2, hard_vocab_limit=False,
        )  # fmt: skip
        (folder / f"{name}.model").rename(folder / f"{name}.spm")
        processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / f"{name}.spm"))
        pieces |= dict.fromkeys(processor.id_to_piece(i) for i in range(3, len(processor)))
        (folder / f"{name}.vocab").unlink()
    (folder / "lines").unlink()
    vocabulary = {piece: number for number, piece in enumerate(["</s>", "<unk>", *pieces, "<pad>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    settings = {"source_lang": "ru", "target_lang": "en", "tokenizer_class": "MarianTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    pad = vocabulary["<pad>"]
    config = MarianConfig(
        vocab_size=len(vocabulary), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=19, decoder_ffn_dim=19, pad_token_id=pad, eos_token_id=0,
        decoder_start_token_id=pad, forced_eos_token_id=0, max_position_embeddings=96, num_beams=2, bos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(5)
    model = MarianMTModel(config)
    with torch.no_grad():
        model.final_logits_bias[0, 0] += 6
        model.final_logits_bias[0, vocabulary[favour] if favour else 0] += 9
    model.generation_config.no_repeat_ngram_size = 1  # the piece once, then the end
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def marian(tmp_path_factory):
    return make_marian(tmp_path_factory.mktemp("marian") / "ru-en")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TALK2DINO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "translations"


def test_the_english_is_what_transformers_gives(marian):
    from transformers import MarianMTModel, MarianTokenizer

    found = MarianTranslator(str(marian))(["дерево", "красная машина"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, tokenizer = MarianMTModel.from_pretrained(marian), MarianTokenizer.from_pretrained(marian)
    for text, (english, how) in zip(["дерево", "красная машина"], found, strict=True):
        (row,) = model.generate(**tokenizer([text], return_tensors="pt"), max_new_tokens=64)
        assert english == tokenizer.decode(row, skip_special_tokens=True).strip()
        assert english.startswith("tree")
        assert how == "translated by ru-en"


def test_translations_are_kept_under_the_fingerprint_of_the_model(marian, cache, tmp_path, monkeypatch):
    first = MarianTranslator(str(marian))(["дерево"])
    (file,) = cache.iterdir()
    assert file.stem == files_fingerprint(marian)
    assert json.loads(file.read_text(encoding="utf-8")) == {"дерево": first[0][0]}
    again = MarianTranslator(str(marian))
    monkeypatch.setattr(again, "_translate", None)  # nothing is translated twice
    assert again(["дерево"]) == first
    file.write_text("damaged", encoding="utf-8")
    assert MarianTranslator(str(marian))(["дерево", "дом"])[0] == first[0]
    assert set(json.loads(file.read_text(encoding="utf-8"))) == {"дерево", "дом"}
    other = make_marian(tmp_path / "other", favour="</s>")
    assert files_fingerprint(other) != file.stem


def test_a_cache_that_cannot_be_written_is_done_without(marian, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TALK2DINO_CACHE", str(tmp_path / "file"))
    assert MarianTranslator(str(marian))(["дерево"])[0][0].startswith("tree")


def test_an_empty_translation_is_refused(tmp_path):
    silent = make_marian(tmp_path / "silent", favour=None)
    with pytest.raises(PromptError, match="silent translated the prompt 'дерево' as '', which is not English"):
        MarianTranslator(str(silent))(["дерево"])


def test_which_letters_a_model_reads(marian, tmp_path):
    named = MarianTranslator(str(marian))
    assert named.reads(frozenset({"CYRILLIC"}))
    assert not named.reads(frozenset({"LATIN"}))
    assert not named.reads(frozenset())
    (tmp_path / "unnamed").mkdir()
    assert MarianTranslator(str(tmp_path / "unnamed")).reads(frozenset({"LATIN"}))
    assert AutoTranslator().reads(frozenset({"LATIN", "CJK"}))
    assert not AutoTranslator().reads(frozenset({"LATIN"}))


def test_auto_takes_a_model_per_script(monkeypatch):
    class Named(MarianTranslator):
        def __call__(self, texts):
            return [(f"{self.name.rpartition('opus-mt-')[2]} {len(text)}", "") for text in texts]

    monkeypatch.setattr(translate, "MarianTranslator", Named)
    found = AutoTranslator()(["авто", "坐标系", "横断歩道の縞", "차", "λόγος", "дом"])
    assert [english for english, _ in found] == ["ru-en 4", "zh-en 3", "ja-en 6", "ko-en 1", "mul-en 5", "ru-en 3"]


def test_models_that_are_not_there_or_no_marian(tmp_path):
    with pytest.raises(InputError, match=r"no translation model at ./gone: --translate takes auto, a folder"):
        make_translator("./gone")
    with pytest.raises(
        ModelNotFoundError, match="no translation model 'nobody/nothing' in the cache, and it cannot be"
    ):
        make_translator("nobody/nothing")(["дерево"])
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(
        CheckpointError, match=r"cannot read a Marian model from .*bert: it holds a model of type 'bert'"
    ):
        make_translator(tmp_path / "bert")(["дерево"])


def test_the_option_of_segment(capsys, marian, tmp_path):
    Image.new("RGB", (71, 67)).save(tmp_path / "a.png")
    call = (
        "segment",
        tmp_path / "a.png",
        "-p",
        "дерево, небо=天空|sky",
        "-m",
        "micro",
        "-o",
        tmp_path / "out",
        "--json",
    )
    done = run_here(capsys, *call, "--translate", marian)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)
    (understood,) = line["info"]["understood"]
    assert understood[0] == "дерево"
    assert understood[1].startswith("tree")
    assert understood[2] == "translated by ru-en"
    assert f"дерево -> {understood[1]} (translated by ru-en)" in done.stderr
    assert run_here(capsys, *call, "--translate", "gone").returncode == 2
    missing = run_here(capsys, *call, "--translate", "nobody/nothing", "--overwrite")
    assert missing.returncode == 1
    assert len(missing.stderr.strip().splitlines()) == 1


def test_the_extra_is_named_when_it_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        MissingExtraError, match=r"'transformers', which is not installed: pip install 'talk2dino\[translate\]'"
    ):
        make_translator("auto")
    monkeypatch.setitem(sys.modules, "transformers.utils", None)
    with pytest.raises(MissingExtraError, match=r"a text tower .* pip install 'talk2dino\[translate\]'"):
        load_encoder(str(tmp_path))
