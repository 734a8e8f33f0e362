"""``talk2dino freeda build``: the prototypes that the method freeda retrieves from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

freeda = typer.Typer(help="Prototypes for the method freeda.", no_args_is_help=True, rich_markup_mode=None)


@freeda.callback()
def about() -> None:
    """Prototypes for the method freeda."""


_Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the prototypes; a stopped build goes on there.")]
_Model = Annotated[str, typer.Option("--model", "-m", help="Model whose vision and text towers are used.")]
_World = Annotated[int | None, typer.Option(min=1, help="From this many procedural training scenes with masks.")]
_FirstSeed = Annotated[int, typer.Option(min=0, max=999_999, help="First scene of --world.")]
_Pictures = Annotated[Path | None, typer.Option(help="From a folder of pictures ...")]
_Masks = Annotated[Path | None, typer.Option(help="... with index PNGs of the same names in this folder ...")]
_Names = Annotated[Path | None, typer.Option(help="... and a file with the name of value 0, 1, 2 ... a line each.")]
_Captions = Annotated[Path | None, typer.Option(help="From captions, one a line, by diffusion.")]
_Pipeline = Annotated[str, typer.Option(help="Stable Diffusion for --captions: a folder or a hub id.")]
_Vocabulary = Annotated[
    Path | None, typer.Option(help="Words to look for in captions, one a line; else all but stop words.")
]
_Steps = Annotated[int, typer.Option(min=1, help="Denoising steps.")]
_PictureSize = Annotated[int, typer.Option(min=8, help="Side of generated pictures, a multiple of 8.")]
_Guidance = Annotated[float, typer.Option(help="Classifier-free guidance.")]
_Threshold = Annotated[float, typer.Option(min=0, max=1, help="Attribution above which a pixel belongs to the word.")]
_Index = Annotated[str, typer.Option(help="auto (HNSW if FAISS is installed), hnsw or exact.")]
_Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
_Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]


@freeda.command()
def build(
    out: _Out,
    model: _Model = "auto",
    world: _World = None,
    first_seed: _FirstSeed = 500_000,
    pictures: _Pictures = None,
    masks: _Masks = None,
    names: _Names = None,
    captions: _Captions = None,
    pipeline: _Pipeline = "stable-diffusion-v1-5/stable-diffusion-v1-5",
    vocabulary: _Vocabulary = None,
    steps: _Steps = 30,
    picture_size: _PictureSize = 512,
    guidance: _Guidance = 7.5,
    threshold: _Threshold = 0.5,
    index: _Index = "auto",
    device: _Device = "auto",
    dtype: _Dtype = "auto",
) -> None:
    """Make visual prototypes with text keys: by diffusion, or from pictures with masks."""
    given = [name for name, value in (("--world", world), ("--pictures", pictures), ("--captions", captions)) if value]
    if len(given) != 1:
        raise typer.BadParameter(f"give exactly one source: --world, --pictures or --captions (got {given or 'none'})")
    if pictures is not None and (masks is None or names is None):
        raise typer.BadParameter("--pictures needs --masks and --names")

    from talk2dino.cli.progress import progress
    from talk2dino.io.find import find_images
    from talk2dino.methods import prototype_build as making
    from talk2dino.methods.prototypes import check_index_kind
    from talk2dino.segmenter import Segmenter

    check_index_kind(index)
    segmenter = Segmenter.from_pretrained(model, device=device, dtype=dtype)
    source: Any
    made_from: dict[str, Any] = {}
    if world is not None:
        total, what = world, f"world, seeds {first_seed} to {first_seed + world - 1}"
        source = making.world_source(range(first_seed, first_seed + world))
    elif pictures is not None:
        assert masks is not None
        assert names is not None
        values = read_lines(names)
        listed = list(making.folder_source(pictures, masks, values))
        total, what, source = len(listed), f"pictures with masks, {pictures.name}", listed
        made_from = {
            "names": hash_lines(values),
            "pictures": hash_lines(sizes_of(find_images([pictures]))),
            "masks": hash_lines(sizes_of(masks / f"{Path(name).stem}.png" for name, _ in listed)),
        }
    else:
        assert captions is not None
        lines = read_lines(captions)
        words = None if vocabulary is None else read_lines(vocabulary)
        total, what = len(lines), f"diffusion of {captions.name} by {pipeline}"
        made_from = {
            "captions": hash_lines(lines), "vocabulary": None if words is None else hash_lines(words), "steps": steps,
            "picture_size": picture_size, "guidance": guidance, "threshold": threshold,
        }  # fmt: skip
        source = making.diffusion_source(
            making.load_pipeline(pipeline, segmenter.device), lines, vocabulary=words, steps=steps,
            size=(picture_size, picture_size), guidance=guidance, threshold=threshold,
        )  # fmt: skip
    with progress(total, "prototypes") as shown:
        count = making.build_prototypes(
            segmenter.towers, source, out, what=what, made_from=made_from, index=index, shard_size=512 if captions is None else 64,
            progress=lambda done, made: shown.advance(done - shown.done),
        )  # fmt: skip
    kind = "HNSW index" if (out / "index.faiss").is_file() else "exact search"
    print(f"{count} prototypes in {out} ({kind})")


def hash_lines(lines: Iterable[str]) -> str:
    """SHA-256 (first 16 digits) of lines in their order."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def sizes_of(files: Iterable[Path]) -> list[str]:
    """Name and size in bytes of each file: another set of files is told without reading it."""
    return [f"{path.name} {path.stat().st_size}" for path in files]


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty."""
    from talk2dino.errors import DataError

    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {error}") from None
    lines = [line for line in lines if line]
    if not lines:
        raise DataError(f"{path} is empty")
    return lines
