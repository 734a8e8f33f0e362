import pytest
import torch
from runs import C, D, M

from talk2dino.errors import DataError, InputError
from talk2dino.features.store import FeatureStore
from talk2dino.training.aligner import Aligner
from talk2dino.training.batches import Batches
from talk2dino.training.options import TrainOptions
from talk2dino.training.processes import Processes

CPU = torch.device("cpu")


def test_an_epoch_with_and_without_its_partial_batch(store):
    """122 captions in batches of 16: seven whole ones, and one of 10."""
    for keep, steps, last in ((False, 7, 16), (True, 8, 10)):
        batches = Batches(store, TrainOptions(batch_size=16, epochs=3, keep_partial_batch=keep), CPU)
        assert (batches.steps_per_epoch, batches.total_steps) == (steps, 3 * steps)
        rows = [batches.rows(step) for step in range(steps)]
        assert [len(row) for row in rows] == [16] * 7 + [10] * keep
        assert len(torch.cat(rows).unique()) == (122 if keep else 112)
        assert len(batches[steps - 1].captions) == last
        assert not torch.equal(batches.rows(0), batches.rows(steps))  # another epoch, another order


def test_a_batch_holds_the_features_of_its_rows(store):
    batches = Batches(store, TrainOptions(batch_size=16, keep_partial_batch=True, strategy="sampled"), CPU)
    for step in (0, 7):
        batch, rows = batches[step], batches.rows(step)
        assert torch.equal(batch.captions, store.gather("captions", rows).float())
        assert torch.equal(batch.image_ids, store.caption_image[rows])
        assert torch.equal(batch.images, store.gather("heads", batch.image_ids).float())
        assert batch.noise.shape == (len(rows),)


def test_the_published_scale_divides_by_the_size_of_the_batch(store):
    """The published code divides by the square of the actual batch size, that of a partial batch included."""
    torch.manual_seed(0)
    plain, scaled = (TrainOptions(batch_size=16, keep_partial_batch=True, published_scale=on) for on in (False, True))
    aligner = Aligner(plain, C, D)
    divided = Aligner(scaled, C, D)
    divided.load_state_dict(aligner.state_dict())
    for step, size in ((0, 16), (7, 10)):
        batch = Batches(store, plain, CPU)[step]
        loss, _ = aligner(batch.images, batch.captions)
        loss_divided, _ = divided(batch.images, batch.captions)
        assert loss_divided.item() == pytest.approx(loss.item() / size**2, rel=1e-5)


def test_processes_share_a_batch(store):
    options = TrainOptions(batch_size=16, keep_partial_batch=True, strategy="sampled")
    whole = Batches(store, options, CPU)
    parts = [Batches(store, options, CPU, Processes(rank, 2)) for rank in (0, 1)]
    for step, size in ((3, 8), (7, 5)):
        assert [len(part[step].captions) for part in parts] == [size, size]
        for name in ("images", "captions", "image_ids", "noise"):
            expected = getattr(whole[step], name)
            assert torch.equal(torch.cat([getattr(part[step], name) for part in parts]), expected)


def test_refusals(store):
    with pytest.raises(
        DataError, match="the batch size is 128, but there are 122 captions: choose a smaller --batch-size"
    ):
        Batches(store, TrainOptions(), CPU)
    with pytest.raises(InputError, match="a batch of 16 captions cannot be divided over 3 processes"):
        Batches(store, TrainOptions(batch_size=16), CPU, Processes(0, 3))
    with pytest.raises(InputError, match="a batch of 10 captions cannot be divided over 4 processes"):
        Batches(store, TrainOptions(batch_size=16, keep_partial_batch=True), CPU, Processes(0, 4))
    small = FeatureStore.from_tensors(torch.zeros(3, M, D), torch.zeros(5, C), torch.tensor([0, 0, 1, 2, 2]))
    assert Batches(small, TrainOptions(batch_size=5, keep_partial_batch=True), CPU).steps_per_epoch == 1
