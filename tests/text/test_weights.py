"""What is learned, token by token: our rule, and the released one against slow twins that count as it counted."""

import re
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llavakit.core.errors import CheckpointError
from llavakit.text.conversation import Conversation, Image, Message, assistant, system, user
from llavakit.text.template import Piece, Template, Weights
from llavakit.text.templates import template
from llavakit.text.tokenizer import Tokenizer
from tests import tiny
from tests.text.write_golden import ROWS

IMAGE = -200
BYTES, PIECES, LLAMA3, GEMMA = (
    tiny.byte_level_tokenizer(),
    tiny.sentencepiece_tokenizer(),
    tiny.chat_template_tokenizer(),
    tiny.gemma_tokenizer(),
)
FITTING = {
    "plain": PIECES,
    "plain_no_bos": BYTES,
    "v0": PIECES,
    "llava_v0": PIECES,
    "llava_v0_mmtag": PIECES,
    "vicuna_v1": PIECES,
    "llava_v1": PIECES,
    "llava_v1_mmtag": PIECES,
    "llama_2": PIECES,
    "llava_llama_2": PIECES,
    "llava_llama_2_mmtag": PIECES,
    "mistral_instruct": PIECES,
    "mpt": BYTES,
    "chatml_direct": BYTES,
    "chatml": BYTES,
    "brief": BYTES,
    "qwen_1_5": BYTES,
    "qwen_2_5": BYTES,
    "llava_llama_3": LLAMA3,
    "gemma_instruct": GEMMA,
}
TALK = [
    ("What color\nis the shape?", "It is a red circle."),
    ("yes or no", "no"),
    ("Describe the picture.", "naïve café 東京 🙂, two\nlines"),
]
SPOKEN = st.text(" \n\tab.", min_size=1, max_size=8).filter(str.strip)
LINES = st.text("abc ?.é東🙂\n#", min_size=1, max_size=12).filter(lambda text: text.strip() == text != "")


def conversation(rounds: int, pictured: bool) -> Conversation:
    messages: list[Message] = []
    for number, (question, answer) in enumerate(TALK[:rounds]):
        messages += [user(question, [Path("a.png")] if pictured and number == 0 else []), assistant(answer)]
    return Conversation(tuple(messages))


def encode(
    row: Template, tokenizer: Tokenizer, talk: Conversation, weights: Weights
) -> tuple[list[int], list[float]]:
    """As the encoder does it, with one slot for an image."""
    ids = list(tokenizer.bos) if row.bos else []
    learned = [0.0] * len(ids)
    for is_text, group in groupby(
        row.pieces(talk, weights=weights), key=lambda piece: isinstance(piece, Piece)
    ):
        run = list(group)
        more, heavy = tokenizer.encode(run) if is_text else ([IMAGE] * len(run), [0.0] * len(run))
        ids += more
        learned += heavy
    return ids, learned


def rendered(row: Template, talk: Conversation) -> str:
    return "".join("<image>" if isinstance(piece, Image) else piece.text for piece in row.pieces(talk))


def read(tokenizer: Tokenizer, text: str, *, bos: bool) -> list[int]:
    """Ids of a prompt as the released code made them: BOS, then the pieces around each <image>."""
    ids = list(tokenizer.bos) if bos else []
    for number, chunk in enumerate(text.split("<image>")):
        ids += [IMAGE] * (number > 0) + (
            tokenizer.hf(chunk, add_special_tokens=False)["input_ids"] if chunk else []
        )
    return ids


def count_rounds(tokenizer: Tokenizer, text: str, head_end: str, end: str) -> list[bool]:
    """The v1 and llama_2 rule: every round is read apart, its head less BOS and a last blank is not learned."""
    ids = read(tokenizer, text, bos=True)
    learned, at = [False] + [True] * (len(ids) - 1), 1
    for part in text.split(end):
        if not part:
            break
        head = part.split(head_end)[0] + head_end
        skip = len(read(tokenizer, head, bos=True)) - 2
        learned[at : at + skip] = [False] * skip
        at += len(read(tokenizer, part, bos=True))
    assert at == len(ids)  # else the release dropped the sample
    return learned


