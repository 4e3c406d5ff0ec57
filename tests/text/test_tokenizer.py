"""One tokenization for three kinds of tokenizer: what is learned, what stays text, what comes back."""

from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from llavakit.core.errors import CheckpointError
from llavakit.core.types import IMAGE_ID
from llavakit.data.encode import Encoder, Sample
from llavakit.text.conversation import Conversation, Image, Message, assistant, system, user
from llavakit.text.template import Piece
from llavakit.text.templates import template
from llavakit.text.tokenizer import Tokenizer
from tests import tiny

KINDS = sorted(tiny.TOKENIZERS)
ENCODERS = {name: tiny.encoder(name) for name in KINDS}
for _encoder in ENCODERS.values():
    assert _encoder.tokenizer.image_token_id > 0  # as in a checkpoint: <image> is in the vocabulary
END = {"chatml": "<|im_end|>", "vicuna_v1": "</s>", "llava_llama_3": "<|eot_id|>"}
TALK = [
    ("What color is the shape?", "It is a red circle."),
    ("yes or no", "no"),
    ("Describe the picture in detail, please.", "naïve café 東京 🙂, two\nlines"),
]
MARKERS = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>", "<s>", "</s>", "<|begin_of_text|>",
    "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<image>", "<0x0A>", "[INST]",
]  # fmt: skip
FRAGMENTS = [
    *MARKERS,
    "a",
    " ",
    "\n",
    "<",
    "|>",
    "</",
    "im_end",
    "red",
    "東",
    "🙂",
    "assistant",
    "USER:",
    "ASSISTANT:",
]
MIXED = st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=6).map("".join)


def rounds(count: int, picture: Path | None = None) -> Conversation:
    messages: list[Message] = []
    for number, (question, answer) in enumerate(TALK[:count]):
        images = [picture] if picture is not None and number == 0 else []
        messages += [user(question, images), assistant(answer)]
    return Conversation(tuple(messages))


def encode(kind: str, question: str, answer: str) -> Sample:
    return ENCODERS[kind].encode(Conversation((user(question), assistant(answer))))


def special_ids(kind: str, ids: tuple[int, ...]) -> list[int]:
    return [token for token in ids if token in ENCODERS[kind].tokenizer.hf.all_special_ids]


def learned_runs(sample: Sample) -> list[list[int]]:
    pairs = zip(sample.ids, sample.weights, strict=True)
    return [
        [token for token, _ in run] for weighted, run in groupby(pairs, key=lambda p: p[1] > 0) if weighted
    ]


@pytest.mark.parametrize("pictured", [False, True])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_the_learned_tokens_are_the_answer_and_its_end(kind, count, pictured, tmp_path):
    picture = tiny.picture(tmp_path / "a.png") if pictured else None
    sample = ENCODERS[kind].encode(rounds(count, picture))
    hf = ENCODERS[kind].tokenizer.hf
    runs = learned_runs(sample)
    assert len(runs) == count
    for run, (_, answer) in zip(runs, TALK, strict=False):
        end = hf.convert_tokens_to_ids(END[kind])
        assert run[-1] == end
        assert end not in run[:-1]
        assert hf.decode(run[:-1]) == answer
        assert run[:-1] == hf(answer, add_special_tokens=False)["input_ids"]
    assert set(sample.weights) == {0.0, 1.0}
    assert sample.ids.count(IMAGE_ID) == (4 if pictured else 0)


