"""Files as training scripts and libraries write them, made of the weights of one tiny network.

The classes of those libraries are stand-ins of the same names, in modules that exist only while a file is written. A
reader that imports one afterwards is noticed.
"""

from __future__ import annotations

import copy
import sys
import types
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rest_deploy.models.rest import Attention, PatchEmbed, ResT, Stem
from rest_deploy.models.stages import Block, Mlp, PixelAttention

State = dict[str, Tensor]

#: Module and classes of libraries whose objects stand in checkpoints.
LIBRARIES = {
    "omegaconf.dictconfig": ("DictConfig",),
    "omegaconf.nodes": ("AnyNode",),
    "omegaconf.base": ("ContainerMetadata",),
    "mmengine.logging.history_buffer": ("HistoryBuffer",),
    "mmengine.config.config": ("ConfigDict",),
    "project.data": ("DataModule", "Split"),
    "authors.models": ("ResT", "BasicStem", "Block", "Attention", "Mlp", "PatchEmbed", "PA"),
    "timm.utils.model_ema": ("ModelEmaV2",),
}
_DICTS = ("ConfigDict",)
_OURS = {
    "ResT": ResT, "BasicStem": Stem, "Block": Block, "Attention": Attention, "Mlp": Mlp, "PatchEmbed": PatchEmbed,
    "PA": PixelAttention, "ModelEmaV2": nn.Identity,
}  # fmt: skip


@contextmanager
def libraries() -> Iterator[types.SimpleNamespace]:
    """The classes, by their last names, importable for the time of the block."""
    names = {".".join(name.split(".")[:end]) for name in LIBRARIES for end in range(1, name.count(".") + 2)}
    before = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    classes = {}
    for name, members in LIBRARIES.items():
        for part in (part for part in names if f"{name}.".startswith(f"{part}.")):
            sys.modules.setdefault(part, types.ModuleType(part))
        for member in members:
            ours = _OURS.get(member)
            base: Any = dict if member in _DICTS else nn.Module if ours else object
            of_ours = [kind for kind in (ours.__mro__ if ours else ()) if kind.__module__.startswith("rest_deploy.")]
            methods = {n: v for kind in reversed(of_ours) for n, v in vars(kind).items() if n != "__init__"}
            if member == "Attention":
                methods["interacts"] = property(lambda self: self.apply_transform)
            made: Any = type(member, (base,), {**methods, "__module__": name, "__qualname__": member})
            setattr(sys.modules[name], member, made)
            classes[member] = made
    try:
        yield types.SimpleNamespace(**classes)
    finally:
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(before)


def made(kind: Any, **attributes: Any) -> Any:
    """An object with attributes, without a call of its class."""
    thing = kind.__new__(kind)
    thing.__dict__.update(attributes)
    return thing


def prefixed(weights: State, prefix: str) -> State:
    return OrderedDict((prefix + name, value) for name, value in weights.items())


def other(weights: State, by: float = 1.0) -> State:
    """Weights of the same network that give other logits."""
    return OrderedDict((n, v + by if v.is_floating_point() else v.clone()) for n, v in weights.items())


def optimizer_of(weights: State) -> dict[str, Any]:
    parameters = [value.clone().requires_grad_() for value in weights.values() if value.is_floating_point()]
    optimizer = torch.optim.AdamW(parameters)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer.state_dict()


def authors_module(model: ResT, kinds: types.SimpleNamespace) -> nn.Module:
    """A model as the authors' classes have it: activations as modules, a norm without weights for the heads."""
    theirs = copy.deepcopy(model)
    for module in list(theirs.modules()):
        name = {"Stem": "BasicStem", "PixelAttention": "PA"}.get(type(module).__name__, type(module).__name__)
        if isinstance(module, Stem):
            module.act = nn.ReLU(inplace=True)
        if isinstance(module, PixelAttention):
            module.sigmoid = nn.Sigmoid()
        if isinstance(module, Attention):
            module.apply_transform = module.__dict__.pop("interacts")
            if module.apply_transform:
                module.transform_norm = nn.InstanceNorm2d(module.num_heads)
        if hasattr(kinds, name):
            module.__class__ = getattr(kinds, name)
    del theirs.config
    return theirs


def _omegaconf(kinds: types.SimpleNamespace, **values: Any) -> Any:
    meta = made(kinds.ContainerMetadata, ref_type=Any, object_type=dict, optional=True, key=None)
    nodes = {name: made(kinds.AnyNode, _metadata=meta, _val=value) for name, value in values.items()}
    return made(kinds.DictConfig, _metadata=meta, _parent=None, _content=nodes)


def training_args(kinds: types.SimpleNamespace) -> Namespace:
    """What a script has in ``args``: plain values and all kinds of objects."""
    return Namespace(
        lr=1e-3,
        output=Path("runs/1"),
        started=datetime(2026, 5, 28, 12, 0),
        best=np.float64(0.81),
        history=np.arange(4),
        optimizer=partial(torch.optim.AdamW, lr=1e-3),
        betas=(0.9, 0.999),
        device=torch.device("cpu"),
        dtype=torch.float16,
        cfg=_omegaconf(kinds, depth=3),
        data=made(kinds.DataModule, root=Path("data"), split=made(kinds.Split, name="train")),
        tags={"a", "b"},
        big=2**70,
        complex=1 + 2j,
        raw=b"bytes",
        slice=slice(1, 2),
    )


Make = Callable[[State, ResT, types.SimpleNamespace], Any]

