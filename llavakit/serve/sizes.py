"""What a request will take, before it is taken: tokens of its texts, bytes of its pictures and of its answer."""

from collections.abc import Iterable

from llavakit.data.encode import Sample
from llavakit.data.media import Measured
from llavakit.engine.request import ContextError
from llavakit.engine.sampler import Sampling
from llavakit.text.tokenizer import Tokenizer
from llavakit.vision.frames import VideoInfo
from llavakit.vision.layout import Plan

PIECE = 8192  # letters that are tokenized at once where a text may be far too long
SEAM = 8  # tokens that cutting between two pieces may have made more
LETTERS = 8  # a token: a text of fewer for each token of the context is simply tokenized
PROMPT_TOKEN, CHOICE_TOKEN = (
    64,
    16,
)  # bytes: ids, names and keys of a prompt's token, and of each choice again
ANSWER_TOKEN, TOP_TOKEN = 200, 150  # bytes, on the way from the engine to the client


def check_length(texts: Iterable[str], tokenizer: Tokenizer, context: int) -> None:
    """Refuse texts far longer than the context without tokenizing all of them.

    What passes may still be too long: the engine counts exactly.
    """
    pieces = [text[start : start + PIECE] for text in texts for start in range(0, len(text), PIECE)]
    if sum(map(len, pieces)) <= LETTERS * context:
        return
    count = 0
    for piece in pieces:
        count += max(len(tokenizer.hf(piece, add_special_tokens=False)["input_ids"]) - SEAM, 0)
        if count > context:
            raise ContextError(count, context, "the model's context is", at_least=True)


def answer_bytes(sample: Sample, how: Sampling) -> int:
    """For a prompt and all that may be answered to it."""
    prompt = sample.num_tokens * (PROMPT_TOKEN + how.n * CHOICE_TOKEN)
    told = 0 if how.logprobs is None else TOP_TOKEN * (1 + how.logprobs)
    return prompt + how.n * how.max_tokens * (ANSWER_TOKEN + told)


def tile_bytes(plan: Plan) -> int:
    """For what the tower sees of a picture or video."""
    width, height = plan.tile
    return plan.tiles * width * height * 3


def decoding_bytes(measured: Measured) -> int:
    """For a picture, or one frame of a video, while it is cut: in RGB, and once more resized."""
    width, height = measured.size if isinstance(measured, VideoInfo) else measured
    return width * height * 3 * 2
