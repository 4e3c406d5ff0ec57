"""Operations of a step: by hand, and as PyTorch's own counter sees them."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from llavakit.data.loader import Loader
from llavakit.data.pack import collate
from llavakit.data.settings import DataConfig
from llavakit.model.adapters import Adapter, add_adapters
from llavakit.model.settings import LoraSettings
from llavakit.train.flops import StepFlops, measure_peak, tree_lengths
from llavakit.train.freezing import train_only
from llavakit.train.objectives import SFT
from tests import tiny

# Of tiny.text_config: per token and layer, q and o are 48 x 48, k and v 48 x 24, the MLP three times 48 x 96.
DECODER = 2 * (2 * 48 * 48 + 2 * 48 * 24 + 3 * 48 * 96)


def row(tmp_path, turns: str = "chained", count: int = 6):
    config = DataConfig(files=(tiny.data_file(tmp_path, count),), turns=turns)
    loader = Loader(config, tiny.encoder(), seed=0)
    samples = [loader.samples(record) for record in loader.records]
    return collate(samples, [loader.tiles(media) for sample in samples for media in sample.media])


def test_a_step_by_hand(tmp_path):
    """Connector and decoder trained: three times the forward products, but the connector's first has no input
    gradient to make. The tower is run forward only.
    """
    ck, batch = tiny.checkpoint(), row(tmp_path)
    train_only(ck.model, ("connector", "language"))
    trees = tree_lengths(batch.segments)
    assert sum(trees) == batch.num_tokens
    vocabulary = ck.model.language.config.vocab_size
    forward = batch.num_tokens * DECODER + len(batch.predict_L) * 48 * vocabulary
    attention = 2 * 2 * 48 * sum(length**2 for length in trees)  # two layers, scores and values
    rows = 4 * sum(len(pixels) for pixels in batch.pixels)  # feature rows of 28 x 28 pixels in patches of 14
    connector = 2 * rows * (2 * 32 * 48 + 3 * 48 * 48)
    # Patches 4 x (3 x 14 x 14) x 32; two of three layers: four projections and an MLP of 5 rows, and attention.
    tile = 2 * 4 * 588 * 32 + 2 * (2 * 5 * (4 * 32 * 32 + 2 * 32 * 64) + 2 * 2 * 25 * 32)
    tower = tile * sum(len(pixels) for pixels in batch.pixels)
    assert StepFlops(ck.model).count([batch]) == 6 * forward + 6 * attention + connector + tower
    assert StepFlops(ck.model).count([batch, batch]) == 2 * StepFlops(ck.model).count([batch])


@pytest.mark.parametrize("turns", ["chained", "independent"])
@pytest.mark.parametrize(
    ("parts", "lora"),
    [
        (("connector",), None),
        (("connector", "language"), None),
        (("tower", "connector", "language"), None),
        (("connector", "language"), LoraSettings(r=4, dropout=0.0)),
        (("tower", "connector", "language"), LoraSettings(r=4, dropout=0.0, tower=True)),
    ],
)
def test_a_step_as_pytorch_counts_it(tmp_path, parts, lora, turns):
    ck, batch = tiny.checkpoint(), row(tmp_path, turns)
    if lora is not None:
        add_adapters(ck.model, lora)
    train_only(ck.model, parts, adapter=None if lora is None else Adapter(lora, tmp_path))
    # Fused kernels compute their scores anew in the backward pass; written out, each product is there once.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        SFT().loss(ck.model, batch).terms["tokens"].backward()
        seen = counter.get_total_flops()
        mine = StepFlops(ck.model).count([batch])
    assert mine == seen


def test_cached_features_cost_nothing_and_connect_alike(tmp_path):
    ck, batch = tiny.checkpoint(), row(tmp_path)
    train_only(ck.model, ("connector",))
    with torch.no_grad():
        features = torch.cat([ck.model.tower(pixels).flatten(0, 1) for pixels in batch.pixels])
    cached = type(batch)(**{**vars(batch), "pixels": (), "features_RC": features})
    tiles = sum(len(pixels) for pixels in batch.pixels)
    flops = StepFlops(ck.model)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        ck.model.tower(batch.pixels[0][:1])
    assert flops.count([batch]) - flops.count([cached]) == tiles * counter.get_total_flops()


def test_the_peak_is_a_number_of_operations_a_second():
    assert measure_peak(torch.device("cpu"), "float32") > 1e8
