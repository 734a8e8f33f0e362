"""The loss, the chosen heads and the gradients of psi against the formula, written out in a few independent lines."""

import pytest
import torch

from talk2dino.errors import ShapeError
from talk2dino.models.projection import Projection
from talk2dino.stages.heads import STRATEGIES, combine_heads
from talk2dino.training.aligner import Aligner
from talk2dino.training.loss import info_nce, similarity
from talk2dino.training.options import TrainOptions

B, M, D, C = 5, 3, 13, 7
NOISE = torch.tensor([0.05, 0.4, 0.6, 0.99, 0.33], dtype=torch.float64)


def cos(a, b):
    return a @ b / (a.norm() * b.norm())


def mapped(x, weights):
    """psi as in the paper, for a vector or for each row."""
    w_a, b_a, w_b, b_b = weights
    return torch.tanh(x @ w_a + b_a) @ w_b + b_b


def copied(psi):
    """A projection's own weights as the paper writes them, with gradients of their own."""
    return [
        p.detach().clone().requires_grad_()
        for p in (psi.layers[0].weight.T, psi.layers[0].bias, psi.layers[1].weight.T, psi.layers[1].bias)
    ]


def assert_gradients(psi, weights):
    ours = [psi.layers[0].weight.grad.T, psi.layers[0].bias.grad, psi.layers[1].weight.grad.T, psi.layers[1].bias.grad]
    for got, want in zip(ours, weights, strict=True):
        assert want.grad.abs().max() > 0
        torch.testing.assert_close(got, want.grad, rtol=1e-6, atol=1e-9)


def reference(strategy, images, text, ids=None, published=False):
    """InfoNCE as in the paper, by loops over pairs, in float64; the published code divides it by B^2."""
    chosen, rows = [], []
    for b in range(B):
        if images.ndim == 2:
            rows.append([cos(images[b], t) for t in text])
            continue
        own = torch.stack([cos(head, text[b]) for head in images[b]])
        weight = torch.exp(own) / torch.exp(own).sum()
        chosen.append(int(own.argmax()))
        if strategy == "max":
            stands = images[b][chosen[-1]]
        elif strategy == "sampled":
            chosen[-1] = next(i for i in range(M) if weight[: i + 1].sum() >= NOISE[b])
            stands = images[b][chosen[-1]]
        elif strategy == "mean":
            stands = sum(images[b]) / M
        elif strategy == "softmax":
            stands = sum(w * head for w, head in zip(weight, images[b], strict=True))
        if strategy == "pairwise-max":
            rows.append([max((cos(head, t) for head in images[b]), key=lambda c: c.detach()) for t in text])
        else:
            rows.append([cos(stands, t) for t in text])
    exp = torch.stack([torch.stack(row) for row in rows]).div(0.07).exp()
    if ids is not None:
        keep = torch.tensor([[i == j or ids[i] != ids[j] for j in range(B)] for i in range(B)])
        exp = exp * keep
    over_captions = -sum(torch.log(exp[i, i] / exp[i].sum()) for i in range(B)) / B
    over_images = -sum(torch.log(exp[i, i] / exp[:, i].sum()) for i in range(B)) / B
    return (over_captions + over_images) / 2 / (B * B if published else 1), chosen


def random_batch(strategy):
    generator = torch.Generator().manual_seed(7)
    shape = (B, M, D) if STRATEGIES[strategy] == "heads" else (B, D)
    images = torch.randn(shape, generator=generator, dtype=torch.float64)
    return images, torch.randn(B, C, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("strategy", list(STRATEGIES))
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("published", [False, True])
def test_against_the_formula(strategy, masked, published):
    images, captions = random_batch(strategy)
    ids = torch.tensor([0, 1, 0, 2, 1]) if masked else None
    psi = Projection(C, D).double()
    weights = copied(psi)
    expected, expected_heads = reference(strategy, images, mapped(captions, weights), ids, published)
    expected.backward()

    text = psi(captions)
    stands, chosen = combine_heads(strategy, images, text, noise=NOISE)
    loss = info_nce(stands, text, 1 / 0.07, image_ids=ids, published_scale=published)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-9)
    if strategy not in ("mean", "average-attention", "cls", "mean-patch"):
        assert chosen.tolist() == expected_heads
    assert_gradients(psi, weights)


@pytest.mark.parametrize("strategy", list(STRATEGIES))
@pytest.mark.parametrize("side", ["vision", "both"])
def test_the_other_sides_against_the_formula(strategy, side):
    """Every head is mapped, then the strategy chooses among them; captions stay as they are for "vision"."""
    images, captions = random_batch(strategy)
    torch.manual_seed(1)
    config = TrainOptions(side=side, strategy=strategy, shared_dim=11 if side == "both" else None)
    aligner = Aligner(config, C, D).double()
    of_images = copied(aligner.vision_projection)
    of_text = copied(aligner.text_projection) if side == "both" else None
    text = mapped(captions, of_text) if side == "both" else captions
    expected, expected_heads = reference(strategy, mapped(images, of_images), text)
    expected.backward()

    loss, chosen = aligner(images, captions, noise=NOISE)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-9)
    if strategy not in ("mean", "average-attention", "cls", "mean-patch"):
        assert chosen.tolist() == expected_heads
    assert_gradients(aligner.vision_projection, of_images)
    if side == "both":
        assert_gradients(aligner.text_projection, of_text)


def test_similarity_takes_the_largest_head_of_each_pair():
    torch.manual_seed(0)
    heads, text = torch.randn(2, M, D), torch.randn(11, D)
    got = similarity(heads, text)
    for i in range(2):
        for t in range(11):
            assert got[i, t].item() == pytest.approx(max(cos(h, text[t]).item() for h in heads[i]), abs=1e-6)
    with pytest.raises(ShapeError, match=r"got \(2, 3, 13\) and \(11, 7\)"):
        similarity(heads, text[:, :7])