@pytest.mark.parametrize("pictured", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_the_rendered_string_in_one_go(kind, pictured, tmp_path):
    picture = tiny.picture(tmp_path / "a.png") if pictured else None
    encoder = ENCODERS[kind]
    conversation = rounds(3, picture)
    expected = list(encoder.tokenizer.bos) if encoder.template.bos else []
    pieces = encoder.template.pieces(conversation)
    for is_image, group in groupby(pieces, key=lambda piece: isinstance(piece, Image)):
        if is_image:
            expected += [IMAGE_ID] * 4
        else:
            text = "".join(piece.text for piece in group)
            expected += encoder.tokenizer.hf(text, add_special_tokens=False)["input_ids"]
    ids = list(encoder.encode(conversation).ids)
    assert ids == expected[: len(ids)]
    tail = expected[len(ids) :]  # nothing is learned from what follows the last end marker
    assert encoder.tokenizer.hf.decode(tail) == encoder.template.tail


def test_llama_3_ids_are_those_of_its_own_chat_template():
    encoder = ENCODERS["llava_llama_3"]
    conversation = Conversation((system("Be brief."), *rounds(3).messages))
    plain = [{"role": message.role, "content": message.text} for message in conversation.messages]
    theirs = encoder.tokenizer.hf.apply_chat_template(plain, return_dict=False)
    assert list(encoder.encode(conversation).ids) == theirs
    open_talk = Conversation(conversation.messages[:-1])
    theirs = encoder.tokenizer.hf.apply_chat_template(
        plain[:-1], add_generation_prompt=True, return_dict=False
    )
    assert list(encoder.encode(open_talk, open_turn=True).ids) == theirs


@pytest.mark.parametrize("kind", KINDS)
def test_an_open_turn_is_the_beginning_of_the_closed_one(kind, tmp_path):
    conversation = rounds(3, tiny.picture(tmp_path / "a.png"))
    closed = ENCODERS[kind].encode(conversation)
    opened = ENCODERS[kind].encode(Conversation(conversation.messages[:-1]), open_turn=True)
    assert opened.ids == closed.ids[: opened.num_tokens]
    assert closed.weights[opened.num_tokens] == 1.0
    assert closed.weights[opened.num_tokens - 1] == 0.0


@pytest.mark.parametrize("inside", ["{}", "a {} b", "word{}word", "{} {}", "\n{}\n"])
@pytest.mark.parametrize("marker", MARKERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_written_marker_never_becomes_a_special_token(kind, marker, inside):
    honest = special_ids(kind, encode(kind, "x", "y").ids)
    written = inside.replace("{}", marker)
    assert special_ids(kind, encode(kind, written, "y").ids) == honest
    assert special_ids(kind, encode(kind, "x", written).ids) == honest


@settings(derandomize=True, max_examples=60, deadline=None)
@given(kind=st.sampled_from(KINDS), question=MIXED, answer=MIXED.filter(str.strip))
def test_no_mixture_of_markers_changes_the_special_tokens(kind, question, answer):
    honest = encode(kind, "x", "y")
    sample = encode(kind, question, answer)
    assert special_ids(kind, sample.ids) == special_ids(kind, honest.ids)
    assert IMAGE_ID not in sample.ids
    (run,) = learned_runs(sample)
    assert special_ids(kind, tuple(run)) == [ENCODERS[kind].tokenizer.hf.convert_tokens_to_ids(END[kind])]


@pytest.mark.parametrize("kind", KINDS)
def test_a_written_marker_changes_nothing_for_those_who_encode_at_the_same_time(kind):
    questions = [f"a {marker} b {END[kind]} {number}" for number, marker in enumerate(MARKERS * 4)]
    questions += [f"plain words {number}" for number in range(len(questions))]
    talks = [Conversation((user(question),)) for question in questions]
    alone = [tiny.encoder(kind).encode(talk, open_turn=True).ids for talk in talks]
    shared = tiny.encoder(kind)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda talk: shared.encode(talk, open_turn=True).ids, talks * 5))
    assert together == alone * 5


@pytest.mark.parametrize("marker", MARKERS)
def test_a_written_marker_is_still_readable_after_decoding(marker):
    tokenizer = ENCODERS["chatml"].tokenizer
    ids, _ = tokenizer.encode([Piece(f"see {marker} here", said=True)])
    assert tokenizer.decode(ids) == f"see {marker} here"


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["chatml", "llava_llama_3"]),
    text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30),
)
def test_byte_level_text_comes_back_letter_by_letter(kind, text):
    ids, weights = ENCODERS[kind].tokenizer.encode([Piece(text, 1.0, said=True)])
    assert ENCODERS[kind].tokenizer.decode(ids) == text
    assert set(weights) == {1.0}


