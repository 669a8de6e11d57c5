"""The weights of the paper's CNN as named arrays, "layer/leaf", and the same network in PyTorch."""

import numpy as np


def flatten(params: dict) -> dict[str, np.ndarray]:
    """{layer: {leaf: array}} as {"layer/leaf": array}."""
    return {f"{layer}/{leaf}": np.asarray(array) for layer, leaves in params.items() for leaf, array in leaves.items()}


def unflatten(arrays: dict[str, np.ndarray]) -> dict:
    """{layer: {leaf: array}} of the arrays with a / in their names."""
    params: dict[str, dict] = {}
    for name in (name for name in arrays if "/" in name):
        layer, leaf = name.split("/")
        params.setdefault(layer, {})[leaf] = arrays[name]
    return params


def layer_names(arrays: dict[str, np.ndarray]) -> list[str]:
    """The names of the layers in order, convolutions first."""
    names = sorted({name.partition("/")[0] for name in arrays if "/" in name})
    return sorted(names, key=lambda name: arrays[f"{name}/kernel"].ndim != 4)


def torch_cnn(arrays: dict[str, np.ndarray]):
    """The CNN as a PyTorch module on NCHW images."""
    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            sizes = ((3, 32, "same"), (32, 32, "valid"), (32, 64, "same"), (64, 64, "valid"))
            self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, padding=padding) for a, b, padding in sizes)
            self.dense = nn.ModuleList([nn.Linear(2304, 512), nn.Linear(512, 10)])

        def forward(self, x):
            for i, layer in enumerate(self.convolutions):
                x = torch.relu(layer(x))
                x = torch.max_pool2d(x, 2) if i % 2 else x
            x = torch.relu(self.dense[0](x.permute(0, 2, 3, 1).flatten(1)))
            return self.dense[1](x)

    network = Network()
    for name, layer in zip(layer_names(arrays), [*network.convolutions, *network.dense], strict=True):
        kernel, bias = (torch.from_numpy(arrays[f"{name}/{leaf}"].copy()) for leaf in ("kernel", "bias"))
        kernel = kernel.permute(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
        layer.weight.data, layer.bias.data = kernel.contiguous(), bias
    return network


def from_torch(tensors: list[np.ndarray], names: list[str]) -> dict[str, np.ndarray]:
    """The arrays of tensors in the order of the module's parameters, for layers with these names."""
    arrays = {}
    for name, kernel, bias in zip(names, tensors[::2], tensors[1::2], strict=True):
        arrays[f"{name}/kernel"] = kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel.T
        arrays[f"{name}/bias"] = bias
    return arrays
