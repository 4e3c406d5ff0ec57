"""Decode steps as CUDA graphs: recorded once, replayed with one call instead of a thousand."""

from collections.abc import Callable

import torch
from torch import Tensor

from llavakit.engine.buckets import Record, Replay
from llavakit.model.llava import Llava


class CudaGraphs:
    """Records what runs on one device. All recordings share their working memory: one runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._pool = device, torch.cuda.graph_pool_handle()

    def __call__(self, compute: Callable[[], Tensor]) -> Replay:
        current, aside = torch.cuda.current_stream(self._device), torch.cuda.Stream(self._device)
        # Once before: kernels are loaded and chosen when they are called for the first time.
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            compute()
        current.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Other threads (pictures of other requests) may go on with the device meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            logits_TV = compute()
        return Replay(graph.replay, logits_TV)


def recorder(model: Llava) -> Record | None:
    """How a model's decode steps are recorded: as graphs where all of it is on one CUDA device, else not at all."""
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers()) if not tensor.is_meta}
    if len(devices) != 1 or model.device.type != "cuda":
        return None
    return CudaGraphs(model.device)
