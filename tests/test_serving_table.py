"""The table of docs/serving.md is what the rules say about the rows."""

from benchmarks.serving_table import PAGE, table
from llavakit.model.families import FAMILIES


def test_the_page_shows_what_the_rules_say():
    assert table() in PAGE.read_text(), "run: python -m benchmarks.serving_table"


def test_every_model_has_its_row_and_every_letter_its_reason():
    grid, reasons = table().split("\n\n")
    assert all(grid.count(f"`{name}`") == 1 for name in FAMILIES)
    letters = {
        word
        for line in grid.splitlines()[2:]
        for cell in line.split("|")[2:]
        for word in cell.split()
        if len(word) == 1
    }
    assert letters == {line.split("**")[1] for line in reasons.splitlines()}
