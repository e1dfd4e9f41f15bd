"""Which of the things in a file are the weights of a network, and what stands before their names.

A training checkpoint holds weights, their moving average, an optimizer and whatever else its script had. Here every
state dict of a known family in it is found by the names of its tensors, wherever it stands; one is chosen, by rules
that are told, or by the caller; and what wrappers put before the authors' names is taken off.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from rest_deploy.errors import counted, listed
from rest_deploy.models.family import FAMILIES, titles
from rest_deploy.models.inside import Looks, is_module, mapping_of, state_dict_of
from rest_deploy.models.names import (
    AVERAGES,
    EXAMPLES,
    UPDATES,
    Names,
    NoTensorError,
    authors_names,
    dotted,
    first_anchors,
    is_counter,
    is_weight,
    networks_in,
    no_such_prefix,
    quoted,
    words_of,
)
from rest_deploy.models.pickled import Inert, UnreadableError
from rest_deploy.models.stored import StoredTensor

_DEPTH = 8  # of mappings in mappings that are looked into

#: Where settings stand: a module in them is what training began with.
SETTINGS = frozenset("args hparams hyper_parameters config cfg opt opts options meta hyperparameters".split())  # noqa: SIM905
_MAX_ENTRIES = 100  # state dicts of networks in a file
_MAX_KEY = 1000  # characters of where one stands, and of names in a module


@dataclass(frozen=True)
class Entry:
    """A state dict of a network in a file.

    Args:
        key: Dotted path of where it stands; empty for a file that is nothing else.
        values: Its names, as they stand, and what they name.
        expression: Python that gives it, where ``x`` is what torch.load gives.
        module: The whole module that it was read off, if it was.
        beside: The object of its own that it stands in, if it does.
    """

    key: str
    values: Mapping[str, Any]
    expression: str
    module: Inert | None = None
    beside: Any = None

    @cached_property
    def tensors(self) -> dict[str, StoredTensor]:
        return {name: value for name, value in self.values.items() if isinstance(value, StoredTensor)}


@dataclass(frozen=True)
class Found:
    """The weights that were chosen.

    Args:
        entry: The state dict.
        names: What it holds, by the authors' names.
        told: What was chosen, taken off and left out, in sentences.
        assumed: Subject -> what was chosen or left out without a request, in words.
    """

    entry: Entry
    names: Names
    told: tuple[str, ...]
    assumed: dict[str, str]


# Finding


@dataclass(frozen=True, slots=True)
class _Node:
    """Something in a file, and how it is reached."""

    value: Any
    parent: _Node | None = None
    name: str | int = ""
    of_class: bool = False
    depth: int = 0

    def path(self) -> tuple[str, str]:
        """Its key, and the Python that gets it."""
        nodes: list[_Node] = []
        node: _Node | None = self
        while node is not None and node.parent is not None:
            nodes.insert(0, node)
            node = node.parent
        if sum(len(str(node.name)) + 1 for node in nodes) > _MAX_KEY:
            raise UnreadableError(f"weights of a {titles()} stand under a key of more than {_MAX_KEY:,} characters")
        key = ".".join(str(node.name) for node in nodes)
        return key, "x" + "".join(_access(node.name, node.of_class) for node in nodes)


def find_entries(content: Any) -> list[Entry]:
    """Every state dict of a network in a content, in the order of their depth; each object is looked at once.

    Raises:
        UnreadableError: There are too many, or too much to look at.
    """
    entries: list[Entry] = []
    looks = Looks()
    seen: dict[int, list[_Node]] = {id(content): []}  # further places of an object
    waiting = deque([_Node(content)])
    while waiting:
        node = waiting.popleft()
        entry = _entry(node, looks)
        if entry is not None:
            entries.append(entry)
            for place in seen[id(node.value)]:
                entries.append(_placed(place, entry.values, entry.module))
                _check_count(entries)
            _check_count(entries)
            seen[id(node.value)].clear()
        elif node.depth < _DEPTH:
            for name, of_class, child in _children(node.value, looks):
                if isinstance(child, (dict, list, tuple, Inert)):
                    place = _Node(child, node, name, of_class, node.depth + 1)
                    if id(child) in seen:
                        seen[id(child)].append(place)
                    else:
                        seen[id(child)] = []
                        waiting.append(place)
    return entries


def _check_count(entries: list[Entry]) -> None:
    if len(entries) > _MAX_ENTRIES:
        raise UnreadableError(f"it holds more than {_MAX_ENTRIES} state dicts of a {titles()}; save one of them alone")


def _children(value: Any, looks: Looks) -> Iterator[tuple[str | int, bool, Any]]:
    """What a value holds that may hold weights: name, whether as an attribute, itself.

    The state of an optimizer is named as weights are, and is left out.
    """
    if isinstance(value, Inert):
        attributes = value.attributes
        looks.spend(len(value.pairs) + len(value.values) + len(value.args or ()) + len(attributes))
        items: Any = [*value.pairs, *enumerate(value.values), *enumerate(value.args or ())]
    elif isinstance(value, (dict, list, tuple)):
        looks.spend(len(value))
        items, attributes = value.items() if isinstance(value, dict) else enumerate(value), {}
    else:
        return
    for of_class, pairs in ((False, items), (True, attributes.items())):
        for name, child in pairs:
            if isinstance(name, (str, int)) and not str(name)[:5].lower().startswith("optim"):
                yield name, of_class, child


def _access(name: str | int, of_class: bool) -> str:
    """Python that gets an entry or an attribute, for a line that is shown: nothing of a file is code in it."""
    if isinstance(name, str) and not re.fullmatch(r"[A-Za-z0-9_.\- ]{1,60}", name):
        return "[...]"
    return f".{name}" if of_class else f'["{name}"]' if isinstance(name, str) else f"[{name}]"


def _entry(node: _Node, looks: Looks) -> Entry | None:
    value = node.value
    module = value if isinstance(value, Inert) and is_module(value) else None
    if module is not None:
        values = state_dict_of(module, looks)
    else:
        looks.spend(len(value.pairs) if isinstance(value, Inert) else len(value) if isinstance(value, dict) else 0)
        values = mapping_of(value)
    if any(name.endswith(_anchors()) and is_weight(weight) for name, weight in values.items()):
        return _placed(node, values, module)
    return None


def _anchors() -> tuple[str, ...]:
    """Names by which weights are known."""
    return tuple(anchor for family in FAMILIES.values() for anchor in family.anchors)


def _placed(node: _Node, values: Mapping[str, Any], module: Inert | None) -> Entry:
    key, expression = node.path()
    state = expression if module is None else f"{expression}.state_dict()"
    beside = node.parent.value if node.parent is not None and node.depth > 1 else None
    return Entry(key, values, state, module, beside)


# Choosing


def choose(
    content: Any, read: Callable[[StoredTensor], Tensor], weights_key: str | None, key_prefix: str | None
) -> Found:
    """The weights of a network in a content.

    Args:
        content: As a file has it.
        read: Reads a tensor, as an average that holds NaN is not taken.
        weights_key: The key of the entry to take; None to choose.
        key_prefix: Prefix of the names to take; None to find it.

    Raises:
        UnreadableError: There are none, there are several without a rank, or the key is not there.
    """
    entries = find_entries(content)
    if not entries:
        raise UnreadableError(_none_found(content))
    keys = [entry.key for entry in entries]
    assumed: dict[str, str] = {}
    if weights_key is not None:
        named = [entry for entry in entries if entry.key == weights_key]
        if not named:
            raise UnreadableError(f"no weights of a {titles()} under {weights_key!r}; they are under {quoted(keys)}")
        entry, told = named[0], []
        if len(entries) > 1:
            told = [f"weights: entry {_named(entry.key)}, as asked for; {_there(entries, entry)}"]
    else:
        candidates = entries if key_prefix is None else _having(entries, key_prefix)
        entry, told = _ranked(content, entries, candidates, read, key_prefix)
        others = [_named(other.key) for other in candidates if not _same(other, entry)]
        if others:
            assumed["weights"] = f"{_named(entry.key)}, beside {listed(others)}"
        told += _empty_averages(content, keys)
    try:
        names = authors_names(entry.values, key_prefix)
    except NoTensorError as exc:
        exc.entry = entry
        raise
    if names.beside and key_prefix is None:
        assumed["left out"] = f"{counted(len(names.beside), 'tensor')} beside the network: {listed(names.beside)}"
    return Found(entry, names, (*told, *names.told), assumed)


def _having(entries: list[Entry], key_prefix: str) -> list[Entry]:
    """Those whose names begin with a prefix."""
    prefixes = [networks_in(entry.values) for entry in entries]
    wanted = dotted(key_prefix)
    having = [entry for entry, found in zip(entries, prefixes, strict=True) if wanted in found]
    if not having:
        raise no_such_prefix(wanted, sorted({prefix for found in prefixes for prefix in found}))
    return having


def _same(one: Entry, other: Entry) -> bool:
    """Whether two are the same tensors, under two keys or with two prefixes."""
    return one.values is other.values or list(one.tensors.values()) == list(other.tensors.values())


def _named(key: str) -> str:
    return key or "(the file itself)"


def _there(entries: list[Entry], taken: Entry) -> str:
    others = [entry for entry in entries if entry.key != taken.key]
    said = []
    for same, verbs in ((False, ("is there too", "are there too")), (True, ("holds", "hold"))):
        keys = [_named(entry.key) for entry in others if _same(entry, taken) is same]
        if keys:
            said.append(f"{listed(keys)} {verbs[len(keys) > 1]}{' the same weights' if same else ''}")
    return "; ".join(said)


def is_average(key: str, content: Any) -> bool:
    """Whether a key names a moving average of weights.

    Two libraries put the average where others put the weights: mmengine's EMAHook swaps ``state_dict`` and
    ``ema_state_dict`` before it saves, and Lightning's WeightAveraging keeps the weights as ``current_model_state``.
    """
    swapped = mapping_of(content)
    if "message_hub" in swapped and "ema_state_dict" in swapped and key in ("state_dict", "ema_state_dict"):
        return key == "state_dict"
    if "averaging_state" in swapped and "current_model_state" in swapped and key in ("state_dict", "averaging_state"):
        return key == "state_dict"
    return any(word in AVERAGES for word in words_of(key))


def _ranked(
    content: Any,
    entries: list[Entry],
    having: list[Entry],
    read: Callable[[StoredTensor], Tensor],
    key_prefix: str | None,
) -> tuple[Entry, list[str]]:
    if len(entries) == 1:
        key = entries[0].key
        return entries[0], [f"weights: entry {key}"] if key else []
    candidates = _distinct([e for e in having if not _in_settings(e.key)] or having)
    averages = [entry for entry in candidates if is_average(entry.key, content)]
    plain = [entry for entry in candidates if not is_average(entry.key, content)]
    if len(averages) > 1 or len(plain) > 1:
        raise UnreadableError(
            f"weights of a {titles()} are under {quoted([entry.key for entry in having])}, and nothing tells which to "
            "take; name one: --weights-key KEY"
        )
    if not averages:
        return plain[0], [f"weights: entry {_named(plain[0].key)}; {_there(entries, plain[0])}"]
    average = averages[0]
    fault = _fault(average, plain[0] if plain else None, read, key_prefix)
    if fault and plain:
        return plain[0], [
            f"weights: entry {_named(plain[0].key)}; {_named(average.key)} is there too and was passed over: {fault}"
        ]
    return average, [f"weights: entry {_named(average.key)}, a moving average; {_there(entries, average)}"]


def _in_settings(key: str) -> bool:
    return any(part in SETTINGS for part in key.split("."))


def _distinct(entries: list[Entry]) -> list[Entry]:
    """Without those that are an earlier one's tensors under another key."""
    kept: list[Entry] = []
    for entry in entries:
        if not any(_same(entry, other) for other in kept):
            kept.append(entry)
    return kept


