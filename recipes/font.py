"""Cut the bundled font out of Noto Sans CJK SC: the characters that class names in English and Chinese need.

    apt-get install fonts-noto-cjk && pip install fonttools
    python recipes/font.py --source /usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc

Writes src/talk2dino/assets/fonts/talk2dino-sans.otf: Latin-1, basic Greek and Cyrillic, common punctuation and arrows,
kana, the 6,763 Chinese characters of GB 2312, and as much of Latin Extended-A as the source has. The font's licence (SIL
Open Font License 1.1) requires that a modified font keeps the licence and drops reserved names: the subset is therefore
called "Talk2DINO Sans", and OFL.txt is stored beside it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont

FAMILY = "Talk2DINO Sans"
RANGES = (
    (0x20, 0x7E), (0xA0, 0x17F), (0x384, 0x3CE), (0x400, 0x45F), (0x2010, 0x2027), (0x2030, 0x203A), (0x20AC, 0x20AC),
    (0x2190, 0x2193), (0x2212, 0x2212), (0x2248, 0x2248), (0x2260, 0x2265), (0x3000, 0x3017), (0x3041, 0x3096),
    (0x30A0, 0x30FE), (0xFF01, 0xFF5E),
)  # fmt: skip


def characters() -> set[int]:
    """The code points to keep. Chinese characters are rows 16 to 87 of GB 2312's code table."""
    kept = {point for first, last in RANGES for point in range(first, last + 1)}
    for row in range(16, 88):
        for cell in range(1, 95):
            try:
                kept.add(ord(bytes((0xA0 + row, 0xA0 + cell)).decode("gb2312")))
            except UnicodeDecodeError:  # not every row is full
                continue
    return kept


def rename(font: TTFont) -> None:
    """Replace the source's names; keep copyright, licence and the address of the licence."""
    names = {1: FAMILY, 2: "Regular", 3: f"{FAMILY} Regular subset", 4: FAMILY, 6: FAMILY.replace(" ", "") + "-Regular"}
    table = font["name"]
    for record in list(table.names):
        if record.nameID not in (0, 5, 13, 14) or record.langID != 0x409:
            table.removeNames(record.nameID, record.platformID, record.platEncID, record.langID)
    for name_id, text in names.items():
        table.setName(text, name_id, 3, 1, 0x409)
    cff = font["CFF "].cff
    cff.fontNames[0] = names[6]
    top = cff.topDictIndex[0]
    top.FullName, top.FamilyName = FAMILY, FAMILY


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="NotoSansCJK-Regular.ttc")
    parser.add_argument("--face", default="Noto Sans CJK SC", help="family name within the collection")
    parser.add_argument("--out", type=Path, default=Path("src/talk2dino/assets/fonts/talk2dino-sans.otf"))
    chosen = parser.parse_args()

    options = subset.Options()
    options.layout_features = ["kern"]
    options.hinting = False
    options.name_IDs = ["*"]
    options.notdef_outline = True
    options.desubroutinize = False
    options.drop_tables += ["VORG", "vhea", "vmtx", "BASE", "DSIG"]
    number = next(
        i for i in range(16) if TTFont(chosen.source, fontNumber=i, lazy=True)["name"].getDebugName(1) == chosen.face
    )
    font = TTFont(chosen.source, fontNumber=number, lazy=True, recalcTimestamp=False)
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=characters())
    subsetter.subset(font)
    rename(font)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    font.save(chosen.out)
    print(f"{chosen.out}: {len(font.getBestCmap()):,} characters, {chosen.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
