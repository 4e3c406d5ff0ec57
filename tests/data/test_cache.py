"""Cached features are the computed ones, whatever happened to the process that wrote them."""

import shutil
import signal
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from llavakit.core.errors import DataError
from llavakit.data.cache import CHUNK, FeatureCache
from llavakit.data.loader import Loader, Position
from llavakit.data.media import Media
from llavakit.data.settings import DataConfig
from llavakit.vision.image import cut_tiles, image_size, load_image
from llavakit.vision.plan import ImageConfig, plan_image
from tests import tiny

ROOT = Path(__file__).parents[2]


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
    return stored(Encode()(torch.from_numpy(cut_tiles(load_image(item.source), item.plan))))


def stored(features: Tensor) -> Tensor:
    """A cache keeps eight bits of every number, as bf16 products do."""
    return features.bfloat16().float()


def fill(cache: FeatureCache, items: list[Media]) -> int:
    """A record for each item; returns the number of tiles that were computed."""
    encode = Encode()
    cache.fill([(item,) for item in items], encode, total=len(items))
    return encode.tiles


def opened(folder: Path, tower: str = "tower") -> FeatureCache:
    return FeatureCache(folder / "cache", tower)


def assert_right(cache: FeatureCache, items: list[Media]) -> None:
    for item in items:
        assert torch.equal(cache.features(item), computed(item))


def test_cached_features_are_the_computed_ones(tmp_path):
    items = pictures(tmp_path, CHUNK + 3)
    cache = opened(tmp_path)
    assert fill(cache, items) == len(items)
    assert_right(cache, items)


def test_a_second_process_computes_nothing_again(tmp_path):
    items = pictures(tmp_path, 5)
    assert fill(opened(tmp_path), items[:3]) == 3
    assert fill(opened(tmp_path), items) == 2
    third = opened(tmp_path)
    assert fill(third, items) == 0
    assert_right(third, items)


def test_equal_content_is_computed_once(tmp_path):
    (item,) = pictures(tmp_path, 1)
    copy = media(Path(shutil.copy(item.source, tmp_path / "copy.png")))
    cache = opened(tmp_path)
    assert fill(cache, [item, copy, item, Media(item.source.read_bytes(), item.plan)]) == 1
    assert_right(cache, [item, copy])


def test_changed_content_another_plan_and_another_tower_are_computed_anew(tmp_path):
    (item,) = pictures(tmp_path, 1)
    fill(opened(tmp_path), [item])
    tiny.picture(item.source, seed=99)
    square = media(item.source, ImageConfig(kind="square", size=28, grid=2))
    for name, wanted in (("tower", [item]), ("tower", [square]), ("other", [item])):
        cache = opened(tmp_path, name)
        assert fill(cache, wanted) == 1
        assert_right(cache, wanted)


def test_tiles_of_several_sizes_lie_in_one_cache(tmp_path):
    items = pictures(tmp_path, 2) + [
        media(tiny.picture(tmp_path / f"wide{n}.png", seed=n), ImageConfig(kind="square", size=56, grid=4))
        for n in (7, 8)
    ]
    cache = opened(tmp_path)
    assert fill(cache, items) == 4
    for each in (cache, opened(tmp_path)):
        assert_right(each, items)
    assert cache.features(items[2]).shape == cache.features(items[0]).shape  # of this Encode; any will do


def test_two_that_fill_one_folder_at_once_are_both_right(tmp_path):
    """Each wrote what the other has too, in another order, while the other wrote."""
    items = pictures(tmp_path, 2 * CHUNK)
    one, other = opened(tmp_path), opened(tmp_path)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(fill, one, items), pool.submit(fill, other, items[::-1])]
        assert [done.result() for done in both] == [len(items)] * 2
    for cache in (one, other, opened(tmp_path)):
        assert_right(cache, items)
    assert fill(opened(tmp_path), items) == 0


