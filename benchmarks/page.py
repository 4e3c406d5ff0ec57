"""The part of a document that a program writes: what stands between two marks."""

from pathlib import Path


def rewrite(page: Path, begin: str, end: str, text: str) -> None:
    """Put `text` between the marks, and leave the rest of the page as it is."""
    before, _, rest = page.read_text().partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")
    print(f"wrote {page}")
