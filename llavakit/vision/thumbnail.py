"""Small copies of pictures inside a page."""

import base64
import html
import io

from llavakit.core.errors import DataError
from llavakit.vision.image import Source, load_image

SIDE = 200  # pixels


def picture_element(source: Source) -> str:
    """HTML of a small copy; a picture that cannot be read (any more) is named instead."""
    try:
        picture = load_image(source)
    except DataError as error:
        return f"<p>{html.escape(str(error))}</p>"
    picture.thumbnail((SIDE, SIDE))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=80)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}">'
