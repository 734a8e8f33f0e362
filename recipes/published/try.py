"""Run the published recipe unchanged on small stand-ins for everything that it needs.

    python recipes/published/try.py                          # all four models, tiny: some minutes
    python recipes/published/try.py --models dinov2-reg-base --size real --images 26

Creates in --out: COCO 2014 in its original layout (drawn scenes as JPEG, five captions each), the eight benchmarks in theirs,
and a hub cache with the repositories named in the recipe, which hold models of the right classes with random weights. Then
runs recipe.sh and checks its output files. The results are meaningless; the point is that every command works. A second call
resumes an interrupted one, as the recipe does.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from talk2dino.evaluation.datasets import BENCHMARKS
from talk2dino.io.atomic import atomic_path, write_atomically
from talk2dino.models.catalog import CATALOG, ModelSpec
from talk2dino.world import render, sample_scene, write_captions

sys.path.append(str(Path(__file__).parents[2] / "tests" / "helpers"))
from miniature import make_miniature

RECIPE = Path(__file__).with_name("recipe.sh")
MODELS = ("dinov2-reg-base", "dinov2-reg-large", "dinov3-base", "dinov3-large")
REVISION = "0" * 40
CAPTIONS = 5  # per image, as in COCO


def make_coco(folder: Path, counts: dict[str, int], height: int = 240) -> None:
    """COCO 2014: annotations/captions_{split}2014.json and {split}2014/COCO_{split}2014_{id:012}.jpg.

    Args:
        counts: split -> number of images.
        height: of landscape images, and width of portrait ones, in pixels; the longer side is 4/3 of it (COCO: 480 and 640).
    """
    seed = 0
    for split, count in counts.items():
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        (folder / f"{split}2014").mkdir(parents=True, exist_ok=True)
        for _ in range(count):
            portrait = seed % 4 == 3
            scene = sample_scene(seed, aspect=3 / 4 if portrait else 4 / 3)
            drawn = render(scene, height * 4 // 3 if portrait else height, supersample=1)
            number = 9 + 7 * seed
            name = f"COCO_{split}2014_{number:012d}.jpg"
            with atomic_path(folder / f"{split}2014" / name) as temporary:
                Image.fromarray(drawn.image).save(temporary, "JPEG", quality=90)
            rows, columns = drawn.labels.shape
            images.append({"license": 1, "file_name": name, "height": rows, "width": columns, "id": number})
            for caption in write_captions(scene, drawn, CAPTIONS, chinese_share=0):
                annotations.append(
                    {"image_id": number, "id": len(annotations) + 1, "caption": f"{caption.capitalize()}."}
                )
            seed += 1
        content = {"info": {"year": 2014}, "images": images, "licenses": [{"id": 1}], "annotations": annotations}
        write_atomically(folder / "annotations" / f"captions_{split}2014.json", json.dumps(content))


def make_vision(spec: ModelSpec, real: bool) -> Any:
    """The vision model of a catalog entry with random weights, tiny or of its real size."""
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel, DINOv3ViTConfig, DINOv3ViTModel

    layers = {"base": 12, "large": 24}[spec.name.rpartition("-")[2]] if real else 2
    width, heads = (spec.vision_dim, spec.heads) if real else (48, 3)
    shape: dict[str, Any] = {
        "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "num_register_tokens": 4,
        "patch_size": spec.patch_size,
    }  # fmt: skip
    torch.manual_seed(0)
    if spec.name.startswith("dinov3"):
        return DINOv3ViTModel(DINOv3ViTConfig(**shape, intermediate_size=4 * width))
    return Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**shape, image_size=518))


def make_clip(real: bool) -> Any:
    """CLIP with its vocabulary and random weights, tiny or of the size of ViT-B/16."""
    from transformers import CLIPConfig, CLIPModel

    width, heads, layers = (512, 8, 12) if real else (32, 2, 2)
    vision_width, vision_heads = (768, 12) if real else (32, 2)
    shared = {"num_hidden_layers": layers, "projection_dim": width}
    text = {**shared, "hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": heads}
    vision = {
        **shared, "hidden_size": vision_width, "intermediate_size": 4 * vision_width, "num_attention_heads": vision_heads,
        "patch_size": 16,
    }  # fmt: skip
    torch.manual_seed(1)
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=width))


def add_to_hub(hub: Path, repository: str, model: Any) -> None:
    """Put a model into a hub cache as if revision main of ``repository`` had been downloaded."""
    place = hub / f"models--{repository.replace('/', '--')}"
    model.save_pretrained(place / "snapshots" / REVISION)
    write_atomically(place / "refs" / "main", REVISION)


def make_everything(out: Path, models: list[str], images: int, real: bool) -> dict[str, str]:
    """Create stand-ins for everything that the recipe needs; returns the environment to run it in."""
    make_coco(out / "data" / "coco2014", {"train": images, "val": max(4, images // 4)})
    for name, benchmark in BENCHMARKS.items():
        if benchmark.folders:
            make_miniature(name, out / "data")
    (out / "photos").mkdir(parents=True, exist_ok=True)
    for seed in (101, 102):
        Image.fromarray(np.asarray(render(sample_scene(seed, aspect=4 / 3), 240).image)).save(
            out / "photos" / f"{seed}.jpg"
        )
    hub = out / "hub" / "hub"
    for name in models:
        add_to_hub(hub, CATALOG[name].repository, make_vision(CATALOG[name], real))
    add_to_hub(hub, str(CATALOG[models[0]].text), make_clip(real))
    return {
        "COCO": str(out / "data" / "coco2014"),
        "DATA": str(out / "data"),
        "PHOTOS": str(out / "photos"),
        "WORK": str(out / "work"),
        "HF_HOME": str(out / "hub"),
        "HF_HUB_OFFLINE": "1",
        "TALK2DINO_CACHE": "off",  # texts encoded with random weights are not worth caching
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def check_outputs(work: Path, model: str, images: int) -> dict[str, Any]:
    """Check the output files of the recipe.

    Raises:
        AssertionError: a file is missing or wrong.
    """
    from talk2dino.features.store import FeatureStore
    from talk2dino.models.projection import load_projection

    store = FeatureStore.open(work / "features" / model / "train", verify=True)
    assert (store.num_images, store.num_captions) == (images, CAPTIONS * images), "images are missing from the store"
    manifest = store.manifests[0]
    made = (manifest.complete, manifest.model["name"], manifest.preprocessing["size"])
    assert made == (True, model, 448), f"the store was made with other settings: {made}"
    folder = work / "psi" / model
    ours, published = load_projection(folder), load_projection(folder / "projection.pth")
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), published.parameters(), strict=True))
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [record["loss"] for record in records if "loss" in record]
    found = {
        file.parent.name: json.loads(file.read_text(encoding="utf-8"))
        for file in sorted((work / "results" / model).glob("*/results.json"))
    }
    expected = {name for name, benchmark in BENCHMARKS.items() if benchmark.folders}
    assert set(found) == expected, f"no results for {sorted(expected - set(found))}"
    overlays = list((work / "images" / model).rglob("*overlay*"))
    assert len(overlays) == 2, f"{len(overlays)} overlays of 2 images"
    steps = max(record["step"] for record in records)
    return {"model": model, "steps": steps, "first_loss": losses[0], "last_loss": losses[-1], "benchmarks": len(found)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/try-published"))
    parser.add_argument("--models", default=",".join(MODELS), help="separated by commas")
    parser.add_argument("--size", choices=("tiny", "real"), default="tiny", help="real: sizes of the published models")
    parser.add_argument("--images", type=int, default=48, help="training images, at least 26 (a batch of 128 captions)")
    options = parser.parse_args()
    models = options.models.split(",")
    if unknown := [name for name in models if name not in MODELS]:
        parser.error(f"no recipe for {', '.join(unknown)}; there are {', '.join(MODELS)}")

    out = options.out.resolve()
    environment = {**os.environ, **make_everything(out, models, options.images, options.size == "real")}
    for model in models:
        started = time.time()
        subprocess.run(["sh", str(RECIPE), model], env=environment, check=True)
        found = check_outputs(out / "work", model, options.images)
        print(json.dumps({**found, "seconds": round(time.time() - started)}), flush=True)


if __name__ == "__main__":
    main()
