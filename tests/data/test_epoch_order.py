from mmpareto.data.loading.batches import EpochOrder
from mmpareto.data.loading.sampling import sample_generator


def test_the_order_is_independent_of_the_samples_generators() -> None:
    """A SeedSequence pads (seed, epoch) with zeros: without a spawn key, order and sample 0 would share a generator."""
    for seed in range(3):
        for epoch in range(3):
            order = EpochOrder(50, seed)
            order.set_epoch(epoch)
            indices = [index for _, index in order]
            for sample in range(3):
                assert indices != sample_generator(seed, epoch, sample).permutation(50).tolist()
