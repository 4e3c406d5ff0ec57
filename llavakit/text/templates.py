"""The table of templates. Strings are those of the released models; a checkpoint names its row."""

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


_ROWS = [
    # Stage 1 of every LLaVA: the caption after the image, closed by a newline; no end-of-sequence is trained.
    Template(name="plain", user=("", ""), header="", end="\n", bos=True, user_text=False),
    Template(name="plain_no_bos", user=("", ""), header="", end="\n", user_text=False),
    _vicuna("vicuna_v1", CURIOUS_USER),
    _vicuna("llava_v1", CURIOUS_HUMAN),
    _inst("llava_llama_2", VISUAL, between="<s>"),
    _inst("mistral_instruct", "", between=""),
    _chatml("chatml_direct", "Answer the questions.", newline=""),
    _chatml("chatml", "", newline="\n"),
    # ChatML without its role headers: six tokens a turn less, which is half of a short question and answer.
    Template(name="brief", user=("", "\n"), header="", end="<|im_end|>", tail="\n", bos=True),
    _chatml("qwen_1_5", "You are a helpful assistant.", newline="\n"),
    Template(
        name="llava_llama_3",
        system=VISUAL,
        system_frame=("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"),
        user=("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
        header="<|start_header_id|>assistant<|end_header_id|>\n\n",
        end="<|eot_id|>",
        bos=True,
    ),
    Template(
        name="gemma_instruct",
        user=("<start_of_turn>user\n", "<end_of_turn>\n"),
        header="<start_of_turn>model\n",
        end="<end_of_turn>",
        tail="\n",
        bos=True,
    ),
]

TEMPLATES = {row.name: row for row in _ROWS}


def template(name: str) -> Template:
    """The row called `name`; an unknown name is an error that lists the near ones."""
    return pick(TEMPLATES, name, "template")
