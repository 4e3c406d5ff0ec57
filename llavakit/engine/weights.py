"""Where the engine's products take their weights from: the language model's modules, by name, once and again."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from llavakit.core.errors import ConfigError
from llavakit.engine.linear import Linear, Make


class Product:
    """A product of one or several of the model's linear modules, whose outputs stand side by side."""

    def __init__(self, language: PreTrainedModel, names: Sequence[str], make: Make) -> None:
        self.names, self.modules = names, [language.get_submodule(name) for name in names]
        self.linear: Linear = make(*self._stack({}))

    def release(self) -> None:
        """Free the modules' own weights: what is left of them is their shape."""
        for module in self.modules:
            weight: Any = module.weight
            module.weight = nn.Parameter(torch.empty_like(weight, device="meta"), requires_grad=False)

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise if `tensors` change a part of a product whose other part was released."""
        given = [f"{name}.weight" for name in self.names if f"{name}.weight" in tensors]
        missing = [
            f"{name}.weight"
            for name, module in zip(self.names, self.modules, strict=True)
            if module.weight.is_meta and f"{name}.weight" not in given
        ]
        if missing and any(name.startswith(tuple(self.names)) for name in tensors):
            raise ConfigError(
                f"new weights: {missing[0]} is missing; its old value was released (release=True), and it is "
                f"one product with {', '.join(self.names)}: give all of them"
            )

    def reload(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the modules' weights again if any of them is among the new `tensors`."""
        if any(f"{name}.{part}" in tensors for name in self.names for part in ("weight", "bias")):
            self.linear.load(*self._stack(tensors))

    def _stack(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        parts = [
            _matrix(name, module, tensors) for name, module in zip(self.names, self.modules, strict=True)
        ]
        weights, biases = zip(*parts, strict=True)
        if len(parts) == 1:
            return parts[0]
        return torch.cat(weights), None if biases[0] is None else torch.cat(biases)


def _matrix(name: str, module: Any, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """The module's [outputs, inputs] and bias; of a released module, the new weights."""
    weight: Tensor = module.weight
    if weight.is_meta:
        weight = tensors[f"{name}.weight"].to(weight.dtype)
    return weight.t() if isinstance(module, Conv1D) else weight, module.bias


class ReplacedModule(nn.Module):
    """Stands in the place of a linear module of any family: the same product with packed weights."""

    def __init__(self, product: Product) -> None:
        super().__init__()
        self.product = product

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.product.linear(x.reshape(-1, x.shape[-1]))
        return y.view(*x.shape[:-1], -1)


def replace_modules(
    language: PreTrainedModel, body_make: Make | None, head_make: Make | None
) -> list[Product]:
    """Put other products in the place of the decoder's linear modules, and of the head's. None: as they are."""
    products: list[Product] = []
    if body_make is not None:
        body = language.get_decoder()
        start = next(name for name, module in language.named_modules() if module is body)
        for name, module in list(body.named_modules()):
            if isinstance(module, nn.Linear | Conv1D):
                products.append(_replace(language, f"{start}.{name}", body_make))
        rest = sorted(name for name, tensor in body.named_parameters() if tensor.ndim > 2)
        if rest:
            raise ConfigError(
                f"{type(language).__name__} has weights in no linear module ({rest[0]}): they cannot be quantised"
            )
    if head_make is not None:
        module = language.get_output_embeddings()
        products.append(
            _replace(
                language, next(name for name, each in language.named_modules() if each is module), head_make
            )
        )
    return products


def _replace(language: PreTrainedModel, name: str, make: Make) -> Product:
    product = Product(language, [name], make)
    product.release()
    parent, _, last = name.rpartition(".")
    language.get_submodule(parent).register_module(last, ReplacedModule(product))
    return product


def check_fit(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Raise for the first of `tensors` that could not be copied into the one of its name."""
    for name, tensor in tensors.items():
        if name not in own:
            raise ConfigError(f"new weights: the model has no weights called {name}")
        if own[name].shape != tensor.shape:
            raise ConfigError(
                f"new weights: {name} is {tuple(tensor.shape)}, the model's is {tuple(own[name].shape)}"
            )
        if tensor.is_meta or tensor.layout != torch.strided:
            raise ConfigError(
                f"new weights: {name} has no values of its own ({tensor.device}, {tensor.layout})"
            )


def check(
    language: PreTrainedModel, products: Sequence[Product], tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Raise for `tensors` that `refresh` could not take; what they would be copied into. Changes nothing."""
    own = dict(language.state_dict())
    for product in products:
        for name, module in zip(product.names, product.modules, strict=True):
            own |= {f"{name}.{part}": tensor for part, tensor in module.named_parameters(recurse=False)}
    check_fit(own, tensors)
    for product in products:
        product.check(tensors)
    return own


@torch.no_grad()
def refresh(language: PreTrainedModel, products: Sequence[Product], tensors: Mapping[str, Tensor]) -> None:
    """Copy `tensors` into the model by the names of its state dict, and reload the products they belong to.

    All are checked before anything is changed.
    """
    own = check(language, products, tensors)
    for name, tensor in tensors.items():
        if not own[name].is_meta:
            own[name].copy_(tensor)
    for product in products:
        product.reload(tensors)
