import pytest
import torch

from talk2dino.features.store import FeatureStore

K, M, D, C = 61, 3, 13, 7


def learnable_tensors(images=K, captions_each=2, seed=0):
    """Head embeddings whose first head is a linear map of the captions: something that a projection can learn."""
    generator = torch.Generator().manual_seed(seed)
    captions = torch.randn(images * captions_each, C, generator=generator)
    owner = torch.arange(images).repeat_interleave(captions_each)
    truth = torch.randn(C, D, generator=torch.Generator().manual_seed(99))
    heads = torch.randn(images, M, D, generator=generator)
    heads[:, 0] = captions[::captions_each] @ truth
    features = {"heads": heads, "average": heads.mean(1), "cls": heads[:, 1].clone(), "patch_mean": heads[:, 0].clone()}
    return {name: value.half() for name, value in features.items()}, captions.half(), owner


@pytest.fixture
def learnable():
    return learnable_tensors()


@pytest.fixture
def store(learnable):
    return FeatureStore.from_tensors(*learnable)
