"""Which of the things in a file are the weights of a ResT, and what stands before their names.

A training checkpoint holds weights, their moving average, an optimizer and whatever else its script had. Here every
state dict of a ResT in it is found by the names of its tensors, wherever it stands; one is chosen, by rules that are
told, or by the caller; and what wrappers put before the authors' names is taken off.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from rest_deploy.errors import listed
from rest_deploy.models.pickled import Inert, UnreadableError
from rest_deploy.models.torch_file import StoredTensor

#: One of these tells a ResT; the second remains where a file lost its stem.
ANCHORS = ("stem.conv1.weight", "patch_embed_2.conv.weight")
_V2_ANCHORS = ("patch_2.proj.weight", "stem.proj.0.weight")

#: What wrappers put into names: torch.compile, FSDP and activation checkpointing also around single blocks.
_WRAPPERS = re.compile(r"_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\.")
#: How the authors' names begin.
_OURS = re.compile(r"(stem|patch_embed_[2-4]|stage[1-4]|norm|head)\.")
_DEPTH = 8  # of mappings in mappings that are looked into
_EXAMPLES = 3

#: Where settings stand: a module in them is what training began with.
SETTINGS = frozenset("args hparams hyper_parameters config cfg opt opts options meta hyperparameters".split())  # noqa: SIM905
_AVERAGES = ("ema", "swa", "average", "averaged", "averaging", "avg", "shadow", "polyak")
_UPDATES = ("n_averaged", "num_updates")  # an average that counts 0 of them was never updated
_COUNTERS = ("num_batches_tracked", *_UPDATES, "total_ops", "total_params")
#: Words in names of what only a training uses: metrics, losses and what steps. Nothing that a picture goes through.
_TRAINING = frozenset(
    "metric metrics acc accuracy auroc auc precision recall fscore specificity confusion confmat loss losses criterion "  # noqa: SIM905
    "criterions optim optimizer optimizers scheduler".split()
)
_METRIC_STATES = ("tp", "fp", "tn", "fn", "confmat")  # of torchmetrics
_MAX_LOOKS = 4_000_000  # entries of mappings and lists that are looked at; no pickle that is read has as many
_MAX_ENTRIES = 100  # state dicts of a ResT in a file
_MAX_KEY = 1000  # characters of where one stands, and of names in a module


_PLAIN = "v.as_subclass(torch.Tensor) if isinstance(v, torch.Tensor) else torch.as_tensor(v)"


class NoTensorError(UnreadableError):
    """An object stands where a tensor must.

    Attributes:
        expression: Python that makes a tensor of it, where ``v`` is the object; empty where only the training can.
    """

    def __init__(self, name: str, value: Inert) -> None:
        kind = _object_name(value)
        super().__init__(f"{name} is a {kind}, not a tensor")
        known = {"qtensor": "v.dequantize()", "sparse": "v.to_dense()"}
        sharded = any(part in kind for part in ("DTensor", "ShardedTensor", "torch.distributed"))
        made = next((code for part, code in known.items() if part in kind), _PLAIN)
        self.expression = "" if sharded else made
        self.entry: Entry | None = None


@dataclass(frozen=True)
class Entry:
    """A state dict of a ResT in a file.

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
        entry: Which.
        tensors: By the authors' names.
        prefix: What stood before them.
        told: What was chosen, taken off and left out, in sentences.
        assumed: What was chosen or left out and nobody said, by subject, in words.
    """

    entry: Entry
    tensors: dict[str, StoredTensor]
    prefix: str
    told: tuple[str, ...]
    assumed: dict[str, str]


# Finding


class _Looks:
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
            raise UnreadableError(f"weights of a ResT stand under a key of more than {_MAX_KEY:,} characters")
        key = ".".join(str(node.name) for node in nodes)
        return key, "x" + "".join(_access(node.name, node.of_class) for node in nodes)


def find_entries(content: Any) -> list[Entry]:
    """Every state dict of a ResT in a content, in the order of their depth; each object is looked at once.

    Raises:
        UnreadableError: There are too many, or too much to look at.
    """
    entries: list[Entry] = []
    looks = _Looks()
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
        raise UnreadableError(f"it holds more than {_MAX_ENTRIES} state dicts of a ResT; save one of them alone")


def _children(value: Any, looks: _Looks) -> Iterator[tuple[str | int, bool, Any]]:
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


def _entry(node: _Node, looks: _Looks) -> Entry | None:
    value = node.value
    module = value if isinstance(value, Inert) and is_module(value) else None
    if module is not None:
        values = state_dict_of(module, looks)
    else:
        looks.spend(len(value.pairs) if isinstance(value, Inert) else len(value) if isinstance(value, dict) else 0)
        values = mapping_of(value)
    if any(name.endswith(ANCHORS) and _is_weight(weight) for name, weight in values.items()):
        return _placed(node, values, module)
    return None


def _placed(node: _Node, values: Mapping[str, Any], module: Inert | None) -> Entry:
    key, expression = node.path()
    state = expression if module is None else f"{expression}.state_dict()"
    beside = node.parent.value if node.parent is not None and node.depth > 1 else None
    return Entry(key, values, state, module, beside)


def _is_weight(value: Any) -> bool:
    """A tensor, or an object that stands for one: an array of NumPy, a distributed or a quantized tensor."""
    return isinstance(value, StoredTensor) or (isinstance(value, Inert) and value.args is not None)


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


def state_dict_of(module: Inert, looks: _Looks | None = None) -> dict[str, Any]:
    """The state dict of a whole module that was pickled; a module that is there twice is read once.

    Raises:
        UnreadableError: Its modules are nested in each other without end, or are too many.
    """
    looks = looks or _Looks()
    values: dict[str, Any] = {}
    seen: set[int] = set()
    waiting = [("", module)]
    while waiting:
        prefix, part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if len(prefix) > _MAX_KEY:
            raise UnreadableError(f"a module in it has a name of more than {_MAX_KEY:,} characters")
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


# Choosing


def choose(
    content: Any, read: Callable[[StoredTensor], Tensor], weights_key: str | None, key_prefix: str | None
) -> Found:
    """The weights of a ResT in a content.

    Args:
        content: As a file has it.
        read: Reads a tensor, as an average that holds NaN is not taken.
        weights_key: The key of the entry to take; None to choose.
        key_prefix: What stands before the names to take; None to find out.

    Raises:
        UnreadableError: There are none, there are several that nothing ranks, or the key is not there.
    """
    entries = find_entries(content)
    if not entries:
        raise UnreadableError(_none_found(content))
    keys = [entry.key for entry in entries]
    assumed: dict[str, str] = {}
    if weights_key is not None:
        named = [entry for entry in entries if entry.key == weights_key]
        if not named:
            raise UnreadableError(f"no weights of a ResT under {weights_key!r}; they are under {_quoted(keys)}")
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
        count = f"{len(names.beside)} tensor{'s' if len(names.beside) > 1 else ''}"
        assumed["left out"] = f"{count} beside the network: {listed(names.beside)}"
    return Found(entry, names.tensors, names.prefix, (*told, *names.told), assumed)


def _having(entries: list[Entry], key_prefix: str) -> list[Entry]:
    """Those whose names begin with a prefix."""
    prefixes = [_prefixes({_WRAPPERS.sub("", name) for name in entry.values}) for entry in entries]
    wanted = _dotted(key_prefix)
    having = [entry for entry, found in zip(entries, prefixes, strict=True) if wanted in found]
    if not having:
        raise _no_such_prefix(wanted, sorted({prefix for found in prefixes for prefix in found}))
    return having


def _same(one: Entry, other: Entry) -> bool:
    """Whether two are the same tensors, under two keys or with two prefixes."""
    return one.values is other.values or list(one.tensors.values()) == list(other.tensors.values())


def _named(key: str) -> str:
    return key or "(the file itself)"


def _quoted(keys: list[str]) -> str:
    return ", ".join(repr(key[:_MAX_KEY]) for key in keys[:10]) + (", ..." if len(keys) > 10 else "")


def _there(entries: list[Entry], taken: Entry) -> str:
    others = [entry for entry in entries if entry.key != taken.key]
    said = []
    for same, verbs in ((False, ("is there too", "are there too")), (True, ("holds", "hold"))):
        keys = [_named(entry.key) for entry in others if _same(entry, taken) is same]
        if keys:
            said.append(f"{listed(keys)} {verbs[len(keys) > 1]}{' the same weights' if same else ''}")
    return "; ".join(said)


def _words(key: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", key)]


def is_average(key: str, content: Any = None) -> bool:
    """Whether a key names a moving average of weights.

    Two libraries put the average where others put the weights: mmengine's EMAHook swaps ``state_dict`` and
    ``ema_state_dict`` before it saves, and Lightning's WeightAveraging keeps the weights as ``current_model_state``.
    """
    swapped = mapping_of(content)
    if "message_hub" in swapped and "ema_state_dict" in swapped and key in ("state_dict", "ema_state_dict"):
        return key == "state_dict"
    if "averaging_state" in swapped and "current_model_state" in swapped and key in ("state_dict", "averaging_state"):
        return key == "state_dict"
    return any(word in _AVERAGES for word in _words(key))


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
            f"weights of a ResT are under {_quoted([entry.key for entry in having])}, and nothing tells which to take; "
            "name one: --weights-key KEY"
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
        if name.rsplit(".", 1)[-1] in _UPDATES and _zero(value, read):
            yield f"its {name} is 0, so it was never updated"
    ours = authors_names(average.values, key_prefix).tensors
    theirs = authors_names(plain.values, key_prefix).tensors if plain else {}
    missing = [name for name in theirs if name not in ours and not is_counter(name)]
    if missing:
        yield f"it lacks {len(missing)} of its weights: {listed(missing[:_EXAMPLES])}"
    more = [name for name in ours if theirs and name not in theirs and not is_counter(name)]
    if more:
        yield f"it has {len(more)} weights that the other has not: {listed(more[:_EXAMPLES])}"
    odd = [n for n, t in ours.items() if n in theirs and t.shape != theirs[n].shape and not is_counter(n)]
    if odd:
        yield f"{len(odd)} of its weights have other shapes: {listed(odd[:_EXAMPLES])}"
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
        if any(word in ("ema", "swa", "averaged") for word in _words(name))
        and isinstance(value, (dict, Inert))
        and not any(key == name or key.startswith(f"{name}.") for key in keys)
        and (isinstance(value, dict) or is_module(value))
    ]
    return [f"{name} holds no weights of a ResT; passed over" for name in empty]


def _none_found(content: Any) -> str:
    """What a file holds that holds no ResT."""
    for values in _mappings(content):
        if any(name.endswith(_V2_ANCHORS) for name in values):
            return "weights of a ResTv2, which is not supported yet; ResT (v1) is"
    needed = f"needed: a state dict with the authors' names, such as {ANCHORS[0]}"
    if isinstance(content, StoredTensor):
        return f"holds a tensor of the shape {content.shape}; {needed}"
    named = mapping_of(content)
    if named:
        return f"holds no weights of a ResT, only {_quoted(list(named))}; {needed}"
    if isinstance(content, Inert):
        return f"holds a {content.name}; {needed}"
    return f"holds a {type(content).__name__}; {needed}"


def _mappings(content: Any) -> Iterator[dict[str, Any]]:
    yield mapping_of(content)
    looks = _Looks()
    for value in {id(value): value for value in mapping_of(content).values()}.values():
        if isinstance(value, Inert) and is_module(value):
            yield state_dict_of(value, looks)
        else:
            looks.spend(len(value.pairs) if isinstance(value, Inert) else 0)
            yield mapping_of(value)


# Names


@dataclass(frozen=True)
class Names:
    """What a state dict holds.

    Args:
        tensors: By the authors' names.
        prefix: What stood before them.
        told: What was done, in sentences.
        beside: Names of tensors outside of the network that it may need: a classifier, a normalization.
    """

    tensors: dict[str, Any]
    prefix: str
    told: tuple[str, ...]
    beside: tuple[str, ...] = ()


def authors_names(values: Mapping[str, Any], key_prefix: str | None = None) -> Names:
    """Take off what wrappers put before the authors' names.

    Args:
        values: Names, as they stand.
        key_prefix: What stands before those to take; None to find out.

    Raises:
        UnreadableError: Two networks, or an object where a tensor must be.
    """
    names = {name: _WRAPPERS.sub("", name) for name in values}
    told = []
    if len(set(names.values())) != len(names):
        raise UnreadableError("two of its names are one without the wrappers' parts; save model.state_dict() unwrapped")
    inner = {new: values[name] for name, new in names.items()}
    unwrapped = sorted({part for name in values for part in _WRAPPERS.findall(name)})
    prefix = _prefix(inner, key_prefix)
    inside = {name[len(prefix) :]: value for name, value in inner.items() if name.startswith(prefix)}
    outside = [name for name in inner if not name.startswith(prefix)]
    taken = [*unwrapped, *([prefix] if prefix else [])]
    if taken:
        told.append(f"prefix {' and '.join(taken)} taken off the names")
    if outside:
        told.append(
            f"left out: {len(outside)} values whose names do not begin with {prefix}: {listed(outside[:_EXAMPLES])}"
        )
    tensors: dict[str, Any] = {}
    skipped = []
    for name, value in inside.items():
        if isinstance(value, Inert) and value.args is not None and _OURS.match(name):
            raise NoTensorError(name, value)
        if value is None or isinstance(value, (Inert, dict, list, tuple, str, bytes, int, float)):
            skipped.append(name)
        else:
            tensors[name] = value
    if skipped:
        told.append(f"left out: {len(skipped)} values that are no tensors: {listed(skipped[:_EXAMPLES])}")
    network = {name.replace(".", "") for name in inside}
    beside = [n for n in outside if isinstance(inner[n], Tensor) or _is_weight(inner[n])]
    return Names(tensors, prefix, tuple(told), tuple(n for n in beside if not _is_of_training(n, network)))


def _prefix(values: Mapping[str, Any], asked: str | None) -> str:
    found = _prefixes(values)
    if not found:
        raise UnreadableError(f"no name ends in {ANCHORS[0]}")
    if asked is not None:
        if _dotted(asked) not in found:
            raise _no_such_prefix(_dotted(asked), found)
        return _dotted(asked)
    if len(found) > 1:
        raise UnreadableError(
            f"weights of {len(found)} networks in one state dict, which begin with {_quoted(found)}; "
            "name one: --key-prefix PREFIX"
        )
    return found[0]


def _prefixes(names: Iterable[str]) -> list[str]:
    """What stands before the first of the anchors that is there."""
    for anchor in ANCHORS:
        found = {name.removesuffix(anchor) for name in names if name.endswith(anchor)}
        found = {prefix for prefix in found if not prefix or prefix.endswith(".")}
        if found:
            return sorted(found)
    return []


def _dotted(prefix: str) -> str:
    return prefix if not prefix or prefix.endswith(".") else f"{prefix}."


def _no_such_prefix(wanted: str, found: list[str]) -> UnreadableError:
    return UnreadableError(f"no weights of a ResT begin with {wanted!r}; they begin with {_quoted(found)}")


def is_counter(name: str) -> bool:
    """Whether a name is of a counter or a note beside weights, not of a weight: it is of no use to a network."""
    return name.rsplit(".", 1)[-1] in _COUNTERS


def _is_of_training(name: str, network: set[str]) -> bool:
    """Whether what stands beside a network is of no use to it: counters, metrics, losses, an average of its weights.

    Args:
        name: Of a tensor that is not in the network.
        network: Names of the network without their dots, as some averages write them.
    """
    words = {word for part in name.split(".") for word in _words(part)}
    if is_counter(name) or name.rsplit(".", 1)[-1] in _METRIC_STATES or words & _TRAINING:
        return True
    parts = name.split(".")
    copies = any("".join(parts[start:]) in network for start in range(1, min(len(parts), _DEPTH)))
    return bool(words & set(_AVERAGES)) and (copies or parts[-1] == "decay")


def _object_name(value: Inert) -> str:
    """The class of an object: arrays of NumPy name the function that makes them."""
    if value.name.endswith("multiarray._reconstruct") and value.args and isinstance(value.args[0], Inert):
        return value.args[0].name
    if value.name.endswith("_rebuild_wrapper_subclass") and value.args and isinstance(value.args[0], Inert):
        return value.args[0].name
    return value.name
