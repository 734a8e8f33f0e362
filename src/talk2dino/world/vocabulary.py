"""The words of the procedural world: eight backgrounds, eight objects, their colours, in English and Chinese.

The order of :data:`CLASSES` is the order of the label values that :func:`talk2dino.world.render` writes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Concept:
    """One class of the world: the words that captions use for it, and the colours of an object.

    ``english[0]`` and ``chinese[0]`` are the usual words; the others are synonyms that captions use rarely. Training
    scenes show ``held_out_colours`` on other objects, but never on this one.
    """

    english: tuple[str, ...]
    chinese: tuple[str, ...]
    colours: tuple[str, ...] = ()
    held_out_colours: tuple[str, ...] = ()
    mass: bool = False  # a mass noun takes no article: "grass", not "a grass"

    @property
    def name(self) -> str:
        return self.english[0]


BACKGROUNDS: tuple[Concept, ...] = (
    Concept(("sky", "daytime sky", "heavens"), ("天空", "蓝天"), mass=True),
    Concept(("grass", "lawn", "meadow"), ("草地", "草坪"), mass=True),
    Concept(("water", "sea", "lake"), ("水面", "海水"), mass=True),
    Concept(("sand", "beach", "desert"), ("沙地", "沙滩"), mass=True),
    Concept(("brick wall", "bricks", "masonry"), ("砖墙", "红砖")),
    Concept(("wood floor", "wooden planks", "floorboards"), ("木地板", "木板")),
    Concept(("night sky", "starry sky", "stars"), ("夜空", "星空"), mass=True),
    Concept(("road", "street", "asphalt"), ("马路", "公路")),
)

OBJECTS: tuple[Concept, ...] = (
    Concept(("ball", "beach ball", "sphere"), ("球", "皮球"), ("red", "blue", "green"), ("purple", "orange")),
    Concept(("box", "crate", "cube"), ("箱子", "盒子"), ("orange", "yellow", "white"), ("red", "blue")),
    Concept(("tree", "pine", "plant"), ("树", "树木"), ("green", "orange", "yellow"), ("red", "purple")),
    Concept(("house", "cottage", "building"), ("房子", "小屋"), ("white", "yellow", "pink"), ("blue", "green")),
    Concept(("fish", "goldfish", "carp"), ("鱼", "金鱼"), ("blue", "orange", "green"), ("red", "pink")),
    Concept(("mushroom", "toadstool", "fungus"), ("蘑菇", "毒蘑菇"), ("red", "orange", "purple"), ("blue", "green")),
    Concept(("car", "automobile", "vehicle"), ("汽车", "轿车"), ("red", "blue", "black"), ("yellow", "green")),
    Concept(("boat", "sailboat", "ship"), ("船", "帆船"), ("green", "red", "black"), ("orange", "blue")),
)

CLASSES: tuple[Concept, ...] = BACKGROUNDS + OBJECTS
CLASS_NAMES: tuple[str, ...] = tuple(concept.name for concept in CLASSES)

#: RGB, 0..1.
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.12, 0.12),
    "orange": (0.96, 0.55, 0.08),
    "yellow": (0.96, 0.86, 0.15),
    "green": (0.13, 0.60, 0.22),
    "blue": (0.13, 0.30, 0.85),
    "purple": (0.55, 0.20, 0.70),
    "pink": (0.96, 0.60, 0.75),
    "white": (0.93, 0.93, 0.93),
    "black": (0.13, 0.13, 0.14),
}

COLOURS_CHINESE: dict[str, str] = {
    "red": "红色", "orange": "橙色", "yellow": "黄色", "green": "绿色", "blue": "蓝色",
    "purple": "紫色", "pink": "粉色", "white": "白色", "black": "黑色",
}  # fmt: skip
