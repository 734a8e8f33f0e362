"""Videos, folders and animated images as frames: numbers, times and pixels, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from films import moving_square, write_sound, write_video
from PIL import Image

from talk2dino.errors import ImageError, InputError
from talk2dino.io.frames import choose_frames, read_seconds
from talk2dino.io.sequences import open_frames

FRAMES = moving_square(31)


@pytest.fixture
def lossless(tmp_path):
    return write_video(tmp_path / "a.mkv", FRAMES, options={"g": "7"})


def arrays(source, numbers):
    return [(frame.number, frame.image.array) for frame in source.read(numbers)]


def test_frames_are_those_that_were_written(lossless):
    source = open_frames(lossless)
    assert source.size == (61, 97)
    np.testing.assert_allclose(source.times, np.arange(31) / 25, atol=1e-3)
    assert source.duration == pytest.approx(31 / 25, abs=2e-3)
    for number, array in arrays(source, range(31)):
        np.testing.assert_array_equal(array, FRAMES[number])


@pytest.mark.parametrize("wanted", [[29], [3, 4, 23], [0, 30], [13, 14, 15]])
def test_sought_frames_are_the_same(lossless, wanted):
    found = arrays(open_frames(lossless), wanted)
    assert [number for number, _ in found] == wanted
    for number, array in found:
        np.testing.assert_array_equal(array, FRAMES[number])


def test_a_seek_goes_to_the_key_frame_before_and_not_to_the_start(lossless, monkeypatch):
    source = open_frames(lossless)
    decoded = []
    decode = type(source)._decode
    monkeypatch.setattr(
        type(source),
        "_decode",
        lambda *a: ((decoded.append(number), (number, frame))[1] for number, frame in decode(*a)),
    )
    arrays(source, [2, 29])
    assert max(decoded) == 29
    assert not {10, 15, 20} & set(decoded)


def test_time_stamps_may_lie_anywhere(tmp_path):
    times = [0, 20, 120, 130, 400, 1000, 1010]
    source = open_frames(write_video(tmp_path / "v.mkv", FRAMES[:7], times=times))
    np.testing.assert_allclose(source.times, np.array(times) / 1000)
    assert choose_frames(source.times, every=0.1).tolist() == [0, 2, 4, 5]
    assert [frame.seconds for frame in source.read([2, 5])] == pytest.approx([0.12, 1.0])


@pytest.mark.parametrize(
    ("name", "codec", "pixels", "options"),
    [
        ("a.mp4", "libx264", "yuv420p", {}),  # B-frames: packets in another order than frames
        ("a.avi", "libx264", "yuv420p", {}),  # no time stamps of frames
        ("a.ts", "mpeg2video", "yuv420p", {"bf": "2", "qmin": "1", "qmax": "2"}),
        ("a.webm", "libvpx-vp9", "yuv420p", {}),
        ("a.mp4", "libx265", "yuv420p10le", {"x265-params": "log-level=none"}),  # 10 bit
    ],
)
def test_containers_and_codecs(tmp_path, name, codec, pixels, options):
    frames = [frame[:60, :96] for frame in FRAMES]
    source = open_frames(write_video(tmp_path / name, frames, codec=codec, pixels=pixels, options=options))
    assert len(source.times) == 31
    np.testing.assert_allclose(source.times, np.arange(31) / 25, atol=2e-3)
    for number, array in arrays(source, [0, 7, 8, 30]):
        assert abs(int(array[3, 3, 0]) - number * 5) < 12, number
        assert np.abs(array.astype(int) - frames[number]).mean() < 25


@pytest.mark.parametrize(("rotation", "turns"), [(90, 1), (-90, 3), (180, 2)])
def test_rotation_is_undone(tmp_path, rotation, turns):
    frames = [frame[:60, :96] for frame in FRAMES[:3]]
    path = write_video(
        tmp_path / "r.mp4", frames, codec="libx264rgb", pixels="rgb24", options={"crf": "0"}, rotation=rotation
    )
    source = open_frames(path)
    assert source.size == ((96, 60) if turns % 2 else (60, 96))
    assert "rotation applied" in source.notes
    np.testing.assert_array_equal(arrays(source, [1])[0][1], np.rot90(frames[1], turns))


def test_a_folder_of_frames(tmp_path):
    for number in (0, 1, 2, 10):
        Image.fromarray(FRAMES[number]).save(tmp_path / f"shot{number}.png")
    source = open_frames(tmp_path, fps=5)
    np.testing.assert_allclose(source.times, [0, 0.2, 0.4, 0.6])
    np.testing.assert_array_equal(arrays(source, [3])[0][1], FRAMES[10])
    Image.fromarray(FRAMES[0][:50]).save(tmp_path / "shot1.png")
    with pytest.raises(ImageError, match=r"shot1.png is 50 x 97 and the first one 61 x 97"):
        arrays(source, [0, 1])


def test_an_animated_gif_and_its_durations(tmp_path):
    images = [Image.fromarray(np.full((23, 29, 3), value, dtype=np.uint8)) for value in (10, 90, 200)]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=[100, 300, 50], loop=0)
    source = open_frames(tmp_path / "a.gif")
    np.testing.assert_allclose(source.times, [0, 0.1, 0.4])
    assert source.duration == pytest.approx(0.45)
    assert [int(array[11, 11, 0]) for _, array in arrays(source, [0, 2])] == [10, 200]
    images[0].save(tmp_path / "still.gif")
    with pytest.raises(ImageError, match="not animated"):
        open_frames(tmp_path / "still.gif")


# --- what is refused ------------------------------------------------------------------------------------------------------


def test_not_a_video(tmp_path):
    for name, content, words in (
        ("text.mp4", b"no video at all, but some text that is long enough", "is not a video that can be read"),
        ("empty.mp4", b"", "is empty"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match=words):
            open_frames(tmp_path / name)
    with pytest.raises(ImageError, match=r"no such file: .*did you mean text.mp4"):
        open_frames(tmp_path / "texd.mp4")
    with pytest.raises(ImageError, match="has no video: it holds only sound"):
        open_frames(write_sound(tmp_path / "tone.mp4"))


def test_without_an_index(tmp_path):
    path = write_video(tmp_path / "a.mp4", [frame[:60, :96] for frame in FRAMES], codec="libx264", pixels="yuv420p")
    content = path.read_bytes()
    path.write_bytes(content[: content.rfind(b"moov") - 4])
    with pytest.raises(ImageError, match="has no index"):
        open_frames(path)


def cut_video(path, share):
    """An MP4 with its index in front, of which a share of the bytes is there."""
    frames = [frame[:60, :96] for frame in moving_square(60)]
    write_video(path, frames, codec="mpeg4", pixels="yuv420p", options={"g": "5"})
    import av

    front = path.with_name("front.mp4")
    with av.open(str(path)) as source, av.open(str(front), "w", options={"movflags": "faststart"}) as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    content = front.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def test_cut_in_the_middle(tmp_path):
    path = cut_video(tmp_path / "cut.mp4", 0.6)
    with pytest.raises(ImageError, match=r"cut.mp4 is truncated: it ends at \d.\d s of 2.4 s; .*--allow-truncated"):
        open_frames(path)
    source = open_frames(path, allow_truncated=True)
    assert 2 < len(source.times) < 50
    assert "truncated" in source.notes[0]
    read = arrays(source, range(len(source.times)))
    assert len(read) >= len(source.times) - 1  # the last packet may be cut itself


def test_damaged_in_the_middle(tmp_path):
    frames = [frame[:60, :96] for frame in FRAMES]
    path = write_video(tmp_path / "a.mkv", frames, codec="mjpeg", pixels="yuvj420p")
    whole = dict(arrays(open_frames(path), range(31)))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 9000] = bytes(9000)
    path.write_bytes(content)
    source = open_frames(path)
    with pytest.raises(ImageError, match=r"a.mkv is damaged at 0.\d\d s .*--allow-truncated"):
        arrays(source, range(len(source.times)))
    source = open_frames(path, allow_truncated=True)
    read = dict(arrays(source, range(len(source.times))))
    assert 10 < len(read) < 31
    np.testing.assert_array_equal(read[0], whole[0])


def test_more_pixels_than_allowed(lossless):
    with pytest.raises(ImageError, match="5,917 pixels"):
        open_frames(lossless, max_pixels=5000)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("0.5s", 0.5), ("250ms", 0.25), ("90", 90), ("1:30", 90), ("0:01:30.5", 90.5), (2, 2), ("2 min", 120)],
)
def test_times(given, seconds):
    assert read_seconds(given) == pytest.approx(seconds)


@pytest.mark.parametrize("given", ["", "soon", "-1", "1:2:3:4", "nan"])
def test_no_times(given):
    with pytest.raises(InputError, match="is not a time"):
        read_seconds(given)


def test_which_frames_are_chosen():
    times = np.arange(50) / 25
    assert choose_frames(times, start=0.2, end=0.4).tolist() == [5, 6, 7, 8, 9]
    assert choose_frames(times, every=0.5).tolist() == [0, 13, 25, 38]
    with pytest.raises(InputError, match=r"the last frame of the video is at 1.960 s"):
        choose_frames(times, start=7)
    with pytest.raises(InputError, match="every more than 0"):
        choose_frames(times, every=0)
