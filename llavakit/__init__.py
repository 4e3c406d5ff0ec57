"""llavakit: train, align, measure and serve the LLaVA series of vision-language models.

import llavakit

bot = llavakit.load("runs/demo")
bot.ask("What color is the shape?", images=["x.png"])
"""

from typing import TYPE_CHECKING, Any

from llavakit.version import __version__

if TYPE_CHECKING:
    from llavakit.chat import Chat, load

__all__ = ["Chat", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Chat and load, imported when first used: they bring PyTorch, which `llavakit --help` does not need."""
    if name in ("Chat", "load"):
        from llavakit import chat

        return vars(chat)[name]
    raise AttributeError(f"module 'llavakit' has no attribute {name!r}")
