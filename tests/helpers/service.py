"""Requests that tests of the service share."""

from __future__ import annotations

import json


def post_image(client, image, **fields):
    """POST /v1/segment."""
    given = {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}
    return client.post("/v1/segment", files={"image": ("scene.png", image, "image/png")}, data=given)


def keep_image(client, image) -> str:
    """POST /v1/images; the id."""
    answer = client.post("/v1/images", files={"image": ("scene.png", image, "image/png")})
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]
