"""A contact sheet: pictures with question, answer and truth, for people who look before they read."""

from collections.abc import Sequence
from pathlib import Path

import PIL.Image
from PIL import ImageDraw, ImageFont

from llavakit.eval.easy_vqa import Question, is_right
from llavakit.vision.image import load_image

COLUMNS, SIDE, GAP, TEXT = 4, 176, 20, 66
GREEN, RED, INK = (20, 120, 60), (190, 30, 40), (30, 30, 30)


def draw_sheet(questions: Sequence[Question], answers: Sequence[str], path: Path) -> None:
    """One PNG, a cell per question. Wrong answers are red and show the truth."""
    rows = -(-len(questions) // COLUMNS)
    cell = (SIDE + GAP, SIDE + TEXT + GAP)
    sheet = PIL.Image.new("RGB", (COLUMNS * cell[0] + GAP, rows * cell[1] + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    small, large = ImageFont.load_default(13), ImageFont.load_default(16)
    for number, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        x = GAP + number % COLUMNS * cell[0]
        y = GAP + number // COLUMNS * cell[1]
        picture = load_image(question.image)
        scale = SIDE / max(picture.size)
        picture = picture.resize(
            (round(picture.width * scale), round(picture.height * scale)), PIL.Image.Resampling.LANCZOS
        )
        sheet.paste(picture, (x, y))
        draw.rectangle((x, y, x + picture.width - 1, y + picture.height - 1), outline=(200, 200, 200))
        lines = _wrap(draw, question.text, small, SIDE)[:2]
        for line, text in enumerate(lines):
            draw.text((x, y + SIDE + 4 + 16 * line), text, fill=INK, font=small)
        right = is_right(answer, question.answer)
        verdict = answer if right else f"{answer} (truth: {question.answer})"
        draw.text((x, y + SIDE + 6 + 16 * len(lines)), verdict, fill=GREEN if right else RED, font=large)
    sheet.save(path)


def _wrap(
    draw: ImageDraw.ImageDraw, text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int
) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and draw.textlength(longer, font=font) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
