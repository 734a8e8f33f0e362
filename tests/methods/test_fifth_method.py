"""The worked example of docs/methods.md, installed as another package would be."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"

RUN = """
import sys
from talk2dino.cli import main
for arguments in sys.stdin.read().splitlines():
    sys.argv = ["talk2dino", *arguments.split()]
    try:
        main()
    except SystemExit as leaving:
        print("exit code", leaving.code or 0)
"""


@pytest.fixture
def site(tmp_path):
    """A folder for PYTHONPATH with the module of the page and the metadata of a distribution."""
    page = PAGE.read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    (group, entry) = re.search(r'\[project.entry-points."(.+)"\]\n(.+)\n', page).groups()
    assert len(code.splitlines()) < 150
    metadata = tmp_path / "site" / "fifth-1.0.dist-info"
    metadata.mkdir(parents=True)
    (tmp_path / "site" / "smoothed_patches.py").write_text(code)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: fifth\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{entry.replace(chr(34), '')}\n")
    return tmp_path / "site"


def test_the_method_of_the_page_works_in_every_verb(site, tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "scene.png")
    commands = re.findall(r"^    talk2dino (.+)$", PAGE.read_text(encoding="utf-8"), re.M)
    assert [line.split()[0] for line in commands] == ["segment", "evaluate", "compare"]
    outs = ["out", "evaluated", "compared"]
    lines = [
        re.sub(r'"([^"]+)"', lambda words: words[1].replace(" ", ""), line).replace("--limit 60", "--limit 3")
        + f" --out {out} --device cpu --json"
        for line, out in zip(commands, outs, strict=True)
    ]
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", RUN], input="\n".join(lines), capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path}, timeout=280,
    )  # fmt: skip
    assert done.stdout.count("exit code 0") == 3, done.stdout + done.stderr
    assert (tmp_path / "out" / "scene.overlay.png").is_file()
    results = json.loads((tmp_path / "evaluated" / "results.json").read_text())
    assert results["config"]["system"] == {"sharpness": 10}
    rows = json.loads((tmp_path / "compared" / "comparison.json").read_text())
    assert "smoothed-patches" in json.dumps(rows)


def test_an_option_that_the_method_refuses(site, tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "scene.png")
    base = "segment scene.png --prompts sky,ball --model micro --device cpu --method smoothed-patches --option "
    done = subprocess.run(
        [sys.executable, "-c", RUN], input=f"{base}sharpness=0\n{base}sharpnes=3\n", capture_output=True, text=True,
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])},
        timeout=280,
    )  # fmt: skip
    assert "sharpness must be positive; got 0" in done.stderr
    assert "has no option 'sharpnes'; did you mean sharpness?" in " ".join(done.stderr.replace("│", " ").split())
    assert "exit code 2" in done.stdout
