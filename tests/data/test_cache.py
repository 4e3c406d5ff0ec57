"""Cached features are the computed ones, whatever happened to the process that wrote them."""

import shutil
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from llavakit.core.errors import DataError
from llavakit.data.cache import CHUNK, FeatureCache
from llavakit.data.loader import DataConfig, Loader, Position
from llavakit.data.media import Media
from llavakit.vision.image import cut_tiles, image_size, load_image
from llavakit.vision.plan import ImageConfig, plan_image
from tests import tiny


class Encode:
    """Rows that tell pictures apart, and a count of the tiles that were asked for."""

    def __init__(self) -> None:
        self.tiles = 0

    def __call__(self, pixels_NHWC: Tensor) -> Tensor:
        self.tiles += len(pixels_NHWC)
        return pixels_NHWC.float().reshape(len(pixels_NHWC), 4, -1)[:, :, :8] + 0.5


def media(path: Path, config: ImageConfig = tiny.IMAGE) -> Media:
    return Media(path, plan_image(config, image_size(path)))


def pictures(folder: Path, count: int, first: int = 0) -> list[Media]:
    return [media(tiny.picture(folder / f"{n}.png", seed=n)) for n in range(first, first + count)]


def computed(item: Media) -> Tensor:
    return Encode()(torch.from_numpy(cut_tiles(load_image(item.source), item.plan)))


def assert_right(cache: FeatureCache, items: list[Media]) -> None:
    for item in items:
        assert torch.equal(cache.features(item), computed(item))


def test_cached_features_are_the_computed_ones(tmp_path):
    items = pictures(tmp_path, CHUNK + 3)
    cache, encode = FeatureCache(tmp_path / "cache", "tower"), Encode()
    cache.fill(items, encode)
    assert encode.tiles == len(items)
    assert_right(cache, items)


def test_a_second_process_computes_nothing_again(tmp_path):
    items = pictures(tmp_path, 5)
    FeatureCache(tmp_path / "cache", "tower").fill(items[:3], Encode())
    again, encode = FeatureCache(tmp_path / "cache", "tower"), Encode()
    again.fill(items, encode)
    assert encode.tiles == 2
    third, encode = FeatureCache(tmp_path / "cache", "tower"), Encode()
    third.fill(items, encode)
    assert encode.tiles == 0
    assert_right(third, items)


def test_equal_content_is_computed_once(tmp_path):
    (item,) = pictures(tmp_path, 1)
    copy = media(Path(shutil.copy(item.source, tmp_path / "copy.png")))
    cache, encode = FeatureCache(tmp_path / "cache", "tower"), Encode()
    cache.fill([item, copy, item, Media(item.source.read_bytes(), item.plan)], encode)
    assert encode.tiles == 1
    assert_right(cache, [item, copy])


def test_changed_content_another_plan_and_another_tower_are_computed_anew(tmp_path):
    (item,) = pictures(tmp_path, 1)
    FeatureCache(tmp_path / "cache", "tower").fill([item], Encode())
    tiny.picture(item.source, seed=99)
    square = media(item.source, ImageConfig(kind="square", size=28, grid=2))
    for name, wanted in (("tower", [item]), ("tower", [square]), ("other", [item])):
        cache, encode = FeatureCache(tmp_path / "cache", name), Encode()
        cache.fill(wanted, encode)
        assert encode.tiles == 1
        assert_right(cache, wanted)


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
@pytest.mark.parametrize("half", [0, 1, 40])
@pytest.mark.parametrize("order", [1, -1])
def test_a_truncated_cache_goes_on_rightly(kept, half, order, tmp_path):
    """Blocks may be missing or half written; what is computed again may come in another order."""
    items = pictures(tmp_path, 5)
    FeatureCache(tmp_path / "cache", "tower").fill(items[:4], Encode())
    rows = FeatureCache(tmp_path / "cache", "tower").folder / "rows.bin"
    block = rows.stat().st_size // 4
    with rows.open("r+b") as file:
        file.truncate(kept * block + half)
    cache, encode = FeatureCache(tmp_path / "cache", "tower"), Encode()
    cache.fill(items[::order], encode)
    assert encode.tiles == 5 - kept
    assert_right(cache, items)
    reopened, encode = FeatureCache(tmp_path / "cache", "tower"), Encode()
    reopened.fill(items, encode)
    assert encode.tiles == 0
    assert_right(reopened, items)


