"""Templates against the published formats, written out by hand; and which letters are learned."""

from pathlib import Path

import pytest

from llavakit.core.errors import ConfigError, DataError
from llavakit.text.conversation import Conversation, Image, Message, Text, assistant, system, user
from llavakit.text.template import place_front as place_images
from llavakit.text.templates import TEMPLATES, template

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
QWEN_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
YI_SYSTEM = "<|im_start|>system\nAnswer the questions.<|im_end|>"

# One round (Q1, A1); the rest of a second one (Q2, A2); what follows the first question of an open turn.
GOLDEN = {
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
PICTURE = Path("a.png")
NAMES = sorted(GOLDEN)


def rendered(name: str, *messages: Message, open_turn: bool = False) -> str:
    pieces = template(name).pieces(Conversation(messages), open_turn=open_turn)
    return "".join("<image>" if isinstance(piece, Image) else piece.text for piece in pieces)


def with_image(name: str, text: str) -> str:
    return "<image>" + text if name.startswith("plain") else text.replace("Q1", "<image>\nQ1", 1)


def test_the_goldens_cover_every_row_of_the_table():
    assert set(GOLDEN) == set(LEARNED) == set(TEMPLATES)


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


def test_one_image_moves_to_the_front_of_its_question():
    picture = Image(PICTURE)
    for parts in (
        (Text("look at "), picture, Text("\nnow")),
        (Text("look at \nnow\n"), picture),
        (picture, Text("\nlook at \nnow")),
    ):
        placed = place_images(parts)
        assert placed[:2] == (picture, Text("\n"))
        assert "".join(part.text for part in placed[2:]) == "look at \nnow"


def test_several_images_stay_where_they_stand():
    first, second = Image(Path("1.png")), Image(Path("2.png"))
    parts = (Text("compare "), first, Text(" with "), second)
    assert place_images(parts) == parts
    split = (first, Text(" with "), second)
    assert place_images(split) == split


def test_several_images_in_front_get_a_newline_each():
    first, second = Image(Path("1.png")), Image(Path("2.png"))
    newline = Text("\n")
    assert place_images((first, second, Text(" which? "))) == (
        first,
        newline,
        second,
        newline,
        Text("which?"),
    )


def test_a_question_without_image_is_left_alone():
    parts = (Text("  two spaces "),)
    assert place_images(parts) == parts


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


def test_an_open_turn_must_end_with_a_question():
    with pytest.raises(DataError, match="the last message must be the user's"):
        rendered("vicuna_v1", user("Q1"), assistant("A1"), open_turn=True)


@pytest.mark.parametrize("answer", ["", " ", "\n\t"])
@pytest.mark.parametrize("name", NAMES)
def test_an_empty_answer_is_refused(name, answer):
    with pytest.raises(DataError, match="an answer is empty"):
        rendered(name, user("Q1"), assistant(answer))


def test_an_image_outside_a_question_is_refused():
    picture = Message("assistant", (Image(PICTURE), Text("A1")))
    with pytest.raises(DataError, match="an image stands in a message of the assistant"):
        rendered("vicuna_v1", user("Q1"), picture)


def test_an_unknown_template_names_the_near_ones():
    with pytest.raises(ConfigError, match="unknown template 'vicuna_v2'; did you mean 'vicuna_v1'"):
        template("vicuna_v2")
