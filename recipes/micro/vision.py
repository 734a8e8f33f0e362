"""Step 2 of the embedded model: train its DINO-like vision transformer, on images only.

    python recipes/micro/vision.py --work build/micro --steps 2550

No captions, labels or masks are read. Four losses over two global and two local crops of every image:
- DINO: the student's CLS of every crop predicts the teacher's prototype assignment of the other global crop;
- iBOT: the student's masked patches predict the teacher's assignments of the same patches;
- words: a linear head predicts each patch's visual word, a k-means cell of local orientation and colour statistics;
- agreement: patches of the two global crops that show the same place get the same features (the simplest form of
  VICRegL's local loss, a cosine to the teacher).
In the last ``--recolour-steps`` steps, the student sees most of its crops with any hue or in grey, the teacher sees them
unchanged, and their patches must agree: classes should not depend on colour.
The run can be stopped at any time; the next call resumes it from vision.pt.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel
from visual_words import WORDS, visual_words

from talk2dino.io.atomic import atomic_path

PATCH = 8
GLOBAL, LOCAL = 64, 32
PROTOTYPES, PATCH_PROTOTYPES = 128, 256
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


# --- crops ---------------------------------------------------------------------------------------------------------


def crop(images: Tensor, side: Tensor, cx: Tensor, cy: Tensor, flip: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Square crops by bilinear sampling; returns them and their sampling grid in the image's -1..1 coordinates."""
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    gy, gx = torch.meshgrid(axis, axis, indexing="ij")
    sign = torch.where(flip, -1.0, 1.0)[:, None, None]
    grid = torch.stack(
        [gx * side[:, None, None] * sign + cx[:, None, None], gy * side[:, None, None] + cy[:, None, None]], -1
    )
    return F.grid_sample(images, grid, align_corners=False, padding_mode="reflection"), grid


def random_crop(images: Tensor, low: float, high: float, size: int) -> tuple[Tensor, Tensor]:
    count = len(images)
    side = torch.empty(count).uniform_(low / 96, high / 96)
    cx, cy = (torch.rand(count) * 2 - 1) * (1 - side), (torch.rand(count) * 2 - 1) * (1 - side)
    return crop(images, side, cx, cy, torch.rand(count) < 0.5, size)


def jitter(images: Tensor, recoloured: Tensor | None = None) -> Tensor:
    """Change brightness, contrast, saturation and hue, and add a little noise; a tenth of the crops becomes grey.

    ``recoloured`` (B,) bool: crops that get any hue, and of which a third becomes grey.
    """
    count = len(images)
    if recoloured is None:
        recoloured = torch.zeros(count, dtype=torch.bool)

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(count, 1, 1, 1).uniform_(low, high)

    images = images * uniform(0.75, 1.25)
    mean = images.mean((1, 2, 3), keepdim=True)
    images = (images - mean) * uniform(0.75, 1.25) + mean
    grey = images.mean(1, keepdim=True)
    images = (images - grey) * uniform(0.6, 1.3) + grey
    turn = uniform(-0.35, 0.35).view(count) * torch.where(recoloured, math.pi / 0.35, 1.0)  # radians around grey
    cos, sin, third = torch.cos(turn), torch.sin(turn) / math.sqrt(3), (1 - torch.cos(turn)) / 3
    rows = torch.stack([third + cos, third - sin, third + sin], 1)
    matrix = torch.stack([rows, rows.roll(1, 1), rows.roll(2, 1)], 1)
    images = torch.einsum("bij,bjhw->bihw", matrix, images)
    grey_share = torch.where(recoloured, 0.33, 0.1).view(count, 1, 1, 1)
    images = torch.where(
        torch.rand(count, 1, 1, 1) < grey_share, images.mean(1, keepdim=True).expand_as(images), images
    )
    images = images + torch.randn_like(images) * uniform(0, 0.02)
    return (images.clamp(0, 1) - MEAN) / STD


# --- network -------------------------------------------------------------------------------------------------------


def backbone() -> Dinov2WithRegistersModel:
    config = Dinov2WithRegistersConfig(
        hidden_size=192, num_hidden_layers=6, num_attention_heads=6, mlp_ratio=4, image_size=GLOBAL, patch_size=PATCH,
        num_register_tokens=2, layerscale_value=0.5, drop_path_rate=0.0, attn_implementation="eager",
    )  # fmt: skip
    return Dinov2WithRegistersModel(config)


