"""The command line: mistakes end in exit code 2 and a line that names them; the rest prints what was asked."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from llavakit.core.config import make
from llavakit.core.progress import console, say
from llavakit.model import checkpoint
from llavakit.recipes import RECIPES
from llavakit.train.run import Run
from llavakit.version import __version__
from llavakit.vision.frames import VideoConfig
from tests import tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    checkpoint.save(tiny.checkpoint(), folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tiny.data_file(tmp_path_factory.mktemp("data"))


def test_the_module_is_a_program_and_prints_its_version():
    done = subprocess.run(
        [sys.executable, "-c", "from llavakit.cli import main; main()", "--version"],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, f"llavakit {__version__}\n", "")


def test_help_lists_every_command(run):
    code, out, err = run("--help")
    assert code == 0
    assert err == ""
    assert all(
        name in out
        for name in ("demo", "train", "merge", "chat", "inspect", "convert", "export", "models", "plan")
    )


@pytest.mark.parametrize(
    "command", ["demo", "train", "merge", "chat", "inspect", "convert", "export", "models", "plan"]
)
def test_every_command_has_help(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert "Usage" in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["trian"], ["trian", "train"]),
        (["chat", "--modle", "x"], ["--modle", "--model"]),
        (["chat"], ["--model"]),
        (["train"], ["RECIPE"]),
        (["chat", "--model", "x", "--temperature", "hot", "q"], ["--temperature", "valid number"]),
    ],
)
def test_a_wrong_command_line_is_named_with_the_nearest_valid_one(run, words, told):
    code, out, err = run(*words)
    assert code == 2
    assert out == ""
    assert all(word.lower() in err.lower() for word in told)
    assert "Traceback" not in err


MISTAKES = {
    "recipe": (["train", "llava15-stage3"], ["'llava15-stage3'", "'llava15-stage2'"]),
    "setting": (["train", "llava15-stage2", "optim.stepz=3"], ["'optim.stepz'", "'optim.steps'"]),
    "value": (["train", "llava15-stage2", "optim.steps=abc"], ["optim.steps='abc'", "integer"]),
    "no value": (["train", "llava15-stage2", "optim.steps"], ["'optim.steps'", "path=value"]),
    "run file": (["train", "gone.yaml"], ["gone.yaml", "No such file"]),
    "model": (["chat", "--model", "gone", "hello"], ["gone does not exist"]),
    "not a model": (["chat", "--model", "{data}", "hello"], ["is not a checkpoint"]),
    "picture": (
        ["chat", "--model", "no-model-is-looked-for", "--image", "gone.png", "hello"],
        ["image not found: gone.png"],
    ),
    "record file": (["inspect", "gone.json", "--model", "{model}"], ["gone.json: data file not found"]),
    "template": (
        ["inspect", "{data}/data.json", "--tokenizer", "{model}", "--template", "vicuna"],
        ["unknown template 'vicuna'", "'vicuna_v1'"],
    ),
    "turns": (
        ["inspect", "{data}/data.json", "--model", "{model}", "--turns", "chian"],
        ["'chian'", "'chained'"],
    ),
    "no tokenizer": (["inspect", "{data}/data.json"], ["--model DIR", "--tokenizer"]),
    "no record": (
        ["inspect", "{data}/empty.json", "--model", "{model}"],
        ["empty.json: no record in this file"],
    ),
    "line": (["inspect", "{data}/data.json:1", "--model", "{model}"], ["no record at line 1", "at line 2"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_on_stderr_and_exit_code_2(run, model, data, mistake):
    (data.parent / "empty.json").write_text("[]")
    words, told = MISTAKES[mistake]
    code, out, err = run(*(word.format(model=model, data=data.parent) for word in words))
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert all(word in err for word in told)


def test_train_list_names_every_recipe(run):
    code, out, err = run("train", "list")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines() if not line.startswith(" ")] == list(RECIPES)
    assert max(map(len, out.splitlines())) <= 80


def test_shown_settings_are_yaml_that_loads_back(run, tmp_path):
    code, out, err = run("train", "llava15-stage2", "--show", "optim.steps=7", "name='a [b] :cat: /c'")
    assert (code, err) == (0, "")
    shown = make(Run, yaml.safe_load(out), where="--show")
    assert shown.optim.steps == 7
    assert shown.name == "a [b] :cat: /c"
    (tmp_path / "run.yaml").write_text(out)
    again = run("train", tmp_path / "run.yaml", "--show")
    assert again == (0, out, "")


def test_a_dry_run_prints_the_plan_or_names_what_would_stop_it(run, model, data, tmp_path):
    words = (
        "train",
        "finetune",
        f"model.start={model}",
        f"data.files={data}",
        f"out={tmp_path / 'x'}",
        "--dry-run",
    )
    code, out, err = run(*words)
    assert (code, err) == (0, "")
    assert "tokens per step: up to 4,096" in out
    assert not (tmp_path / "x").exists()
    code, out, err = run(*words, "eval.files=gone.json")
    assert code == 2
    assert err == "error: this run would stop: eval.files: gone.json: data file not found\n"


def test_adapters_are_trained_with_probes_and_merged(run, model, data, tmp_path):
    code, out, _ = run(
        "train", "finetune", f"model.start={model}", f"data.files={data}", f"out={tmp_path / 'lora'}",
        "optim.steps=2", "model.lora={r: 2}", f"probes.file={data}", "probes.max_tokens=2",
    )  # fmt: skip
    assert code == 0
    assert "step 2" in (tmp_path / "lora" / "probes.html").read_text()
    code, out, _ = run("merge", tmp_path / "lora", tmp_path / "merged")
    assert code == 0 and out.endswith(f"merged into {tmp_path / 'merged'}\n")
    assert checkpoint.load(tmp_path / "merged").adapter is None
    code, _, err = run("merge", model, tmp_path / "again")
    assert code == 2
    assert "is an ordinary checkpoint; there is nothing to merge" in err


def test_models_lists_the_released_ones(run):
    code, out, _ = run("models")
    assert code == 0
    assert "llava15-7b" in out
    assert "LLaVA-OneVision" in out
    code, out, _ = run("models", "llava15-7b")
    assert code == 0
    assert "576 tokens" in out


def test_plan_shows_tiles_and_tokens(run):
    code, out, err = run("plan", "llava16-7b", "640x480")
    assert (code, err) == (0, "")
    assert "5 tiles, 2340 tokens" in out
    code, out, err = run("plan", "llava16-7b", "640x480", "--json")
    assert (code, json.loads(out)["tokens"]) == (0, 2340)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["llava15-7b", "640x480", "--frames", "8"], "error: llava15-7b takes no videos"),
        (["llava16-7b", "640by480"], "error: '640by480' is neither a size"),
        (["llava61-7b", "640x480"], "error: unknown model 'llava61-7b'"),
    ],
)
def test_a_plan_that_cannot_be_is_one_line(run, words, told):
    code, out, err = run("plan", *words)
    assert (code, out) == (2, "")
    assert err.startswith(told) and err.count("\n") == 1


def test_inspect_shows_every_token_with_its_weight_and_its_image(run, model, data, monkeypatch):
    monkeypatch.setattr(console, "_width", 200)
    line = data.read_text().splitlines().index('  "id": "1",')  # the line before it opens the record
    code, out, err = run("inspect", f"{data}:{line}", "--model", model)
    assert (code, err) == (0, "")
    rows = [row.split() for row in out.splitlines()]
    assert rows[0] == ["at", "segment", "position", "id", "weight", "token"]
    (image,) = [row for row in rows if "<image>" in row and "-200" in row]
    assert image[5:11] == ["<image>", "4", "tokens,", "2", "x", "2:"] and image[11].endswith("1.png")
    assert any(row[4:6] == ["1", "<|im_end|>"] for row in rows)
    assert f"{data}:{line}:" in out.replace("\n", "")
    assert "template chatml" in out
    assert "4 of images" in out


def test_inspect_without_a_line_shows_the_first_record_and_takes_a_tokenizer(run, model, data, monkeypatch):
    monkeypatch.setattr(console, "_width", 200)
    code, out, err = run(
        "inspect", data, "--tokenizer", model, "--template", "chatml", "--turns", "independent"
    )
    assert (code, err) == (0, "")
    assert f"{data}:2:" in out


def test_inspect_of_a_bad_record_is_one_line_with_its_place(run, model, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"conversations": [{"from": "robot", "value": "x"}]}\n')
    code, _, err = run("inspect", path, "--model", model)
    assert code == 2
    assert err.startswith(f"error: {path}:1: conversations[0].from is 'robot'")
    assert err.count("\n") == 1


def test_chat_answers_one_question_about_a_picture(run, model, tmp_path):
    picture = tiny.picture(tmp_path / "x.png")
    words = ("chat", "--model", model, "--image", picture, "--max-tokens", 8, "What color is the shape?")
    code, out, err = run(*words)
    assert (code, err) == (0, "")
    assert out.strip()
    assert run(*words) == (0, out, "")  # greedy


def test_a_conversation_takes_pictures_starts_over_and_survives_mistakes(run, model, tmp_path):
    picture = tiny.picture(tmp_path / "[x] y.png")
    cut = tiny.picture(tmp_path / "cut.png")
    cut.write_bytes(cut.read_bytes()[:400])
    script = [
        f"/image {picture}", "What color?", "/image gone.png", f"/image {tmp_path}/[/gone].png", f"/image {cut}",
        "yes?", "/new", "", "/nonsense", "And now?", "/quit", "never asked",
    ]  # fmt: skip
    code, out, err = run("chat", "--model", model, "--max-tokens", 4, stdin="\n".join(script) + "\n")
    assert (code, err) == (0, "")
    assert out.count("/image PATH or /video PATH") == 2  # at the start and for /nonsense
    assert "error: image not found: gone.png" in out
    assert f"error: image not found: {tmp_path}/[/gone].png" in out
    assert f"error: {cut}: broken image" in out  # told when it is attached, and not attached
    assert out.count("error:") == 3
    assert "Traceback" not in out


def test_chat_answers_about_a_folder_of_frames_if_the_model_knows_videos(run, model, tmp_path):
    clip = tmp_path / "clip"
    clip.mkdir()
    for number in range(5):
        tiny.picture(clip / f"{number}.png", number)
    plain = tiny.checkpoint()
    video = VideoConfig(max_frames=3, pool_first=True)
    card = plain.card.model_copy(update={"video": video})
    checkpoint.save(checkpoint.Checkpoint(plain.model, plain.tokenizer, card), tmp_path / "films")
    words = ("--video", clip, "--max-tokens", 4, "What happens?")
    code, out, err = run("chat", "--model", tmp_path / "films", *words)
    assert (code, err) == (0, "") and out.strip()
    code, out, err = run("chat", "--model", model, *words)
    assert code == 2 and "not trained on videos" in err and err.count("\n") == 1


def test_a_conversation_ends_with_its_input(run, model):
    code, out, err = run("chat", "--model", model, "--max-tokens", 2, stdin="hello\n")
    assert (code, err) == (0, "")
    assert "/quit ends" in out


def test_what_is_said_is_printed_letter_by_letter(capsys):
    say("[red] :cat: [/none] " + "long " * 60)
    assert capsys.readouterr().out == "[red] :cat: [/none] " + "long " * 60 + "\n"


def test_data_check_ends_with_1_for_bad_records_and_0_for_good_ones(run, model, data, tmp_path):
    out = tmp_path / "out"
    code, said, _ = run("data", "check", data, "--model", model, "--out", out)
    assert code == 0
    assert f"0 of 8 records are bad; all flaws: {out / 'bad_records.jsonl'}" in said
    assert (out / "lengths.png").stat().st_size > 1000 and (out / "bad_records.jsonl").read_text() == ""
    code, said, _ = run("data", "check", data, "--images", tmp_path, "--out", out)
    assert code == 1
    assert "lengths were not measured; give --model DIR" in said
    assert "6 of 8 records are bad" in said and f"{data}:2: missing: not found: {tmp_path / '0.png'}" in said
    assert run("data", "check", data, "--images", tmp_path, "--out", out, "--ignore", "missing")[0] == 0


def test_data_convert_writes_another_dialect_and_ends_with_1_where_a_record_cannot_be(run, data, tmp_path):
    out = tmp_path / "new.jsonl"
    code, said, _ = run("data", "convert", data, "--to", "messages", "--out", out)
    assert code == 0 and f"8 of 8 records written as messages (read as 8 llava): {out}" in said
    assert run("data", "convert", out, "--to", "trl", "--out", tmp_path / "trl.jsonl")[0] in (0, 1)
    code, _, err = run("data", "convert", data, "--to", "messages", "--out", out)
    assert (code, err) == (2, f"error: {out} is there already and is not replaced; choose a new name\n")
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps([json.loads(data.read_text())[0], {"id": 1}]))
    code, said, _ = run("data", "convert", bad, "--to", "llava", "--out", tmp_path / "b")
    assert code == 1 and f"1 were not (1 record); all of them: {tmp_path / 'b.bad.jsonl'}" in said
    bad.write_text('[{"id": 1}]')
    code, said, err = run("data", "convert", bad, "--to", "llava", "--out", tmp_path / "d")
    assert code == 2 and err.startswith("error: none of 1 records could be written as llava; all of them: ")
    assert (tmp_path / "d.bad.jsonl").exists() and not (tmp_path / "d").exists()
    code, _, err = run("data", "convert", data, "--to", "messges", "--out", tmp_path / "c")
    assert (code, err) == (2, "error: unknown --to 'messges'; did you mean 'messages'?\n")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("gone.json",), "gone.json: data file not found"),
        (("DATA", "--ignore", "mising"), "unknown --ignore 'mising'; did you mean 'missing'?"),
        (
            ("DATA", "--template", "plain"),
            "give --model DIR, or --tokenizer DIR together with --template NAME",
        ),
    ],
)
def test_data_check_ends_with_2_for_mistakes(words, problem, run, data, tmp_path):
    code, _, err = run(
        "data", "check", *[data if word == "DATA" else word for word in words], "--out", tmp_path
    )
    assert (code, problem in err) == (2, True), err
