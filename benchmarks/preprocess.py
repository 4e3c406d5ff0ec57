"""From files to what a tower computes with: our loader's road against the processors of `transformers`.

Both sides read the same files and end with the same normalised float32 pixels (checked before anything is timed).
The peer is what `AutoProcessor` gives a user without torchvision: `load_image` and the Pillow image processor of
the checkpoint; for videos `load_video` with PyAV and the image processor on every frame, because its video
processors need torchvision. With torchvision it would be another program with other pixels; that is not measured.

Each side runs in processes of its own. Ours has the memory setting of the `llavakit` command; the peer is measured
without it, as a user has it, and once more with it (`ratio_same_memory`). One worker: one thread on each side. Two:
two threads of one process for us (Pillow and PyAV let go of Python's lock), two processes for the peer.

    python -m benchmarks.preprocess [--videos] [--runs 5]
"""

import argparse
import multiprocessing
import statistics
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import PIL.Image
import torch
from skimage import data
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessorPil,
    LlavaImageProcessorPil,
    LlavaNextImageProcessorPil,
    LlavaOnevisionImageProcessorPil,
    SiglipImageProcessorPil,
)
from transformers import __version__ as transformers_version
from transformers.image_utils import load_image as load_peer_image
from transformers.video_utils import load_video as load_peer_video

from benchmarks.machine import alternate, median, report
from llavakit.core.memory import keep_freed_memory
from llavakit.data.media import plan_media
from llavakit.model.tower import Tower
from llavakit.text.conversation import Image, Video
from llavakit.vision.anyres import AnyresConfig, tile_grids, transpose
from llavakit.vision.frames import VideoConfig, spread
from llavakit.vision.plan import ImageConfig

HALF = (0.5, 0.5, 0.5)
NEXT = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
PHOTOS = {(640, 480): 12, (480, 640): 12, (1024, 768): 8, (1600, 1200): 4, (4000, 3000): 1}  # files of a size
CLIPS = {(640, 360): 2, (1280, 720): 1}
FRAMES, FPS, SECONDS = 32, 25, 10

RULES = {
    "LLaVA-1.5 pad 336": ImageConfig(),
    "NeXT anyres 336": ImageConfig(kind="anyres", anyres=transpose(AnyresConfig(pinpoints=NEXT), "transformers")),
    "OneVision anyres_max_9 384": ImageConfig(
        kind="anyres", size=384, grid=27, mean=HALF, std=HALF,
        anyres=transpose(AnyresConfig(pinpoints=tile_grids((1, 1), (6, 6), 384), max_tiles=9), "transformers"),
    ),
}  # fmt: skip
VIDEO_RULES = {
    "NeXT-Video square 336": ImageConfig(kind="square"),
    "OneVision squash 384": ImageConfig(kind="squash", size=384, grid=27, mean=HALF, std=HALF),
}


class Normaliser(Tower):
    """The first step of every tower, alone."""

    def __init__(self, image: ImageConfig) -> None:
        super().__init__(image)
        self.weight = nn.Parameter(torch.zeros(1))


def our_pixels(rule: str, path: Path) -> Tensor:
    """float32[N, C, H, W], on the loader's road: the header, the plan, the tiles, the tower's normalisation."""
    if rule in VIDEO_RULES:
        image = VIDEO_RULES[rule]
        kind = "square" if image.kind == "square" else "squash"
        media = plan_media(Video(path), image, VideoConfig(kind=kind, max_frames=FRAMES), alone=True)
    else:
        image = RULES[rule]
        media = plan_media(Image(path), image, None, alone=True)
    return Normaliser(image).normalise(media.tiles())


def peer_processor(rule: str):
    """The processor of the released checkpoint."""
    colours = {"image_mean": list(HALF), "image_std": list(HALF)}
    side, shape = {"shortest_edge": 336}, {"height": 336, "width": 336}
    return {
        "LLaVA-1.5 pad 336": lambda: LlavaImageProcessorPil(size=side, crop_size=shape, do_pad=True),
        "NeXT anyres 336": lambda: LlavaNextImageProcessorPil(
            size=side, crop_size=shape, image_grid_pinpoints=[list(pair) for pair in NEXT]
        ),
        "OneVision anyres_max_9 384": lambda: LlavaOnevisionImageProcessorPil(**colours),
        "NeXT-Video square 336": lambda: CLIPImageProcessorPil(size=side, crop_size=shape),
        "OneVision squash 384": lambda: SiglipImageProcessorPil(
            size={"height": 384, "width": 384}, resample=PIL.Image.Resampling.BICUBIC, **colours
        ),
    }[rule]()


def peer_pixels(rule: str, processor, path: Path) -> Tensor:
    """float32[N, C, H, W]. Of a video the same frames as ours, from the count in its header."""
    if rule in VIDEO_RULES:
        frames, _ = load_peer_video(
            str(path), sample_indices_fn=lambda metadata, **_: spread(metadata.total_num_frames, FRAMES)
        )
        return processor(list(frames), return_tensors="pt")["pixel_values"]
    pixels = processor(load_peer_image(str(path)), return_tensors="pt")["pixel_values"]
    return pixels.flatten(0, -4)


def start(memory: bool) -> None:
    """Set up a worker process."""
    torch.set_num_threads(1)
    if memory:
        keep_freed_memory()


def work_ours(rule: str, paths: Sequence[Path], threads: int) -> None:
    if threads == 1:
        for path in paths:
            our_pixels(rule, path)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda path: our_pixels(rule, path).shape, paths))


def work_peer(rule: str, paths: Sequence[Path]) -> None:
    processor = peer_processor(rule)
    for path in paths:
        peer_pixels(rule, processor, path)


