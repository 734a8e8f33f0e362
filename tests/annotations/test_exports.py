"""A segmentation out: evidence from the model, objects, formats, supervision; and the margins against a plain computation."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from talk2dino import Segmenter
from talk2dino.annotations import load_annotations
from talk2dino.errors import InputError
from talk2dino.stages.upsample import Resize, label_margins, label_pixels, upsample
from talk2dino.world import render, sample_scene

NAMES = ["sky", "grass", "ball", "house"]


@pytest.fixture(scope="module")
def micro():
    return Segmenter.from_pretrained("micro", dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def scene():
    return render(sample_scene(7), 96).image


@pytest.mark.parametrize("negative", [0, 1])
@pytest.mark.parametrize("thresholds", [None, [0.1, 0.3, 0.2, 0.0, 0.25]])
def test_margins_are_those_of_the_scores(thresholds, negative):
    maps = torch.rand(5, 7, 11, generator=torch.Generator().manual_seed(3)) * 0.5
    floors = None if thresholds is None else torch.tensor(thresholds)
    margins = label_margins(maps, [Resize(31, 43, True)], floors, negative).numpy()
    labels = label_pixels(maps, [Resize(31, 43, True)], floors, negative).numpy()
    scores = upsample(maps[None], (31, 43))[0].numpy()
    for y, x in np.ndindex(31, 43):
        column = scores[:, y, x]
        if thresholds is None:
            expected = np.sort(column)[-1] - np.sort(column)[-2]
        elif (column > thresholds).any():
            reached = np.where(column > thresholds, column, -np.inf)
            winner = int(reached.argmax())
            expected = column[winner] - max(np.delete(reached, winner).max(), thresholds[winner])
            assert labels[y, x] == (0 if winner >= 5 - negative else winner + 1)
        else:
            expected = (np.array(thresholds) - column).min()
            assert labels[y, x] == 0
        assert margins[y, x] == pytest.approx(expected, abs=1e-6)
    one = label_margins(maps[:1], [Resize(31, 43, True)])
    assert torch.allclose(one, upsample(maps[None, :1], (31, 43))[0, 0])


@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_evidence_is_kept_on_request_and_changes_nothing_else(micro, scene, mode):
    plain = micro.segment(scene, NAMES, background=True, mode=mode)
    seg = micro.segment(scene, NAMES, background=True, mode=mode, return_evidence=True)
    assert plain.evidence is None
    assert seg == plain
    assert seg.evidence.margin.shape == seg.labels.shape
    assert seg.evidence.attention.ndim == 2
    assert seg.evidence.margin.min() >= 0
    scores = micro.segment(scene, NAMES, mode=mode, clean=False, return_scores=True, return_evidence=True)
    top = np.sort(scores.scores, axis=0)
    assert np.allclose(scores.evidence.margin, top[-1] - top[-2], atol=1e-5)


def test_a_segmentation_is_exported_and_read_again(micro, scene, tmp_path):
    Image.fromarray(scene).save(tmp_path / "scene.png")
    seg = micro.segment(tmp_path / "scene.png", NAMES, background=True, return_evidence=True)
    assert seg.export(tmp_path / "x.json", "coco", image=tmp_path / "scene.png", instances=True, smallest_area=9) == ()
    back = load_annotations(tmp_path / "x.json")
    assert back.classes == tuple(NAMES)
    assert back.images[0].name == "scene.png"
    ours = seg.objects(instances=True, smallest_area=9)
    assert [(one.name, one.rle) for one in back.images[0].objects] == [(one.name, one.rle) for one in ours]
    assert json.loads((tmp_path / "x.json").read_text())["info"]["description"] == "labels by talk2dino with micro"
    assert all(one.score is not None for one in ours)


@pytest.mark.filterwarnings("ignore:OpenCV")
def test_detections_of_supervision_are_the_objects(micro, scene):
    seg = micro.segment(scene, NAMES, return_evidence=True)
    detections, objects = seg.to_supervision(instances=True), seg.objects(instances=True)
    assert len(detections) == len(objects)
    for place, one in enumerate(objects):
        assert np.array_equal(detections.mask[place], one.mask)
        assert detections["class_name"][place] == one.name == NAMES[detections.class_id[place]]
        assert detections.confidence[place] == one.score
        rows, columns = np.nonzero(one.mask)
        assert detections.xyxy[place].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert len(seg.to_supervision(smallest_area=10**6)) == 0


def test_wrong_options_are_reported(micro, scene, tmp_path):
    seg = micro.segment(scene, NAMES)
    with pytest.raises(InputError, match="return_evidence=True"):
        seg.objects(instances=True, split="attention")
    with pytest.raises(InputError, match="unknown option 'instance'; did you mean"):
        seg.objects(instance=True)
    with pytest.raises(InputError, match="iou"):
        seg.export(tmp_path / "x.json", "coco", polygons=True, polygon_iou=2)
    assert not list(tmp_path.iterdir())
