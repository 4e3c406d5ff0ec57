"""A model behind a server answers as the same model in this process; and what servers do wrong is said."""

import json

import openai
import PIL.Image
import pytest

from llavakit.chat import Chat
from llavakit.core.errors import DataError, RemoteError
from llavakit.engine.sampler import Sampling
from llavakit.model import checkpoint
from llavakit.remote import Remote
from llavakit.text.conversation import Conversation, Message, Text, Video, assistant, system, user
from tests import tiny
from tests.serve.live import ScriptedWorker, served, service
from tests.serve.web import page, web
from tests.vision.clips import write_clip

GREEDY, WARM = Sampling(max_tokens=12), Sampling(max_tokens=12, temperature=1.4, seed=5, top_p=0.9, top_k=40)


@pytest.fixture(scope="module")
def pair():
    """The same model on both sides of a wire, with an engine on each: only the server's thread may use its own."""
    here = service()
    with served() as (url, _):
        yield Remote(url), Chat(here.engine, here.encoder)
    here.close()


@pytest.fixture
def talks(tmp_path):
    a, b = (tiny.picture(tmp_path / f"{n}.png", n) for n in (1, 2))
    return [
        Conversation((user("What color?", [a]),)),
        Conversation((system("Short."), user("Both?", [a, b]), assistant("no"), user("Sure?"))),
        Conversation((user("Say a word."),)),
        Conversation((user("What happens?", videos=[write_clip(tmp_path / "clip.mp4")]),)),
        Conversation((Message("user", (Text("one "), Text("word\n"), Text("<|im_end|>"))),)),
    ]


@pytest.mark.parametrize("how", [GREEDY, WARM, Sampling(max_tokens=40, stop=("e", "o")), Sampling(
    max_tokens=20, temperature=1, json_schema='{"enum": ["red", "blue"]}')])  # fmt: skip
def test_it_answers_as_the_model_here(pair, talks, how):
    there, here = pair
    assert there.batch(talks, sampling=how) == here.batch(talks, sampling=how)


def test_streamed_pieces_are_the_answer_and_its_tokens_are_counted(pair, talks):
    there, here = pair
    pieces = list(there.stream(talks[0], sampling=GREEDY))
    assert len(pieces) > 1 and "".join(pieces) == here.batch(talks[:1], sampling=GREEDY)[0]
    assert there.num_tokens("") == 12


@pytest.mark.parametrize("kind", ["png", "tiff", "ppm", "bmp"])
def test_pictures_of_every_kind_and_place_arrive(pair, tmp_path, kind):
    there, here = pair
    path = tmp_path / f"a.{kind}"
    PIL.Image.open(tiny.picture(tmp_path / "b.png")).save(path)
    expected = here.ask("?", [path], sampling=GREEDY)
    for image in (str(path), path, path.read_bytes(), PIL.Image.open(path)):
        assert there.ask("?", [image], sampling=GREEDY) == expected


def test_a_busy_server_is_asked_again(talks):
    with served(ScriptedWorker("a"), max_requests=2) as (url, _):
        assert Remote(url, tries=20).batch(talks[:1] * 8) == ["a"] * 8
        worker = ScriptedWorker("a")
        worker.gate.clear()
    with served(worker, max_requests=1) as (url, _):
        waiting = Remote(url).stream(talks[0])
        worker.gate.set()
        assert next(waiting) == "a"


def test_letters_that_look_like_the_end_of_a_line_pass():
    odd = "a\u2028b\u0085c\x0bd\x1ce"
    talk = Conversation((user("x"),))
    with served(ScriptedWorker(odd)) as (url, _):
        assert "".join(Remote(url).stream(talk)) == Remote(url).batch([talk])[0] == odd
        theirs = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
        asked = [{"role": "user", "content": "x"}]
        stream = theirs.chat.completions.create(model="tiny", messages=asked, stream=True)
        assert "".join(event.choices[0].delta.content or "" for event in stream) == odd