@pytest.mark.parametrize("pictured", [False, True])
@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize(
    ("name", "head_end"),
    [
        ("vicuna_v1", " ASSISTANT: "),
        ("llava_v1", " ASSISTANT: "),
        ("llava_llama_2", "[/INST] "),
        ("mistral_instruct", "[/INST] "),
    ],
)
def test_vicuna_and_llama_2_count_to_our_rule(name, head_end, rounds, pictured):
    row, talk = template(name), conversation(rounds, pictured)
    ids, ours = encode(row, PIECES, talk, "ours")
    assert ids == read(PIECES, rendered(row, talk), bos=True)
    assert [weight > 0 for weight in ours] == count_rounds(PIECES, rendered(row, talk), head_end, "</s>")
    assert encode(row, PIECES, talk, "compat") == (ids, ours)


@settings(derandomize=True, max_examples=40, deadline=None)
@given(question=LINES, answer=LINES)
def test_vicuna_counts_to_our_rule_for_any_words(question, answer):
    row, talk = template("vicuna_v1"), Conversation((user(question), assistant(answer)))
    _, weights = encode(row, PIECES, talk, "compat")
    expected = count_rounds(PIECES, rendered(row, talk), " ASSISTANT: ", "</s>")
    assert [weight > 0 for weight in weights] == expected


@pytest.mark.parametrize("pictured", [False, True])
@pytest.mark.parametrize("name", ["mpt", "chatml_direct"])
def test_mpt_counts_to_our_rule_where_it_balances(name, pictured):
    """One round, counting from 1, as NeXT does. Other counts dropped the sample."""
    row, talk = template(name), conversation(1, pictured)
    text = rendered(row, talk)
    ids = read(BYTES, text, bos=False)
    head = text[: text.index("<|im_start|>assistant\n") + len("<|im_start|>assistant\n")]
    skip = len(read(BYTES, head, bos=False)) - 1
    assert 1 + len(read(BYTES, text.removesuffix("<|im_end|>"), bos=False)) == len(ids)
    expected = [False] * (1 + skip) + [True] * (len(ids) - 1 - skip)
    got, weights = encode(row, BYTES, talk, "compat")
    assert (got, [weight > 0 for weight in weights]) == (ids, expected)


@pytest.mark.parametrize(("name", "tokenizer"), [("plain", PIECES), ("plain_no_bos", BYTES)])
def test_plain_learns_all_behind_the_image(name, tokenizer):
    row, talk = template(name), conversation(1, True)
    ids, weights = encode(row, tokenizer, talk, "compat")
    skip = len(read(tokenizer, "<image>", bos=row.bos))
    assert ids[skip - 1] == IMAGE
    assert weights == [0.0] * skip + [1.0] * (len(ids) - skip)
    assert encode(row, tokenizer, talk, "ours") == (ids, weights)
    assert tokenizer.hf.eos_token_id not in ids


@pytest.mark.parametrize("pictured", [False, True])
@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("name", ["qwen_1_5", "qwen_2_5"])
def test_qwen_learns_whole_answers_and_three_tokens_everywhere(name, rounds, pictured):
    row, talk = template(name), conversation(rounds, pictured)
    vocabulary = BYTES.hf.get_vocab()
    everywhere = {vocabulary["Ċ"], vocabulary["<|im_start|>"], vocabulary["<|im_end|>"]}
    said = [("system", row.system)]
    for number, (question, answer) in enumerate(TALK[:rounds]):
        said += [("user", "<image>\n" * (pictured and number == 0) + question), ("assistant", answer)]
    ids: list[int] = []
    learned: list[bool] = []
    for role, text in said:
        more = read(BYTES, f"<|im_start|>{role}\n{text}<|im_end|>\n", bos=False)
        ids += more
        learned += [role == "assistant" or token in everywhere for token in more]
    got, weights = encode(row, BYTES, talk, "compat")
    assert (got, [weight > 0 for weight in weights]) == (ids, learned)
    ours, fewer = encode(row, BYTES, talk, "ours")
    assert ours == ids
    assert sum(fewer) == sum(
        len(read(BYTES, answer + "<|im_end|>", bos=False)) for _, answer in TALK[:rounds]
    )


