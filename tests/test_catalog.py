"""`llavakit models`, `llavakit plan` and their Python twins: what is printed, what is JSON, what is refused."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import llavakit
from llavakit.catalog import describe, families, image_rule, models_table, show_models
from llavakit.core.errors import CheckpointError, ConfigError, DataError
from llavakit.model import checkpoint
from llavakit.model.directory import load_card
from llavakit.model.families import FAMILIES, family
from llavakit.preview import plan_lines, preview, show_plan
from llavakit.text.templates import TEMPLATES
from llavakit.vision import video
from llavakit.vision.drawing import draw_view, image_box
from llavakit.vision.frames import VideoInfo, plan_video
from llavakit.vision.plan import plan_image
from tests import hf_tiny, tiny
from tests.hub import serving
from tests.vision.clips import write_clip

KEYS = ("name", "system", "params", "tower", "language", "connector", "template", "plan", "context")


def printed(capsys, show, *args, **options) -> str:
    show(*args, **options)
    out, err = capsys.readouterr()
    assert err == ""
    return out


# models


def test_json_has_every_row_with_the_agreed_keys(capsys):
    rows = json.loads(printed(capsys, show_models, None, as_json=True))
    assert [row["name"] for row in rows] == list(FAMILIES)
    for row in rows:
        assert set(KEYS) <= set(row)
        params = row["params"]
        assert set(params) == {"total", "vision", "connector", "language"}
        assert all(type(count) is int and count > 0 for count in params.values())
        assert params["total"] == params["vision"] + params["connector"] + params["language"]
        assert type(row["context"]) is int


def test_json_of_one_row_is_that_row(capsys):
    found = json.loads(printed(capsys, show_models, "llava16-7b", as_json=True))
    assert found == json.loads(json.dumps(describe(family("llava16-7b"))))
    assert (found["system"], found["template"], found["plan"]) == (
        "LLaVA-NeXT", "vicuna_v1", "anyres 336 px, 5 layouts"
    )  # fmt: skip
    assert found["language_config"]["hidden_size"] == 4096


def test_the_table_shows_every_row_uncut(capsys):
    lines = printed(capsys, show_models, None, as_json=False).splitlines()
    for row in families():
        (line,) = [line for line in lines if line.split()[:1] == [row.name]]
        for text in (row.card.template, row.decoder.path.rpartition("/")[2], f"{row.context:,}"):
            assert text in line
    assert {line.strip() for line in lines} >= {row.system for row in families()}


def test_one_row_in_full_says_what_is_not_verified(capsys):
    out = printed(capsys, show_models, "llava15-hd-13b", as_json=False)
    assert "not released" in out
    assert "unverified" in out
    assert "13.35 B" in out


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("llava15-7b", "pad 336 px"),
        ("llava-7b", "square 224 px"),
        ("llava-onevision-7b-ov", "anyres_max_9 384 px, 36 layouts"),
        ("llava-next-ablation-max4-paper", "anyres at most 3645 tokens 384 px, 36 layouts"),
    ],
)
def test_image_rules_are_named_as_released_configs_do(name, rule):
    assert image_rule(family(name)) == rule


def test_the_table_of_a_small_window_is_uncut_too():
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(models_table(wide=False))
    lines = console.export_text().splitlines()
    for row in families():
        (line,) = [line for line in lines if line.split()[:1] == [row.name]]
        assert f"{row.context:,}" in line and len(line.rstrip()) <= 80
    assert len(lines) == 1 + len(families()) + len({row.system for row in families()})


def test_templates_are_listed_with_who_uses_them(run):
    code, out, err = run("models", "--templates")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    firsts = [line.split()[0] for line in out.splitlines() if not line.startswith(" ")]
    assert firsts == ["template", *TEMPLATES]
    text = " ".join(out.split())
    assert (
        "vicuna_v1" in text and "USER: QUESTION ASSISTANT: ANSWER</s>" in text and "same as qwen_1_5" in text
    )
    code, out, _ = run("models", "--templates", "--json")
    assert set(json.loads(out)) == set(TEMPLATES) and "LLaVA-1.5" in json.loads(out)["vicuna_v1"]


# plan


def test_python_gives_a_plan_of_integers():
    plan = llavakit.plan("llava16-7b", 640, 480)
    assert (plan.num_tokens, plan.tiles, plan.grid) == (2340, 5, (48, 36))
    assert llavakit.plan("llava-onevision-7b-ov", 640, 480, frames=32).num_tokens == 6273
    assert [row.name for row in llavakit.families()] == list(FAMILIES)


def test_json_of_an_image():
    found = preview("llava16-7b", "640x480").describe()
    assert (found["tokens"], found["tiles"], found["grid"]) == (2340, 5, [48, 36])
    assert (found["layout"], found["canvas"], found["image_box"]) == ([2, 2], [672, 672], [0, 84, 672, 588])
    assert (found["base"], found["newlines"]) == (True, 36)
    assert (found["context"], found["fits"], found["rope_factor"]) == (4096, True, None)


def test_json_of_a_video():
    found = preview("llava-video-7b", "640x480", frames=64).describe()
    assert (found["tokens"], found["tiles"], found["grid"]) == (13440, 64, [14, 14])
    assert (found["frames"], found["tokens_each"], found["newlines"]) == (64, 210, 64 * 14)


def test_json_of_several_images():
    found = preview("llava-onevision-7b-ov", "640x480", images=3).describe()
    assert (found["tokens"], found["tiles"], found["tokens_each"]) == (3 * 730, 3, 730)


def test_json_is_all_that_json_prints(capsys):
    found = preview("llava16-7b", "640x480")
    assert json.loads(printed(capsys, show_plan, found, as_json=True)) == found.describe()


def test_the_reading_of_transformers_can_be_asked_for():
    assert preview("llava16-7b", "300x100").num_tokens == 776
    assert preview("llava16-7b", "300x100", rule="transformers").num_tokens == 1360
    assert preview("llava16-7b", "300x100", rule="llava").num_tokens == 776


def test_more_than_the_context_is_a_warning_with_both_numbers_and_the_way_out(capsys):
    found = preview("llava-next-video-7b", "640x480", frames=56)
    out = printed(capsys, show_plan, found, as_json=False)
    (warning,) = [line for line in out.splitlines() if line.startswith("warning:")]
    for text in ("8064", "4096", "scaling by 2", "8192", "as the released demo did", "28 frames fit"):
        assert text in warning
    assert (found.describe()["fits"], found.describe()["rope_factor"]) == (False, 2)
    assert found.most_frames() == 28 == 4096 // 144


def test_what_fits_has_no_warning(capsys):
    found = preview("llava-next-video-7b", "640x480", frames=28)
    assert found.fits
    assert "warning" not in printed(capsys, show_plan, found, as_json=False)


def test_the_drawing_of_a_padded_image():
    found = preview("llava16-7b", "640x480")
    lines = draw_view(found.plan, found.plan.views[-1], found.size)
    assert len({len(line) for line in lines}) == 1
    assert lines[0].count("┬") == 1 and sum(line.startswith("├") for line in lines) == 1
    shaded = [set(line) <= set("│░") for line in lines]
    assert shaded[1] and shaded[-2] and not any(shaded[3:-3])
    assert not any(set(line) >= set("░ ") for line in lines)  # padding above and below, none at the sides


def test_the_drawing_has_a_box_for_every_tile():
    for name, size in (("llava-onevision-7b-ov", "4000x3000"), ("llava15-hd-13b", "1344x224")):
        found = preview(name, size)
        lines = draw_view(found.plan, found.plan.views[-1], found.size)
        columns, rows = lines[0].count("┬") + 1, sum(line.startswith("├") for line in lines) + 1
        assert columns * rows == found.plan.tiles - 1
        assert max(map(len, lines)) <= 80 and len(lines) <= 40


def test_a_terminal_without_line_drawing_gets_plain_letters():
    words = ["llavakit", "plan", "llava16-7b", "640x480"]
    code = f"import sys\nfrom llavakit import cli\nsys.argv = {words}\ncli.main()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parents[1], env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "+----------------+----------------+" in done.stdout
    assert "|################|################|" in done.stdout


def test_a_crop_reaches_over_the_canvas():
    found = preview("llava-7b", "640x480")
    assert image_box(found.plan.views[0], found.size) == ((224, 224), (-37, 0, 261, 224))
    assert any("cut by 37 left, 37 right" in line for line in plan_lines(found))


def test_the_text_accounts_for_every_token():
    text = "\n".join(plan_lines(preview("llava-onevision-7b-ov", "1920x1080")))
    for part in (
        "base view first: the whole image, squashed to 384 x 384",
        "5 x 3 tiles", "36 above, 36 below", "27 x 27: 729 tokens",
        "108 x 60, bilinear of 135 x 75, the part of 135 x 81 that saw the image, newline behind every row: 6540",
        "16 tiles, 7269 tokens; context 32768, 25499 left for text",
    ):  # fmt: skip
        assert part in text


def test_a_picture_is_measured_by_its_header(tmp_path):
    path = tiny.picture(tmp_path / "a.png", size=(300, 100))
    assert preview("llava16-7b", str(path)).describe() == preview("llava16-7b", "300x100").describe()


def test_a_video_is_sampled_as_the_model_would(tmp_path, monkeypatch):
    path = tmp_path / "a.MP4"
    path.touch()
    info = VideoInfo((640, 480), tuple(number / 10 for number in range(100)), 10.0)
    monkeypatch.setattr(video, "probe_video", lambda source: info)
    found = preview("llava-onevision-7b-ov", str(path))
    assert (found.size, found.frames, found.num_tokens) == ((640, 480), 32, 6273)
    assert preview("llava-onevision-7b-ov", str(path), frames=8).frames == 8
    with pytest.raises(ConfigError, match=r"takes no videos, and .*a\.MP4 is one"):
        preview("llava15-7b", str(path))
    with pytest.raises(ConfigError, match="is a video"):
        preview("llava-onevision-7b-ov", str(path), images=2)


def test_a_folder_of_frames_is_a_video_and_kinds_are_told_by_content(tmp_path):
    (tmp_path / "frames").mkdir()
    for number in range(5):
        tiny.picture(tmp_path / f"frames/{number}.png", size=(64, 48))
    found = preview("llava-onevision-7b-ov", str(tmp_path / "frames"))
    assert (found.size, found.frames) == ((64, 48), 32)
    with pytest.raises(ConfigError, match=r"takes no videos, and .*frames is one"):
        preview("llava15-7b", str(tmp_path / "frames"))
    for name, codec in (
        ("a.mpg", "mpeg1video"),
        ("a.wmv", "wmv2"),
        ("no suffix", "libx264"),
        ("a.png", "libx264"),
    ):
        kind = None if name in ("a.mpg", "a.wmv") else "mp4"
        path = write_clip(tmp_path / name, 9, codec=codec, kind=kind)
        found = preview("llava-onevision-7b-ov", str(path))
        assert (found.size, found.frames) == ((96, 64), 32)
    (tmp_path / "a.mp4").write_bytes((tmp_path / "frames/1.png").read_bytes())
    assert preview("llava15-7b", str(tmp_path / "a.mp4")).frames is None
    for name, told in {"x.jpg": "not an image in a known format", "x.mov": "not a video"}.items():
        (tmp_path / name).write_text("hello " * 99)
        with pytest.raises(DataError, match=told):
            preview("llava-onevision-7b-ov", str(tmp_path / name))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    checkpoint.save(tiny.checkpoint(), folder)
    return folder


def test_a_checkpoint_is_planned_by_its_own_settings(model, capsys):
    loaded = checkpoint.load(model)
    found = preview(str(model), "300x100")
    assert found.plan == plan_image(loaded.card.image, (300, 100))
    assert (found.describe()["context"], found.describe()["name"]) == (loaded.model.context, str(model))
    assert str(model) in printed(capsys, show_plan, found, as_json=False).replace("\n", "")
    with pytest.raises(ConfigError, match="takes no videos"):
        preview(str(model), "300x100", frames=2)


def test_a_plan_of_a_hub_id_reads_settings_only(model, tmp_path, monkeypatch):
    with serving(monkeypatch, tmp_path / "cache") as hub:
        hub.models["someone/tiny"] = model
        assert preview("someone/tiny", "300x100").plan == preview(str(model), "300x100").plan
        assert "config.json" in " ".join(hub.downloads) and "safetensors" not in " ".join(hub.downloads)


@pytest.mark.parametrize("kind", ["llava", "llava_next", "llava_onevision"])
def test_a_directory_of_transformers_needs_no_template_for_its_plan(kind, tmp_path):
    hf_tiny.directory(kind, tmp_path)
    card = load_card(tmp_path, "vicuna_v1")
    assert preview(str(tmp_path), "300x100").plan == plan_image(card.image, (300, 100))
    if card.video is not None:
        assert preview(str(tmp_path), "300x100", frames=4).plan == plan_video(
            card.video, card.image, (300, 100), 4
        )


def test_a_directory_that_is_no_checkpoint_is_one_line(tmp_path):
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        preview(str(tmp_path), "640x480")


@pytest.mark.parametrize(
    ("name", "picture", "options", "told"),
    [
        ("llava16-8b", "640x480", {}, "unknown model 'llava16-8b'; did you mean 'llava16-7b'"),
        (
            "llava16-7b",
            "640",
            {},
            "'640' is neither a size of at most 6 digits a side, as in 640x480, nor a file",
        ),
        ("llava16-7b", "640x", {}, "neither a size"),
        (
            "llava16-7b",
            "https://example.org/a.png",
            {},
            "https://example.org/a.png: a URL is not fetched here",
        ),
        ("llava16-7b", "data:image/png;base64," + "A" * 9000, {}, "a URL is not fetched here"),
        ("https://huggingface.co/llava-hf/x", "640x480", {}, "a URL is not fetched here"),
        ("llava16-7b", "-1x5", {}, "neither a size"),
        ("llava16-7b", "", {}, "neither a size"),
        ("llava16-7b", "9" * 400 + "x1", {}, "neither a size"),
        ("llava16-7b", "0x480", {}, "at least 1 x 1"),
        ("llava16-7b", "640x480", {"frames": 8}, "llava16-7b takes no videos"),
        ("llava-video-7b", "640x480", {"frames": 0}, "frames=0"),
        ("llava-video-7b", "640x480", {"frames": 10**9}, "from 1 to 100000"),
        ("llava16-7b", "640x480", {"images": 0}, "--images 0"),
        ("llava-video-7b", "640x480", {"images": 2, "frames": 8}, "exclude each other"),
        ("llava16-7b", "640x480", {"rule": "hf"}, "unknown --rule 'hf'; valid: llava, transformers"),
        ("llava15-7b", "640x480", {"rule": "transformers"}, "no list of grids"),
    ],
)
def test_mistakes_are_one_clear_line(name, picture, options, told):
    with pytest.raises(ConfigError) as error:
        preview(name, picture, **options)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_row_can_be_previewed(name):
    row = family(name)
    for size in ("640x480", "1x1", "3000x200"):
        assert len(plan_lines(preview(name, size))) > 4
    if row.card.video is not None:
        found = preview(name, "640x480", frames=row.card.video.max_frames)
        assert found.num_tokens == describe(row)["video_tokens"]