@pytest.mark.parametrize("cut", [1, 30, 65, 70, 200])
def test_truncated_keys_cost_only_their_blocks(cut, tmp_path):
    items = pictures(tmp_path, 5)
    FeatureCache(tmp_path / "cache", "tower").fill(items[:4], Encode())
    keys = FeatureCache(tmp_path / "cache", "tower").folder / "keys.txt"
    keys.write_bytes(keys.read_bytes()[:-cut])
    for _ in range(2):
        cache = FeatureCache(tmp_path / "cache", "tower")
        cache.fill(items, Encode())
        assert_right(cache, items)
    encode = Encode()
    FeatureCache(tmp_path / "cache", "tower").fill(items, encode)
    assert encode.tiles == 0


@pytest.mark.parametrize("lost", ["rows.bin", "keys.txt"])
def test_a_cache_that_lost_a_file_is_filled_again(lost, tmp_path):
    items = pictures(tmp_path, 3)
    FeatureCache(tmp_path / "cache", "tower").fill(items, Encode())
    (FeatureCache(tmp_path / "cache", "tower").folder / lost).unlink()
    cache, encode = FeatureCache(tmp_path / "cache", "tower"), Encode()
    cache.fill(items, encode)
    assert encode.tiles == 3
    assert_right(FeatureCache(tmp_path / "cache", "tower"), items)


def test_an_image_that_was_never_filled_is_a_key_error(tmp_path):
    first, second = pictures(tmp_path, 2)
    cache = FeatureCache(tmp_path / "cache", "tower")
    with pytest.raises(KeyError):
        cache.features(first)
    cache.fill([first], Encode())
    with pytest.raises(KeyError):
        cache.features(second)


def test_a_broken_picture_is_left_out_and_told_when_it_is_read(tmp_path):
    good, bad, other = pictures(tmp_path, 3)
    bad.source.write_bytes(bad.source.read_bytes()[:400])
    cache = FeatureCache(tmp_path / "cache", "tower")
    cache.fill([good, bad, other], Encode())
    assert_right(cache, [good, other])
    with pytest.raises(DataError, match=r"1\.png: broken image"):
        cache.features(bad)


@pytest.mark.parametrize("count", [1, 8])
def test_a_loader_with_a_cache_gives_features_and_skips_broken_pictures(count, tmp_path):
    path = tiny.data_file(tmp_path, count)
    picture = tmp_path / f"{count - 2 if count > 1 else 0}.png"
    picture.write_bytes(picture.read_bytes()[:400])
    cache = FeatureCache(tmp_path / "cache", "tower")
    loader = Loader(DataConfig(files=(path,), on_bad="skip", tokens=60), tiny.encoder(), seed=0, cache=cache)
    cache.fill(loader.media(), Encode())
    plain = Loader(DataConfig(files=(path,), on_bad="skip", tokens=60), tiny.encoder(), seed=0)
    if count == 1:
        with pytest.raises(DataError, match="all 1 records are bad"):
            list(islice(loader.batches(Position()), 2))
        return
    for _, (mine, at), (theirs, there) in zip(
        range(8), loader.batches(Position()), plain.batches(Position()), strict=False
    ):
        assert at == there
        assert (mine is None) == (theirs is None)
        if mine is None:  # the row of the broken picture
            continue
        assert torch.equal(mine.ids_T, theirs.ids_T)
        assert not mine.pixels
        for pixels in theirs.pixels:
            assert torch.equal(mine.features_RC, Encode()(pixels).flatten(0, 1))
    assert loader.bad == plain.bad
    assert len(loader.bad) == 1
