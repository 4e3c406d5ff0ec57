"""Which released models serving engines can express: the table of docs/serving.md, from rows and rules.

python -m benchmarks.serving_table     # rewrites the table
"""

from pathlib import Path

from benchmarks.page import rewrite
from llavakit.model.families import FAMILIES
from llavakit.model.hf_config import Fit
from llavakit.model.serving import sglang_fit, vllm_fit, without_videos

PAGE = Path(__file__).parent.parent / "docs" / "serving.md"
BEGIN, END = "<!-- table: written by python -m benchmarks.serving_table -->", "<!-- end of table -->"


def table() -> str:
    """Markdown: models with the same answers share a row; what is lost has a letter, explained below."""
    letters: dict[str, str] = {}
    rows: dict[tuple[str, ...], list[str]] = {}
    for name, row in FAMILIES.items():
        cells = (
            _cell(vllm_fit(row.card), letters),
            "" if row.card.video is None else _cell(vllm_fit(without_videos(row.card)), letters),
            _cell(sglang_fit(row.card, row.decoder.model_type), letters),
        )
        rows.setdefault(cells, []).append(f"`{name}`")
    lines = ["| models | vLLM | vLLM, `--images-only` | SGLang (read, not run) |", "|---|---|---|---|"]
    lines += [f"| {', '.join(names)} | {' | '.join(cells)} |" for cells, names in rows.items()]
    return "\n".join([*lines, "", *(f"- **{letter}** {reason}" for reason, letter in letters.items())])


def _cell(fit: Fit, letters: dict[str, str]) -> str:
    marks = " ".join(letters.setdefault(reason, chr(ord("a") + len(letters))) for reason in fit.lost)
    return f"no: {marks}" if fit.model_type is None else f"{fit.model_type} {marks}".strip()


def main() -> None:
    rewrite(PAGE, BEGIN, END, table())


if __name__ == "__main__":
    main()
