"""The most memory that tensors take while something runs, counted storage by storage."""

import weakref
from collections.abc import Iterable
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Peak(TorchDispatchMode):
    """`most` bytes at once of what is made inside the block and of the tensors `held` when it begins."""

    def __init__(self, held: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.most = 0
        self._sizes: dict[int, int] = {}
        for tensor in held:
            self._hold(tensor)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._hold(leaf)
        return out

    def _hold(self, tensor: Tensor) -> None:
        storage = (tensor.to_local() if isinstance(tensor, DTensor) else tensor).untyped_storage()
        key = storage._cdata
        if key not in self._sizes:
            weakref.finalize(storage, self._resize, key, 0)
            self._sizes[key] = 0
        self._resize(key, storage.nbytes())

    def _resize(self, key: int, size: int) -> None:
        """A storage has `size` bytes from now on; 0 when it is gone."""
        self.now += size - self._sizes.get(key, 0)
        self._sizes[key] = size
        if size == 0:
            self._sizes.pop(key)
        self.most = max(self.most, self.now)

    @contextmanager
    def watch(self):
        """The block, with storages that are emptied and filled again in it, as gathered weights are."""
        resize = torch.UntypedStorage.resize_

        def noticed(storage, size):
            out = resize(storage, size)
            if storage._cdata in self._sizes:
                self.now += size - self._sizes[storage._cdata]
                self._sizes[storage._cdata] = size
                self.most = max(self.most, self.now)
            return out

        with mock.patch.object(torch.UntypedStorage, "resize_", noticed), self:
            yield self
