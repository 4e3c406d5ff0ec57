"""The frame that is asked for is the one that comes, upright, with little decoding; all else is one line."""

import io
import os
import random
import shutil
import struct
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llavakit.core.errors import ConfigError, DataError
from llavakit.vision import image, video
from llavakit.vision.frames import VideoConfig, VideoInfo, choose_frames
from llavakit.vision.kinds import kind_of
from llavakit.vision.video import load_frames, probe_video, video_digest
from tests.vision.clips import decode_all, number_of, numbered, real_clips, write_clip, write_sound

B_FRAMES = {"bf": "2"}
KINDS = {
    "mp4": {"options": B_FRAMES},
    "mp4 without B-frames": {"options": {"bf": "0"}},
    "mp4 one key frame": {"gop": 1000, "options": {"bf": "3"}},
    "mp4 only key frames": {"gop": 1},
    "mp4 open groups": {"options": {"bf": "2", "x264-params": "open-gop=1"}},
    "mp4 fragments": {"options": B_FRAMES, "container": {"movflags": "frag_keyframe+empty_moov"}},
    "mp4 hevc": {"codec": "libx265", "options": {"x265-params": "log-level=none"}},
    "mov mjpeg": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "mkv": {"options": B_FRAMES},
    "mkv of a live recording": {"options": B_FRAMES, "container": {"live": "1"}},
    "webm vp9": {"codec": "libvpx-vp9"},
    "webm vp8": {"codec": "libvpx"},
    "ts": {"kind": "mpegts", "options": B_FRAMES},
    "avi": {"options": {"bf": "0"}},
    "avi with B-frames": {"options": B_FRAMES},
    "avi mpeg4": {"codec": "mpeg4"},
    "avi mpeg4 with B-frames": {"codec": "mpeg4", "options": B_FRAMES},
    "gif": {"codec": "gif", "pixels": "rgb8"},
    "m2ts": {"kind": "mpegts", "options": B_FRAMES},
    "mpg": {"codec": "mpeg1video"},
    "mpg mpeg2": {"codec": "mpeg2video", "kind": "vob", "options": B_FRAMES},
    "flv": {"options": B_FRAMES},
    "flv sorenson": {"codec": "flv1"},
    "wmv": {"codec": "wmv2"},
    "ogv": {"codec": "libvpx", "kind": "ogg"},
    "odd size": {"size": (97, 63), "pixels": "yuv444p", "options": B_FRAMES},
    "odd size mpeg4": {"size": (97, 63), "codec": "mpeg4"},
}


def clip(folder: Path, name: str, count: int = 48, **options) -> Path:
    suffix = name.split()[0] if name.split()[0] != "odd" else "mp4"
    return write_clip(folder / f"clip.{suffix}", count, **options)


def same(first: PIL.Image.Image, second: PIL.Image.Image) -> bool:
    return first.size == second.size and np.array_equal(np.asarray(first), np.asarray(second))


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def decoded(monkeypatch) -> list[int]:
    """Grows by one for every frame that is decoded."""
    frames: list[int] = []
    decode = video._decode

    def counted(packets, stream):
        for frame in decode(packets, stream):
            frames.append(frame.pts)
            yield frame

    monkeypatch.setattr(video, "_decode", counted)
    return frames


@pytest.mark.parametrize("name", KINDS)
def test_every_frame_of_every_kind_of_file(name, tmp_path):
    path = clip(tmp_path, name, **KINDS[name])
    everything, info = decode_all(path), probe_video(path)
    assert len(info.times) == len(everything) == 48
    assert info.size == KINDS[name].get("size", (96, 64))
    assert info.times == pytest.approx(
        [number / 25 for number in range(48)], abs=0.006
    )  # GIF counts in 10 ms
    assert info.seconds == pytest.approx(48 / 25, abs=0.011)
    for indices in (range(48), range(0, 48, 7), [47], [30, 11, 30, 12]):
        pictures = load_frames(path, info, list(indices))
        assert [number_of(picture) for picture in pictures] == list(indices)
        assert all(same(picture, everything[index]) for picture, index in zip(pictures, indices, strict=True))
        assert {picture.mode for picture in pictures} == {"RGB"}


