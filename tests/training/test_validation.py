import pytest
import torch
from torch.nn import functional as F

from talk2dino.features.store import FeatureStore
from talk2dino.stages.heads import STRATEGIES, combine_heads
from talk2dino.training.aligner import Aligner
from talk2dino.training.loss import info_nce
from talk2dino.training.options import TrainOptions
from talk2dino.training.validation import validate


def aligner_of(strategy, size, **options):
    """An aligner whose projection is the identity: captions and images have the same space."""
    aligner = Aligner(TrainOptions(strategy=strategy, depth=1, batch_size=2, **options), size, size)
    with torch.no_grad():
        aligner.text_projection.layers[0].weight.copy_(torch.eye(size))
        aligner.text_projection.layers[0].bias.zero_()
    return aligner


def test_recall_worked_out_by_hand():
    """Twelve images on the axes of a space of 12 dimensions, with one, two or three captions each.

    Image 0 has captions 0, 1 and 2; image 1 has caption 3; image 2 has 4 and 5; image n has n + 3 from n = 3 on.
    """
    captions = torch.zeros(15, 12)
    owner = torch.tensor([0, 0, 0, 1, 2, 2, *range(3, 12)])
    captions[torch.arange(15), owner] = 1.0  # each caption is closest to its own image ...
    captions[0] = torch.tensor([0.5, 0.9, *10 * [0.0]])  # ... but this one is closer to image 1: rank 2 of 12
    captions[3] = torch.tensor([0.0, 0.1, *range(10, 20)])  # closer to images 2 to 11 than to image 1: rank 11
    captions[4] = torch.tensor(
        [0.6, 0.7, 0.5, 0.8, 0.9, 1.0, *6 * [0.0]]
    )  # image 2 is fifth after 5, 4, 3, 1 and 0: rank 6
    store = FeatureStore.from_tensors({"cls": torch.eye(12)}, captions, owner)
    metrics = validate(aligner_of("cls", 12), store, torch.device("cpu"))
    assert metrics["text_to_image@1"] == pytest.approx(12 / 15)  # all but captions 0, 3 and 4
    assert metrics["text_to_image@5"] == pytest.approx(13 / 15)  # caption 0
    assert metrics["text_to_image@10"] == pytest.approx(14 / 15)  # caption 4
    # Image 1: caption 0 (0.87), caption 4 (0.37), its own caption 3 (0.002): third. All others have a caption at cosine 1.
    assert metrics["image_to_text@1"] == pytest.approx(11 / 12)
    assert metrics["image_to_text@5"] == metrics["image_to_text@10"] == 1.0


def test_captions_of_images_beyond_the_limit_do_not_count():
    store = FeatureStore.from_tensors({"cls": torch.eye(3)}, torch.eye(3)[[1, 0, 2]], torch.tensor([0, 1, 2]))
    assert validate(aligner_of("cls", 3), store, torch.device("cpu"))["text_to_image@1"] == pytest.approx(1 / 3)
    assert validate(aligner_of("cls", 3), store, torch.device("cpu"), limit=2)["text_to_image@1"] == 0.0


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_scores_of_every_strategy_against_loops(strategy):
    """Recall at 1 from the cosine of each pair: the best head where a head is chosen, the pooled embedding elsewhere."""
    torch.manual_seed(0)
    features = {"heads": torch.randn(11, 3, 5), "average": torch.randn(11, 5), "cls": torch.randn(11, 5)}
    features["patch_mean"] = torch.randn(11, 5)
    captions, owner = torch.randn(22, 5), torch.arange(11).repeat_interleave(2)
    store = FeatureStore.from_tensors(features, captions, owner)
    metrics = validate(aligner_of(strategy, 5, head_temperature=0.3), store, torch.device("cpu"))
    hits = 0
    for caption, own in zip(captions, owner, strict=True):
        scores = []
        for image in features[STRATEGIES[strategy]]:
            if strategy in ("max", "pairwise-max", "sampled"):
                scores.append(max(F.cosine_similarity(head, caption, dim=0) for head in image))
            else:
                pooled, _ = combine_heads(strategy, image[None], caption[None], head_temperature=0.3)
                scores.append(F.cosine_similarity(pooled[0], caption, dim=0))
        hits += int(torch.stack(scores).argmax() == own)
    assert metrics["text_to_image@1"] == pytest.approx(hits / 22)


def test_the_loss_takes_the_first_caption_of_each_image_in_batches_of_the_training():
    torch.manual_seed(1)
    cls, captions = torch.randn(5, 7), torch.randn(10, 7)
    owner = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
    store = FeatureStore.from_tensors({"cls": cls}, captions, owner)
    loss = validate(aligner_of("cls", 7), store, torch.device("cpu"))["validation_loss"]
    first = captions[::2]
    expected = [info_nce(cls[n : n + 2], first[n : n + 2], 1 / 0.07).item() for n in (0, 2)]
    assert loss == pytest.approx(sum(expected) / 2, rel=1e-5)
