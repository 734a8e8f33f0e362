"""Motion between two frames, against shifts that are known."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from talk2dino.errors import ShapeError
from talk2dino.stages.motion import estimate_motion, flow_on_grid, warp


def texture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """(3, height, width) smooth random colours."""
    noise = torch.rand(1, 3, height // 4 + 2, width // 4 + 2, generator=torch.Generator().manual_seed(seed))
    return 255 * F.interpolate(noise, (height, width), mode="bicubic", align_corners=True)[0].clamp(0, 1)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (3.0, -2.0), (0.5, 1.25), (-9.0, 4.0)])
def test_a_shift_is_found(shift):
    large = texture(101, 139)
    old = large[:, 20:81, 20:117]
    flow = torch.tensor(shift)[:, None, None].expand(2, 101, 139)
    new = warp(large[None], flow[None])[0][:, 20:81, 20:117]
    motion = estimate_motion(old, new)
    inner = motion.flow[:, 12:-12, 12:-12]
    for axis in range(2):
        assert (inner[axis] - shift[axis]).abs().median() < 0.1
        assert ((inner[axis] - shift[axis]).abs() < 0.3).float().mean() > 0.9
    assert motion.agreement[12:-12, 12:-12].mean() > 0.95


def test_two_parts_move_apart():
    ground, thing = texture(61, 97), texture(61, 97, seed=1)
    old, new = ground.clone(), ground.clone()
    old[:, 20:40, 30:50], new[:, 20:40, 33:53] = thing[:, 20:40, 30:50], thing[:, 20:40, 30:50]
    motion = estimate_motion(old, new)
    assert (motion.flow[0, 24:36, 37:49] + 3).abs().median() < 0.2
    assert motion.flow[:, :, 70:].abs().max() < 0.1
    assert motion.agreement[24:36, 37:49].mean() > 0.85
    assert motion.agreement[22:38, 30:33].mean() < 0.6  # what the thing covered before


def test_flat_areas_keep_still_in_spite_of_noise():
    noise = torch.Generator().manual_seed(3)
    old, new = (128 + 4 * torch.randn(3, 61, 97, generator=noise) for _ in range(2))
    motion = estimate_motion(old, new)
    assert motion.flow.abs().mean() < 0.2
    assert motion.share > 0.9


def test_another_image_is_not_found():
    assert estimate_motion(texture(61, 97), texture(61, 97, seed=7)).share < 0.45


def test_warp_by_hand():
    maps = torch.arange(12.0).reshape(1, 1, 3, 4)
    flow = torch.zeros(1, 2, 3, 4)
    flow[:, 0], flow[:, 1, 1] = 1, 0.5
    expected = [[1, 2, 3, 3], [7, 8, 9, 9], [9, 10, 11, 11]]
    torch.testing.assert_close(warp(maps, flow)[0, 0], torch.tensor(expected, dtype=torch.float32))


def test_flow_on_a_grid_is_in_steps_of_the_grid():
    flow = torch.tensor([6.0, 4.0])[:, None, None].expand(2, 13, 19)
    on_grid = flow_on_grid(flow, (5, 7))
    assert on_grid.shape == (2, 5, 7)
    torch.testing.assert_close(on_grid[:, 2, 3], torch.tensor([2.0, 4 / 3]))


def test_frames_of_two_sizes():
    with pytest.raises(ShapeError, match=r"\(3, 5, 7\) and \(3, 5, 8\)"):
        estimate_motion(torch.zeros(3, 5, 7), torch.zeros(3, 5, 8))