def test_bytes_are_read_like_their_file(tmp_path):
    path = write_clip(tmp_path / "clip.mp4")
    data = path.read_bytes()
    assert probe_video(data) == probe_video(path)
    (picture,) = load_frames(data, probe_video(data), [20])
    assert number_of(picture) == 20


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory) -> tuple[Path, VideoInfo, list[PIL.Image.Image]]:
    path = write_clip(tmp_path_factory.mktemp("long") / "clip.mkv", 200, gop=17, options={"bf": "3"})
    return path, probe_video(path), decode_all(path)


@settings(derandomize=True, max_examples=30, deadline=None)
@given(indices=st.lists(st.integers(0, 199), min_size=1, max_size=12))
def test_any_choice_of_frames_in_any_order(long_clip, indices):
    path, info, everything = long_clip
    pictures = load_frames(path, info, indices)
    assert all(same(picture, everything[index]) for picture, index in zip(pictures, indices, strict=True))
    assert len({id(picture) for picture in pictures}) == len(set(indices))  # a repeated frame is one picture


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "webm", "avi"])
def test_sampling_decodes_a_small_part_of_a_long_clip(suffix, tmp_path, decoded):
    codec = "libvpx-vp9" if suffix == "webm" else "libx264"
    kind = "mpegts" if suffix == "ts" else None
    options = {"bf": "0" if suffix == "avi" else "2"}
    path = write_clip(tmp_path / f"clip.{suffix}", 600, gop=25, codec=codec, kind=kind, options=options)
    info = probe_video(path)
    indices = choose_frames(VideoConfig(max_frames=8), info)
    pictures = load_frames(path, info, indices)
    assert [number_of(picture) for picture in pictures] == list(indices)
    assert len(decoded) <= sum(index % 25 + 1 for index in indices) < 130


def test_frames_of_one_group_are_decoded_in_one_go(tmp_path, decoded):
    path = write_clip(tmp_path / "clip.mp4", 100, gop=50)
    load_frames(path, probe_video(path), [60, 70, 90, 99, 70])
    assert len(decoded) == 50
    assert len(set(decoded)) == 50


def test_decoding_stops_at_the_last_wanted_frame(tmp_path, decoded):
    path = write_clip(tmp_path / "clip.mp4", 600, gop=1000)
    (picture,) = load_frames(path, probe_video(path), [5])
    assert number_of(picture) == 5
    assert len(decoded) == 6


def test_measuring_decodes_nothing_but_the_first_frame(tmp_path, decoded):
    assert len(probe_video(write_clip(tmp_path / "clip.mp4", 100)).times) == 100
    assert decoded == []


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_varying_rate_keeps_its_times(suffix, tmp_path):
    steps = random.Random(0).choices([10, 33, 40, 41, 500, 2000], k=59)
    stamps = [sum(steps[:number]) for number in range(60)]
    path = write_clip(tmp_path / f"clip.{suffix}", 60, stamps=stamps, gop=20, options=B_FRAMES)
    info = probe_video(path)
    assert info.times == pytest.approx([stamp / 1000 for stamp in stamps], abs=1e-4)
    assert info.seconds >= info.times[-1]
    for index in (0, 1, 19, 20, 41, 59):
        (picture,) = load_frames(path, info, [index])
        assert number_of(picture) == index


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_times_count_from_the_first_frame(suffix, tmp_path):
    stamps = [5000 + 40 * number for number in range(40)]
    kind = "mpegts" if suffix == "ts" else None
    path = write_clip(tmp_path / f"clip.{suffix}", 40, stamps=stamps, kind=kind, options=B_FRAMES)
    info = probe_video(path)
    assert info.first > 0
    assert info.times == pytest.approx([number / 25 for number in range(40)], abs=1e-4)
    assert info.seconds == pytest.approx(1.6, abs=1e-3)
    assert [number_of(picture) for picture in load_frames(path, info, [0, 25, 39])] == [0, 25, 39]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_turned_videos_are_shown_upright(quarters, suffix, tmp_path):
    path = write_clip(tmp_path / f"clip.{suffix}", stored=quarters, turn=(-90 * quarters, False, False))
    info = probe_video(path)
    assert info.size == (96, 64)
    assert decode_all(path)[0].size == ((64, 96) if quarters % 2 else (96, 64))
    pictures = load_frames(path, info, [0, 13, 47])
    assert [number_of(picture) for picture in pictures] == [0, 13, 47]
    assert {picture.size for picture in pictures} == {(96, 64)}


