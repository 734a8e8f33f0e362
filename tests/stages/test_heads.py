import pytest
import torch

from talk2dino.errors import InputError, ShapeError
from talk2dino.stages.heads import STRATEGIES, combine_heads
from talk2dino.stages.pooling import head_embeddings, pooled_features

B, M, D, H, W = 3, 5, 7, 2, 11


def cosine(a, b):
    return (a @ b) / (a.norm() * b.norm())


@pytest.fixture
def tensors():
    torch.manual_seed(0)
    return torch.randn(B, H, W, D), torch.randn(B, M, H, W), torch.randn(B, D)


def test_head_embeddings_follow_the_formula(tensors):
    patches, attention, _ = tensors
    got = head_embeddings(patches.flatten(1, 2), attention.flatten(2))
    for b in range(B):
        for i in range(M):
            weight = attention[b, i].exp() / attention[b, i].exp().sum()
            torch.testing.assert_close(got[b, i], (patches[b] * weight[..., None]).sum((0, 1)))


def test_pooled_features(tensors):
    patches, attention, cls = tensors
    got = pooled_features(patches, attention, cls)
    torch.testing.assert_close(got["patch_mean"], patches.mean((1, 2)))
    weight = attention.mean(1).flatten(1).softmax(-1).view(B, H, W, 1)
    torch.testing.assert_close(got["average"], (patches * weight).sum((1, 2)))
    assert got["cls"] is cls
    assert got["heads"].shape == (B, M, D)


def test_strategies_against_loops():
    torch.manual_seed(1)
    heads, text = torch.randn(B, M, D), torch.randn(B, D)
    own = torch.stack([torch.stack([cosine(heads[b, i], text[b]) for i in range(M)]) for b in range(B)])
    picked, chosen = combine_heads("max", heads, text)
    assert chosen.tolist() == own.argmax(1).tolist()
    assert torch.equal(picked, torch.stack([heads[b, own[b].argmax()] for b in range(B)]))
    everything, chosen = combine_heads("pairwise-max", heads, text)
    assert everything is heads
    assert chosen.tolist() == own.argmax(1).tolist()
    torch.testing.assert_close(combine_heads("mean", heads, text)[0], heads.mean(1))
    weighted = torch.stack([(heads[b] * (own[b] / 0.3).softmax(0)[:, None]).sum(0) for b in range(B)])
    torch.testing.assert_close(combine_heads("softmax", heads, text, head_temperature=0.3)[0], weighted)


def test_sampled_follows_the_weights():
    torch.manual_seed(2)
    heads, text = torch.randn(1, M, D), torch.randn(1, D)
    many = 4001
    noise = (torch.arange(many) + 0.5) / many
    picked, chosen = combine_heads("sampled", heads.expand(many, M, D), text.expand(many, D), noise=noise)
    expected = torch.stack([cosine(heads[0, i], text[0]) for i in range(M)]).softmax(0)
    torch.testing.assert_close(torch.bincount(chosen, minlength=M) / many, expected, atol=1e-3, rtol=0)
    assert torch.equal(picked[17], heads[0, chosen[17]])
    with pytest.raises(InputError, match="needs noise"):
        combine_heads("sampled", heads, text)


def test_gradient_flows_through_the_softmax_weights():
    torch.manual_seed(3)
    heads, text = torch.randn(B, M, D), torch.randn(B, D, requires_grad=True)
    combine_heads("softmax", heads, text)[0].square().sum().backward()
    assert text.grad.abs().sum() > 0


def test_refusals():
    with pytest.raises(InputError, match=r"unknown head strategy 'best'; one of: max, pairwise-max"):
        combine_heads("best", torch.zeros(B, M, D), torch.zeros(B, D))
    with pytest.raises(ShapeError, match=r"'cls' takes \(B, D\) images"):
        combine_heads("cls", torch.zeros(B, M, D), torch.zeros(B, D))
    for images, text in (((B, M, D), (B - 1, D)), ((B, M, D), (B, 1, D)), ((B, D), (B, D)), ((B - 1, M, D), (B, D))):
        with pytest.raises(ShapeError, match=r"'max' takes \(B, M, D\) images and \(B, D\) captions; got "):
            combine_heads("max", torch.zeros(images), torch.zeros(text))
    with pytest.raises(ShapeError, match="share B and P"):
        head_embeddings(torch.zeros(B, 13, D), torch.zeros(B, M, 11))
    assert next(iter(STRATEGIES)) == "max"