class Heads(nn.Module):
    """Projection heads, which are only used in training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cls = nn.Sequential(nn.Linear(width, 384), nn.GELU(), nn.Linear(384, 96))
        self.cls_prototypes = nn.Linear(96, PROTOTYPES, bias=False)
        self.patch = nn.Sequential(nn.Linear(width, 384), nn.GELU(), nn.Linear(384, 96))
        self.patch_prototypes = nn.Linear(96, PATCH_PROTOTYPES, bias=False)
        self.words = nn.Linear(width, WORDS)

    def cls_logits(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(self.cls(x), dim=-1), F.normalize(self.cls_prototypes.weight, dim=-1))

    def patch_logits(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(self.patch(x), dim=-1), F.normalize(self.patch_prototypes.weight, dim=-1))


def forward(model: nn.Module, images: Tensor, masked: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(B, D) CLS and (B, P, D) patches after the final norm."""
    with torch.autocast("cpu", torch.bfloat16):
        tokens = model(pixel_values=images, bool_masked_pos=masked).last_hidden_state
    tokens = tokens.float()
    return tokens[:, 0], tokens[:, 3:]


@torch.no_grad()
def sinkhorn(logits: Tensor, temperature: float, rounds: int = 3) -> Tensor:
    """Balanced soft assignments of (N, K) cosines."""
    q = torch.exp((logits - logits.max()) / temperature)
    for _ in range(rounds):
        q = q / q.sum(0, keepdim=True).clamp_min(1e-8)
        q = q / q.sum(1, keepdim=True).clamp_min(1e-8)
    return q


def cross_entropy(logits: Tensor, target: Tensor, temperature: float = 0.1) -> Tensor:
    return -(target * F.log_softmax(logits / temperature, -1)).sum(-1).mean()


# --- losses ----------------------------------------------------------------------------------------------------------


class Views(NamedTuple):
    """Crops of B images.

    Attributes:
        crops, local: (2B, 3, h, w) global and local crops in 0..1, before colours are changed.
        centres: (2B, 8, 8, 2) patch centres of the global crops in the image's -1..1 coordinates.
        words: (2B, P) visual word of each patch. masked: (2B, P) patches that the student does not see.
    """

    crops: Tensor
    local: Tensor
    centres: Tensor
    words: Tensor
    masked: Tensor