@pytest.mark.parametrize(
    ("turn", "mirrored"), [((0, True, False), np.fliplr), ((0, False, True), np.flipud)], ids=["left", "top"]
)
def test_mirrored_videos_are_mirrored_back(turn, mirrored, tmp_path):
    path = write_clip(tmp_path / "clip.mp4", turn=turn)
    (picture,) = load_frames(path, probe_video(path), [9])
    assert np.array_equal(np.asarray(picture), mirrored(np.asarray(decode_all(path)[9])))


@pytest.mark.parametrize(("degrees", "size"), [(10, (96, 64)), (45, (96, 64)), (-85, (64, 96))])
def test_a_slanted_turn_is_the_nearest_quarter_or_none(degrees, size, tmp_path):
    path = write_clip(tmp_path / "clip.mp4", turn=(degrees, False, False))
    info = probe_video(path)
    assert info.size == size
    (picture,) = load_frames(path, info, [9])
    assert same(
        picture, decode_all(path)[9].rotate(90 * round(degrees / 90) if size == (64, 96) else 0, expand=True)
    )


@pytest.mark.parametrize("senseless", [(0, 0, 0, 0, 0), (0, 1 << 16, 0, 0, 1 << 16)], ids=["zero", "shear"])
def test_a_senseless_turn_is_none(senseless, tmp_path):
    data = write_clip(tmp_path / "clip.mp4", turn=(90, False, False)).read_bytes()
    quarter = struct.pack(">5i", 0, -1 << 16, 0, 1 << 16, 0)
    assert data.count(quarter) == 1
    assert probe_video(data).size == (64, 96)
    assert probe_video(data.replace(quarter, struct.pack(">5i", *senseless))).size == (96, 64)


@pytest.mark.parametrize(
    "colours", [(1, 1), (1, 2), (5, 1), (6, 2)], ids=["709", "709 full", "601", "601 full"]
)
def test_the_colour_matrix_and_range_of_the_file_are_used(colours, tmp_path):
    path = write_clip(tmp_path / "clip.mp4", colours=colours, options={"qp": "0"})
    (picture,) = load_frames(path, probe_video(path), [3])
    assert np.abs(np.subtract(picture.getpixel((48, 50)), numbered(3)[50, 48].astype(int))).max() <= 3


