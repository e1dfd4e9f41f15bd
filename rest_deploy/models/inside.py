"""What stands in a file, or in a module that is alive: mappings, modules, and the values of settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from rest_deploy.models.pickled import Inert, UnreadableError
from rest_deploy.models.stored import StoredTensor

_MAX_LOOKS = 4_000_000  # entries of mappings and lists that are looked at; no pickle that is read has as many
#: What wrappers put into names: torch.compile, FSDP and activation checkpointing also around single blocks.
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_MAX_NAME = 1000  # characters of a name in a module
_NESTED = 4  # partials of partials
_SHOWN = 60  # characters of a value in a message


class Looks:
    """How many entries of mappings and lists may still be looked at, as they may share their parts."""

    def __init__(self) -> None:
        self._left = _MAX_LOOKS

    def spend(self, count: int) -> None:
        """Take some.

        Raises:
            UnreadableError: There are not as many.
        """
        self._left -= count
        if self._left < 0:
            raise UnreadableError(f"what it holds has more than {_MAX_LOOKS:,} entries that share their parts")


def mapping_of(value: Any) -> dict[str, Any]:
    """The entries of a mapping that are named by text, also of an object of a mapping's class; else nothing."""
    if isinstance(value, dict):
        pairs: Any = value.items()
    elif isinstance(value, Inert):
        pairs = value.pairs
    else:
        return {}
    return {name: entry for name, entry in pairs if isinstance(name, str)}


def is_module(value: Inert) -> bool:
    """Whether an object is a torch.nn.Module that was pickled, or its part in a TorchScript archive."""
    return "_modules" in value.attributes or value.name.startswith("__torch__.") or _compiled(value) is not None


def _compiled(value: Inert) -> Inert | None:
    """What a module of torch.compile, which pickles as a call, is of."""
    inner = value.args[0] if value.name.endswith(".OptimizedModule") and value.args else None
    return inner if isinstance(inner, Inert) else None


def children_of(module: Any) -> dict[str, Any]:
    """The modules in a module, pickled, scripted or alive."""
    attributes = attributes_of(module)
    compiled = _compiled(module) if isinstance(module, Inert) else None
    if compiled is not None:
        return {"_orig_mod": compiled}
    if isinstance(module, Inert) and module.name.startswith("__torch__."):
        return {n: v for n, v in attributes.items() if isinstance(n, str) and isinstance(v, Inert) and is_module(v)}
    return {n: v for n, v in mapping_of(attributes.get("_modules")).items() if v is not None}


def attributes_of(module: Any) -> Mapping[Any, Any]:
    """What a module has in its ``__dict__``."""
    return module.attributes if isinstance(module, Inert) else vars(module)


def class_of(module: Any) -> str:
    """Full name of a module's class."""
    return module.name if isinstance(module, Inert) else f"{type(module).__module__}.{type(module).__qualname__}"


def state_dict_of(module: Inert, looks: Looks) -> dict[str, Any]:
    """The state dict of a whole module that was pickled; a module that is there twice is read once.

    Raises:
        UnreadableError: Its modules are nested in each other without end, or are too many.
    """
    values: dict[str, Any] = {}
    seen: set[int] = set()
    waiting = [("", module)]
    while waiting:
        prefix, part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if len(prefix) > _MAX_NAME:
            raise UnreadableError(f"a module in it has a name of more than {_MAX_NAME:,} characters")
        attributes = part.attributes
        looks.spend(len(attributes) + 1)
        if part.name.startswith("__torch__."):
            own = {name: value for name, value in attributes.items() if isinstance(value, StoredTensor)}
        else:
            hidden = attributes.get("_non_persistent_buffers_set")
            left = set(_texts(hidden)) if isinstance(hidden, Inert) else set()
            buffers = {n: v for n, v in mapping_of(attributes.get("_buffers")).items() if n not in left}
            own = {**mapping_of(attributes.get("_parameters")), **buffers}
        looks.spend(len(own))
        values |= {f"{prefix}{name}": value for name, value in own.items() if value is not None}
        parts = [(f"{prefix}{n}.", child) for n, child in children_of(part).items() if isinstance(child, Inert)]
        looks.spend(len(parts))
        waiting.extend(reversed(parts))
    return values


