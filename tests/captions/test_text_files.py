from caption_files import jpeg, listed

from talk2dino.captions import open_source


def test_text_files(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.jpg", "a.PNG", "deep/c.jpg", "d.jpg"):
        (tmp_path / name).write_bytes(jpeg())
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "deep" / "c.txt").write_text("三")
    assert listed(open_source(tmp_path)) == [
        (0, "a.PNG", ("one", "two")),
        (1, "b.jpg", "its captions are not UTF-8"),
        (2, "d.jpg", "no .txt file of the same name"),
        (3, "deep/c.jpg", ("三",)),
    ]
