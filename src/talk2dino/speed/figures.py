"""What a benchmark run finds: figures, and notes about what could not be measured."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
        section: one of :data:`talk2dino.speed.plan.SECTIONS`.
        what: what was measured, in words.
        value: in ``unit``; "x" is a ratio of two times, "share" a ratio of two rates or of pixels.
        goal: ("<=" or ">=", number), for the models and sizes that have one.
        settings: model, dtype, batch size and engine, where they matter.
        detail: further observations, in words.
    """

    section: str
    what: str
    value: float
    unit: str
    goal: tuple[str, float] | None = None
    settings: dict[str, str | int] = field(default_factory=dict)
    detail: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached; None without a goal."""
        if self.goal is None:
            return None
        sign, bar = self.goal
        return self.value <= bar if sign == "<=" else self.value >= bar


@dataclass(frozen=True)
class Note:
    """What was not measured, and why. ``failed``: the measurement was tried and raised an error."""

    section: str
    text: str
    failed: bool = False