def test_a_recording_that_begins_between_key_frames_begins_at_the_first_one(tmp_path):
    path = write_clip(tmp_path / "clip.ts", 60, kind="mpegts", gop=20, options=B_FRAMES)
    data = path.read_bytes()
    cut = data[len(data) // 188 // 6 * 188 :]
    info = probe_video(cut)
    pictures = load_frames(cut, info, range(len(info.times)))
    assert [number_of(picture) for picture in pictures] == list(range(20, 60))


def test_a_hidden_frame_of_vp8_is_not_counted(tmp_path):
    path = write_clip(tmp_path / "clip.webm", codec="libvpx")
    with av.open(path) as container:
        packet = bytes([*container.demux(video=0)][17])
    data = path.read_bytes()
    hidden = data.replace(packet, bytes([packet[0] & ~0x10]) + packet[1:], 1)
    info, everything = probe_video(hidden), decode_all(hidden)
    assert len(info.times) == len(everything) == 47
    pictures = load_frames(hidden, info, range(47))
    assert all(same(picture, other) for picture, other in zip(pictures, everything, strict=True))


def test_an_empty_sample_is_a_frame_that_was_dropped(tmp_path):
    data = bytearray(write_clip(tmp_path / "clip.mp4", gop=12, options={"bf": "0"}).read_bytes())
    start = data.index(b"stsz") + 16 + 4 * 47
    data[start : start + 4] = bytes(4)
    info = probe_video(bytes(data))
    assert len(info.times) == 47
    assert [number_of(picture) for picture in load_frames(bytes(data), info, [0, 46])] == [0, 46]


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_avi_fills_gaps_with_empty_packets(codec, tmp_path):
    stamps = [40 * number + 400 * (number > 20) for number in range(48)]
    path = write_clip(tmp_path / "clip.avi", codec=codec, stamps=stamps, options={"bf": "0"})
    info = probe_video(path)
    assert info.times == pytest.approx([stamp / 1000 for stamp in stamps])
    assert [number_of(picture) for picture in load_frames(path, info, range(48))] == list(range(48))


def test_an_empty_packet_does_not_end_decoding(tmp_path):
    with av.open(write_clip(tmp_path / "clip.mp4", 30)) as container:
        (stream,) = container.streams.video
        packets = [*container.demux(stream)]
        frames = [*video._decode([*packets[:9], av.Packet(), *packets[9:]], stream)]
    assert [number_of(frame.to_image()) for frame in frames] == list(range(30))


@pytest.mark.parametrize("name", ["bikes", "bigbuckbunny", "carphone_pristine", "carphone_distorted"])
def test_real_clips(name, decoded):
    path = real_clips()[name]
    info = probe_video(path)
    indices = choose_frames(VideoConfig(max_frames=5), info)[:4]
    everything = decode_all(path)
    assert len(info.times) == len(everything)
    pictures = load_frames(path, info, indices)
    assert all(same(picture, everything[index]) for picture, index in zip(pictures, indices, strict=True))
    assert info.size == everything[0].size
    assert len(decoded) < len(everything)


def test_what_real_clips_say_about_themselves():
    clips = {name: probe_video(path) for name, path in real_clips().items()}
    assert {name: (info.size, len(info.times), round(info.seconds, 3)) for name, info in clips.items()} == {
        "bikes": ((640, 272), 250, 10.0),
        "bigbuckbunny": ((1280, 720), 132, 5.28),
        "carphone_pristine": ((176, 144), 120, 4.004),
        "carphone_distorted": ((176, 144), 120, 4.004),
    }
    assert choose_frames(VideoConfig(uniform=False), clips["carphone_pristine"]) == (0, 30, 60, 90)
    assert clips["carphone_pristine"].times[30] == pytest.approx(1.001)


# Directories and sequences of pictures


def write_pictures(folder: Path, names: list[str]) -> Path:
    folder.mkdir()
    for number, name in enumerate(names):
        PIL.Image.fromarray(numbered(number)).save(folder / name)
    return folder


@pytest.mark.parametrize(
    "names",
    [
        ["c01_0001.png", "c01_0002.png", "c01_0010.png"],
        ["1.png", "2.png", "10.png", "100.png"],
        ["a.png", "b.PNG", "b1.png", "c.bmp"],
    ],
    ids=["padded", "plain", "mixed"],
)
def test_a_directory_shows_its_pictures_by_name_twice_a_second(names, tmp_path):
    folder = write_pictures(tmp_path / "frames", names)
    (folder / "notes.txt").write_text("not a frame")
    (folder / "._1.png").write_text("not a frame")
    info = probe_video(folder)
    assert info == VideoInfo((96, 64), tuple(number / 2 for number in range(len(names))), len(names) / 2)
    pictures = load_frames(folder, info, [0, len(names) - 1, 0])
    assert [number_of(picture) for picture in pictures] == [0, len(names) - 1, 0]
    assert pictures[0] is pictures[2]


def test_pictures_in_memory_are_shown_once_a_second(tmp_path):
    pictures = tuple(PIL.Image.fromarray(numbered(number)) for number in range(5))
    info = probe_video(pictures)
    assert info == VideoInfo((96, 64), (0.0, 1.0, 2.0, 3.0, 4.0), 5.0)
    assert [number_of(picture) for picture in load_frames(pictures, info, [4, 2])] == [4, 2]


def test_turned_pictures_are_turned_back(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.fromarray(np.rot90(numbered(3)).copy()).save(folder / "1.png", exif=exif)
    info = probe_video(folder)
    assert info.size == (96, 64)
    assert number_of(load_frames(folder, info, [0])[0]) == 3


def test_directories_that_are_no_video_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "empty: no pictures in it" in refused(lambda: probe_video(tmp_path / "empty"))
    assert "no pictures in it" in refused(lambda: probe_video(()))
    folder = write_pictures(tmp_path / "frames", ["1.png", "2.png"])
    info = probe_video(folder)
    PIL.Image.new("RGB", (20, 10)).save(folder / "3.png")
    message = refused(lambda: probe_video(folder))
    assert "frame 2 is 20 x 10 pixels, the first one 96 x 64" in message
    assert "3 pictures, but 2 when it was measured" in refused(lambda: load_frames(folder, info, [0]))


# Errors


def joined(folder: Path, suffix: str, *counts: int, **options) -> bytes:
    """Recordings put one behind the other, each with a clock of its own."""
    kind = {"ts": "mpegts", "mpg": None}[suffix]
    clips = [
        write_clip(folder / f"{number}.{suffix}", n, kind=kind, **options) for number, n in enumerate(counts)
    ]
    return b"".join(path.read_bytes() for path in clips)


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("ts", {"options": B_FRAMES}),
        ("ts", {"options": {"bf": "0"}}),
        ("ts", {"options": {"bf": "2", "x264-params": "open-gop=1"}}),
        ("ts", {"codec": "mpeg2video", "options": B_FRAMES}),
        ("mpg", {"codec": "mpeg1video"}),
        ("mpg", {"codec": "mpeg2video", "options": B_FRAMES}),
    ],
    ids=str,
)
def test_a_clock_that_starts_again_hides_nothing(suffix, options, tmp_path):
    data = joined(tmp_path, suffix, 30, 24, 30, **options)
    order = [*range(30), *range(24), *range(30)]
    info = probe_video(data)
    assert info.restarts and len(info.times) == 84
    assert all(first < second for first, second in zip(info.times, info.times[1:], strict=False))
    assert info.seconds == pytest.approx(84 / 25, abs=0.2)
    assert [number_of(picture) for picture in load_frames(data, info, range(84))] == order
    for chosen in ([83, 0, 31], [53], [29, 30], [54, 83], choose_frames(VideoConfig(max_frames=8), info)):
        assert [number_of(picture) for picture in load_frames(data, info, chosen)] == [
            order[at] for at in chosen
        ]


