import pytest

from talk2dino.captions.text_list import TextList


def test_text_list():
    given = ["", "one", "汽车", "", "half \ud800", "x" * 1000]
    texts = TextList(given[:2])
    for text in given[2:]:
        texts.append(text)
    assert list(texts) == given
    assert texts[1:5:2] == given[1:5:2]
    for place in (6, -1):
        with pytest.raises(IndexError):
            texts[place]
