"""llavakit: train, align, measure and serve the LLaVA series of vision-language models.

import llavakit

bot = llavakit.load("runs/demo")
bot.ask("What color is the shape?", images=["x.png"])
"""

from llavakit.chat import Chat, load
from llavakit.version import __version__

__all__ = ["Chat", "__version__", "load"]
