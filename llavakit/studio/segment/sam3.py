"""SAM-3: words, for which it finds every instance, and marks as SAM-2 takes them (tools/sam.py)."""

from collections.abc import Sequence

from llavakit.studio.engines import Found, Prompts, Step, View
from llavakit.studio.scene import EditError
from llavakit.studio.segment.hub import Looked, SamMarks, placed
from llavakit.tools import sam

CANDIDATES = 3


class Sam3:
    """A PromptSegmenter of both halves."""

    def __init__(self, path: str) -> None:
        """A directory or hub id. ConfigError where there is no such model."""
        self._model = sam.Sam3(path)
        self._marks = SamMarks(self._model.marks, "SAM-3's tracker")
        self._pictures = Looked(self._model.look, self._model.marks.side)

    def steps(self, view: View) -> Sequence[Step]:
        """Look for marks; for words when the first ones come."""
        return self._marks.steps(view)

    def segment(self, view: View, prompts: Prompts) -> list[Found]:
        """The surest instances of what words name; or else candidates for marks and boxes."""
        if not prompts.text or prompts.marks or prompts.box is not None:
            return self._marks.segment(view, Prompts(prompts.marks, prompts.box, "", prompts.before))
        found = self._model.named(self._pictures.at(view), view.size, prompts.text, CANDIDATES)
        if not found:
            raise EditError(f"nothing like {prompts.text!r} was found")
        return [placed(prompts.text, each.inside_HW, each.score) for each in found]
