"""llavakit: train, align, measure and serve the LLaVA series of vision-language models.

import llavakit

bot = llavakit.load("runs/demo")
bot.ask("What color is the shape?", images=["x.png"])
llavakit.plan("llava16-7b", 640, 480).num_tokens
"""

from typing import TYPE_CHECKING, Any

from llavakit.version import __version__

if TYPE_CHECKING:
    from llavakit.catalog import families, plan
    from llavakit.chat import Chat, load
    from llavakit.remote import Remote

__all__ = ["Chat", "Remote", "__version__", "families", "load", "plan"]


def __getattr__(name: str) -> Any:
    """Public names, imported when first used: they bring PyTorch, which `llavakit --help` does not need."""
    if name in ("Chat", "load"):
        from llavakit import chat

        return vars(chat)[name]
    if name == "Remote":
        from llavakit import remote

        return remote.Remote
    if name in ("families", "plan"):
        from llavakit import catalog

        return vars(catalog)[name]
    raise AttributeError(f"module 'llavakit' has no attribute {name!r}")