def _fault(
    average: Entry, plain: Entry | None, read: Callable[[StoredTensor], Tensor], key_prefix: str | None
) -> str | None:
    """Why a moving average is not to be taken; None where it is sound."""
    try:
        return next(_faults(average, plain, read, key_prefix), None)
    except UnreadableError as exc:
        return str(exc)


def _faults(
    average: Entry, plain: Entry | None, read: Callable[[StoredTensor], Tensor], key_prefix: str | None
) -> Iterator[str]:
    counters = {**mapping_of(average.beside), **average.values}
    for name, value in counters.items():
        if name.rsplit(".", 1)[-1] in UPDATES and _zero(value, read):
            yield f"its {name} is 0, so it was never updated"
    ours = authors_names(average.values, key_prefix).tensors
    theirs = authors_names(plain.values, key_prefix).tensors if plain else {}
    missing = [name for name in theirs if name not in ours and not is_counter(name)]
    if missing:
        yield f"it lacks {len(missing)} of its weights: {listed(missing[:EXAMPLES])}"
    more = [name for name in ours if theirs and name not in theirs and not is_counter(name)]
    if more:
        yield f"it has {len(more)} weights that the other has not: {listed(more[:EXAMPLES])}"
    odd = [n for n, t in ours.items() if n in theirs and t.shape != theirs[n].shape and not is_counter(n)]
    if odd:
        yield f"{len(odd)} of its weights have other shapes: {listed(odd[:EXAMPLES])}"
    for name, stored in ours.items():
        if is_counter(name):
            continue
        if not stored.is_whole:
            yield f"its {name} has no values"
        elif stored.dtype.is_floating_point and not bool(read(stored).isfinite().all()):
            yield f"its {name} holds NaN or infinite values"
    if _untouched(ours, read) and theirs and not _untouched(theirs, read):
        yield "its BatchNorm statistics are those of an untrained network"


