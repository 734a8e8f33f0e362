import math

import pytest
import torch

from talk2dino.training.aligner import Aligner
from talk2dino.training.options import TrainOptions


@pytest.mark.parametrize(("log_scale", "scale"), [(math.log(3), 3.0), (math.log(100), 100.0), (math.log(250), 100.0)])
def test_a_learned_scale_is_at_most_100(log_scale, scale):
    aligner = Aligner(TrainOptions(learned_temperature=True), 7, 13)
    with torch.no_grad():
        aligner.log_scale.fill_(log_scale)
    assert aligner.scale.item() == pytest.approx(scale, rel=1e-5)
    assert aligner.temperature == pytest.approx(1 / scale, rel=1e-5)


def test_a_fixed_temperature_is_not_capped():
    assert Aligner(TrainOptions(temperature=0.002), 7, 13).scale == pytest.approx(500)