def test_packets_with_a_time_in_front_are_read(tmp_path):
    """M2TS, as camcorders and discs have it."""
    plain = write_clip(tmp_path / "clip.ts", kind="mpegts", options=B_FRAMES).read_bytes()
    data = b"".join(bytes(4) + plain[at : at + 188] for at in range(0, len(plain), 188))
    info = probe_video(data)
    assert info.times == probe_video(plain).times
    assert [number_of(picture) for picture in load_frames(data, info, [0, 30, 47])] == [0, 30, 47]
    assert (kind_of(plain, "video"), kind_of(data, "video")) == ("video/mp2t", "video/vnd.dlna.mpeg-tts")


def test_a_gif_may_end_with_a_comment(tmp_path):
    data = write_clip(tmp_path / "clip.gif", 10, codec="gif", pixels="rgb8").read_bytes()
    for block in (b"\x21\xfe\x05hello\x00", b"\x21\xff\x0bXMP DataXMP" + b"\x03abc\x00", b"\x21\xfe\x00" * 3):
        ended = data[:-1] + block + data[-1:]
        info = probe_video(ended)
        assert len(info.times) == 10
        assert [number_of(picture) for picture in load_frames(ended, info, [0, 9])] == [0, 9]


def test_packets_of_sound_are_counted_too(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "clip.mp4", 48)
    monkeypatch.setattr(video, "MAX_PACKETS", 40)
    assert "more than 40 packets of pictures and sound" in refused(lambda: probe_video(path))


def test_frames_are_used_one_by_one(tmp_path):
    """A large frame is gone before the next one is decoded."""
    path, pictures = write_clip(tmp_path / "clip.mp4", 12, size=(640, 480)), []

    def use(picture: PIL.Image.Image) -> int:
        pictures.append(weakref.ref(picture))
        return sum(ref() is not None for ref in pictures)

    assert set(video.map_frames(path, probe_video(path), [0, 3, 5, 7, 11, 3], use)) == {1}
    assert len(pictures) == 5


