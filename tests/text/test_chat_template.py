"""The Jinja form of a template, rendered by `transformers`, is what our own rendering says, token by token."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llavakit.core.types import IMAGE_ID
from llavakit.data.encode import Encoder
from llavakit.text.chat_template import chat_template
from llavakit.text.conversation import Conversation, Image, Message, Text, Video, assistant, system, user
from llavakit.text.template import Piece
from llavakit.text.templates import TEMPLATES, template
from tests import tiny

WORDS = st.sampled_from(
    ["What color?", " two  blanks ", "\n", "", "\nnew line", 'quotes " and \\ \n', "naïve 東京 🙂", "{{ x }}"]
)
SAID = st.sampled_from(["a red circle", " yes ", "two\nlines"])
MEDIA = st.sampled_from(["image", "video"])
PARTS = st.lists(st.one_of(WORDS, MEDIA), max_size=5)
TOKENS = {"image": "<image>", "video": "<video>"}


def part(word):
    media = {"image": Image(b""), "video": Video(b"")}
    return media.get(word) or Text(word)


def openai_part(word):
    """What a server hands to a chat template for a part of OpenAI's request."""
    return {"type": word} if word in TOKENS else {"type": "text", "text": word}


def rendered(row, messages, *, open_turn):
    """Ours as a string: BOS, pieces, one token a medium."""
    talk = Conversation(tuple(messages))
    names = {Image: "<image>", Video: "<video>"}
    pieces = row.pieces(talk, open_turn=open_turn)
    text = "".join(piece.text if isinstance(piece, Piece) else names[type(piece)] for piece in pieces)
    return "<s>" * row.bos + text


def jinja(row, messages, *, open_turn):
    hf = tiny.sentencepiece_tokenizer().hf
    return hf.apply_chat_template(
        messages, chat_template=chat_template(row, bos=True), tokenize=False, add_generation_prompt=open_turn
    )


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(PARTS, SAID), min_size=1, max_size=3),
    st.sampled_from([None, "Be brief.", " x "]),
    st.data(),
)
def test_every_row_renders_as_ours(rounds, instruction, data):
    row = template(data.draw(st.sampled_from(sorted(TEMPLATES))))
    open_turn = data.draw(st.booleans())
    ours, theirs = [], []
    if instruction is not None:
        ours.append(system(instruction))
        theirs.append({"role": "system", "content": instruction})
    for number, (words, said) in enumerate(rounds):
        ours.append(Message("user", tuple(part(word) for word in words)))
        theirs.append({"role": "user", "content": [openai_part(word) for word in words]})
        if open_turn and number == len(rounds) - 1:
            break
        ours.append(assistant(said))
        theirs.append(
            {"role": "assistant", "content": data.draw(st.sampled_from([said, [openai_part(said)]]))}
        )
    assert jinja(row, theirs, open_turn=open_turn) == rendered(row, ours, open_turn=open_turn)


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_a_text_without_parts_is_the_same(name):
    row = template(name)
    assert jinja(row, [{"role": "user", "content": "hello"}], open_turn=True) == rendered(
        row, [user("hello")], open_turn=True
    )


@pytest.mark.parametrize("name", ["chatml", "vicuna_v1", "llava_llama_3"])
def test_the_tokens_are_those_of_our_encoder(tmp_path, name):
    """Also where SentencePiece puts a prefix space behind an image."""
    tokenizer = tiny.TOKENIZERS[name]()
    assert tokenizer.image_token_id > 0
    row, image = template(name), tiny.picture(tmp_path / "x.png")
    sample = Encoder(tokenizer, row, tiny.IMAGE).encode(
        Conversation((user("What color?", [image]), assistant("red"), user("two\n  lines"))), open_turn=True
    )
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What color?"}]},
        {"role": "assistant", "content": "red"},
        {"role": "user", "content": "two\n  lines"},
    ]
    text = tokenizer.hf.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True,
        chat_template=chat_template(row, bos=bool(tokenizer.bos)),
    )  # fmt: skip
    ids = []
    for token in tokenizer.hf(text, add_special_tokens=False)["input_ids"]:
        ids += [IMAGE_ID] * sample.media[0].plan.num_tokens if token == tokenizer.image_token_id else [token]
    assert ids == list(sample.ids)


def test_a_wrong_order_of_roles_is_refused():
    with pytest.raises(Exception, match="roles must be user, assistant"):
        jinja(template("chatml"), [{"role": "assistant", "content": "hello"}], open_turn=True)
