"""Tokens of a request and its answer, as OpenAI tells them."""

from pydantic import BaseModel


class PromptDetails(BaseModel):
    image_tokens: int


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
