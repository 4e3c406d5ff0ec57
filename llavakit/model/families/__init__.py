"""Every released model as a row of data. Recipes start from a row; nothing branches on its name.

`row.py` says what a row is, `parts.py` holds the decoders; then one module per generation.
"""

from dataclasses import replace

from llavakit.core.errors import pick
from llavakit.model.families import first, next_models, onevision
from llavakit.model.families.converted import CONVERTED
from llavakit.model.families.row import Family

FAMILIES = {
    row.name: replace(row, converted=CONVERTED.get(row.name))
    for row in (*first.ROWS, *next_models.ROWS, *onevision.ROWS)
}
DECODERS = {row.decoder.path: row.decoder for row in FAMILIES.values()}  # by hub id


def family(name: str) -> Family:
    """The row called `name`; an unknown name is an error that lists the near ones."""
    return pick(FAMILIES, name, "model")


def family_of(hub_id: str) -> Family | None:
    """The row whose weights are published under this id, in either layout; upper and lower case are one there."""
    name = hub_id.partition("@")[0].lower()
    return next(
        (row for row in FAMILIES.values() if name in (str(row.released).lower(), str(row.converted).lower())),
        None,
    )
