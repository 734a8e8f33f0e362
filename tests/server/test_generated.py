"""Requests that schemathesis makes up from the API's own description, valid ones and invalid ones: no answer is an error of the
service or a status that the description does not list."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from functools import partial

import numpy as np
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from live import Address, exchange, live_service, segment_form
from PIL import Image
from schemathesis import GenerationMode

from talk2dino.server.app import create_app
from talk2dino.server.options import ServeOptions

OPTIONS = {"model": "micro", "port": 0, "batch_milliseconds": 0, "max_upload": 1_000_000, "max_pixels": 100_000}


def png(height: int, width: int) -> bytes:
    content = io.BytesIO()
    shades = np.random.default_rng(3).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(shades).save(content, "PNG")
    return content.getvalue()


GOOD = png(23, 31)
schemathesis.openapi.format(
    "binary", st.sampled_from([GOOD, png(1, 1), png(7, 97), GOOD[:60]]) | st.binary(max_size=100)
)


@pytest.fixture(scope="module")
def running(segmenter):
    options = ServeOptions(**OPTIONS)
    app = create_app(options, segmenter)
    with live_service(app, options) as address:
        exchange(address, segment_form(GOOD, prompts="sky", refine="true"), timeout=120)  # compiles
        yield app.openapi(), address


def generate(description: dict, address: Address, per_operation: int) -> Counter[int]:
    """Send requests to every operation; some of those with an id in their path get one that exists."""
    statuses: Counter[int] = Counter()
    opened = exchange(address, segment_form(GOOD, "/v1/images")).json()["id"]
    with closing(requests.Session()) as session:
        for operation in (found.ok() for found in schemathesis.openapi.from_dict(description).get_all_operations()):
            modes = [GenerationMode.POSITIVE, *([GenerationMode.NEGATIVE] if operation.body else [])]
            known = [{"id": opened}] if "{id}" in operation.path and operation.method != "delete" else []
            count = per_operation if operation.body else 1 + per_operation // 10
            for mode in modes:
                for path in [None, *known]:
                    strategy = operation.as_strategy(mode, path_parameters=path)
                    statuses += ask_all(strategy, count, partial(call, address, session, operation))
        statuses += ask_all(likely_forms(), per_operation, partial(segment, address, session, "/v1/segment"))
        statuses += ask_all(
            likely, 2 * per_operation, partial(segment, address, session, f"/v1/images/{opened}/segment")
        )
    return statuses


def ask_all(strategy: st.SearchStrategy, count: int, ask: Callable[[object], int]) -> Counter[int]:
    """Ask with ``count`` values of a strategy, always the same ones."""
    statuses: Counter[int] = Counter()

    @seed(20_26)
    @settings(
        max_examples=count,
        phases=[Phase.generate],
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(value):
        start = time.monotonic()
        statuses[ask(value)] += 1
        assert time.monotonic() - start < 10, value

    with contextlib.suppress(Unsatisfiable):  # nothing is invalid there, such as an object of any fields
        run()
    return statuses


def call(address: Address, session: requests.Session, operation, case) -> int:
    """Send a case of schemathesis; the status, which the description must list."""
    response = case.call(base_url="http://{}:{}".format(*address), session=session, timeout=20)
    documented = {*operation.definition.raw["responses"], "404", "405"}  # a made up path can lead elsewhere
    assert str(response.status_code) in documented, (response.status_code, response.text[:300], case.as_curl_command())
    return response.status_code


# Values that are near what is accepted, so that they come further than those made from types alone.
words = st.sampled_from(["sky", "sand", "a red ball", "天空", "🐈", "a" * 500, "", "!", "\0", "x=y|z", "background"])
numbers = st.floats() | st.floats(0, 1) | st.integers(-5, 50)
regions = st.fixed_dictionaries({}, optional={
    "box": st.lists(numbers, min_size=3, max_size=5) | st.just([1, 1, 9, 9]), "point": st.lists(numbers, min_size=1, max_size=3),
    "rle": st.fixed_dictionaries({"size": st.just([23, 31]) | st.lists(st.integers(-1, 99), max_size=3),
                                  "counts": st.just([0, 713]) | st.lists(st.integers(-5, 800), max_size=5) | st.text(max_size=9)}),
    "image": words,
})  # fmt: skip
examples = st.dictionaries(words, st.lists(regions, max_size=3), max_size=3)
likely = st.fixed_dictionaries(
    {"prompts": st.lists(words, max_size=5) | st.dictionaries(words, st.lists(words, max_size=3) | words, max_size=4) | words},
    optional={
        "background": st.booleans() | numbers, "threshold": st.dictionaries(words, numbers, max_size=2), "negative": words,
        "clean": st.booleans() | numbers, "refine": st.booleans(), "mode": st.sampled_from(["whole", "slide", "square", "round"]),
        "method": st.sampled_from(["talk2dino", "clip-dense", "dino-clusters", "freeda", "other"]), "examples": examples,
        "negative_examples": examples, "format": st.sampled_from(["json", "png", "overlay", "npz", "exe"]),
    },
)  # fmt: skip


def likely_forms() -> st.SearchStrategy:
    texts = likely.map(
        lambda ask: {name: value if isinstance(value, str) else json.dumps(value) for name, value in ask.items()}
    )
    return st.tuples(texts, st.sampled_from([GOOD, png(1, 1), png(7, 97), png(300, 2), GOOD[:70]]))


def segment(address: Address, session: requests.Session, path: str, value) -> int:
    """POST an ask as JSON, or as a form with an image."""
    url = "http://{}:{}{}".format(*address, path)
    if isinstance(value, dict):
        response = session.post(url, data=json.dumps(value), headers={"Content-Type": "application/json"}, timeout=20)
    else:
        response = session.post(url, data=value[0], files={"image": ("a.png", value[1])}, timeout=20)
    assert response.status_code in (200, 400, 404, 413, 415, 422), (response.status_code, response.text, value)
    return response.status_code


def check_afterwards(address: Address) -> None:
    answer = exchange(address, segment_form(GOOD, prompts="sky"))
    assert answer is not None
    assert answer.status == 200


def test_a_few_hundred_generated_requests(running):
    statuses = generate(*running, per_operation=5)
    assert statuses[200] > 10
    assert statuses[422] > 20
    assert statuses.total() > 100
    check_afterwards(running[1])


@pytest.mark.long
@pytest.mark.timeout(900)
def test_two_thousand_generated_requests(running):
    statuses = generate(*running, per_operation=120)
    print(dict(statuses))
    assert statuses.total() >= 2000
    check_afterwards(running[1])
