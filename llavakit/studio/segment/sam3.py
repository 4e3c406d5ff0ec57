"""SAM-3 by `transformers`: words, for which it finds every instance, and marks as SAM-2 takes them."""

from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock
from typing import Any

import torch
from transformers import AutoTokenizer, Sam3Model, Sam3TrackerModel

from llavakit.studio.engines import Found, Prompts, View
from llavakit.studio.scene import EditError
from llavakit.studio.segment.hub import KEPT, SamMarks, opened, pixels_of, sized

MEAN = STD = (0.5, 0.5, 0.5)
SURE = 0.3  # score of an instance, as its authors cut
LONGEST = 32  # tokens of the words
CANDIDATES = 3


class Sam3:
    """One directory holds both halves: a detector that knows words, a tracker that knows marks."""

    def __init__(self, path: str) -> None:
        """A directory or hub id. ConfigError where there is no such model."""
        tracker, self._words = opened(Sam3TrackerModel, path), opened(Sam3Model, path)
        self._tokenizer: Any = opened(AutoTokenizer, path)
        self._side = int(self._words.config.vision_config.image_size)
        self._marks = SamMarks(tracker, self._side, MEAN, STD, "SAM-3's tracker")
        self._pictures: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = Lock()

    def prepare(self, view: View) -> None:
        """Look for marks; for words when the first ones come."""
        self._marks.prepare(view)

    def segment(self, view: View, prompts: Prompts) -> list[Found]:
        """The surest instances of what words name; or else candidates for marks and boxes."""
        if prompts.text and not prompts.marks and prompts.box is None:
            return self._named(view, prompts.text)
        return self._marks.segment(view, Prompts(prompts.marks, prompts.box, "", prompts.before))

    @torch.inference_mode()
    def _named(self, view: View, words: str) -> list[Found]:
        """EditError where nothing is found."""
        # Special tokens that stand in the words stay text.
        ids = self._tokenizer(
            words, return_tensors="pt", truncation=True, padding="max_length", max_length=LONGEST,
            split_special_tokens=True,
        )  # fmt: skip
        said = self._words(
            vision_embeds=self._look(view), input_ids=ids["input_ids"], attention_mask=ids["attention_mask"]
        )
        scores_Q = said.pred_logits[0].sigmoid() * said.presence_logits[0].sigmoid()
        best = [index for index in scores_Q.argsort(descending=True).tolist() if scores_Q[index] > SURE]
        found = [
            sized(words, said.pred_masks[0, index], view, float(scores_Q[index]))
            for index in best[:CANDIDATES]
        ]
        there = [each for each in found if each is not None]
        if not there:
            raise EditError(f"nothing like {words!r} was found")
        return there

    def _look(self, view: View) -> Any:
        with self._lock:
            if view.key not in self._pictures:
                pixels = pixels_of(view, self._side, MEAN, STD)
                self._pictures[view.key] = self._words.get_vision_features(pixels)
                while len(self._pictures) > KEPT:
                    self._pictures.popitem(last=False)
            return self._pictures[view.key]