def _zero(value: Any, read: Callable[[StoredTensor], Tensor]) -> bool:
    if isinstance(value, StoredTensor):
        return value.numel == 1 and not bool(read(value).any())
    return isinstance(value, int) and value == 0


def _untouched(tensors: Mapping[str, StoredTensor], read: Callable[[StoredTensor], Tensor]) -> bool:
    means = [t for name, t in tensors.items() if name.endswith("running_mean") and t.is_whole]
    spreads = [t for name, t in tensors.items() if name.endswith("running_var") and t.is_whole]
    return (
        bool(means) and all(not bool(read(t).any()) for t in means) and all(bool((read(t) == 1).all()) for t in spreads)
    )


def _empty_averages(content: Any, keys: list[str]) -> list[str]:
    """Places for a moving average without one, which a reader would have expected to be taken."""
    empty = [
        name
        for name, value in mapping_of(content).items()
        if any(word in ("ema", "swa", "averaged") for word in words_of(name))
        and isinstance(value, (dict, Inert))
        and not any(key == name or key.startswith(f"{name}.") for key in keys)
        and (isinstance(value, dict) or is_module(value))
    ]
    return [f"{name} holds no weights of a {titles()}; passed over" for name in empty]


def _none_found(content: Any) -> str:
    """What a file holds that holds no network that is known."""
    mappings = list(_mappings(content))
    needed = f"needed: a state dict with the authors' names, such as {first_anchors()}"
    layers = max(([name for name in values if name.endswith(".weight")] for values in mappings), key=len)
    if layers:
        return f"holds no weights of a {titles()}, but others, such as {quoted(layers[-EXAMPLES:])}; {needed}"
    if isinstance(content, StoredTensor):
        return f"holds a tensor of the shape {content.shape}; {needed}"
    named = mapping_of(content)
    if named:
        return f"holds no weights of a {titles()}, only {quoted(list(named))}; {needed}"
    if isinstance(content, Inert):
        return f"holds a {content.name}; {needed}"
    return f"holds a {type(content).__name__}; {needed}"


def _mappings(content: Any) -> Iterator[dict[str, Any]]:
    yield mapping_of(content)
    looks = Looks()
    for value in {id(value): value for value in mapping_of(content).values()}.values():
        if isinstance(value, Inert) and is_module(value):
            yield state_dict_of(value, looks)
        else:
            looks.spend(len(value.pairs) if isinstance(value, Inert) else 0)
            yield mapping_of(value)
