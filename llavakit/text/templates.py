"""The table of templates. Strings are those of the released models; a checkpoint names its row.

`v0` is how LLaVA v0 was trained and `llava_v0` how it was asked; the two differ in blanks around `###`. Vicuna v0's
own prompt also began with a worked example: give that as the conversation's first round under `llava_v0`.
The mmtag rows write the tag where the image stands, as training did; the released demo gave it a round of its own.
Whether a model was trained with <im_start> and <im_end> around images (LLaVA v0, LLaVA-Med 1.0) is a setting of the
checkpoint, not of a row: `replace(row, media_frame=("<im_start>", "<im_end>"))` is that row with them.
"""

from dataclasses import replace

from llavakit.core.errors import pick
from llavakit.text.template import Template

CURIOUS_USER = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
CURIOUS_HUMAN = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
VISUAL = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the "
    "user provides, and assist the user with a variety of tasks using natural language."
)
SAFE = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being "
    "safe.  Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal "
    "content. Please ensure that your responses are socially unbiased and positive in nature.\n\nIf a question "
    "does not make any sense, or is not factually coherent, explain why instead of answering something not "
    "correct. If you don't know the answer to a question, please don't share false information."
)
MPT = "A conversation between a user and an LLM-based AI assistant. The assistant gives helpful and honest answers."
DIRECT = "Answer the questions."
HELPFUL = "You are a helpful assistant."
QWEN_2_5 = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
TAG = "The visual content will be provided with the following format: <Image>visual content</Image>."
# No blank before the tag's sentence: the release joined the two strings so.
CURIOUS_TAG = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant is able to understand "
    "the visual content that the user provides, and assist the user with a variety of tasks using natural language."
) + TAG
DIRECT_TAG = "Answer the questions about the visual content that the user provides." + TAG
MMTAG = ("<Image>", "</Image>")


def _plain(name: str, *, bos: bool) -> Template:
    # Stage 1 of every LLaVA: the caption after the image, closed by a newline; no end-of-sequence is trained.
    return Template(
        name=name, user=("", ""), header="", end="\n", bos=bos, user_text=False, placement="as_is"
    )


def _human(name: str, system: str) -> Template:
    return Template(
        name=name,
        system=system,
        system_frame=("", "###"),
        user=("Human: ", "###"),
        header="Assistant:",
        lead=" ",
        end="###",
        bos=True,
    )


def _vicuna(name: str, system: str) -> Template:
    return Template(
        name=name,
        system=system,
        system_frame=("", " "),
        user=("USER: ", " "),
        header="ASSISTANT:",
        lead=" ",
        end="</s>",
        bos=True,
    )


def _inst(name: str, system: str, between: str) -> Template:
    return Template(
        name=name,
        system=system,
        system_frame=("<<SYS>>\n", "\n<</SYS>>\n\n"),
        system_in_user=True,
        user=("[INST] ", " [/INST]"),
        header="",
        lead=" ",
        end=" </s>",
        between=between,
        bos=True,
    )


def _chatml(name: str, system: str, newline: str) -> Template:
    # LLaVA's "mpt" and "chatml_direct" put no newline after <|im_end|>; Qwen's and SmolLM's templates do.
    return Template(
        name=name,
        system=system,
        system_frame=("<|im_start|>system\n", "<|im_end|>" + newline),
        user=("<|im_start|>user\n", "<|im_end|>" + newline),
        header="<|im_start|>assistant\n",
        end="<|im_end|>",
        tail=newline,
    )


def _qwen(name: str, system: str) -> Template:
    # NeXT's code learned the whole assistant message and three tokens wherever they stood, in questions too.
    return replace(
        _chatml(name, system, newline="\n"),
        placement="single_front",
        compat=("header", "tail"),
        compat_tokens=("\n", "<|im_start|>", "<|im_end|>"),
    )


_ROWS = [
    _plain("plain", bos=True),
    _plain("plain_no_bos", bos=False),
    # The released rule masked a question from its third token on: in Llama's vocabulary, after a newline, the first
    # two are its `###`. That one is both the end of an answer and the start of the next question.
    Template(
        name="v0",
        system=CURIOUS_HUMAN,
        system_frame=("", "\n\n"),
        opening="###",
        user=(" Human: ", "\n"),
        header="### Assistant:",
        lead=" ",
        end="\n###",
        closing=" ",
        bos=True,
        stops=("###",),
        compat=("opening", "header", "closing"),
    ),
    _human("llava_v0", CURIOUS_HUMAN),
    replace(_human("llava_v0_mmtag", CURIOUS_TAG), media_frame=MMTAG),
    _vicuna("vicuna_v1", CURIOUS_USER),
    _vicuna("llava_v1", CURIOUS_HUMAN),
    replace(_vicuna("llava_v1_mmtag", CURIOUS_TAG), media_frame=MMTAG),
    _inst("llama_2", SAFE, between="<s>"),
    _inst("llava_llama_2", VISUAL, between="<s>"),
    replace(_inst("llava_llama_2_mmtag", DIRECT_TAG, between="<s>"), media_frame=MMTAG),
    replace(_inst("mistral_instruct", "", between=""), placement="single_front"),
    _chatml("mpt", MPT, newline=""),
    replace(_chatml("chatml_direct", DIRECT, newline=""), placement="single_front"),
    _chatml("chatml", "", newline="\n"),
    # ChatML without its role headers: six tokens a turn less, which is half of a short question and answer.
    Template(name="brief", user=("", "\n"), header="", end="<|im_end|>", tail="\n", bos=True),
    _qwen("qwen_1_5", HELPFUL),
    _qwen("qwen_2_5", QWEN_2_5),
    # NeXT's rule for Llama 3 also lists "\n\n", but looks it up by a spelling that the vocabulary does not have,
    # and BOS, which stands first and so is never predicted.
    Template(
        name="llava_llama_3",
        system=VISUAL,
        system_frame=("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"),
        user=("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
        header="<|start_header_id|>assistant<|end_header_id|>\n\n",
        end="<|eot_id|>",
        bos=True,
        trim=True,
        placement="single_front",
        compat=("header",),
        compat_tokens=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    Template(
        name="gemma_instruct",
        user=("<start_of_turn>user\n", "<end_of_turn>\n"),
        header="<start_of_turn>model\n",
        end="<end_of_turn>",
        tail="\n",
        bos=True,
        placement="single_front",
        compat=("tail",),
    ),
]
# Other names under which released code and checkpoints know a row.
ALIASES = {
    "v0_plain": "plain",
    "v1": "vicuna_v1",
    "llava_mistral_instruct": "mistral_instruct",
    "mistral_direct": "chatml_direct",
    "qwen_2": "qwen_1_5",
}

TEMPLATES = {row.name: row for row in _ROWS}
TEMPLATES |= {alias: replace(TEMPLATES[name], name=alias) for alias, name in ALIASES.items()}


def template(name: str) -> Template:
    """The row called `name`; an unknown name is an error that lists the near ones."""
    return pick(TEMPLATES, name, "template")