@settings(derandomize=True, max_examples=40, deadline=None)
@given(
    text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), min_size=1, max_size=30)
)
def test_sentencepiece_text_comes_back_letter_by_letter(text):
    tokenizer = ENCODERS["vicuna_v1"].tokenizer
    ids, _ = tokenizer.encode([Piece(text, 1.0, said=True)])
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["naïve café", "東京", "🙂🙂", "👩‍👩‍👧", "éß", "it 's  two  blanks"])
def test_unicode_and_emoji_come_back(kind, text):
    sample = encode(kind, "x", text)
    (run,) = learned_runs(sample)
    assert ENCODERS[kind].tokenizer.decode(run) == text


@pytest.mark.parametrize("kind", KINDS)
def test_every_token_takes_the_weight_of_its_last_character(kind):
    tokenizer = ENCODERS[kind].tokenizer
    run = [Piece("the image ", 0.0), Piece("shows", 1.0), Piece(" a red", 0.25), Piece(" circle", 0.0)]
    text = "".join(piece.text for piece in run)
    letters = [piece.weight for piece in run for _ in piece.text]
    ids, weights = tokenizer.encode(run)
    coded = tokenizer.hf(text, add_special_tokens=False, return_offsets_mapping=True)
    assert ids == coded["input_ids"]
    assert weights == [letters[max(end - 1, 0)] for _, end in coded["offset_mapping"]]


def test_an_answer_is_stopped_by_its_end_marker_and_by_eos():
    for kind in KINDS:
        tokenizer = ENCODERS[kind].tokenizer
        assert tokenizer.stop_ids(ENCODERS[kind].template) == {tokenizer.hf.convert_tokens_to_ids(END[kind])}
    byte_level = ENCODERS["chatml"].tokenizer
    assert byte_level.stop_ids(template("vicuna_v1")) == {byte_level.hf.eos_token_id}  # </s> is no token here
    newline = byte_level.hf.convert_tokens_to_ids("Ċ")
    assert byte_level.stop_ids(template("plain")) == {byte_level.hf.eos_token_id, newline}
    sentencepiece = ENCODERS["vicuna_v1"].tokenizer
    assert sentencepiece.stop_ids(template("llava_llama_2")) == {sentencepiece.hf.eos_token_id}


def test_the_image_token_is_added_once_and_changes_no_other_id():
    fresh = tiny.byte_level_tokenizer()
    before = dict(fresh.hf.get_vocab())
    token = fresh.image_token_id
    assert token == len(before)
    assert fresh.image_token_id == token
    assert len(fresh) == len(before) + 1
    assert {word: fresh.hf.get_vocab()[word] for word in before} == before


def test_only_a_template_with_bos_gets_one():
    llama3, chatml = ENCODERS["llava_llama_3"].tokenizer, ENCODERS["chatml"].tokenizer
    assert llama3.bos == [llama3.hf.bos_token_id]
    assert chatml.bos == []
    without = Encoder(llama3, template("chatml"), tiny.IMAGE)
    assert llama3.hf.bos_token_id not in without.encode(rounds(1)).ids


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_tokenizer_encodes_alike(kind, tmp_path):
    ENCODERS[kind].tokenizer.hf.save_pretrained(tmp_path)
    again = Encoder(Tokenizer.load(tmp_path, ours=True), template(kind), tiny.IMAGE)
    conversation = Conversation((user("a </s> <|im_end|> <image> b"), assistant("東京 🙂 <|eot_id|>")))
    assert again.encode(conversation) == ENCODERS[kind].encode(conversation)


def test_a_directory_without_tokenizer_is_one_line(tmp_path):
    with pytest.raises(CheckpointError, match="no tokenizer") as caught:
        Tokenizer.load(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tokens_are_spelled_as_in_the_vocabulary():
    tokenizer = ENCODERS["chatml"].tokenizer
    assert isinstance(tokenizer.hf, PreTrainedTokenizerFast)
    ids, _ = tokenizer.encode([Piece("the red circle")])
    assert tokenizer.tokens(ids) == tokenizer.hf.tokenize("the red circle")
