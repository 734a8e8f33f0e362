"""``talk2dino models``: the named models, and which of them are on this machine."""

from __future__ import annotations

from typing import Annotated

import typer


def models(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list on stdout.")] = False) -> None:
    """List the named models, where they come from, and whether they are on this machine.

    Example: talk2dino models --json
    """
    from dataclasses import asdict

    from talk2dino.models.catalog import list_models
    from talk2dino.models.hub import is_cached

    rows = [(spec, is_cached(spec)) for spec in list_models()]
    if as_json:
        from talk2dino.io.console import print_json

        print_json([asdict(spec) | {"cached": cached} for spec, cached in rows])
        return
    width = max(len(spec.name) for spec, _ in rows)
    for spec, cached in rows:
        where = "in the package" if spec.kind == "embedded" else "cached" if cached else "not cached"
        print(f"{spec.name:<{width}}  {where:<14}  {spec.repository}{', gated' if spec.gated else ''}")
        print(f"{'':<{width}}  {spec.summary}")
