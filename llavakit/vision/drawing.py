"""A plan as lines of text, for a person who wonders where the tokens go: the canvas, its tiles, padding shaded."""

from llavakit.vision.layout import Box, Plan, Resize, Size, View

MAX_COLUMNS, MAX_LINES = 64, 22  # of characters, borders apart
SHADE, BLANK = "░", " "


def image_box(view: View, size: Size) -> tuple[Size, Box]:
    """(canvas, where on it an image of `size` lies). What reaches over the canvas's edges is cut off."""
    canvas, (left, top, right, bottom) = size, (0, 0, *size)
    for step in view.steps:
        if isinstance(step, Resize):
            x, y = step.size[0] / canvas[0], step.size[1] / canvas[1]
            left, top, right, bottom = round(left * x), round(top * y), round(right * x), round(bottom * y)
        else:
            x, y = step.offset
            left, top, right, bottom = left + x, top + y, right + x, bottom + y
        canvas = step.size
    return canvas, (left, top, right, bottom)


def draw_view(plan: Plan, view: View, size: Size) -> list[str]:
    """The canvas of one view, a box a tile; where padding is, a box is shaded."""
    canvas, box = image_box(view, size)
    tile_width, tile_height = plan.tile
    columns, rows = canvas[0] // tile_width, canvas[1] // tile_height
    wide, high = _cell((columns, rows), plan.tile)
    lines = ["┌" + "┬".join(["─" * wide] * columns) + "┐"]
    for row in range(rows):
        if row:
            lines.append("├" + "┼".join(["─" * wide] * columns) + "┤")
        for line in range(high):
            y = (row + (line + 0.5) / high) * tile_height
            cells = (
                "".join(
                    BLANK if _inside(((column + (at + 0.5) / wide) * tile_width, y), box) else SHADE
                    for at in range(wide)
                )
                for column in range(columns)
            )
            lines.append("│" + "│".join(cells) + "│")
    lines.append("└" + "┴".join(["─" * wide] * columns) + "┘")
    return lines


def _cell(tiles: Size, tile: Size) -> Size:
    """Characters per tile, (wide, high). A character is about twice as high as wide."""
    columns, rows = tiles
    high = max(1, min(MAX_LINES // rows, 8, round(MAX_COLUMNS / columns * tile[1] / tile[0] / 2)))
    wide = max(2, min(MAX_COLUMNS // columns, round(2 * high * tile[0] / tile[1])))
    return wide, high


def _inside(point: tuple[float, float], box: Box) -> bool:
    return box[0] <= point[0] < box[2] and box[1] <= point[1] < box[3]
