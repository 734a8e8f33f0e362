"""``talk2dino models``: the catalog, and what of it is on this machine."""

from __future__ import annotations

from typing import Annotated

import typer


def models(as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False) -> None:
    """List the named models and whether they are on this machine."""
    import json
    from dataclasses import asdict

    from talk2dino.models.catalog import list_models
    from talk2dino.models.hub import is_cached

    rows = [(spec, is_cached(spec)) for spec in list_models()]
    if as_json:
        print(json.dumps([asdict(spec) | {"cached": cached} for spec, cached in rows], ensure_ascii=False, indent=2))
        return
    width = max(len(spec.name) for spec, _ in rows)
    for spec, cached in rows:
        where = "in the package" if spec.kind == "embedded" else "cached" if cached else "not cached"
        gate = ", gated" if spec.gated else ""
        print(f"{spec.name:<{width}}  {where:<14}  {spec.repository}{gate}")
        print(f"{'':<{width}}  {spec.summary}")
