"""Small stand-ins for the frozen models, whose features can be worked out by hand."""

import hashlib
import os
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from talk2dino.features.encoders import Encoders
from talk2dino.features.extraction import extract
from talk2dino.features.options import ExtractOptions

M, D, C, SIZE = 3, 5, 7, 16


def fake_vision(pixels):
    """Patches of 8 pixels: their mean colour and two products of it; attention from the colour as well."""
    mean = torch.nn.functional.avg_pool2d(pixels, 8)  # (B, 3, h, w)
    patches = torch.cat([mean, mean[:, :2] * mean[:, 1:]], dim=1).permute(0, 2, 3, 1)
    return SimpleNamespace(patches=patches, attention=mean, cls=patches.mean((1, 2)))


def fake_embed(texts):
    """(N, C): numbers that follow from each text alone."""
    rows = [np.frombuffer(hashlib.sha256(text.encode()).digest()[:C], np.uint8) for text in texts]
    return torch.from_numpy(np.stack(rows).astype(np.float32) / 128 - 1)


def fake_encoders(name="fake"):
    return Encoders(fake_vision, fake_embed, M, D, C, SIZE, identity={"name": name, "vision_sha256": "0"})


def run_extract(source, out, encoders=None, progress=None, **options):
    """Extract with the fake encoders in small batches and shards; accepts any share of unusable records."""
    given = {"batch_size": 3, "records_per_shard": 5, "max_skipped": 1.0, **options}
    return extract(
        ExtractOptions(out=out, **given), source=source, encoders=encoders or fake_encoders(), progress=progress
    )


class Malicious:
    """An object that creates a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return (os.mkdir, (str(self.folder),))


def make_folder(folder, count=23, captions=2, size=(40, 30)):
    """Images of random noise with .txt captions."""
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        noise = np.random.default_rng(n).integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{n:04d}.png")
        (folder / f"{n:04d}.txt").write_text("".join(f"caption {n} {i}\n" for i in range(captions)))
    return folder


def blobs(directions: int, each: int, noise: float = 0.05, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of length 1 around ``directions`` separate directions, ``each`` per direction, and their numbers."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.nn.functional.normalize(torch.eye(directions, 13), dim=1)
    labels = torch.arange(directions).repeat_interleave(each)
    points = centres[labels] + noise * torch.randn(len(labels), 13, generator=generator)
    return torch.nn.functional.normalize(points, dim=1), labels
