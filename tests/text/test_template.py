"""Templates against the published formats, written out by hand; and which letters are learned."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llavakit.core.errors import ConfigError, DataError
from llavakit.text.conversation import (
    Conversation,
    Image,
    Message,
    Part,
    Text,
    Video,
    assistant,
    move_media_front,
    system,
    user,
)
from llavakit.text.template import Piece, place_as_is, place_front, place_single_front
from llavakit.text.templates import ALIASES, TEMPLATES, template
from tests.text.write_golden import FOLDER, ROWS, page

USER_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
HUMAN_SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
VISUAL_SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the "
    "user provides, and assist the user with a variety of tasks using natural language."
)
INST_SYSTEM = f"<<SYS>>\n{VISUAL_SYSTEM}\n<</SYS>>\n\n"
LLAMA3_SYSTEM = f"<|start_header_id|>system<|end_header_id|>\n\n{VISUAL_SYSTEM}<|eot_id|>"
LLAMA3_USER = "<|start_header_id|>user<|end_header_id|>\n\n"
LLAMA3_ASSISTANT = "<|start_header_id|>assistant<|end_header_id|>\n\n"
TAG_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant is able to understand "
    "the visual content that the user provides, and assist the user with a variety of tasks using natural "
    "language.The visual content will be provided with the following format: <Image>visual content</Image>."
)
INST_TAG_SYSTEM = (
    "<<SYS>>\nAnswer the questions about the visual content that the user provides.The visual content will be "
    "provided with the following format: <Image>visual content</Image>.\n<</SYS>>\n\n"
)
SAFE_SYSTEM = (
    "<<SYS>>\nYou are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while "
    "being safe.  Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or "
    "illegal content. Please ensure that your responses are socially unbiased and positive in nature.\n\n"
    "If a question does not make any sense, or is not factually coherent, explain why instead of answering "
    "something not correct. If you don't know the answer to a question, please don't share false information."
    "\n<</SYS>>\n\n"
)
MPT_SYSTEM = (
    "<|im_start|>system\nA conversation between a user and an LLM-based AI assistant. "
    "The assistant gives helpful and honest answers.<|im_end|>"
)
QWEN_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
QWEN_2_5_SYSTEM = (
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
)
YI_SYSTEM = "<|im_start|>system\nAnswer the questions.<|im_end|>"

# One round (Q1, A1); the rest of a second one (Q2, A2); what follows the first question of an open turn.
GOLDEN = {
    "v0": (
        f"{HUMAN_SYSTEM}\n\n### Human: Q1\n### Assistant: A1\n### ",
        "Human: Q2\n### Assistant: A2\n### ",
        f"{HUMAN_SYSTEM}\n\n### Human: Q1\n### Assistant:",
    ),
    "llava_v0": (
        f"{HUMAN_SYSTEM}###Human: Q1###Assistant: A1###",
        "Human: Q2###Assistant: A2###",
        f"{HUMAN_SYSTEM}###Human: Q1###Assistant:",
    ),
    "llava_v0_mmtag": (
        f"{TAG_SYSTEM}###Human: Q1###Assistant: A1###",
        "Human: Q2###Assistant: A2###",
        f"{TAG_SYSTEM}###Human: Q1###Assistant:",
    ),
    "llava_v1_mmtag": (
        f"{TAG_SYSTEM} USER: Q1 ASSISTANT: A1</s>",
        "USER: Q2 ASSISTANT: A2</s>",
        f"{TAG_SYSTEM} USER: Q1 ASSISTANT:",
    ),
    "llama_2": (
        f"[INST] {SAFE_SYSTEM}Q1 [/INST] A1 </s>",
        "<s>[INST] Q2 [/INST] A2 </s>",
        f"[INST] {SAFE_SYSTEM}Q1 [/INST]",
    ),
    "llava_llama_2_mmtag": (
        f"[INST] {INST_TAG_SYSTEM}Q1 [/INST] A1 </s>",
        "<s>[INST] Q2 [/INST] A2 </s>",
        f"[INST] {INST_TAG_SYSTEM}Q1 [/INST]",
    ),
    "mpt": (
        f"{MPT_SYSTEM}<|im_start|>user\nQ1<|im_end|><|im_start|>assistant\nA1<|im_end|>",
        "<|im_start|>user\nQ2<|im_end|><|im_start|>assistant\nA2<|im_end|>",
        f"{MPT_SYSTEM}<|im_start|>user\nQ1<|im_end|><|im_start|>assistant\n",
    ),
    "brief": ("Q1\nA1<|im_end|>\n", "Q2\nA2<|im_end|>\n", "Q1\n"),
    "qwen_2_5": (
        f"{QWEN_2_5_SYSTEM}<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n",
        "<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\nA2<|im_end|>\n",
        f"{QWEN_2_5_SYSTEM}<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n",
    ),
    "vicuna_v1": (
        f"{USER_SYSTEM} USER: Q1 ASSISTANT: A1</s>",
        "USER: Q2 ASSISTANT: A2</s>",
        f"{USER_SYSTEM} USER: Q1 ASSISTANT:",
    ),
    "llava_v1": (
        f"{HUMAN_SYSTEM} USER: Q1 ASSISTANT: A1</s>",
        "USER: Q2 ASSISTANT: A2</s>",
        f"{HUMAN_SYSTEM} USER: Q1 ASSISTANT:",
    ),
    "llava_llama_2": (
        f"[INST] {INST_SYSTEM}Q1 [/INST] A1 </s>",
        "<s>[INST] Q2 [/INST] A2 </s>",
        f"[INST] {INST_SYSTEM}Q1 [/INST]",
    ),
    "mistral_instruct": (
        "[INST] Q1 [/INST] A1 </s>",
        "[INST] Q2 [/INST] A2 </s>",
        "[INST] Q1 [/INST]",
    ),
    "chatml_direct": (
        f"{YI_SYSTEM}<|im_start|>user\nQ1<|im_end|><|im_start|>assistant\nA1<|im_end|>",
        "<|im_start|>user\nQ2<|im_end|><|im_start|>assistant\nA2<|im_end|>",
        f"{YI_SYSTEM}<|im_start|>user\nQ1<|im_end|><|im_start|>assistant\n",
    ),
    "chatml": (
        "<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n",
        "<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\nA2<|im_end|>\n",
        "<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n",
    ),
    "qwen_1_5": (
        f"{QWEN_SYSTEM}<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n",
        "<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\nA2<|im_end|>\n",
        f"{QWEN_SYSTEM}<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n",
    ),
    "llava_llama_3": (
        f"{LLAMA3_SYSTEM}{LLAMA3_USER}Q1<|eot_id|>{LLAMA3_ASSISTANT}A1<|eot_id|>",
        f"{LLAMA3_USER}Q2<|eot_id|>{LLAMA3_ASSISTANT}A2<|eot_id|>",
        f"{LLAMA3_SYSTEM}{LLAMA3_USER}Q1<|eot_id|>{LLAMA3_ASSISTANT}",
    ),
    "gemma_instruct": (
        "<start_of_turn>user\nQ1<end_of_turn>\n<start_of_turn>model\nA1<end_of_turn>\n",
        "<start_of_turn>user\nQ2<end_of_turn>\n<start_of_turn>model\nA2<end_of_turn>\n",
        "<start_of_turn>user\nQ1<end_of_turn>\n<start_of_turn>model\n",
    ),
    "plain": ("A1\n", "A2\n", ""),
    "plain_no_bos": ("A1\n", "A2\n", ""),
}
# What of `A1` and around it is learned.
LEARNED = {
    "v0": " A1\n###",
    "llava_v0": " A1###",
    "llava_v0_mmtag": " A1###",
    "llava_v1_mmtag": " A1</s>",
    "llama_2": " A1 </s>",
    "llava_llama_2_mmtag": " A1 </s>",
    "mpt": "A1<|im_end|>",
    "brief": "A1<|im_end|>",
    "qwen_2_5": "A1<|im_end|>",
    "vicuna_v1": " A1</s>",
    "llava_v1": " A1</s>",
    "llava_llama_2": " A1 </s>",
    "mistral_instruct": " A1 </s>",
    "chatml_direct": "A1<|im_end|>",
    "chatml": "A1<|im_end|>",
    "qwen_1_5": "A1<|im_end|>",
    "llava_llama_3": "A1<|eot_id|>",
    "gemma_instruct": "A1<end_of_turn>",
    "plain": "A1\n",
    "plain_no_bos": "A1\n",
}
# What the released code learned in two rounds, where it is not the answers and their ends; and which tokens it
# learned in every place.
COMPAT = {
    "v0": "###" + "### Assistant: A1\n###" + "### Assistant: A2\n### ",
    "qwen_1_5": "<|im_start|>assistant\nA1<|im_end|>\n<|im_start|>assistant\nA2<|im_end|>\n",
    "qwen_2_5": "<|im_start|>assistant\nA1<|im_end|>\n<|im_start|>assistant\nA2<|im_end|>\n",
    "llava_llama_3": f"{LLAMA3_ASSISTANT}A1<|eot_id|>{LLAMA3_ASSISTANT}A2<|eot_id|>",
    "gemma_instruct": "A1<end_of_turn>\nA2<end_of_turn>\n",
}
EVERYWHERE = {
    "qwen_1_5": ("\n", "<|im_start|>", "<|im_end|>"),
    "qwen_2_5": ("\n", "<|im_start|>", "<|im_end|>"),
    "llava_llama_3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
}
PLACEMENT = {
    "single_front": {
        "mistral_instruct", "chatml_direct", "qwen_1_5", "qwen_2_5", "llava_llama_3", "gemma_instruct",
    },
    "as_is": {"plain", "plain_no_bos"},
}  # fmt: skip
PICTURE = Path("a.png")
NAMES = sorted(GOLDEN)


def rendered(name: str, *messages: Message, open_turn: bool = False) -> str:
    pieces = template(name).pieces(Conversation(messages), open_turn=open_turn)
    return "".join(piece.text if isinstance(piece, Piece) else "<image>" for piece in pieces)


def with_image(name: str, text: str) -> str:
    image = "<Image><image></Image>" if name.endswith("mmtag") else "<image>"
    return image + text if name.startswith("plain") else text.replace("Q1", image + "\nQ1", 1)


def test_the_goldens_cover_every_row_of_the_table():
    assert set(GOLDEN) == set(LEARNED) == set(ROWS) == set(TEMPLATES) - set(ALIASES)


def test_the_golden_pages_are_those_of_the_rows():
    assert sorted(path.name for path in FOLDER.iterdir()) == [f"{name}.txt" for name in NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_a_row_renders_its_golden_page(name):
    assert page(ROWS[name]).encode() == (FOLDER / f"{name}.txt").read_bytes()


@pytest.mark.parametrize("alias", sorted(ALIASES))
def test_an_alias_is_its_row_under_another_name(alias):
    assert replace(template(alias), name=ALIASES[alias]) == template(ALIASES[alias])


@pytest.mark.parametrize("name", NAMES)
def test_placement_is_that_of_the_release(name):
    known = [rule for rule, names in PLACEMENT.items() if name in names]
    assert [template(name).placement] == (known or ["front"])


@pytest.mark.parametrize("name", NAMES)
def test_one_round_is_the_published_string(name):
    assert rendered(name, user("Q1"), assistant("A1")) == GOLDEN[name][0]


@pytest.mark.parametrize("name", NAMES)
def test_two_rounds_are_the_published_string(name):
    talk = (user("Q1"), assistant("A1"), user("Q2"), assistant("A2"))
    assert rendered(name, *talk) == GOLDEN[name][0] + GOLDEN[name][1]


@pytest.mark.parametrize("name", NAMES)
def test_an_image_stands_in_front_of_the_first_question_with_a_newline(name):
    talk = (user("Q1", [PICTURE]), assistant("A1"), user("Q2"), assistant("A2"))
    assert rendered(name, *talk[:2]) == with_image(name, GOLDEN[name][0])
    assert rendered(name, *talk) == with_image(name, GOLDEN[name][0]) + GOLDEN[name][1]


@pytest.mark.parametrize("name", NAMES)
def test_an_open_turn_stops_after_the_assistants_header(name):
    assert rendered(name, user("Q1", [PICTURE]), open_turn=True) == with_image(name, GOLDEN[name][2])
    later = rendered(name, user("Q1"), assistant("A1"), user("Q2"), open_turn=True)
    assert (GOLDEN[name][0] + GOLDEN[name][1]).startswith(later)
    assert later.endswith(template(name).header)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rounds", [1, 2])
def test_exactly_the_answers_and_their_end_markers_are_learned(name, rounds):
    talk = (user("Q1", [PICTURE]), assistant("A1"), user("Q2"), assistant("A2"))[: 2 * rounds]
    pieces = template(name).pieces(Conversation(talk))
    assert {piece.weight for piece in pieces if not isinstance(piece, Image)} <= {0.0, 1.0}
    learned = "".join(piece.text for piece in pieces if not isinstance(piece, Image) and piece.weight == 1)
    assert learned == "".join(LEARNED[name].replace("A1", answer) for answer in ("A1", "A2")[:rounds])


@pytest.mark.parametrize("name", NAMES)
def test_the_released_rule_learned_what_is_written_here(name):
    talk = (user("Q1", [PICTURE]), assistant("A1"), user("Q2"), assistant("A2"))
    pieces = [
        piece
        for piece in template(name).pieces(Conversation(talk), weights="compat")
        if isinstance(piece, Piece)
    ]
    learned = "".join(piece.text for piece in pieces if piece.weight == 1)
    assert learned == COMPAT.get(name, LEARNED[name] + LEARNED[name].replace("A1", "A2"))
    assert {piece.tokens for piece in pieces} == {EVERYWHERE.get(name, ())}


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    rounds=st.integers(1, 3),
    texts=st.lists(st.text(max_size=8), min_size=6, max_size=6),
    instructed=st.booleans(),
)
def test_the_two_rules_weigh_the_same_text_and_ours_is_part_of_the_released(name, rounds, texts, instructed):
    talk = [system("S")] * instructed
    for number in range(rounds):
        talk += [user(texts[2 * number], [PICTURE] * (number == 0)), assistant("a" + texts[2 * number + 1])]
    conversation = Conversation(tuple(talk))
    ours = template(name).pieces(conversation)
    compat = template(name).pieces(conversation, weights="compat")
    assert len(ours) == len(compat)
    for mine, theirs in zip(ours, compat, strict=True):
        if not isinstance(mine, Piece):
            assert mine == theirs
            continue
        assert (mine.text, mine.said, mine.compat) == (theirs.text, theirs.said, theirs.weight)
        assert mine.weight <= theirs.weight
        assert mine.tokens == ()


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("plain")])
def test_what_a_person_wrote_is_marked_as_said_and_nothing_else_is(name):
    talk = (system("S"), user("Q1"), assistant("A1"))
    pieces = template(name).pieces(Conversation(talk))
    assert [piece.text for piece in pieces if piece.said] == ["S", "Q1", "A1"]


def test_a_system_message_replaces_the_templates_own():
    talk = (system("Be brief."), user("Q1"), assistant("A1"))
    assert rendered("vicuna_v1", *talk) == "Be brief. USER: Q1 ASSISTANT: A1</s>"
    assert rendered("llava_llama_2", *talk) == "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nQ1 [/INST] A1 </s>"
    assert rendered("qwen_1_5", *talk).startswith(
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"
    )


@pytest.mark.parametrize("medium", [Image(PICTURE), Video(Path("a.mp4"))])
@pytest.mark.parametrize("place", [place_front, place_single_front])
def test_a_single_medium_moves_to_the_front_of_its_question(place, medium):
    for parts in (
        (Text("look at "), medium, Text("\nnow")),
        (Text("look at \nnow\n"), medium),
    ):
        assert place(parts) == (medium, Text("\n"), Text("look at \nnow"))


def test_llava_strips_the_text_behind_an_image_in_front_and_next_leaves_it():
    picture = Image(PICTURE)
    parts = (picture, Text("\n\nlook "))
    assert place_front(parts) == (picture, Text("\n"), Text("look"))
    assert place_single_front(parts) == parts
    assert place_single_front((picture, Text(" look "))) == (picture, Text("\n"), Text("look"))


@pytest.mark.parametrize("place", [place_front, place_single_front, place_as_is])
def test_several_media_stay_where_they_stand(place):
    first, second = Image(Path("1.png")), Video(Path("2.mp4"))
    parts: tuple[Part, ...] = (Text("compare "), first, Text(" with "), second)
    assert place(parts) == parts
    split = (first, Text(" with "), second)
    assert place(split) == split


@pytest.mark.parametrize("place", [place_front, place_single_front])
def test_several_media_in_front_get_a_newline_each(place):
    first, second = Image(Path("1.png")), Video(Path("2.mp4"))
    newline = Text("\n")
    assert place((first, second, Text(" which? "))) == (
        first,
        newline,
        second,
        newline,
        Text("which?"),
    )


def test_next_leaves_several_media_as_a_data_file_wrote_them():
    first, second = Image(Path("1.png")), Image(Path("2.png"))
    parts = (first, second, Text("\nwhich? "))
    assert place_single_front(parts) == parts
    lines = (first, Text("\n"), second, Text("\nwhich?"))
    assert place_single_front(lines) == lines


@pytest.mark.parametrize("place", [place_front, place_single_front, place_as_is])
def test_a_question_without_image_is_left_alone(place):
    parts = (Text("  two spaces "),)
    assert place(parts) == parts


def test_as_is_adds_no_newline():
    parts = (Text("look at "), Image(PICTURE))
    assert place_as_is(parts) == parts
    assert place_as_is((Image(PICTURE), Text("Q"))) == (Image(PICTURE), Text("Q"))


@pytest.mark.parametrize("name", NAMES)
def test_a_video_is_treated_as_an_image_is(name):
    film = Path("a.mp4")
    talk = (user("Q1", videos=[film]), assistant("A1"))
    assert rendered(name, *talk) == rendered(name, user("Q1", [PICTURE]), assistant("A1"))
    media = [piece for piece in template(name).pieces(Conversation(talk)) if not isinstance(piece, Piece)]
    assert media == [Video(film)]


def test_start_and_end_markers_are_a_frame_around_the_image():
    row = replace(template("llava_v0"), media_frame=("<im_start>", "<im_end>"))
    pieces = row.pieces(Conversation((user("Q1", [PICTURE]), assistant("A1"))))
    text = "".join(piece.text if isinstance(piece, Piece) else "<image>" for piece in pieces)
    assert text == f"{HUMAN_SYSTEM}###Human: <im_start><image><im_end>\nQ1###Assistant: A1###"
    assert [piece.said for piece in pieces if isinstance(piece, Piece) and "<im_" in piece.text] == [
        False,
        False,
    ]


def test_media_keep_their_order():
    message = user("Q1", [Path("1.png")], [Path("2.mp4"), (b"frame", b"frame")])
    assert [medium.source for medium in message.media] == [Path("1.png"), Path("2.mp4"), (b"frame", b"frame")]
    talk = Conversation((message, assistant("A1"), user("Q2", [Path("3.png")]), assistant("A2")))
    assert [medium.source for medium in talk.media][2:] == [(b"frame", b"frame"), Path("3.png")]
    assert talk.images == (Image(Path("1.png")), Image(Path("3.png")))
    assert [turn.media for turn in talk.turns()] == [talk.media, talk.media]


def test_moved_media_leave_their_markers_as_text():
    first, film, last = Image(Path("1.png")), Video(Path("2.mp4")), Image(Path("3.png"))
    talk = Conversation(
        (
            system("S"),
            Message("user", (Text("Is "), first, Text("in "), film, Text("?"))),
            assistant("A1"),
            Message("user", (last, Text("\nand this?"))),
            assistant("A2"),
        )
    )
    moved = move_media_front(talk)
    assert moved.messages[1].parts[:3] == (first, film, last)
    assert [message.text for message in moved.messages] == [
        "S", "Is <image>in <image>?", "A1", "<image>\nand this?", "A2",
    ]  # fmt: skip
    assert moved.media == talk.media
    assert rendered("qwen_1_5", *moved.messages[1:]).startswith(
        f"{QWEN_SYSTEM}<|im_start|>user\n<image>\n<image>\n<image>\nIs <image>in <image>?<|im_end|>\n"
    )


def test_nothing_moves_without_media_in_a_question():
    talk = Conversation((user("Q1"), assistant("A1")))
    assert move_media_front(talk) is talk
    wrong = Conversation((user("Q1"), Message("assistant", (Image(PICTURE), Text("A1")))))
    assert move_media_front(wrong) is wrong  # rendering refuses it


def test_llama_3_drops_the_blanks_around_messages():
    talk = (system(" S\n"), user("\n Q1 "), assistant(" A1\n"))
    clean = (system("S"), user("Q1"), assistant("A1"))
    assert rendered("llava_llama_3", *talk) == rendered("llava_llama_3", *clean)
    assert rendered("qwen_1_5", *talk) != rendered("qwen_1_5", *clean)
    picture = Image(PICTURE)
    ending = Message("user", (Text(" "), Text(" look "), picture, Text(" or "), picture, Text(" \n")))
    assert "\n\nlook <image> or <image><|eot_id|>" in rendered("llava_llama_3", ending, assistant("A1"))


def test_plain_drops_the_human_text_and_keeps_the_image():
    assert (
        rendered("plain", user("Describe the image.", [PICTURE]), assistant("a red circle"))
        == "<image>a red circle\n"
    )


@pytest.mark.parametrize(
    "talk",
    [
        (),
        (system("S"),),
        (assistant("A1"),),
        (user("Q1"), user("Q2"), assistant("A1")),
        (user("Q1"), assistant("A1"), assistant("A2")),
        (user("Q1"), system("S"), assistant("A1")),
        (system("S"), system("S"), user("Q1"), assistant("A1")),
        (system("S"), assistant("A1")),
        (user("Q1"),),
    ],
)
@pytest.mark.parametrize("name", ["vicuna_v1", "plain"])
def test_a_wrong_order_of_roles_is_refused(name, talk):
    with pytest.raises(DataError, match=r"roles must be|the last message must be the assistant's"):
        rendered(name, *talk)


def test_a_prompt_has_its_turns_in_any_order_where_each_is_headed():
    assert rendered("chatml", assistant("A1"), user("Q1"), system("S"), open_turn=True) == (
        "<|im_start|>assistant\nA1<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n"
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>assistant\n"
    )
    assert rendered("vicuna_v1", system("S"), user("Q1"), assistant("A1"), open_turn=True) == (
        "S USER: Q1 ASSISTANT: A1</s>ASSISTANT:"
    )
    assert rendered("chatml", system("S"), open_turn=True) == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("name", ["v0", "llama_2", "mistral_instruct", "plain", "brief"])
def test_a_prompt_whose_turns_are_told_by_their_order_ends_with_a_question(name):
    with pytest.raises(DataError, match="the last message must be the user's"):
        rendered(name, user("Q1"), assistant("A1"), open_turn=True)
    with pytest.raises(DataError, match="roles must be"):
        rendered(name, assistant("A1"), user("Q1"), open_turn=True)


@pytest.mark.parametrize("name", ["vicuna_v1", "gemma_instruct", "llama_2"])
def test_a_later_system_message_needs_a_header_of_its_own(name):
    with pytest.raises(DataError, match="system"):
        rendered(name, user("Q1"), system("S"), user("Q2"), open_turn=True)
    with pytest.raises(DataError, match="system"):
        rendered(name, system("S"), open_turn=True)


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_that_was_empty_can_be_asked_about(name):
    if TEMPLATES[name].user_text:
        assert "Q2" in rendered(name, user("Q1"), assistant(""), user("Q2"), open_turn=True)


@pytest.mark.parametrize("answer", ["", " ", "\n\t"])
@pytest.mark.parametrize("name", NAMES)
def test_an_empty_answer_is_refused(name, answer):
    with pytest.raises(DataError, match="an answer is empty"):
        rendered(name, user("Q1"), assistant(answer))


@pytest.mark.parametrize(
    ("medium", "kind"), [(Image(PICTURE), "an image"), (Video(Path("a.mp4")), "a video")]
)
def test_media_outside_a_question_are_refused(medium, kind):
    picture = Message("assistant", (medium, Text("A1")))
    with pytest.raises(DataError, match=f"{kind} stands in a message of the assistant"):
        rendered("vicuna_v1", user("Q1"), picture)


def test_an_unknown_template_names_the_near_ones():
    with pytest.raises(ConfigError, match="unknown template 'vicuna_v2'; did you mean 'vicuna_v1'"):
        template("vicuna_v2")
