"""Prompt templates: sentences that a class name is put into before the text tower reads it."""

from __future__ import annotations

from collections.abc import Sequence

from talk2dino.errors import PromptError

#: The seven templates of the published evaluation (CLIP's subset of seven).
PUBLISHED_TEMPLATES: tuple[str, ...] = (
    "itap of a {}.",
    "a bad photo of a {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)


def check_templates(templates: Sequence[str]) -> tuple[str, ...]:
    """Return templates as a tuple.

    Raises:
        PromptError: no template, or one that does not have exactly one ``{}``.
    """
    if isinstance(templates, str):
        templates = (templates,)
    for template in templates:
        if template.count("{}") != 1 or set("{}") & set(template.replace("{}", "")):
            raise PromptError(
                f"template {template!r} must have exactly one {{}} for the class name and no other braces"
            )
    if not templates:
        raise PromptError("at least one prompt template is needed, for example 'a photo of a {}.'")
    return tuple(templates)
