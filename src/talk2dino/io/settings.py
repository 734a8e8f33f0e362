"""Settings from files and flags, and the differences between those of two runs."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from talk2dino.errors import DataError, InputError, suggestion
from talk2dino.io.names import readable

Options = TypeVar("Options", bound=BaseModel)


def read_document(path: str | Path, what: str = "file") -> Any:
    """Read a YAML or (by its suffix) JSON file of any content.

    Raises:
        InputError: the file cannot be read, is not UTF-8 text, or is not valid.
    """
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        if Path(path).suffix.lower() == ".json":
            return json.loads(text)
        return yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"cannot read the {what} {readable(path)}: {' '.join(str(error).split())}") from None


def read_yaml(path: str | Path, what: str = "configuration") -> dict[str, Any]:
    """Read a YAML (or JSON) file of ``name: value`` lines; an empty file has none.

    Raises:
        InputError: the file cannot be read, is not valid YAML, or does not hold ``name: value`` lines.
    """
    values = read_document(path, what)
    if not isinstance(values, dict | None):
        raise InputError(f"the {what} {readable(path)} must contain 'name: value' lines; got a {type(values).__name__}")
    return values or {}


def parse_values(given: Iterable[str]) -> dict[str, Any]:
    """``["segments=4", "variant=patches"]`` to ``{"segments": 4, "variant": "patches"}``; values are read as YAML.

    Raises:
        InputError: an entry is not NAME=VALUE.
    """
    import yaml

    found = {}
    for item in given:
        name, sign, value = item.partition("=")
        if not sign or not name.strip():
            raise InputError(f"{item!r} is not NAME=VALUE")
        try:
            found[name.strip().replace("-", "_")] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InputError(f"cannot read the value of {item!r} as YAML") from None
    return found


def read_json(path: str | Path, what: str = "file") -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Raises:
        DataError: the file cannot be read or does not hold one JSON object.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read the {what} {readable(path)}: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise DataError(f"the {what} {readable(path)} must hold a JSON object; got a {type(values).__name__}")
    return values


def read_lines(path: str | Path, what: str = "file", *, keep_empty: bool = False) -> list[str]:
    """Read the lines of a text file, without surrounding blanks.

    Args:
        keep_empty: keep empty lines, except at the end, because the place of a line means something.

    Raises:
        DataError: the file cannot be read as UTF-8 text, or is empty.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the {what} {path}: {error}") from None
    lines = [line.strip() for line in text.rstrip().splitlines()]
    lines = lines if keep_empty else [line for line in lines if line]
    if not lines:
        raise DataError(f"the {what} {path} is empty: expected one entry per line")
    return lines


def build_options(kind: type[Options], values: Mapping[str, Any], what: str = "option") -> Options:
    """Validate ``values`` with a pydantic model.

    Raises:
        InputError: one sentence per refused value: the option, what is accepted, and what was given.
    """
    try:
        return kind(**values)
    except ValidationError as error:
        raise InputError("; ".join(_sentence(item, kind, what) for item in error.errors())) from None


def _sentence(item: Any, kind: type[BaseModel], what: str) -> str:
    message, name = item["msg"].removeprefix("Value error, "), ".".join(map(str, item["loc"]))
    if not name:
        return message
    if item["type"] == "extra_forbidden":
        return f"unknown {what} {name!r}{suggestion(name, kind.model_fields)}"
    return f"{what} {name}: {message} (got {item['input']!r})"


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], *, ignore: Collection[str] = (),
    sides: tuple[str, str] = ("before", "now"),
) -> list[str]:  # fmt: skip
    """List the differences between two settings: ``"name: 1 before, 2 now"`` per entry.

    Nested mappings are compared entry by entry (``"model.weights"``). Values are compared as JSON holds them, so a tuple
    equals a list and a path equals its text.

    Args:
        ignore: names that may differ: ``"run"`` leaves out the whole entry, ``"run.device"`` one value of it.
        sides: the words after the two values.
    """
    old, new = (_flat(json.loads(json.dumps(dict(one), default=str)), ignore) for one in (before, now))
    return [
        f"{name}: {_short(old.get(name, None))} {sides[0]}, {_short(new.get(name, None))} {sides[1]}"
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    ]


def check_same_settings(
    before: Mapping[str, Any], now: Mapping[str, Any], folder: Path, *, ignore: Collection[str] = ()
) -> None:
    """Refuse to resume the run in ``folder`` with settings that change its results.

    Raises:
        InputError: lists the settings that differ.
    """
    found = differences(before, now, ignore=ignore)
    if found:
        more = f"; and {len(found) - 6} more" if len(found) > 6 else ""
        raise InputError(
            f"{readable(folder)} holds a run with other settings ({'; '.join(found[:6])}{more}): use the same settings to resume it, "
            "or choose another output folder"
        )


def _flat(values: Mapping[str, Any], ignore: Collection[str], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        full = prefix + name
        if full in ignore:
            continue
        if isinstance(value, dict) and value:
            flat |= _flat(value, ignore, full + ".")
        elif value not in (None, {}):
            flat[full] = value
    return flat


def _short(value: Any, longest: int = 120) -> str:
    text = "unset" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= longest else text[: longest - 4] + " ..."
