"""The editor's commands as tools of an agent, on one document: `llavakit agent --document FOLDER`.

They are the functions that the chat of the page may propose (proposals.py), with the names `document_remove`,
`document_move` and so on; a call is one step of undo. They change a document that outlives the run, so the agent's
policy asks a person about them unless a rule allows it.
"""

import uuid
from typing import Any

from pydantic import ValidationError

from llavakit.studio.conversing import picture_of, sight_of
from llavakit.studio.looking import SceneView
from llavakit.studio.proposals import FUNCTIONS, Proposed, commands_of, schema_of, summary_of
from llavakit.studio.session import Session
from llavakit.text.calls import Card, Json, ToolError
from llavakit.tools.arguments import UNIT
from llavakit.tools.desk import Desk
from llavakit.tools.registry import Made, Tool

PREFIX = "document_"
SECONDS = 120.0  # a generative engine may take long


class CommandTool:
    """One function of the editor. What it gives is the picture as it is then."""

    def __init__(self, kind: type[Proposed], session: Session) -> None:
        self._kind, self._session = kind, session
        words = f"{summary_of(kind)} In the person's document; it can be undone."
        name = f"{PREFIX}{kind.model_fields['name'].default}"
        self.card = Card(name, words, schema_of(kind, UNIT), read_only=False, seconds=SECONDS)

    def run(self, arguments: Json, desk: Desk, *, seconds: float) -> Made:
        """Do it. EditError, DataError and ToolError for what cannot be done."""
        try:
            proposed = self._kind.model_validate(arguments)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            where = ".".join(map(str, first["loc"])) or "arguments"
            raise ToolError(f"{where}: {first['msg']}") from None
        notes: list[str] = []
        gesture = uuid.uuid4().hex
        sight = sight_of(self._session.scene.size, desk.unit, desk.image)
        for command in commands_of(proposed, sight):
            notes += self._session.apply(command, gesture=gesture).notes
        return told(self._session, desk, self.card.name, notes)

    def close(self) -> None:
        """Whoever opened the session closes it."""


class UndoTool:
    """Takes the last step back, whoever made it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        words = "Take the last change of the person's document back."
        self.card = Card(f"{PREFIX}undo", words, read_only=False, seconds=SECONDS)

    def run(self, arguments: Json, desk: Desk, *, seconds: float) -> Made:
        """EditError where there is nothing to take back."""
        self._session.apply({"do": "undo"})
        return told(self._session, desk, self.card.name, [])

    def close(self) -> None:
        """Whoever opened the session closes it."""


def told(session: Session, desk: Desk, made_by: str, notes: list[str]) -> Made:
    """How the document is now, for a model: its layers, and the picture."""
    value: dict[str, Any] = {"layers": [layer["name"] for layer in session.describe()["layers"]]}
    if notes:
        value["notes"] = notes
    return Made(value, (desk.add_image(picture_of(SceneView(session.scene)), made_by=made_by),))


def document_tools(session: Session) -> list[Tool]:
    """All of them, on this document."""
    return [*(CommandTool(kind, session) for kind in FUNCTIONS.values()), UndoTool(session)]
