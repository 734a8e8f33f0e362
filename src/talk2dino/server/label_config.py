"""Labelling configurations of Label Studio: which controls want masks, of which image, for which words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from xml.etree import ElementTree

from talk2dino.errors import DataError

#: Tags whose regions this service can predict.
CONTROLS = ("BrushLabels", "PolygonLabels")


@dataclass(frozen=True)
class Control:
    """One control of the configuration.

    Attributes:
        name, image: names of the control and of the image that it belongs to.
        key: of the task's data, where the address of the image is.
        polygons: whether it wants polygons; otherwise brush masks.
        labels: label -> the words that describe it.
        threshold: score below which a pixel gets no label; None for the model's own.
    """

    name: str
    image: str
    key: str
    polygons: bool
    labels: dict[str, tuple[str, ...]]
    threshold: float | None = None


def read_controls(config: str) -> list[Control]:
    """The controls for brush masks and polygons on images.

    A label's words are its value, or the words in its attribute ``predicted_values``, separated by commas, as in Label
    Studio's own ML backends. A control's attribute ``model_score_threshold`` is its threshold.

    Raises:
        DataError: not XML, or no such control.
    """
    if re.search(r"<!\s*(DOCTYPE|ENTITY)", config, re.IGNORECASE):
        raise DataError("the labelling configuration declares a document type or entities, which are not read")
    try:
        tags = list(ElementTree.fromstring(config).iter())
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"the labelling configuration is not valid XML: {error}") from None
    images = {tag.get("name", ""): tag.get("value", "") for tag in tags if tag.tag == "Image"}
    found = [_control(tag, images) for tag in tags if tag.tag in CONTROLS and tag.get("toName") in images]
    controls = [control for control in found if control.labels]
    if not controls:
        raise DataError(
            f"the labelling configuration has no {' or '.join(CONTROLS)} with labels on an Image; add one, for example "
            '<Image name="image" value="$image"/> <BrushLabels name="label" toName="image"><Label value="sky"/></BrushLabels>'
        )
    return controls


def _control(tag: ElementTree.Element, images: dict[str, str]) -> Control:
    image, labels = tag.get("toName", ""), {}
    for label in tag.iter("Label"):
        value = label.get("value", "").strip()
        words = tuple(word.strip() for word in label.get("predicted_values", "").split(",") if word.strip())
        if value and not value.startswith("$"):
            labels[label.get("alias") or value] = words or (value,)
    given = tag.get("model_score_threshold", "")
    try:
        threshold = float(given) if given else None
    except ValueError:
        raise DataError(f"model_score_threshold of {tag.get('name')!r} must be a number; got {given[:40]!r}") from None
    return Control(tag.get("name", ""), image, images[image].lstrip("$"), tag.tag == "PolygonLabels", labels, threshold)