def sample_views(images: Tensor, words: Tensor) -> Views:
    """Crops of (B, 3, 96, 96) images in 0..1 with (B, 1, 24, 24) visual words."""
    count, tokens = 2 * len(images), (GLOBAL // PATCH) ** 2
    a, grid_a = random_crop(images, 40, 84, GLOBAL)
    b, grid_b = random_crop(images, 40, 84, GLOBAL)
    local = torch.cat([random_crop(images, 20, 40, LOCAL)[0] for _ in range(2)])
    centres = torch.cat([grid_a, grid_b])[:, PATCH // 2 :: PATCH, PATCH // 2 :: PATCH]
    targets = F.grid_sample(torch.cat([words, words]), centres, mode="nearest", align_corners=False)
    masked = torch.rand(count, tokens) < torch.empty(count, 1).uniform_(0.1, 0.5)
    masked &= torch.rand(count, 1) < 0.5
    return Views(torch.cat([a, b]), local, centres, targets.view(count, tokens).long(), masked)


def losses(
    views: Views, student: nn.Module, teacher: nn.Module, heads: Heads, teacher_heads: Heads, *, recolour: bool, fresh: bool
) -> dict[str, Tensor]:  # fmt: skip
    """The weighted losses by name; ``fresh``: the student's global crops get colours other than the teacher's."""
    count, masked = len(views.crops), views.masked
    pixels = jitter(views.crops)
    with torch.no_grad():
        teacher_cls, teacher_patches = forward(teacher, pixels)
        cls_target = torch.cat([sinkhorn(teacher_heads.cls_logits(part), 0.03) for part in teacher_cls.chunk(2)])
        patch_target = sinkhorn(teacher_heads.patch_logits(teacher_patches[masked]), 0.04)
    recoloured = torch.rand(count) < (0.6 if recolour else 0.0)
    cls, patches = forward(student, jitter(views.crops, recoloured) if fresh else pixels, masked)
    local_cls, _ = forward(student, jitter(views.local))

    swapped = cls_target.roll(count // 2, 0)
    dino = cross_entropy(heads.cls_logits(cls), swapped)
    dino = dino + cross_entropy(heads.cls_logits(local_cls), cls_target)
    dino = (dino + cross_entropy(heads.cls_logits(local_cls), swapped)) / 3
    ibot = cross_entropy(heads.patch_logits(patches[masked]), patch_target)
    logits = heads.words(patches)
    true_colours = ~recoloured[:, None]  # visual words depend on colour
    seen, hidden = ~masked & true_colours, masked & true_colours
    words = F.cross_entropy(logits[seen], views.words[seen])
    words = words + 0.5 * F.cross_entropy(logits[hidden], views.words[hidden])
    agree = agreement(patches, teacher_patches, views.centres)
    found = {"dino": dino, "ibot": ibot, "words": (0.3 if recolour else 1.0) * words, "agree": 0.5 * agree}
    if recolour:
        same_place = 1 - F.cosine_similarity(patches, teacher_patches, dim=-1)
        found["recolour"] = 3.0 * same_place[~masked].mean()
    return found


def agreement(patches: Tensor, teacher_patches: Tensor, centres: Tensor) -> Tensor:
    """1 - cosine of the first crop's patches to the teacher's nearest patch of the other crop, where less than a patch away."""
    half = len(patches) // 2
    gap = torch.cdist(centres[:half].flatten(1, 2), centres[half:].flatten(1, 2))
    distance, partner = gap.min(2)
    other = teacher_patches[half:].gather(1, partner[..., None].expand(-1, -1, patches.shape[-1]))
    return (1 - F.cosine_similarity(patches[:half], other, dim=-1))[distance < 0.09].mean()


# --- one run ---------------------------------------------------------------------------------------------------------


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/micro"))
    parser.add_argument("--steps", type=int, default=2550)
    parser.add_argument("--recolour-steps", type=int, default=350, help="the last steps of --steps")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save-every", type=int, default=100)
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    all_images = np.load(options.work / "images.npy", mmap_mode="r")
    words_file = options.work / "words.npy"
    if not words_file.exists():
        np.save(words_file, visual_words(np.asarray(all_images)))
    all_words = torch.from_numpy(np.load(words_file))

    student, teacher = backbone(), backbone()
    heads, teacher_heads = Heads(192), Heads(192)
    teacher.load_state_dict(student.state_dict())
    teacher_heads.load_state_dict(heads.state_dict())
    online = list(student.parameters()) + list(heads.parameters())
    average = list(teacher.parameters()) + list(teacher_heads.parameters())
    nn.ModuleList([teacher, teacher_heads]).requires_grad_(False)
    groups = [
        {"params": [p for p in online if (p.ndim > 1) is decay], "weight_decay": 0.04 * decay}
        for decay in (True, False)
    ]
    optimizer = torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.98))
    saved = {
        "student": student, "teacher": teacher, "optimizer": optimizer, "student_heads": heads,
        "teacher_heads": teacher_heads,
    }  # fmt: skip
    first, checkpoint = 0, options.work / "vision.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        for name, module in saved.items():
            module.load_state_dict(state[name])
        first = state["step"]

    started, main_steps = time.time(), options.steps - options.recolour_steps
    for step in range(first, options.steps):
        torch.manual_seed(step)
        recolour = step >= main_steps
        progress = (step - main_steps) / options.recolour_steps if recolour else step / main_steps
        rate = min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * progress)) + 0.005
        rate *= (0.4 if recolour else 1.0) * options.lr
        for group in optimizer.param_groups:
            group["lr"] = rate

        index = np.sort(np.random.default_rng([7, step]).choice(len(all_images), options.batch, replace=False))
        images = torch.from_numpy(all_images[index]).permute(0, 3, 1, 2).float() / 255
        views = sample_views(images, all_words[index].float().unsqueeze(1))
        fresh = recolour or step % 2 == 0
        parts = losses(views, student, teacher, heads, teacher_heads, recolour=recolour, fresh=fresh)

        optimizer.zero_grad(set_to_none=True)
        sum(parts.values(), torch.zeros(())).backward()
        nn.utils.clip_grad_norm_(online, 1.0)
        optimizer.step()
        momentum = 0.98 if recolour else 0.996 - (0.996 - 0.97) * (1 + math.cos(math.pi * min(1, progress * 1.5))) / 2
        torch._foreach_lerp_(average, [p.detach() for p in online], 1 - momentum)

        if step % 20 == 0:
            pace = (time.time() - started) / (step - first + 1)
            shown = " ".join(f"{name} {value.item():.3f}" for name, value in parts.items())
            print(f"step {step} {shown} lr {rate:.2e} {pace:.2f} s/step", flush=True)
        if (step + 1) % options.save_every == 0 or step + 1 == options.steps:
            state = {name: module.state_dict() for name, module in saved.items()} | {"step": step + 1}
            with atomic_path(checkpoint) as temporary:
                torch.save(state, temporary)
            copy.deepcopy(teacher).save_pretrained(options.work / "vision")


if __name__ == "__main__":
    main()