@pytest.mark.parametrize("kept", [0, 1, 3])
@pytest.mark.parametrize("half", [0, 1, 40])
def test_rows_that_a_full_disk_cut_short_are_computed_again(kept, half, tmp_path):
    items = pictures(tmp_path, 5)
    fill(opened(tmp_path), items[:4])
    (rows,) = opened(tmp_path).folder.glob("*.rows")
    with rows.open("r+b") as file:
        file.truncate(kept * rows.stat().st_size // 4 + half)
    cache = opened(tmp_path)
    assert fill(cache, items[::-1]) == 5 - kept
    for each in (cache, opened(tmp_path)):
        assert_right(each, items)
    assert fill(opened(tmp_path), items) == 0


@pytest.mark.parametrize("cut", [1, 30, 41, 200])
def test_keys_that_were_cut_short_cost_only_their_rows(cut, tmp_path):
    items = pictures(tmp_path, 5)
    fill(opened(tmp_path), items[:4])
    (keys,) = opened(tmp_path).folder.glob("*.keys")
    keys.write_bytes(keys.read_bytes()[:-cut])
    cache = opened(tmp_path)
    assert 1 < fill(cache, items) < 5 or cut == 200
    for each in (cache, opened(tmp_path)):
        assert_right(each, items)


@pytest.mark.parametrize("lost", ["rows", "keys"])
def test_a_cache_that_lost_a_file_is_filled_again(lost, tmp_path):
    items = pictures(tmp_path, 3)
    fill(opened(tmp_path), items)
    (file,) = opened(tmp_path).folder.glob(f"*.{lost}")
    file.unlink()
    assert fill(opened(tmp_path), items) == 3
    assert_right(opened(tmp_path), items)


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.data.test_cache import Encode, opened, pictures

folder, calls = Path(sys.argv[1]), 0

class Dying(Encode):
    def __call__(self, pixels_NHWC):
        global calls
        calls += 1
        if calls == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(pixels_NHWC)

items = pictures(folder, 3 * 32)
opened(folder).fill([(item,) for item in items], Dying(), total=len(items))
"""


def test_a_process_that_is_killed_while_filling_leaves_what_it_had(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    items = [media(tmp_path / f"{number}.png") for number in range(3 * CHUNK)]
    cache = opened(tmp_path)
    assert fill(cache, items) == CHUNK
    assert_right(cache, items)


def test_an_image_that_was_never_filled_is_a_key_error(tmp_path):
    first, second = pictures(tmp_path, 2)
    cache = opened(tmp_path)
    with pytest.raises(KeyError):
        cache.features(first)
    fill(cache, [first])
    with pytest.raises(KeyError):
        cache.features(second)


def test_a_broken_picture_is_left_out_and_told_when_it_is_read(tmp_path):
    good, bad, gone, other = pictures(tmp_path, 4)
    bad.source.write_bytes(bad.source.read_bytes()[:400])
    gone.source.unlink()
    cache = opened(tmp_path)
    fill(cache, [good, bad, gone, other])
    assert_right(cache, [good, other])
    with pytest.raises(DataError, match=r"1\.png: broken image"):
        cache.features(bad)
    with pytest.raises(DataError, match=r"2\.png"):
        cache.features(gone)


def test_filling_holds_no_picture_and_few_tiles(tmp_path):
    """Bytes of tables are let go of as soon as their tiles are cut, and tiles as soon as they are encoded."""
    bytes_ = [item.source.read_bytes() for item in pictures(tmp_path, 2 * CHUNK)]
    plan, alive = pictures(tmp_path, 1)[0].plan, []

    def records():
        for number, content in enumerate(bytes_):
            item = Media(bytes(bytearray(content)), plan)
            alive.append(weakref.ref(item))
            yield (item,)
            del item
            assert sum(each() is not None for each in alive) <= 2, number

    cache = opened(tmp_path)
    cache.fill(records(), Encode(), total=len(bytes_))
    assert cache.folder.stat() and len(alive) == 2 * CHUNK


@pytest.mark.parametrize("count", [1, 8])
def test_a_loader_with_a_cache_gives_features_and_skips_broken_pictures(count, tmp_path):
    path = tiny.data_file(tmp_path, count)
    picture = tmp_path / f"{count - 2 if count > 1 else 0}.png"
    picture.write_bytes(picture.read_bytes()[:400])
    cache = opened(tmp_path)
    loader = Loader(DataConfig(files=(path,), on_bad="skip", tokens=60), tiny.encoder(), seed=0, cache=cache)
    cache.fill(loader.media_by_record(), Encode(), total=len(loader.records))
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
            assert torch.equal(mine.features_RC, stored(Encode()(pixels)).flatten(0, 1))
    assert loader.bad == plain.bad
    assert len(loader.bad) == 1
