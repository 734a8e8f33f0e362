"""``talk2dino compare``: the systems side by side, on a picture or on a benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from talk2dino.cli.evaluate import EvaluationProgress, parse_method_options

_Picture = Annotated[Path | None, typer.Argument(help="A picture; or none, with --benchmark.", show_default=False)]
_Prompts = Annotated[str | None, typer.Option("--prompts", "-p", help='Words for the picture: "sky, grass, car".')]
_Benchmark = Annotated[str | None, typer.Option("--benchmark", "-b", help="Compare on a benchmark, such as world.")]
_Data = Annotated[Path | None, typer.Option(help="Data of the benchmark.")]
_Methods = Annotated[str, typer.Option(help="Systems, separated by commas.")]
_Model = Annotated[str, typer.Option("--model", "-m", help="Model whose towers all systems use.")]
_Projection = Annotated[Path | None, typer.Option(help="A psi of your own, or a folder that 'talk2dino train' made.")]
_Mode = Annotated[str | None, typer.Option(help="slide, whole or square; a picture whole, a benchmark as published.")]
_Synonyms = Annotated[Path | None, typer.Option(help="Benchmark: file with 'class = synonym | synonym' lines.")]
_Prototypes = Annotated[Path | None, typer.Option(help="freeda: prototype folder; for world it is made when missing.")]
_PrototypeScenes = Annotated[
    int, typer.Option(min=1, help="freeda on world: training scenes its prototypes come from.")
]
_Option = Annotated[
    list[str] | None, typer.Option("--option", help="Option of a method, METHOD.name=value; repeatable.")
]
_Background = Annotated[float | None, typer.Option(min=-1, max=1, help="Picture: talk2dino's background threshold.")]
_Clean = Annotated[bool | None, typer.Option("--clean/--no-clean", help="Picture: talk2dino's background cleaning.")]
_Refine = Annotated[bool, typer.Option("--refine/--no-refine", help="Picture: sharpen the masks (PAMR).")]
_Plain = Annotated[bool, typer.Option("--plain", help="Benchmark: without the lines with cleaning and refinement on.")]
_HeldOut = Annotated[
    str | None,
    typer.Option(metavar="one|all", help="world: one object a scene, or all, in colours training never showed."),
]
_Limit = Annotated[int | None, typer.Option(min=1, help="Benchmark: only the first N pictures.")]
_Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the picture, table and reports.")]
_Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
_Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
_AsJson = Annotated[bool, typer.Option("--json", help="Print the table as JSON on stdout.")]


def compare(
    picture: _Picture = None,
    prompts: _Prompts = None,
    benchmark: _Benchmark = None,
    data: _Data = None,
    methods: _Methods = "talk2dino,clip-dense,dino-clusters,freeda",
    model: _Model = "auto",
    projection: _Projection = None,
    mode: _Mode = None,
    synonyms: _Synonyms = None,
    prototypes: _Prototypes = None,
    prototype_scenes: _PrototypeScenes = 2000,
    option: _Option = None,
    background: _Background = None,
    clean: _Clean = None,
    refine: _Refine = False,
    plain: _Plain = False,
    held_out: _HeldOut = None,
    limit: _Limit = None,
    out: _Out = Path("compare"),
    device: _Device = "auto",
    dtype: _Dtype = "auto",
    as_json: _AsJson = False,
) -> None:
    """Show why this method and not another: all systems on one picture, or in one table."""
    if (picture is None) == (benchmark is None):
        raise typer.BadParameter("give a PICTURE with --prompts, or --benchmark NAME (one of the two)")
    if picture is not None and prompts is None:
        raise typer.BadParameter("a picture needs --prompts", param_hint="--prompts")
    if picture is not None and synonyms is not None:
        raise typer.BadParameter("a picture has its synonyms in --prompts, as in car=red car|automobile")

    from talk2dino.cli.usage import split_names, usage
    from talk2dino.evaluation.compare import wrap_all
    from talk2dino.methods import check_options, method_names
    from talk2dino.models.preprocess import check_mode
    from talk2dino.segmenter import Segmenter

    names = split_names(methods)
    if not names:
        raise typer.BadParameter(f"name at least one system: {', '.join(method_names())}", param_hint="--methods")
    options = _own_options(option or [])
    with usage():
        for name in (*names, *options):
            check_options(name, [key for key in options.get(name, {}) if key != "background"])
        check_mode(mode or "whole")
    base: dict[str, Any] = {
        "benchmark": benchmark, "data": data, "model": model, "projection": projection, "mode": mode, "synonyms": synonyms,
        "limit": limit, "held_out": held_out, "device": device, "dtype": dtype,
    }  # fmt: skip
    _check_inputs(picture, prompts, base)
    segmenter = Segmenter.from_pretrained(model, projection=projection, device=device, dtype=dtype)
    # Systems that can be refused are made first; prototypes take minutes.
    if "freeda" in names and prototypes is None:
        wrap_all(segmenter, [name for name in names if name != "freeda"], options, None)
        names, prototypes = _prototypes_for(segmenter, names, benchmark, out, prototype_scenes)
    if prototypes is not None and "freeda" in names:
        options.setdefault("freeda", {})["prototypes"] = str(prototypes)
    systems = wrap_all(segmenter, names, options, None)
    if benchmark is None:
        _compare_picture(
            systems, picture, prompts, out, background=background, clean=clean, refine=refine, mode=mode or "whole"
        )
        return
    _compare_benchmark(systems, base, options, out, not plain, as_json)


def _check_inputs(picture: Path | None, prompts: str | None, base: dict[str, Any]) -> None:
    """What is wrong with the picture, the words or the data is told before a model is loaded or anything is made."""
    from talk2dino.cli.usage import usage
    from talk2dino.evaluation.options import make_options
    from talk2dino.evaluation.protocol import benchmark_prompts, open_samples
    from talk2dino.io.images import read_image
    from talk2dino.prompts import parse_prompts

    if picture is not None:
        parse_prompts(prompts or "")
        read_image(picture)
        return
    with usage():
        asked = make_options(base)
    benchmark_prompts(open_samples(asked)[0], asked)


def _own_options(given: list[str]) -> dict[str, dict[str, Any]]:
    """["clip-dense.variant=patches"] to {"clip-dense": {"variant": "patches"}}."""
    found: dict[str, dict[str, Any]] = {}
    for item in given:
        method, dot, rest = item.partition(".")
        if not dot:
            raise typer.BadParameter(f"{item!r} is not METHOD.name=value", param_hint="--option")
        found.setdefault(method, {}).update(parse_method_options([rest]))
    return found


def _prototypes_for(
    segmenter: Any, names: list[str], benchmark: str | None, out: Path, count: int
) -> tuple[list[str], Path | None]:
    """For the world and for micro, prototypes are made from training scenes; else freeda is left out. Both are told."""
    import sys

    from talk2dino.cli.progress import progress
    from talk2dino.methods.prototype_build import FIRST_WORLD_SEED, build_prototypes, world_source

    if benchmark != "world" and segmenter.name != "micro":
        print("freeda is left out: it needs --prototypes DIR (talk2dino freeda build)", file=sys.stderr)
        return [name for name in names if name != "freeda"], None
    folder = out / "prototypes"
    scenes = range(FIRST_WORLD_SEED, FIRST_WORLD_SEED + count)
    if not (folder / "keys.npy").is_file():
        print(
            f"freeda needs prototypes: making them from {len(scenes)} drawn training scenes, kept in {folder} for the next "
            "call; --prototypes DIR uses others, --prototype-scenes fewer, and --methods leaves freeda out",
            file=sys.stderr,
        )
    with progress(len(scenes), "freeda: prototypes", "scene") as shown:
        build_prototypes(
            segmenter.towers, world_source(scenes), folder, what=f"world, seeds {scenes[0]} to {scenes[-1]}",
            progress=lambda done, made: shown.advance(done - shown.done),
        )  # fmt: skip
    return names, folder


def _compare_picture(systems: dict[str, Any], picture: Any, prompts: Any, out: Path, **settings: Any) -> None:
    from talk2dino.evaluation.compare import compare_picture
    from talk2dino.prompts import parse_prompts

    grid = compare_picture(systems, picture, parse_prompts(prompts), **settings)
    print(_save(grid, out / f"{Path(picture).stem}.png"))


def _compare_benchmark(
    systems: dict[str, Any], base: dict[str, Any], options: dict[str, Any], out: Path, both: bool, as_json: bool
) -> None:
    import json
    import sys

    from talk2dino.evaluation.compare import (
        compare_benchmark,
        comparison_cases,
        comparison_chart,
        comparison_dict,
        comparison_markdown,
        comparison_table,
    )
    from talk2dino.io.atomic import write_atomically

    bars: dict[str, EvaluationProgress] = {}

    def tell(name: str, done: int, total: int, metrics: Any) -> None:
        bars.setdefault(name, EvaluationProgress(name)).tell(done, total, metrics)

    rows = compare_benchmark(systems, base, both=both, out=out, progress=tell, options=options)
    for bar in bars.values():
        bar.__exit__()
    print(
        json.dumps(comparison_table(rows), ensure_ascii=False) if as_json else comparison_markdown(rows),
        end="\n" if as_json else "",
    )
    written = [
        write_atomically(out / "comparison.md", comparison_markdown(rows, exact=True)),
        write_atomically(out / "comparison.json", json.dumps(comparison_dict(rows), indent=1, ensure_ascii=False)),
        _save(comparison_chart(rows), out / "comparison.png"),
        _save(comparison_cases(systems, base, rows), out / "pictures.png"),
    ]
    print(f"written: {', '.join(map(str, written))}", file=sys.stderr)


def _save(picture: Any, path: Path) -> Path:
    import io

    from talk2dino.io.atomic import write_atomically

    content = io.BytesIO()
    picture.save(content, "PNG")
    return write_atomically(path, content.getvalue())
