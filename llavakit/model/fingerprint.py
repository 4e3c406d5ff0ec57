"""Names for weights: equal for equal numbers, whatever file or folder they came from."""

from collections.abc import Iterable
from hashlib import blake2b

import torch
from torch import Tensor


def hash_weights(description: str, tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Of every byte of the named tensors, and of what besides them decides what comes out."""
    found = blake2b(description.encode(), digest_size=16)
    for name, tensor in tensors:
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().reshape(-1).cpu().view(torch.uint8).numpy().data)
    return found.hexdigest()
