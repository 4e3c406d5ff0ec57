"""On PYTHONPATH of a vLLM process: a torchvision whose C++ library does not load beside the CPU torch is imported.

torchvision registers shapes for two of its operators while it is imported, which fails where the library that
declares them is missing. Declared here, just before that import, they exist without code behind them; vLLM calls
neither.
"""

import sys
from importlib.abc import MetaPathFinder


class _Declare(MetaPathFinder):
    """Finds nothing; declares the operators when torchvision is first looked for."""

    def find_spec(self, name, path, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            sys.modules[__name__].kept = library  # its schemas live as long as it does
        return


sys.meta_path.insert(0, _Declare())
