"""Translation of prompts into English by Marian models, through transformers. Only when asked for, and cached on disk.

``auto`` takes one of the Opus-MT models for the script of a text, and leaves Latin letters alone, because the languages that
share them cannot be told apart. A model that is named translates whatever is written in the letters of its language.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from talk2dino.errors import (
    CheckpointError,
    InputError,
    MissingExtraError,
    ModelNotFoundError,
    OutputError,
    PromptError,
)
from talk2dino.io.atomic import write_atomically
from talk2dino.io.cache import cache_folder
from talk2dino.io.names import readable
from talk2dino.words.scripts import HAN, LANGUAGES, LATIN, scripts_of
from talk2dino.words.understanding import Translation, Translator

if TYPE_CHECKING:
    from transformers import MarianMTModel, MarianTokenizer

log = logging.getLogger(__name__)

AUTO = "auto"
#: Script -> the model that ``auto`` takes; the last one knows about a hundred languages.
MODELS: dict[str, str] = {
    "HIRAGANA": "Helsinki-NLP/opus-mt-ja-en", "KATAKANA": "Helsinki-NLP/opus-mt-ja-en", HAN: "Helsinki-NLP/opus-mt-zh-en",
    "HANGUL": "Helsinki-NLP/opus-mt-ko-en", "CYRILLIC": "Helsinki-NLP/opus-mt-ru-en", "ARABIC": "Helsinki-NLP/opus-mt-ar-en",
    "DEVANAGARI": "Helsinki-NLP/opus-mt-hi-en", "": "Helsinki-NLP/opus-mt-mul-en",
}  # fmt: skip
#: Tokens of a translation, at most: a prompt is short, and a model can repeat itself without end.
LONGEST = 64
BATCH = 32


def make_translator(model: str | Path, *, local_files_only: bool = False) -> Translator:
    """The translator of ``--translate``: "auto", a folder, or a hub id. Models are loaded on first use.

    Raises:
        InputError: neither "auto" nor a folder nor a hub id. MissingExtraError: transformers or sentencepiece is missing.
    """
    for package in ("transformers", "sentencepiece"):
        _check_installed(package)
    if str(model) == AUTO:
        return AutoTranslator(local_files_only=local_files_only)
    name = str(model)
    if not Path(name).is_dir() and (name.count("/") != 1 or name.startswith((".", "/", "~"))):
        raise InputError(
            f"no translation model at {readable(name)}: --translate takes auto, a folder with a Marian model, or a hub id such "
            f"as {MODELS[HAN]}"
        )
    return MarianTranslator(name, local_files_only=local_files_only)


def check_language_options(text: str | Path | None, translate: str | Path | None) -> None:
    """Report wrong values of ``--text`` and ``--translate`` before anything is loaded.

    Raises:
        InputError: no folder ``text``, or as :func:`make_translator`.
    """
    if text is not None and not Path(text).is_dir():
        raise InputError(f"no text tower at {readable(text)}: --text takes a folder written by 'talk2dino train-text'")
    if translate is not None:
        make_translator(translate)


class AutoTranslator:
    """Chooses a model by the script of each text; Latin letters are left as they are."""

    def __init__(self, *, local_files_only: bool = False) -> None:
        self.local_files_only = local_files_only
        self.used: dict[str, MarianTranslator] = {}

    def reads(self, scripts: frozenset[str]) -> bool:
        return bool(scripts - {LATIN})

    def __call__(self, texts: Sequence[str]) -> list[Translation]:
        chosen = [
            next((MODELS[script] for script in MODELS if script in scripts_of(text)), MODELS[""]) for text in texts
        ]
        found: dict[str, Translation] = {}
        for model in dict.fromkeys(chosen):
            if model not in self.used:
                self.used[model] = MarianTranslator(model, local_files_only=self.local_files_only)
            own = [text for text, name in zip(texts, chosen, strict=True) if name == model]
            found |= dict(zip(own, self.used[model](own), strict=True))
        return [found[text] for text in texts]


class MarianTranslator:
    """One Marian model. Translations are kept on disk under the fingerprint of the model's files.

    Args:
        model: a folder or a hub id.
    """

    def __init__(self, model: str, *, local_files_only: bool = False) -> None:
        self.model, self.local_files_only = model, local_files_only
        self.name = Path(model).resolve().name if Path(model).is_dir() else model

    def reads(self, scripts: frozenset[str]) -> bool:
        """Whether a text has letters of the model's language; any letters if its tokenizer does not record one."""
        try:
            values = json.loads((self._folder / "tokenizer_config.json").read_text(encoding="utf-8"))
            known = LANGUAGES.get(values.get("source_lang"))
        except (OSError, ValueError, AttributeError):
            known = None
        return bool(scripts) if known is None else bool(scripts & known[1])

    def __call__(self, texts: Sequence[str]) -> list[Translation]:
        """The English of each text.

        Raises:
            ModelNotFoundError: no such model, or the hub cannot be reached. CheckpointError: not a Marian model.
            PromptError: a translation is empty or not English.
        """
        kept = self._kept()
        new = [text for text in dict.fromkeys(texts) if text not in kept]
        if new:
            made = [
                english
                for start in range(0, len(new), BATCH)
                for english in self._translate(new[start : start + BATCH])
            ]
            kept |= dict(zip(new, made, strict=True))
            self._keep(dict(zip(new, made, strict=True)))
        for text in texts:
            if not kept[text] or scripts_of(kept[text]) - {LATIN}:
                raise PromptError(
                    f"{self.name} translated the prompt {text[:60]!r} as {kept[text][:60]!r}, which is not English: use an "
                    "English word, or another model with --translate"
                )
        return [(kept[text], f"translated by {self.name}") for text in texts]

    # --- the model -----------------------------------------------------------------------------------------------------

    @cached_property
    def _folder(self) -> Path:
        """The folder of the model's files, downloaded if they are not cached."""
        if Path(self.model).is_dir():
            return Path(self.model)
        from transformers.utils import cached_file

        try:
            config = cached_file(self.model, "config.json", local_files_only=self.local_files_only)
        except Exception as error:  # whatever the network stack raises
            reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
            raise ModelNotFoundError(
                f"no translation model {self.model!r} in the cache, and it cannot be downloaded ({reason}): give a folder with "
                "a Marian model (--translate FOLDER), or use English words"
            ) from None
        return Path(str(config)).parent

    @cached_property
    def _loaded(self) -> tuple[MarianMTModel, MarianTokenizer]:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        from transformers import MarianMTModel, MarianTokenizer
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        try:
            kind = json.loads((self._folder / "config.json").read_text(encoding="utf-8")).get("model_type")
            if kind != "marian":
                raise ValueError(f"it holds a model of type {kind!r}")
            where = str(self._folder) if Path(self.model).is_dir() else self.model
            offline = self.local_files_only or Path(self.model).is_dir()
            with warnings.catch_warnings():  # it recommends sacremoses, which changes punctuation only
                warnings.simplefilter("ignore")
                tokenizer = MarianTokenizer.from_pretrained(where, local_files_only=offline)
            model = MarianMTModel.from_pretrained(where, local_files_only=offline)
        except ModelNotFoundError:
            raise
        except Exception as error:  # transformers, safetensors and sentencepiece raise many kinds
            reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
            raise CheckpointError(f"cannot read a Marian model from {readable(self.model)}: {reason}") from None
        log.info("translating with %s", self.name)
        return model.eval(), tokenizer

    def _translate(self, texts: list[str]) -> list[str]:
        import torch

        model, tokenizer = self._loaded
        with torch.inference_mode():
            tokens = tokenizer(texts, return_tensors="pt", padding=True, truncation=True)
            out = cast(Any, model).generate(**tokens, max_new_tokens=LONGEST, do_sample=False)  # its stub has no self
        return [text.strip().rstrip(".。").strip() for text in tokenizer.batch_decode(out, skip_special_tokens=True)]

    # --- the cache -----------------------------------------------------------------------------------------------------

    @cached_property
    def _file(self) -> Path | None:
        folder = cache_folder()
        return None if folder is None else folder / "translations" / f"{files_fingerprint(self._folder)}.json"

    def _kept(self) -> dict[str, str]:
        try:
            values = {} if self._file is None else json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return {k: v for k, v in values.items() if isinstance(v, str)} if isinstance(values, dict) else {}

    def _keep(self, made: Mapping[str, str]) -> None:
        """Add translations to the file; another process may have written it in the meantime."""
        if self._file is None:
            return
        try:
            content = json.dumps(self._kept() | dict(made), ensure_ascii=False, indent=0, sort_keys=True)
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._file, content)
        except (OSError, OutputError) as error:
            log.info("caching translations in %s is disabled: %s", self._file, error)


def files_fingerprint(folder: Path, *, blocks: int = 64, size: int = 4096) -> str:
    """A digest (16 digits) of the files in a folder: small ones whole, of large ones the size and evenly spaced blocks."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")):
        length = path.stat().st_size
        digest.update(f"{path.name} {length}\n".encode())
        with path.open("rb") as file:
            step = max(size, length // blocks)
            for start in range(0, length, step):
                file.seek(start)
                digest.update(file.read(size))
    return digest.hexdigest()[:16]


def _check_installed(package: str) -> None:
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise MissingExtraError.of(package, "translate", "translating prompts")
