"""Videos from disk to disk (extra ``video``): overlay MP4 with sound, label files, JSON lines. See docs/video.md.

    io/sequences.py (frames) -> steady.py (labels) -> pieces of a few seconds on disk -> joined when the last one is there

- ``options``: which frames, and how steady
- ``find``: which inputs are videos
- ``overlay``, ``encode``: frames with their classes drawn, as H.264
- ``join``: pieces to one file, with the sound of the source
- ``run``: one video, resumable
"""
