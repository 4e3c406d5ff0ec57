"""Embeddings: the mean of the last hidden states of a text, which is what a language model has to offer.

It is no model that was trained to embed: vectors of like texts lie near each other, and not all of length 1.
"""

import base64
from typing import Annotated, Literal

from pydantic import BaseModel, Field
from torch import Tensor

from llavakit.data.encode import Sample
from llavakit.serve.completions import Prompt, check_prompts, plain_sample, several
from llavakit.serve.errors import ApiError
from llavakit.serve.fields import Asked, only
from llavakit.serve.settings import ServeConfig
from llavakit.text.template import Piece
from llavakit.text.tokenizer import Tokenizer


class EmbeddingRequest(Asked):
    """The body of POST /v1/embeddings."""

    input: Prompt
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int | None, Field(ge=1)] = None
    add_special_tokens: Annotated[bool | None, only(True)] = None

    @property
    def prompts(self) -> tuple[str | tuple[int, ...], ...]:
        """All texts, however they were written."""
        return several(self.input)


class EmbeddingEntry(BaseModel):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    """The answer of POST /v1/embeddings."""

    object: Literal["list"] = "list"
    model: str
    data: list[EmbeddingEntry]
    usage: EmbeddingUsage


def check_embedding(request: EmbeddingRequest, settings: ServeConfig) -> None:
    """Refuse a request that is too large."""
    check_prompts(request, request.prompts, "input", settings)


def check_dimensions(request: EmbeddingRequest, width: int) -> None:
    """Refuse vectors of another length than the model's."""
    if request.dimensions not in (None, width):
        raise ApiError(f"the model's vectors have {width} numbers; leave it out", param="dimensions")


def text_sample(
    text: str | tuple[int, ...], tokenizer: Tokenizer, *, bos: bool, vocabulary: int, param: str
) -> Sample:
    """A text as a sample; the names of special tokens in it are letters. Ids stay as they are."""
    if isinstance(text, str):
        ids, _ = tokenizer.encode([Piece(text, said=True)])
        text = (*(tokenizer.bos if bos else ()), *ids)
    return plain_sample(text, vocabulary, param)


def entry(index: int, mean_D: Tensor, request: EmbeddingRequest) -> EmbeddingEntry:
    """One vector, as numbers or as the bytes of float32 (little endian) in base64."""
    if request.encoding_format == "base64":
        data = mean_D.numpy().astype("<f4").tobytes()
        return EmbeddingEntry(index=index, embedding=base64.b64encode(data).decode())
    return EmbeddingEntry(index=index, embedding=mean_D.tolist())