def test_a_video_is_described_and_folders_of_frames_are_refused(pair, tmp_path):
    there, here = pair
    clip = write_clip(tmp_path / "clip.mp4")
    assert there.describe(Video(clip)) == "48 frames, 1.9 s; the server chooses among them"
    assert here.describe(Video(clip)).startswith("3 frames")
    for source in (tmp_path, (clip,)):
        with pytest.raises(DataError, match="not folders of frames"):
            there.ask("?", videos=[source])
    with pytest.raises(DataError, match=r"gone.png: cannot be read"):
        there.ask("?", images=["gone.png"])
    with pytest.raises(DataError, match=r"images must be a list"):
        there.ask("?", images="gone.png")


def test_what_cannot_be_asked_of_a_server_is_said(pair):
    for how in (Sampling(n=2), Sampling(stop_ids=(3,)), Sampling(ignore_end=True)):
        with pytest.raises(RemoteError, match="for a local engine"):
            pair[0].ask("?", sampling=how)


MODELS = page(json.dumps({"data": [{"id": "m"}]}).encode(), "application/json")


def events(*lines: str):
    return page("".join(f"{line}\n\n" for line in lines).encode(), "text/event-stream")


def said(text: str) -> str:
    return f"data: {json.dumps({'choices': [{'delta': {'content': text}}]}, ensure_ascii=False)}"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (page(b'{"error": {"message": "no such\\nmodel"}}', status=404), "404: no such model"),
        (page(b'{"object": "error", "message": "too long"}', status=400), "400: too long"),
        (page(b"<html>Bad Gateway</html>", status=502), "502: <html>Bad Gateway"),
        (page(b'{"error": "busy"}', status=503, Retry_After="0"), "503: busy"),
        (page(b'{"choices": []}'), "did not answer as OpenAI does"),
        (page(b"hello"), "did not answer as OpenAI does"),
        (page(b"hello", Content_Length="50"), "cannot be reached"),
    ],
)
def test_what_a_server_does_wrong_is_one_clear_line(answer, error):
    with web({"/v1/models": MODELS, "/v1/chat/completions": answer}) as server:
        url = f"http://127.0.0.1:{server.port}"
        with pytest.raises(RemoteError, match=error):
            Remote(url).ask("?")


def test_a_connection_that_the_server_had_closed_is_opened_anew():
    answers = [lambda handler: None, page(b'{"choices": [{"message": {"content": "a"}}]}')]
    pages = {"/v1/models": MODELS, "/v1/chat/completions": lambda handler: answers.pop(0)(handler)}
    with web(pages) as server:
        assert Remote(f"http://127.0.0.1:{server.port}").ask("?") == "a"
        answers += [lambda handler: None] * 2
        with pytest.raises(RemoteError, match="cannot be reached: Server disconnected"):
            Remote(f"http://127.0.0.1:{server.port}", tries=2).ask("?")


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ([said("a")], "was cut off"),
        ([said("a"), "data: {broken"], "not JSON"),
        ([said("a"), 'data: {"error": {"message": "out of memory"}}', "data: [DONE]"], "out of memory"),
    ],
)
def test_a_stream_that_breaks_is_one_clear_line(lines, error):
    with web({"/v1/models": MODELS, "/v1/chat/completions": events(*lines)}) as server:
        stream = Remote(f"http://127.0.0.1:{server.port}/v1/").stream(Conversation((user("x"),)))
        assert next(stream) == "a"
        with pytest.raises(RemoteError, match=error):
            list(stream)


def test_a_stream_of_another_server_is_read():
    """Comments, raw letters, an empty first delta, null content, no usage."""
    first, last = '{"delta": {"role": "assistant"}}', '{"delta": {"content": null}, "finish_reason": "stop"}'
    lines = [
        ": ping", f'data: {{"choices": [{first}]}}', said("ä\u2028"), "event: x",
        f'data: {{"choices": [{last}], "usage": null}}', "data: [DONE]",
    ]  # fmt: skip
    with web({"/v1/models": MODELS, "/v1/chat/completions": events(*lines)}) as server:
        there = Remote(f"http://127.0.0.1:{server.port}", api_key="word")
        assert list(there.stream(Conversation((user("x"),)))) == ["ä\u2028"]
        assert there.num_tokens("ä") is None


