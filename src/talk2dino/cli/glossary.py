"""``talk2dino glossary``: what Chinese words are understood as."""

from __future__ import annotations

from typing import Annotated

import typer


def glossary(
    words: Annotated[list[str], typer.Argument(help="Chinese words, or English ones for the Chinese that means them.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list on stdout.")] = False,
) -> None:
    """Look up words in the glossary that models for English use for Chinese prompts.

    Exit code 1: a word is not in the glossary.

    Example: talk2dino glossary 斑马线 红色的汽车 "zebra crossing"
    """
    from talk2dino.cli.console import message
    from talk2dino.io.console import print_json
    from talk2dino.words.glossary import chinese_glossary

    table = chinese_glossary()
    rows: list[dict[str, object]] = []
    for word in words:
        known, chinese = table.look_up(word), table.words_for(word)
        near = [] if known or chinese else table.near(word)
        rows.append({
            "given": word, "understood": known and known.english, "how": known and known.how, "chinese": chinese,
            "near": near,
        })  # fmt: skip
        if known or chinese:
            found = f"{known.english} ({known.how})" if known else " ".join(chinese)
            if not as_json:
                typer.echo(f"{word} -> {found}")
        else:
            like = " or ".join(f"{entry} ({english})" for entry, english in near)
            message(f"talk2dino: the glossary does not have {word!r}{f'; did you mean {like}?' if like else ''}")
    if as_json:
        print_json(rows)
    if not all(row["understood"] or row["chinese"] for row in rows):
        raise typer.Exit(1)
