"""Files for servers that score: the answers as each server takes them."""

import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from llavakit.eval.benchmark import Question

SHEET = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006"


def as_json(row: Callable[[Question, str], Any]) -> Callable[[Sequence[Question], Sequence[str]], bytes]:
    """A JSON list with what `row` makes of each answer."""
    return lambda questions, answers: _json([row(q, a) for q, a in zip(questions, answers, strict=True)])


def as_mapping(
    value: Callable[[Question, str], Any] = lambda _, answer: answer,
) -> Callable[[Sequence[Question], Sequence[str]], bytes]:
    """A JSON object from the question's id to `value`, or to the answer."""
    return lambda questions, answers: _json(
        {q.id: value(q, a) for q, a in zip(questions, answers, strict=True)}
    )


def as_csv(
    head: str, value: Callable[[Question, str], str]
) -> Callable[[Sequence[Question], Sequence[str]], bytes]:
    """Lines "id,value" under a header."""

    def write(questions: Sequence[Question], answers: Sequence[str]) -> bytes:
        rows = [f"{q.id},{value(q, a)}" for q, a in zip(questions, answers, strict=True)]
        return "\n".join((head, *rows, "")).encode()

    return write


def _json(content: Any) -> bytes:
    return json.dumps(content, indent=1).encode()


def workbook(rows: Sequence[Mapping[str, str]]) -> bytes:
    """An .xlsx file with one sheet of texts: a header of all keys, and a row each."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    lines = [keys, *([row.get(key, "") for key in keys] for row in rows)]
    body = "".join(f"<row>{''.join(map(_cell, line))}</row>" for line in lines)
    types = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{PACKAGE}/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/xl/workbook.xml" ContentType="{types}.sheet.main+xml"/>'
        f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{types}.worksheet+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{PACKAGE}/relationships">'
        f'<Relationship Id="rId1" Type="{OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{SHEET}" xmlns:r="{OFFICE}">'
        '<sheets><sheet name="Sheet1" sheetId="1" r:id="rId1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{PACKAGE}/relationships">'
        f'<Relationship Id="rId1" Type="{OFFICE}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{SHEET}"><sheetData>{body}</sheetData></worksheet>',
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, text in parts.items():
            stamp = zipfile.ZipInfo(name)  # without the time of day: the same answers are the same file
            file.writestr(stamp, f'<?xml version="1.0" encoding="UTF-8"?>{text}', zipfile.ZIP_DEFLATED)
    return out.getvalue()


def _cell(text: str) -> str:
    """A cell, without the signs that XML may not hold."""
    plain = escape("".join(sign for sign in text if sign >= " " or sign in "\n\t"))
    return f'<c t="inlineStr"><is><t xml:space="preserve">{plain}</t></is></c>'