@pytest.mark.parametrize("rounds", [1, 3])
def test_llama_3_learns_whole_answers_and_its_markers_everywhere(rounds):
    row, talk = template("llava_llama_3"), conversation(rounds, False)
    vocabulary = LLAMA3.hf.get_vocab()
    everywhere = {vocabulary[text] for text in tiny.LLAMA3[1:]}
    said = [{"role": "system", "content": row.system}]
    said += [{"role": message.role, "content": message.text} for message in talk.messages]
    ids: list[int] = []
    learned: list[bool] = []
    for number, message in enumerate(said):
        more = LLAMA3.hf.apply_chat_template([message], return_dict=False)[number > 0 :]
        ids += more
        learned += [message["role"] == "assistant" or token in everywhere for token in more]
    got, weights = encode(row, LLAMA3, talk, "compat")
    # The release also counted BOS, which stands first and so is never predicted.
    assert (got, [weight > 0 for weight in weights]) == (ids, learned)


@settings(derandomize=True, max_examples=40, deadline=None)
@given(system_text=SPOKEN, question=SPOKEN, answer=SPOKEN)
def test_llama_3_trims_messages_as_its_chat_template_does(system_text, question, answer):
    talk = Conversation((system(system_text), user(question), assistant(answer)))
    said = [{"role": message.role, "content": message.text} for message in talk.messages]
    theirs = LLAMA3.hf.apply_chat_template(said, tokenize=False)
    assert LLAMA3.hf.bos_token + rendered(template("llava_llama_3"), talk) == theirs


@pytest.mark.parametrize("rounds", [1, 3])
def test_gemma_learns_the_newline_behind_its_end(rounds):
    row, talk = template("gemma_instruct"), conversation(rounds, True)
    text = rendered(row, talk)
    ids = read(GEMMA, text, bos=True)
    learned, at = [True] * len(ids), 1
    learned[0] = False
    parts = text.split("<start_of_turn>user\n")[1:]
    for part in parts:
        turn = "<start_of_turn>user\n" + part
        head = turn[: turn.index("<start_of_turn>model\n") + len("<start_of_turn>model\n")]
        skip = len(read(GEMMA, head, bos=False))
        learned[at : at + skip] = [False] * skip
        at += len(read(GEMMA, turn.removesuffix("<end_of_turn>\n"), bos=False)) + 2
    assert at == len(ids)
    got, weights = encode(row, GEMMA, talk, "compat")
    assert (got, [weight > 0 for weight in weights]) == (ids, learned)