def test_which_server_and_which_model():
    with pytest.raises(RemoteError, match="is not the URL of a server"):
        Remote("127.0.0.1:8000")
    two = page(json.dumps({"data": [{"id": "m"}, {"id": "n"}]}).encode())
    with web({"/v1/models": two}) as server:
        url = f"http://127.0.0.1:{server.port}"
        with pytest.raises(RemoteError, match="serves m, n; choose"):
            Remote(url)
        assert Remote(url, model_name="n").model_name == "n"
    with pytest.raises(RemoteError, match="cannot be reached"):
        Remote(url)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "tiny"
    checkpoint.save(tiny.checkpoint(), folder)
    return folder


def test_the_terminal_is_the_same_with_a_model_and_with_a_server(run, model, tmp_path):
    picture, clip = tiny.picture(tmp_path / "x.png"), write_clip(tmp_path / "clip.mp4")
    lines = (f"/image {picture}", "What color?", "And now?", "/image gone.png", "/new", "Hello?", "/quit")
    with served() as (url, _):
        here = run("chat", "--model", model, "--max-tokens", 6, stdin="\n".join(lines))
        there = run("chat", "--remote", url, "--max-tokens", 6, stdin="\n".join(lines))
        start, said = here[1].split("\n", 1)  # a model here says what it runs on
        assert start.startswith("the decoder runs on torch kernels")
        assert there == (here[0], said, here[2]) and here[0] == 0 and said.count("error:") == 1
        once = run(
            "chat", "--remote", url, "--model-name", "tiny", "--video", clip, "--max-tokens", 3, "What?"
        )
        assert once[0] == 0 and once[1].strip()


def test_the_key_is_named_as_for_the_server(run, monkeypatch):
    """Keys with blanks between them, in one variable for both; a client uses the first."""
    with served(api_keys=("one", "two")) as (url, _):
        for words, environ in (
            (("--api-key", "two"), ""),
            ((), "one"),
            ((), "two one"),
            (("--api-key", "one"), "x"),
        ):
            monkeypatch.setenv("LLAVAKIT_API_KEY", environ)
            assert run("chat", "--remote", url, *words, "--max-tokens", 2, "Hello?")[0] == 0
        monkeypatch.setenv("LLAVAKIT_API_KEY", "wrong two")
        assert run("chat", "--remote", url, "--max-tokens", 2, "Hello?")[0] == 2


def test_weights_are_chosen_on_the_command_line(run, model):
    code, out, _ = run("chat", "--model", model, "--weights", "int8", "--max-tokens", 6, "Hello?")
    assert code == 0 and out.strip()
    code, _, err = run("chat", "--model", model, "--weights", "int3", "Hello?")
    assert code == 2 and "int3" in err


def test_the_speed_is_told_where_a_person_looks(run, model, monkeypatch):
    monkeypatch.setattr("rich.console.Console.is_terminal", property(lambda _: True))
    with served() as (url, _):
        for words in (("--model", model), ("--remote", url)):
            code, out, _ = run("chat", *words, "--max-tokens", 6, "Hello?")
            assert code == 0 and " tokens, " in out and " tokens/s" in out


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--model", "x", "--remote", "http://y"],
        ["--remote", "http://y", "--template", "plain"],
        ["--remote", "http://y", "--weights", "int8"],
        ["--model", "x", "--model-name", "y"],
    ],
)
def test_a_model_or_a_server_but_not_both(run, words):
    code, _, err = run("chat", *words, "hello")
    assert code == 2 and "--model" in err and err.count("\n") == 1
