"""What several tests of larger jobs share."""

from __future__ import annotations

from talk2dino.scale.places import Place


def results(place: Place) -> dict[str, bytes]:
    """The result files of a place."""
    return {name: place.read(f"results/{name}") for name in sorted(place.names("results"))}