def _texts(made: Inert) -> list[str]:
    given = made.args[0] if made.args and isinstance(made.args[0], list) else []
    return [value for value in [*made.values, *given] if isinstance(value, str)]


def module_at(module: Any, name: str) -> Any:
    """A module in a module by its dotted name or a prefix of names, through wrappers; None where there is none."""
    for part in name.rstrip(".").split(".") if name else ():
        module = None if module is None else children_of(_inner(module)).get(part)
    return None if module is None else _inner(module)


def unwrapped(module: nn.Module) -> nn.Module:
    """What stands in torch.compile's wrapper, in those of FSDP and in DataParallel's."""
    while isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        module = module.module
    inner: nn.Module = _inner(module)
    return inner


def _inner(module: Any) -> Any:
    for _ in range(len(WRAPPERS) + 1):
        inner = next((c for n, c in children_of(module).items() if n in WRAPPERS), None)
        if inner is None:
            break
        module = inner
    return module


def value_of(value: Any) -> Any:
    """A node of OmegaConf is its value."""
    return value.attributes["_val"] if isinstance(value, Inert) and "_val" in value.attributes else value


def entries_of(values: Any) -> dict[str, Any]:
    """Of a mapping or of an object with attributes, such as argparse's Namespace or OmegaConf's DictConfig."""
    if not isinstance(values, Inert):
        return mapping_of(values)
    inner = values.attributes.get("_content")
    if isinstance(inner, dict):
        return mapping_of(inner)
    return {**{n: v for n, v in values.attributes.items() if isinstance(n, str)}, **mapping_of(values)}


def plain_of(value: Any) -> Any:
    """Containers of any class as dicts and lists, two levels deep."""

    def opened(given: Any) -> Any:
        given = value_of(given)
        if isinstance(given, Inert):
            inner = given.attributes.get("_content")
            if isinstance(inner, (dict, list)):
                return inner
            return dict_of(given.pairs) if given.pairs else list(given.values) or given
        return list(given) if isinstance(given, tuple) else given

    def dict_of(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
        return {key: entry for key, entry in pairs if isinstance(key, (str, int))}

    outer = opened(value)
    if isinstance(outer, dict):
        return {key: opened(entry) for key, entry in outer.items()}
    return [opened(entry) for entry in outer] if isinstance(outer, list) else outer


def partial_of(value: Any) -> tuple[Any, Mapping[Any, Any]]:
    """What a functools.partial is of, through partials of partials, and its keywords; other values as they are."""
    keywords: dict[Any, Any] = {}
    for _ in range(_NESTED):
        if not (isinstance(value, Inert) and value.name == "functools.partial"):
            break
        parts = value.state if isinstance(value.state, tuple) else ()
        inner = parts[0] if parts else (value.args or (None,))[0]
        if len(parts) > 2 and isinstance(parts[2], dict):
            keywords = {**parts[2], **keywords}
        value = inner
    return value, keywords


def short(value: Any) -> str:
    """A value of a file, short: its text only where it is plain, as others may be endless or hold themselves."""
    if isinstance(value, Inert):
        value = value.name
    if isinstance(value, str):
        return value[:_SHOWN] if value.isprintable() else ascii(value[:_SHOWN])
    if value is None or isinstance(value, (bool, float)):
        return str(value)
    if isinstance(value, int):
        return str(value) if value.bit_length() < _SHOWN else "a number of many digits"
    if isinstance(value, (list, tuple)):
        parts = [short(v) if not isinstance(v, (list, tuple)) else type(v).__name__ for v in value[:8]]
        text = ", ".join([*parts, *(["..."] if len(value) > len(parts) else [])])
        return f"[{text}]" if isinstance(value, list) else f"({text})"
    return f"a {type(value).__name__}"


def is_number(value: Any) -> bool:
    return isinstance(value, float) or (type(value) is int and value.bit_length() < _SHOWN)