#: Every row gives the logits of the bare weights: name -> content of torch.save.
CONTENTS: dict[str, Make] = {
    "authors, v1 published": lambda w, m, k: w,
    "authors, v1 training": lambda w, m, k: {"state_dict": w, "epoch": 3, "optimizer": optimizer_of(w)},
    "as DeiT and ConvNeXt": lambda w, m, k: {
        "model": w, "optimizer": optimizer_of(w), "scaler": {"scale": 65536.0}, "epoch": 9, "args": training_args(k),
    },
    "timm": lambda w, m, k: {
        "epoch": 3, "arch": "rest_lite", "state_dict": w, "optimizer": optimizer_of(w), "version": 2,
        "args": training_args(k), "metric": np.float64(81.3),
    },
    "Lightning, model.": lambda w, m, k: _lightning(w, k, "model."),
    "Lightning, net.": lambda w, m, k: _lightning(w, k, "net."),
    "Lightning, backbone. and a metric": lambda w, m, k: _lightning(w, k, "backbone.", {"acc.tp": torch.zeros(7)}),
    "torch.compile": lambda w, m, k: {"model": prefixed(w, "_orig_mod.")},
    "torch.compile in DDP": lambda w, m, k: {"model": prefixed(w, "module._orig_mod.")},
    "DDP in torch.compile": lambda w, m, k: {"model": prefixed(w, "_orig_mod.module.")},
    "torch.compile of each block": lambda w, m, k: _infixed(w, "_orig_mod."),
    "DDP": lambda w, m, k: prefixed(w, "module."),
    "FSDP, full": lambda w, m, k: {"app": {"model": w, "optim": {"state": {"stem.conv1.weight": {"step": 1.0}}}}},
    "FSDP, wrappers left": lambda w, m, k: _infixed(prefixed(w, "_fsdp_wrapped_module."), "_fsdp_wrapped_module."),
    "activation checkpointing": lambda w, m, k: _infixed(w, "_checkpoint_wrapped_module."),
    "DeepSpeed": lambda w, m, k: {
        "module": w, "optimizer": None, "buffer_names": ["stem.norm1.running_mean"], "ds_version": "0.16.0",
        "param_shapes": [OrderedDict((n, v.shape) for n, v in w.items())], "ds_config": {"zero": 2}, "mp_world_size": 1,
    },
    "a DeepSpeed engine in Lightning": lambda w, m, k: {"module": prefixed(w, "_forward_module.model.")},
    "mmengine": lambda w, m, k: _mmengine(w, k),
    "a moving average alone": lambda w, m, k: {**prefixed(w, "module."), "n_averaged": torch.tensor(12)},
    "in a tuple": lambda w, m, k: (w, 3),
    "in a list of lists": lambda w, m, k: [["x", {"weights": w}]],
    "a mapping of a class of its own": lambda w, m, k: {"state_dict": k.ConfigDict(w)},
    "thop's counters": lambda w, m, k: {
        **w, "total_ops": torch.zeros(1, dtype=torch.float64), "stem.total_params": torch.zeros(1, dtype=torch.float64),
    },
    "values beside weights": lambda w, m, k: {**w, "epoch": 3, "name": "rest", "best": np.float64(0.5)},
    "half": lambda w, m, k: {n: v.half() if v.is_floating_point() else v for n, v in w.items()},
    "parameters": lambda w, m, k: OrderedDict(m.named_parameters()) | dict(m.named_buffers()),
    "a whole module": lambda w, m, k: m,
    "a whole module of the authors' classes": lambda w, m, k: authors_module(m, k),
    "a whole module in DataParallel": lambda w, m, k: nn.DataParallel(authors_module(m, k)),
    "a whole module in a dict": lambda w, m, k: {"epoch": 3, "model": authors_module(m, k)},
    "a whole compiled module": lambda w, m, k: torch.compile(authors_module(m, k)),
    "whole modules, one of them compiled block by block": lambda w, m, k: _compiled_blocks(authors_module(m, k)),
}  # fmt: skip


def _infixed(weights: State, part: str) -> State:
    return {name.replace("stage2.0.", f"stage2.0.{part}"): value for name, value in weights.items()}


def _compiled_blocks(module: nn.Module) -> nn.Module:
    module.stage1[0] = torch.compile(module.stage1[0])
    return module


def _lightning(weights: State, kinds: types.SimpleNamespace, prefix: str, more: State | None = None) -> Any:
    return {
        "epoch": 4,
        "global_step": 1000,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {**prefixed(weights, prefix), **(more or {})},
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 5}}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'acc'}": {"best_model_score": torch.tensor(0.8), "dirpath": "x"}},
        "optimizer_states": [optimizer_of(weights)],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"optimizer": partial(torch.optim.AdamW, lr=1e-3), "cfg": _omegaconf(kinds, lr=0.1),
                             "datamodule": made(kinds.DataModule, root=Path("data"))},
    }  # fmt: skip


def _mmengine(weights: State, kinds: types.SimpleNamespace) -> Any:
    buffer = made(kinds.HistoryBuffer, _max_length=10, _log_history=np.arange(3.0), _count_history=np.ones(3))
    return {
        "meta": {"epoch": 3, "mmengine_version": "0.10.4", "cfg": "model = dict()", "seed": 1, "time": "2026"},
        "state_dict": prefixed(weights, "backbone."),
        "message_hub": {
            "log_scalars": OrderedDict(train=buffer),
            "runtime_info": OrderedDict(cfg=kinds.ConfigDict(a=1)),
        },
        "optimizer": optimizer_of(weights),
        "param_schedulers": [],
    }


def write(path: Path, make: Make, model: ResT, **options: Any) -> Path:
    """Write one of the contents with torch.save."""
    with libraries() as kinds:
        torch.save(make(OrderedDict(model.state_dict()), copy.deepcopy(model), kinds), path, **options)
    return path