@pytest.mark.parametrize("tokenizer", [BYTES, PIECES, LLAMA3])
@pytest.mark.parametrize("rounds", [1, 3])
def test_v0_masks_the_header_and_the_words_of_the_human(rounds, tokenizer):
    """Without the drift of the release, whose counts each had a BOS of their own."""
    row, talk = template("v0"), conversation(rounds, False)
    text = rendered(row, talk)
    masked = [(0, text.index("### Human"))]
    masked += [
        found.span() for found in re.finditer(r"(?<=###) Human: .*?\n(?=### Assistant:)", text, re.DOTALL)
    ]
    assert len(masked) == 1 + rounds
    ends = tokenizer.hf(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    expected = [not any(start < end <= stop for start, stop in masked) for _, end in ends]
    _, weights = encode(row, tokenizer, talk, "compat")
    assert [weight > 0 for weight in weights[len(tokenizer.bos) :]] == expected


def test_every_row_is_read_by_a_tokenizer_of_its_kind():
    assert set(FITTING) == set(ROWS)


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("name", sorted(FITTING))
def test_both_rules_read_the_same_ids_and_ours_is_part_of_the_released(name, rounds):
    row, tokenizer, talk = template(name), FITTING[name], conversation(rounds, True)
    ids, ours = encode(row, tokenizer, talk, "ours")
    again, compat = encode(row, tokenizer, talk, "compat")
    assert ids == again
    assert all(mine <= theirs for mine, theirs in zip(ours, compat, strict=True))
    runs = [
        [token for token, _ in run]
        for heavy, run in groupby(zip(ids, ours, strict=True), key=lambda pair: pair[1] > 0)
        if heavy
    ]
    text = "".join(tokenizer.decode(run) for run in runs)
    assert all(answer in text for _, answer in TALK[:rounds])
    assert not any(question in text for question, _ in TALK[:rounds])


@pytest.mark.parametrize("marker", ["<|im_start|>", "<|im_end|>"])
def test_a_written_marker_gains_no_weight_from_the_released_rule(marker):
    row = template("qwen_1_5")
    talk = Conversation((user(f"see {marker} here"), assistant("A1")))
    honest = Conversation((user("see here"), assistant("A1")))
    for weights in ("ours", "compat"):
        assert sum(encode(row, BYTES, talk, weights)[1]) == sum(encode(row, BYTES, honest, weights)[1])


def test_a_marker_left_by_a_moved_image_is_ordinary_text():
    tokenizer = tiny.byte_level_tokenizer()
    special = tokenizer.image_token_id
    ids, _ = tokenizer.encode([Piece("compare <image> with", said=True)])
    assert special not in ids
    assert tokenizer.decode(ids) == "compare <image> with"


def test_the_released_rule_needs_the_tokens_it_counts():
    row, talk = template("qwen_1_5"), conversation(1, False)
    with pytest.raises(
        CheckpointError, match=r"counts the token '<\|im_start\|>', which this tokenizer does not"
    ):
        encode(row, PIECES, talk, "compat")
    ids, _ = encode(row, PIECES, talk, "ours")
    assert ids


@pytest.mark.parametrize(
    ("name", "strings", "tokens"),
    [
        ("v0", ("\n###", "###"), {"</s>"}),
        ("llava_v0", ("###",), {"</s>"}),
        ("llava_v0_mmtag", ("###",), {"</s>"}),
        ("vicuna_v1", (), {"</s>"}),
        ("llama_2", (), {"</s>"}),
        ("mistral_instruct", (), {"</s>"}),
        ("plain", ("\n",), {"</s>", "<0x0A>"}),
        ("plain_no_bos", ("\n",), {"<|im_end|>", "Ċ"}),
        ("mpt", (), {"<|im_end|>"}),
        ("chatml_direct", (), {"<|im_end|>"}),
        ("qwen_1_5", (), {"<|im_end|>"}),
        ("brief", (), {"<|im_end|>"}),
        ("gemma_instruct", (), {"<end_of_turn>", "<eos>"}),
        ("llava_llama_3", (), {"<|eot_id|>"}),
    ],
)
def test_every_row_knows_how_an_answer_stops(name, strings, tokens):
    row, tokenizer = template(name), FITTING[name]
    assert tokenizer.stop_strings(row) == strings
    assert set(tokenizer.tokens(sorted(tokenizer.stop_ids(row)))) == tokens


def test_llama_3_stops_at_its_end_of_turn_whatever_eos_is():
    tokenizer = tiny.chat_template_tokenizer()
    tokenizer.hf.eos_token = "<|begin_of_text|>"
    assert set(tokenizer.tokens(sorted(tokenizer.stop_ids(template("llava_llama_3"))))) == {
        "<|begin_of_text|>",
        "<|eot_id|>",
    }


def test_an_end_marker_without_a_token_is_looked_for_in_the_text():
    assert BYTES.stop_strings(template("vicuna_v1")) == ("</s>",)
    assert PIECES.stop_strings(template("chatml")) == ("<|im_end|>",)
