"""What a plan costs, and what a cluster would make of it.

    python benchmarks/scale.py                              # all sections: about ten minutes on two cores
    python benchmarks/scale.py --only planning,status       # some of them
    python benchmarks/scale.py --only simulation --seconds-per-image 0.25 --images 10000000

overhead    images per second of ``scale work`` and ``scale run --ray local`` over those of ``talk2dino segment`` on the same folder
            (masks as run lengths in all of them): ViT-B with random weights, and micro. Loading the model does not count.
planning    seconds per million names and memory above the imports of listing and planning 10 million made names
status      seconds of ``scale status`` with 5,000 finished shards
growth      peak memory of the driver and of the object store with 3,000 and 30,000 images (micro, --ray local)
simulation  a discrete-event simulation of 1 to 1,000 nodes: shards, their varying times, nodes that fail, a storage with a
            rate; efficiency by shard size

Ratios are of one run. --quick uses fewer images.
"""

from __future__ import annotations

import argparse
import heapq
import random
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from talk2dino.io.markdown import markdown_table

SECTIONS = ("overhead", "planning", "status", "growth", "simulation")


# --- measured on this machine -----------------------------------------------------------------------------------------


def overhead(options: argparse.Namespace) -> None:
    from talk2dino.folder import FolderOptions, run_folder
    from talk2dino.scale.places import Place
    from talk2dino.scale.ray.cluster import connect
    from talk2dino.scale.ray.run import run_on_ray
    from talk2dino.scale.segment_job import plan_segment
    from talk2dino.scale.work import work
    from talk2dino.speed.workload import NAMES, load, write_photographs
    from talk2dino.words.prompts import read_prompts

    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        connect("local")
        for model, images, goals in (("random-vitb", 96, (0.95, 0.85)), ("micro", 2400, (0.8, 0.5))):
            images = images // 4 if options.quick else images
            photos = folder / f"photos-{model}"
            photos.mkdir()
            write_photographs(photos, images, (480, 640))
            segmenter = load(model, dtype="bfloat16")
            if model.startswith("random"):
                segmenter.save_pretrained(folder / model)
            source = str(folder / model) if model.startswith("random") else model
            settings = FolderOptions(
                images=(str(photos),), prompts=read_prompts(list(NAMES[:20])), model=source, dtype="bfloat16", save=("json",),
                out=folder / f"out-{model}",
            )  # fmt: skip
            segmenter = settings.load()
            run_folder(
                settings.model_copy(update={"out": folder / "warm", "images": (str(next(photos.iterdir())),)}),
                segmenter=segmenter,
            )
            started = time.perf_counter()
            run_folder(settings, segmenter=segmenter)
            plain = images / (time.perf_counter() - started)
            for what, goal in zip(("work", "ray"), goals, strict=True):
                place = Place(folder / f"{what}-{model}")
                plan_segment(place, str(photos), settings, shard_size=max(8, images // 6), segmenter=segmenter)
                started = time.perf_counter()
                seen: list[tuple[float, int]] = []
                if what == "work":
                    work(place, segmenter=segmenter)
                    rate = images / (time.perf_counter() - started)
                else:  # from the first finished shard on: before it, the actor loads the model
                    run_on_ray(place.uri, progress=partial(note, seen))
                    rate = (seen[-1][1] - seen[0][1]) / max(1e-9, seen[-1][0] - seen[0][0])
                rows.append(
                    [
                        model,
                        what,
                        f"{rate:.1f}",
                        f"{plain:.1f}",
                        f"{100 * rate / plain:.0f} %",
                        f">= {100 * goal:.0f} %",
                    ]
                )
    print(markdown_table(["model", "run", "images per second", "segment", "ratio", "goal"], rows, align="llrrrr"))


def note(seen: list[tuple[float, int]], done: int, total: int, text: str = "") -> None:
    seen.append((time.perf_counter(), done))


def planning(options: argparse.Namespace) -> None:
    names = 200_000 if options.quick else 10_000_000
    code = f"""
import random, resource, time
from talk2dino.scale.listing import Entry, sort
from talk2dino.scale.places import Place
from talk2dino.scale.plan import make_plan
import fsspec
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
def made():
    for n in range({names}):
        yield Entry(f"{{n * 7919 % {names}:08d}}/photo-{{n:09d}}.jpg", size=n % 1_000_000)
started = time.perf_counter()
plan = make_plan(Place("PLACE"), job="segment", source="made", settings={{}}, weights={{}}, entries=sort(made()))
print(plan.images, time.perf_counter() - started, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", code.replace("PLACE", folder)], capture_output=True, text=True, check=True
        )
    images, seconds, memory = done.stdout.split()
    print(
        f"planning: {int(images):,} names, {float(seconds) / int(images) * 1e6:.1f} s per million, {float(memory):.0f} MB above the imports (goal 300)"
    )


def status(options: argparse.Namespace) -> None:
    from collections import Counter

    from talk2dino.scale.listing import Entry
    from talk2dino.scale.places import Place
    from talk2dino.scale.plan import make_plan, read_shard
    from talk2dino.scale.receipts import make_receipt, write_result
    from talk2dino.scale.reports import read_status

    shards = 500 if options.quick else 5000
    with tempfile.TemporaryDirectory() as folder:
        place = Place(folder)
        plan = make_plan(
            place,
            job="segment",
            source="made",
            settings={},
            weights={},
            shard_size=1,
            entries=[Entry(f"{n:06d}.jpg") for n in range(shards)],
        )
        for number in plan.numbers():
            shard = read_shard(place, plan, number)
            files = {f"{shard.name}.parquet": b"x" * 100}
            write_result(place, shard, files, make_receipt(shard, files, rows=1, reasons=Counter(), seconds=1.0))
        started = time.perf_counter()
        found = read_status(place)
        print(f"status: {found.done:,} shards in {time.perf_counter() - started:.2f} s (goal 3)")


def growth(options: argparse.Namespace) -> None:
    from talk2dino.folder import FolderOptions
    from talk2dino.scale.places import Place
    from talk2dino.scale.segment_job import plan_segment
    from talk2dino.speed.workload import load, write_photographs
    from talk2dino.words.prompts import read_prompts

    counts = (300, 3000) if options.quick else (3000, 30000)
    peaks = []
    with tempfile.TemporaryDirectory() as name:
        photos = Path(name) / "photos"
        photos.mkdir()
        write_photographs(photos, counts[1], (96, 128))
        files = sorted(photos.iterdir())
        segmenter = load("micro", dtype="float32")
        for count in counts:
            (Path(name) / f"{count}.txt").write_text("\n".join(map(str, files[:count])))
            settings = FolderOptions(
                images=("x",), prompts=read_prompts(["sky", "grass"]), model="micro", dtype="float32", batch_size=16
            )
            place = Place(Path(name) / f"run-{count}")
            plan_segment(place, str(Path(name) / f"{count}.txt"), settings, shard_size=100, segmenter=segmenter)
            code = (
                "import resource, threading, time, ray\n"
                "from talk2dino.scale.ray.cluster import connect\n"
                "from talk2dino.scale.ray.run import run_on_ray\n"
                "connect('local')\n"
                "total, most, done = ray.cluster_resources().get('object_store_memory', 0), 0, False\n"
                "def watch():\n"
                "    global most\n"
                "    while not done:\n"
                "        most = max(most, total - ray.available_resources().get('object_store_memory', total))\n"
                "        time.sleep(0.2)\n"
                "thread = threading.Thread(target=watch, daemon=True); thread.start()\n"
                f"run_on_ray({place.uri!r})\n"
                "done = True\n"
                "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, most / 2**20)\n"
            )
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            peaks.append([float(value) for value in done.stdout.split()])
    (driver, store), (more_driver, more_store) = peaks
    print(
        f"growth from {counts[0]:,} to {counts[1]:,} images: driver {driver:.0f} -> {more_driver:.0f} MB "
        f"({more_driver / driver:.2f}; goal 1.1), object store {store:.0f} -> {more_store:.0f} MB (goal 1.1)"
    )


# --- simulated --------------------------------------------------------------------------------------------------------


def simulate(nodes: int, images: int, shard: int, options: argparse.Namespace) -> tuple[float, float, int]:
    """Seconds until the last shard, share of the nodes' time that went into it, and shards made more than once.

    A node takes the next shard, reads it through a storage that all share, works, and writes. A shard's time varies
    (lognormal); a node fails at random and comes back, and its shard is made again by somebody else.
    """
    rng = random.Random(options.seed)
    waiting = -(-images // shard)
    again = 0
    storage_free, now, useful = 0.0, 0.0, 0.0
    events: list[tuple[float, int, bool]] = [(options.start_up, node, False) for node in range(nodes)]
    heapq.heapify(events)
    last = 0.0
    while events:
        now, node, finished = heapq.heappop(events)
        if finished:
            last = max(last, now)
        if waiting == 0:
            continue
        waiting -= 1
        transfer = shard * options.megabytes_per_image / options.storage_rate
        storage_free = max(storage_free, now) + transfer  # one queue in front of the storage
        work = shard * options.seconds_per_image * rng.lognormvariate(0, options.variation)
        end = max(storage_free, now) + options.per_shard + work
        failure = now + rng.expovariate(1 / (options.hours_to_failure * 3600))
        if failure < end:
            waiting, again = waiting + 1, again + 1
            heapq.heappush(events, (failure + options.start_up, node, False))
        else:
            useful += shard * options.seconds_per_image
            heapq.heappush(events, (end, node, True))
    return last, useful / (nodes * last), again


def simulation(options: argparse.Namespace) -> None:
    rows = []
    sizes = (256, 1024, 2048, 8192)
    for nodes in (1, 10, 100, 1000):
        for size in sizes:
            seconds, efficiency, again = simulate(nodes, options.images, size, options)
            bound = options.images * options.megabytes_per_image / options.storage_rate
            limit = "storage" if bound > 0.9 * seconds else "last shards" if efficiency < 0.9 else ""
            rows.append(
                [
                    f"{nodes:,}",
                    f"{size:,}",
                    f"{seconds / 3600:,.1f}",
                    f"{nodes * seconds / 3600:,.0f}",
                    f"{100 * efficiency:.0f} %",
                    f"{again:,}",
                    limit,
                ]
            )
    print(
        f"simulation: {options.images:,} images, {options.seconds_per_image} s each, variation {options.variation}, a failure per node every "
        f"{options.hours_to_failure:g} h, storage {options.storage_rate:g} MB per second, seed {options.seed}\n"
    )
    print(
        markdown_table(
            ["nodes", "images per shard", "hours", "machine-hours", "efficiency", "made again", "limited by"],
            rows,
            align="rrrrrrl",
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, separated by commas")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--images", type=int, default=10_000_000)
    parser.add_argument("--seconds-per-image", type=float, default=0.25)
    parser.add_argument(
        "--variation", type=float, default=0.1, help="standard deviation of the logarithm of a shard's time"
    )
    parser.add_argument("--per-shard", type=float, default=1.0, help="seconds that every shard costs")
    parser.add_argument("--start-up", type=float, default=60.0, help="seconds until a node works")
    parser.add_argument("--hours-to-failure", type=float, default=200.0)
    parser.add_argument("--megabytes-per-image", type=float, default=0.1)
    parser.add_argument(
        "--storage-rate", type=float, default=2000.0, help="MB per second of the storage, for all nodes"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chosen = options.only.split(",")
    if unknown := sorted(set(chosen) - set(SECTIONS)):
        parser.error(f"unknown sections: {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    for name in chosen:
        globals()[name](options)


if __name__ == "__main__":
    main()