def test_what_is_no_video_is_refused_by_name(tmp_path):
    good = write_clip(tmp_path / "good.mp4").read_bytes()
    picture = tmp_path / "picture.png"
    PIL.Image.fromarray(numbered(1)).save(picture)
    contents = {
        "text.mp4": (b"hello world\n" * 100, "not a video"),
        "empty.mp4": (b"", "not a video"),
        "zeros.mp4": (bytes(5000), "not a video"),
        "picture.mp4": (picture.read_bytes(), "not a video in a known format"),
        "no index.mp4": (good[:-200], "header is broken or cut off"),
        "sound.wav": (write_sound(tmp_path / "s.wav").read_bytes(), "not a video in a known format"),
        "sound.m4a": (write_sound(tmp_path / "s.m4a").read_bytes(), "only sound in it"),
    }
    for name, (data, expected) in contents.items():
        path = tmp_path / name
        path.write_bytes(data)
        message = refused(lambda path=path: probe_video(path))
        assert expected in message
        assert str(path) in message
        assert expected in refused(lambda data=data: probe_video(data))


def test_what_is_not_there_is_said(tmp_path):
    assert refused(lambda: probe_video(tmp_path / "x.mp4")) == f"video not found: {tmp_path / 'x.mp4'}"
    assert "video not found" in refused(lambda: video_digest(tmp_path / "x.mp4", [0]))
    os.mkfifo(tmp_path / "pipe.mp4")
    assert "pipe.mp4: not a file" in refused(lambda: probe_video(tmp_path / "pipe.mp4"))
    assert "cannot be read" in refused(lambda: probe_video(tmp_path / "a\0b.mp4"))
    path = write_clip(tmp_path / "clip.mp4", 10)
    for index in (-1, 10):
        message = refused(lambda index=index: load_frames(path, probe_video(path), [0, index]))
        assert message == f"{path}: there is no frame {index}, the last one is 9"


