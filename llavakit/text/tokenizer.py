"""One wrapper around a Hugging Face fast tokenizer: pieces in, ids and weights out, in one tokenization."""

import hashlib
import json
import re
from bisect import bisect_right
from collections.abc import Sequence
from copy import deepcopy
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from llavakit.core.errors import CheckpointError
from llavakit.core.files import check_pointer
from llavakit.text.chat_template import chat_template
from llavakit.text.conversation import IMAGE_TOKEN as IMAGE_TOKEN
from llavakit.text.template import Piece, Template

SETTINGS = "tokenizer_config.json"
FILES = ("tokenizer.json", "tokenizer.model")  # large enough for a repository to keep them in Git LFS


class Tokenizer:
    """Encodes runs of template pieces and decodes ids.

    The text between two images is tokenized in one go, as released LLaVA models saw it, and every token takes
    the weight of its last character. Special tokens exist only where a template wrote them: the same letters
    inside a user's text are encoded as ordinary letters.
    """

    def __init__(self, hf: PreTrainedTokenizerBase) -> None:
        if not hf.is_fast:
            raise CheckpointError(
                f"{hf.name_or_path}: this tokenizer gives no character offsets; "
                "convert it to a fast tokenizer (tokenizer.json) first"
            )
        self.hf = hf
        self._special_ids = {index for index, token in hf.added_tokens_decoder.items() if token.special}
        self._single_ids: dict[str, int | None] = {}
        self._settling: dict[int, bool] = {}

    def digest(self) -> str:
        """A name for its words and rules."""
        return hashlib.sha256(self.hf.backend_tokenizer.to_str().encode()).hexdigest()[:16]

    @classmethod
    def load(
        cls, path: str | Path, *, gguf_file: str | None = None, ours: bool = False, local_only: bool = False
    ) -> "Tokenizer":
        """Read from a model directory or a hub id; with `gguf_file`, from inside that file.

        `ours` marks a directory that llavakit wrote: its config.json need not be asked for a tokenizer class.
        `local_only`: of a hub id, what the cache has.
        """
        for name in FILES:
            if (Path(path) / name).is_file():
                check_pointer(Path(path) / name)
        extra: dict[str, object] = {"local_files_only": local_only}
        if gguf_file is not None:
            extra["gguf_file"] = gguf_file
        if ours:
            extra["config"] = PreTrainedConfig()
        try:
            return cls(AutoTokenizer.from_pretrained(str(path), **extra))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: no tokenizer: {str(error).splitlines()[0]}") from None

    def save(self, folder: Path, template: Template) -> None:
        """Write the tokenizer's files, with `template` as chat template, for `transformers` 4 and 5 alike."""
        self.hf.chat_template = chat_template(template, bos=bool(self.bos))
        self.hf.save_pretrained(folder)
        file = folder / SETTINGS
        settings = classic_settings(json.loads(file.read_text(encoding="utf-8")))
        settings["chat_template"] = self.hf.chat_template  # older versions know no chat_template.jinja
        file.write_text(json.dumps(settings, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")

    def __len__(self) -> int:
        return len(self.hf)

    def add_special(self, names: Sequence[str]) -> None:
        """Put special tokens into the vocabulary, where they are missing."""
        new = [name for name in names if name not in self.hf.get_vocab()]
        if new:
            self.hf.add_special_tokens({"additional_special_tokens": new}, replace_extra_special_tokens=False)
            self._special_ids |= {self.hf.get_vocab()[name] for name in new}
            self._settling.clear()

    @property
    def image_token_id(self) -> int:
        """The id other programs use for an image slot; added to the vocabulary when it is missing."""
        self.add_special([IMAGE_TOKEN])
        return int(self.hf.get_vocab()[IMAGE_TOKEN])

    @property
    def bos(self) -> list[int]:
        """The id a template with `bos` begins with: one, or none where the vocabulary has no BOS."""
        return [] if self.hf.bos_token_id is None else [int(self.hf.bos_token_id)]

    def encode(self, run: list[Piece]) -> tuple[list[int], list[float]]:
        """Ids and weights of one run of pieces, without BOS or EOS.

        A token that its piece lists in `tokens` weighs 1. Raises CheckpointError when the vocabulary lacks such a
        token: then the template was made for another tokenizer.
        """
        text = "".join(piece.text for piece in run)
        coded = self.hf(text, add_special_tokens=False, return_offsets_mapping=True)
        ends = list(accumulate(len(piece.text) for piece in run))
        always = {piece.tokens: frozenset(map(self._needed_id, piece.tokens)) for piece in run}
        ids: list[int] = []
        weights: list[float] = []
        for token, (start, end) in zip(coded["input_ids"], coded["offset_mapping"], strict=True):
            # A token without letters (a prefix space) belongs where it stands.
            piece = run[bisect_right(ends, end - 1 if end > start else min(start, len(text) - 1))]
            new = [token]
            if token in self._special_ids and not self._is_ours(text, start, end, run, ends):
                new = self._letters(text[start:end], add_special_tokens=False, split_special_tokens=True)[
                    "input_ids"
                ]
            ids += new
            weights += [1.0 if index in always[piece.tokens] else piece.weight for index in new]
        return ids, weights

    def stop_ids(self, template: Template) -> frozenset[int]:
        """Ids that end an answer: the tokenizer's EOS and each of the template's stops that is one token.

        What is not one special token must be looked for in the text as well: see `stop_strings`.
        """
        ids = set() if self.hf.eos_token_id is None else {int(self.hf.eos_token_id)}
        single = (self._single_id(stop) for stop in _stops(template))
        return frozenset(ids | {index for index in single if index is not None})

    def stop_strings(self, template: Template) -> tuple[str, ...]:
        """The template's stops that must be looked for in the answer's text, which ends before the first of them.

        These are all that no special token spells: ordinary letters join with their neighbours into other tokens
        (Llama writes `###` as one token or as two).
        """
        return tuple(stop for stop in _stops(template) if self._single_id(stop) not in self._special_ids)

    def decode(self, ids: list[int]) -> str:
        """Text without special tokens, spaces as they were."""
        return str(self.hf.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def settles(self, token: int) -> bool:
        """Whether the text up to this token is final.

        Not so after a raw byte of SentencePiece's fallback, whose neighbours decide what it means, nor after a
        special token, which decoding skips.
        """
        found = self._settling.get(token)
        if found is None:  # asked for every token of every answer
            spelled = str(self.hf.convert_ids_to_tokens(token))
            found = token not in self._special_ids and re.fullmatch(r"<0x[0-9A-F]{2}>", spelled) is None
            self._settling[token] = found
        return found

    def tokens(self, ids: list[int]) -> list[str]:
        """The vocabulary's own spelling of each id, for inspection."""
        return [str(token) for token in self.hf.convert_ids_to_tokens(ids)]

    @cached_property
    def _letters(self) -> PreTrainedTokenizerBase:
        """A twin that never sees a special token.

        `split_special_tokens` is a switch on the tokenizer itself. Flipped for one text, it would turn special
        tokens into letters, or letters into special tokens, in whatever other threads are encoding meanwhile.
        """
        twin = deepcopy(self.hf)
        twin("a", split_special_tokens=True)  # flipped once, before anybody else can use it
        return twin

    def _single_id(self, text: str) -> int | None:
        """The id of the token that spells exactly `text` in the middle of a line, if there is one."""
        if text not in self._single_ids:
            # A letter in front keeps SentencePiece from putting its prefix space into the marker.
            last = self.hf("a" + text, add_special_tokens=False)["input_ids"][-1]
            self._single_ids[text] = last if self.hf.decode([last]) == text else None
        return self._single_ids[text]

    def _needed_id(self, text: str) -> int:
        index = self._single_id(text)
        if index is None:
            raise CheckpointError(
                f"{self.hf.name_or_path}: the released weight rule of this template counts the token {text!r}, "
                "which this tokenizer does not have; take weights=ours, or the template made for this tokenizer"
            )
        return index

    def _is_ours(self, text: str, start: int, end: int, run: list[Piece], ends: list[int]) -> bool:
        """Whether a special token's letters lie within one piece that the template wrote."""
        # Tokens marked lstrip/rstrip swallow neighbouring blanks; only their letters count.
        letters = text[start:end]
        start += len(letters) - len(letters.lstrip())
        end -= len(letters) - len(letters.rstrip())
        first, last = bisect_right(ends, start), bisect_right(ends, end - 1)
        return first == last and not run[first].said


def classic_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json in the words of `transformers` 4, which its version 5 reads too."""
    out = dict(settings)
    if out.get("tokenizer_class") == "TokenizersBackend":  # a class that version 4 does not have
        out["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(out.get("extra_special_tokens"), list):  # there a table of names
        out["additional_special_tokens"] = out.pop("extra_special_tokens")
    return out


def _stops(template: Template) -> list[str]:
    """The texts that end an answer, the end marker first; the space before `</s>` is not part of the marker."""
    return list(dict.fromkeys([template.end.strip(" "), *template.stops]))