class Sides:
    """Both sides' processes, and how each does a list of files with so many workers."""

    def __init__(self, workers: int, peer_memory: bool = False) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.workers = workers
        self.mine = ProcessPoolExecutor(1, spawn, start, (True,))
        self.theirs = [ProcessPoolExecutor(1, spawn, start, (peer_memory,)) for _ in range(workers)]

    def ours(self, rule: str, paths: list[Path]) -> None:
        self.mine.submit(work_ours, rule, paths, self.workers).result()

    def peer(self, rule: str, paths: list[Path]) -> None:
        jobs = [
            pool.submit(work_peer, rule, paths[number :: self.workers])
            for number, pool in enumerate(self.theirs)
        ]
        for job in jobs:
            job.result()

    def close(self) -> None:
        for pool in (self.mine, *self.theirs):
            pool.shutdown()

    def rates(self, rule: str, paths: list[Path], runs: int) -> tuple[float, float]:
        """Files a second of ours and of the peer, medians."""
        paths = paths * self.workers
        self.ours(rule, paths[: self.workers])  # imports, page cache
        self.peer(rule, paths[: self.workers])
        seconds = alternate(lambda _: self.ours(rule, paths), lambda _: self.peer(rule, paths), runs)
        mine, theirs = (len(paths) / median(times) for times in seconds)
        return mine, theirs


def write_photos(folder: Path) -> dict[str, list[Path]]:
    """JPEG files of quality 90 by size: real photos side by side, enlarged where that does not fill the picture."""
    sources = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    files: dict[str, list[Path]] = {}
    for size, count in PHOTOS.items():
        for number in range(count):
            canvas = PIL.Image.new("RGB", size)
            width, height = size[0] // 2, size[1] // 2
            for place in range(4):
                photo = PIL.Image.fromarray(sources[(number + place) % 4])
                photo = photo.resize((width, height), PIL.Image.Resampling.LANCZOS)
                canvas.paste(photo, (place % 2 * width, place // 2 * height))
            path = folder / f"{size[0]}x{size[1]}_{number}.jpg"
            canvas.save(path, quality=90)
            files.setdefault(f"{size[0]}x{size[1]}", []).append(path)
    return files


def write_clips(folder: Path) -> dict[str, list[Path]]:
    """H.264 clips of ten seconds: a window that moves over a photo."""
    import av

    files: dict[str, list[Path]] = {}
    for size, count in CLIPS.items():
        for number in range(count):
            photo = PIL.Image.fromarray([data.coffee(), data.astronaut()][number]).resize(
                (size[0] + 250, size[1] + 250)
            )
            path = folder / f"{size[0]}x{size[1]}_{number}.mp4"
            with av.open(path, "w") as output:
                stream = output.add_stream("libx264", rate=FPS)
                stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
                for step in range(FPS * SECONDS):
                    window = photo.crop((step, step, step + size[0], step + size[1]))
                    output.mux(stream.encode(av.VideoFrame.from_image(window)))
                output.mux(stream.encode())
            files.setdefault(f"{size[0]}x{size[1]}", []).append(path)
    return files


def check_equal(rules: Sequence[str], files: dict[str, list[Path]]) -> None:
    """Nothing is timed unless both sides compute the same pixels."""
    for rule in rules:
        processor = peer_processor(rule)
        for size, paths in files.items():
            difference = (our_pixels(rule, paths[0]) - peer_pixels(rule, processor, paths[0])).abs().max()
            if difference > 1e-6:
                raise SystemExit(f"{rule}, {size}: the two sides differ by {difference:.2g}")


def measure(rules: Sequence[str], files: dict[str, list[Path]], runs: int, sides: Sides) -> dict:
    """(files a second of ours, of the peer) for every rule and size."""
    cells = {}
    for rule in rules:
        for size, paths in files.items():
            mine, theirs = cells[rule, size] = sides.rates(rule, paths, runs)
            print(
                f"{sides.workers} workers, {rule:27} {size:10} ours {mine:7.1f}/s  peer {theirs:7.1f}/s  "
                f"ratio {mine / theirs:.2f}",
                flush=True,
            )
    sides.close()
    return cells


def mean_ratio(cells: dict) -> float:
    return statistics.geometric_mean(mine / theirs for mine, theirs in cells.values())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", action="store_true")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    rules, write = (VIDEO_RULES, write_clips) if arguments.videos else (RULES, write_photos)
    with tempfile.TemporaryDirectory() as folder:
        files = write(Path(folder))
        check_equal(list(rules), files)
        one = measure(list(rules), files, arguments.runs, Sides(1))
        two = measure(list(rules), files, arguments.runs, Sides(2))
        same = measure(list(rules), files, arguments.runs, Sides(1, peer_memory=True))
    mine, theirs = (statistics.geometric_mean(cell[side] for cell in one.values()) for side in (0, 1))
    report(
        "videos to pixels" if arguments.videos else "photos to pixels",
        round(mine, 2),
        {"name": "transformers' Pillow processors", "version": transformers_version, "value": round(theirs, 2)},
        f"{'videos' if arguments.videos else 'photos'}/s, geometric mean",
        better="higher",
        runs=arguments.runs,
        ratio_two_workers=round(mean_ratio(two), 3),
        ratio_same_memory=round(mean_ratio(same), 3),
        lowest_ratio=round(min(a / b for a, b in one.values()), 3),
        cells={f"{rule}, {size}": round(a / b, 2) for (rule, size), (a, b) in one.items()},
    )  # fmt: skip


if __name__ == "__main__":
    main()