PLAYLISTS = {
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:2,\n{target}\n#EXT-X-ENDLIST\n",
    "list.txt": "ffconcat version 1.0\nfile '{target}'\n",
    "list.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "list.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period><BaseURL>{target}'
    "</BaseURL></Period></MPD>",
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_playlist_reaches_nothing(name, tmp_path):
    target = write_clip(tmp_path / "target.ts", kind="mpegts")
    for file in (tmp_path / name, tmp_path / "disguised.mp4"):
        file.write_text(PLAYLISTS[name].format(target=target))
        assert "not a video" in refused(lambda file=file: probe_video(file))


def test_a_name_is_a_name_whatever_it_looks_like(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "clip.ts", kind="mpegts")
    for name in (
        "concat:clip.ts",
        "file:clip.ts",
        "http://127.0.0.1/clip.ts",
        "subfile,,start,0,end,0,,:clip.ts",
    ):
        assert refused(lambda name=name: probe_video(Path(name))) == f"video not found: {Path(name)}"
    shutil.copy("clip.ts", "concat:clip.ts")
    assert len(probe_video(Path("concat:clip.ts")).times) == 48


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_a_file_that_is_cut_short_is_refused_and_so_is_a_frame_that_is_gone(share, tmp_path):
    path = write_clip(
        tmp_path / "clip.mp4", 120, gop=24, options=B_FRAMES, container={"movflags": "faststart"}
    )
    data, info = path.read_bytes(), probe_video(path)
    start = data.index(b"mdat")
    cut = data[: start + int(share * (len(data) - start))]
    assert "of 120 frames are in the file; get the file again" in refused(lambda: probe_video(cut))
    message = refused(lambda: load_frames(cut, info, [0, 115]))
    assert "frame 115 (4.60 s) cannot be decoded" in message
    assert number_of(load_frames(cut, info, [3])[0]) == 3


def test_a_matroska_file_that_is_cut_short_is_refused(tmp_path):
    data = write_clip(tmp_path / "clip.mkv", 120, options=B_FRAMES).read_bytes()
    message = refused(lambda: probe_video(data[: len(data) // 2]))
    assert "of 4.8 s are in the file; get the file again" in message


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_a_damaged_file_gives_the_right_frame_or_an_error(suffix, tmp_path):
    kind = "mpegts" if suffix == "ts" else None
    path = write_clip(tmp_path / f"clip.{suffix}", 72, kind=kind, gop=12, options=B_FRAMES)
    info, everything = probe_video(path), decode_all(path)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    if suffix != "ts":  # from the start of a frame on: nothing tells of a changed byte at the end of one
        with av.open(path) as container:
            middle = data.index(bytes([*container.demux(video=0)][36]))
    data[middle : middle + 300] = random.Random(1).randbytes(300)
    errors = []
    for index in range(72):
        try:
            (picture,) = load_frames(bytes(data), info, [index])
        except DataError as error:
            assert f"frame {index} ({info.times[index]:.2f} s) cannot be decoded" in str(error)
            errors.append(index)
        else:
            assert same(picture, everything[index])
    assert 0 < len(errors) < 72


def test_a_stream_that_appears_in_the_middle_ends_nothing(tmp_path):
    data = bytearray(write_clip(tmp_path / "clip.ts", kind="mpegts").read_bytes())
    starts = [at for at in range(0, len(data), 188) if data[at + 1 : at + 3] == b"\x41\x00"]  # a frame begins
    data[starts[30] + 1] = 0x75  # of another stream now
    with av.open(io.BytesIO(data)) as container, pytest.raises(IndexError):  # what PyAV itself makes of it
        list(container.demux())
    info = probe_video(bytes(data))
    assert len(info.times) == 47
    assert number_of(load_frames(bytes(data), info, [3])[0]) == 3


def test_a_picture_size_that_changes_is_refused(tmp_path, monkeypatch):
    stamps = [40 * number for number in range(24)]
    first = write_clip(tmp_path / "1.ts", 24, kind="mpegts", stamps=stamps, options={"bf": "0"})
    later = [960 + stamp for stamp in stamps]
    second = write_clip(
        tmp_path / "2.ts", 24, kind="mpegts", stamps=later, size=(128, 80), options={"bf": "0"}
    )
    data = first.read_bytes() + second.read_bytes()
    info = probe_video(data)
    assert (info.size, len(info.times)) == ((96, 64), 48)
    message = refused(lambda: load_frames(data, info, [0, 40]))
    assert "frame 40 (1.60 s) is 128 x 80 pixels, the first one 96 x 64" in message
    monkeypatch.setattr(image, "MAX_PIXELS", 128 * 80 - 1)  # holds inside the stream too
    assert "frame 40 (1.60 s) cannot be decoded" in refused(lambda: load_frames(data, info, [0, 40]))


def test_limits(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "clip.mp4")
    info = probe_video(path)
    with monkeypatch.context() as patch:
        patch.setattr(image, "MAX_PIXELS", 96 * 64 - 1)
        assert "96 x 64 pixels a frame; the limit is 6143" in refused(lambda: probe_video(path))
        assert "96 x 64 pixels a frame" in refused(lambda: load_frames(path, info, [0]))
    with monkeypatch.context() as patch:
        patch.setattr(video, "MAX_FRAMES", 47)
        assert "more than 47 frames" in refused(lambda: probe_video(path))
    slow = write_clip(tmp_path / "slow.mkv", 3, stamps=[0, 40, 25 * 3600 * 1000])
    assert "lasts 25 hours, the limit is 24" in refused(lambda: probe_video(slow))


# Digests and the optional package


def test_a_digest_names_content_and_frames(tmp_path):
    path = write_clip(tmp_path / "clip.mp4")
    other = write_clip(tmp_path / "other.mp4", 47)
    moved = shutil.copy(path, tmp_path / "moved.mp4")
    name = video_digest(path, [0, 5])
    assert name == video_digest(moved, (0, 5)) == video_digest(path.read_bytes(), [0, 5])
    assert (
        len({name, video_digest(other, [0, 5]), video_digest(path, [0, 6]), video_digest(path, [5, 0])}) == 4
    )
    folder = write_pictures(tmp_path / "frames", ["1.png", "2.png"])
    names = {video_digest(folder, [0]), video_digest(folder, [1]), video_digest(folder, [0, 1])}
    PIL.Image.fromarray(numbered(9)).save(folder / "1.png")
    assert len({*names, video_digest(folder, [0])}) == 4


def test_without_pyav_one_line_says_what_to_install(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "clip.mp4", 5)
    info = probe_video(path)
    monkeypatch.setitem(sys.modules, "av", None)
    for call in (lambda: probe_video(path), lambda: load_frames(path, info, [0])):
        with pytest.raises(ConfigError, match=r"pip install 'llavakit\[video\]'"):
            call()
    pictures = (PIL.Image.fromarray(numbered(1)),)
    assert load_frames(pictures, probe_video(pictures), [0])  # pictures need no PyAV
