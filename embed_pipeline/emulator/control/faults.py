"""Fault rules: what goes wrong, where, how often. The same seed and requests give the same faults."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from embed_pipeline.emulator.api.endpoints import ENDPOINTS
from embed_pipeline.errors import ConfigurationError

MESSAGES: Final = {
    "unstable": "The embedding service is temporarily unstable. Please try again later.",
    "failed": "The embedding task failed. Please try again later.",
    "incomplete": "The embedding task could not complete processing.",
    "invalid": "The embedding request was invalid.",
    "too_large": "The media exceeds the maximum allowed size for embedding.",
    "context": "Content exceeds the model's context window.",
    "expired": "The embedding result is no longer available and cannot be retrieved.",
    "unreachable": "failed to fetch or materialize source media",
    "unprocessable": "We could not process your media for embedding. Please verify the input file and try again.",
}
"""The documented reasons of a failed task, under short names for fault rules."""

# Of every kind: its parameters and what holds without them. None as a default means that it may be left out.
_PARAMETERS: Final[dict[str, dict[str, Any]]] = {
    "status": {"status": 503, "retry_after": None, "body": "platform", "when": "before"},
    "latency": {"seconds": 1.0, "distribution": "constant", "spread": 0.5},
    "drop": {"when": "before"},
    "truncate": {"fraction": 0.5},
    "slow": {"bytes_per_sec": 65536.0},
    "drip": {"bytes_per_sec": 4.0},
    "content_type": {"value": "text/html"},
    "duplicate": {"items": 1},
    "shift": {"by": 1},
    "lag": {"lag_sec": 5.0},
    "late": {"delay_sec": 60.0, "connection": "drop"},
    "fail": {"message": "unstable"},
    "delay": {"seconds": 60.0},
    "stick": {},
    "missing": {"option": None, "scope": None, "fraction": 1.0},
    "expire": {},
    "shuffle": {},
}
TASK_KINDS: Final = ("fail", "delay", "stick", "missing", "expire", "shuffle")
LIST_KINDS: Final = ("duplicate", "shift", "lag")
LATE_KINDS: Final = ("late",)
_CHOICES: Final = {
    "when": ("before", "after"),
    "body": ("platform", "empty", "html", "text"),
    "connection": ("drop", "hang"),
    "distribution": ("constant", "uniform", "exponential", "lognormal"),
    "option": (None, "visual", "audio", "transcription", "fused"),
    "scope": (None, "clip", "asset"),
}
_COMMON: Final = {"kind", "on", "probability", "count", "skip", "match", "id"}
_MOST_RULES: Final = 1000


@dataclass(frozen=True)
class FaultRule:
    """One fault, where it happens and how often.

    Args:
        id: What the journal calls it.
        kind: One of the kinds in docs/emulator.md.
        on: The endpoint, or `any`.
        probability: How likely it is for each request that matches.
        count: How often it happens at most. None has no bound.
        skip: How many matching requests pass before it first may happen.
        match: A text that the source (for kinds that concern a task) or else the path must hold.
        parameters: What the kind needs to know.
    """

    id: str
    kind: str
    on: str
    probability: float = 1.0
    count: int | None = None
    skip: int = 0
    match: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the rule as the faults file has it."""
        rule: dict[str, Any] = {"id": self.id, "kind": self.kind, "on": self.on, "probability": self.probability}
        rule |= {"count": self.count, "skip": self.skip, "match": self.match}
        return rule | dict(self.parameters)


def parse_rule(values: Any, number: int) -> FaultRule:
    """Read one rule of a faults file.

    Args:
        values: A JSON object, such as `{"kind": "status", "on": "create", "status": 429, "retry_after": 2}`.
        number: Which rule it is, from 1, for messages and for its id.

    Raises:
        ConfigurationError: If it does not make sense. It names the rule and the parameter.
    """
    name = f"Fault rule {number}"
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"{name} must be an object with at least a kind.")
    kind = values.get("kind")
    if kind not in _PARAMETERS:
        raise ConfigurationError(f"{name} has the unknown kind {kind!r}; known are {', '.join(_PARAMETERS)}.")
    defaults = _PARAMETERS[kind]
    unknown = sorted(set(values) - set(defaults) - _COMMON)
    if unknown:
        takes = ", ".join(sorted(defaults)) or "no parameters of its own"
        raise ConfigurationError(f"{name} ({kind}) has the unknown parameter {unknown[0]!r}; {kind} takes {takes}.")
    fixed = "create" if kind in TASK_KINDS + LATE_KINDS else "list" if kind in LIST_KINDS else "any"
    on = values.get("on", fixed)
    if on not in (*ENDPOINTS, "any") or (fixed != "any" and on != fixed):
        allowed = fixed if fixed != "any" else ", ".join((*ENDPOINTS, "any"))
        raise ConfigurationError(f"{name} ({kind}) cannot happen on {on!r}; it may on {allowed}.")
    parameters = {
        key: _parameter(f"{name} ({kind})", key, values.get(key, default)) for key, default in defaults.items()
    }
    return FaultRule(
        id=str(values.get("id") or f"{kind}-{number}"),
        kind=kind,
        on=on,
        probability=_number(name, "probability", values.get("probability", 1.0), 0.0, 1.0),
        count=None if values.get("count") is None else _whole(name, "count", values["count"], 0, 10**9),
        skip=_whole(name, "skip", values.get("skip", 0), 0, 10**9),
        match=_text(name, "match", values.get("match")),
        parameters=parameters,
    )


def _parameter(name: str, key: str, value: Any) -> Any:
    if key in _CHOICES and value not in _CHOICES[key]:
        known = ", ".join(choice for choice in _CHOICES[key] if choice is not None)
        raise ConfigurationError(f"{name}: {key} must be one of {known}, not {value!r}.")
    bounds: dict[str, tuple[float, float]] = {
        "status": (200, 599),
        "seconds": (0, 86400),
        "spread": (0, 10),
        "fraction": (0, 1),
        "bytes_per_sec": (0.001, 1e12),
        "delay_sec": (0, 10**8),
        "lag_sec": (0, 10**8),
        "items": (1, 50),
        "by": (-50, 50),
    }
    if key in bounds:
        return (_whole if key in ("status", "items", "by") else _number)(name, key, value, *bounds[key])
    if key == "message":
        text = _text(name, key, value) or ""
        return MESSAGES.get(text, text)
    if key == "value":
        return _text(name, key, value)
    if key == "retry_after":
        # A number of seconds, or any other text.
        return None if value is None else str(value)
    return value


def _text(name: str, key: str, value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ConfigurationError(f"{name}: {key} must be a text, not {value!r}.")
    return value


def _whole(name: str, key: str, value: Any, lowest: float, highest: float) -> int:
    number = _number(name, key, value, lowest, highest)
    if number != int(number):
        raise ConfigurationError(f"{name}: {key} must be a whole number, not {value!r}.")
    return int(number)


def _number(name: str, key: str, value: Any, lowest: float, highest: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not lowest <= value <= highest:
        raise ConfigurationError(f"{name}: {key} must be a number from {lowest:g} to {highest:g}, not {value!r}.")
    return float(value)


class FaultPlan:
    """The rules in force and how often each has happened; safe to call from any thread.

    Args:
        rules: In the form of the faults file.
        seed: What the draws are seeded with.

    Raises:
        ConfigurationError: If a rule does not make sense.
    """

    def __init__(self, rules: Iterable[Any] = (), seed: int = 0) -> None:
        self._lock = threading.Lock()
        self.replace(rules, seed)

    def replace(self, rules: Iterable[Any], seed: int = 0) -> None:
        """Put other rules in force; all counts begin anew."""
        values = list(rules)
        if len(values) > _MOST_RULES:
            raise ConfigurationError(f"There may be at most {_MOST_RULES} fault rules.")
        parsed = [parse_rule(rule, number) for number, rule in enumerate(values, 1)]
        with self._lock:
            self.rules: tuple[FaultRule, ...] = tuple(parsed)
            self.seed = seed
            self._draws = [random.Random(f"{seed}/{number}") for number in range(len(parsed))]  # noqa: S311
            self._seen = [0] * len(parsed)
            self._happened = [0] * len(parsed)

    def draw(self, endpoint: str, subject: str, kinds: tuple[str, ...] | None = None) -> list[FaultRule]:
        """Return the rules that apply to a request.

        Args:
            endpoint: One of `ENDPOINTS`.
            subject: What `match` is looked for in.
            kinds: Only rules of these kinds; None takes those that concern neither a task nor a list.

        Returns:
            The rules, in their order.
        """
        if not self.rules:
            return []
        happening = []
        with self._lock:
            for index, rule in enumerate(self.rules):
                concerned = rule.kind in kinds if kinds else rule.kind not in TASK_KINDS + LATE_KINDS + LIST_KINDS
                if not concerned or rule.on not in (endpoint, "any") or (rule.match or "") not in subject:
                    continue
                self._seen[index] += 1
                spent = rule.count is not None and self._happened[index] >= rule.count
                if self._seen[index] <= rule.skip or spent or self._draws[index].random() >= rule.probability:
                    continue
                self._happened[index] += 1
                happening.append(rule)
        return happening

    def latency(self, rule: FaultRule) -> float:
        """Draw the seconds of a latency rule."""
        seconds, spread = float(rule.parameters["seconds"]), float(rule.parameters["spread"])
        with self._lock:
            draw = self._draws[self.rules.index(rule)] if rule in self.rules else random.Random(self.seed)  # noqa: S311
            match rule.parameters["distribution"]:
                case "uniform":
                    return draw.uniform(seconds * max(0.0, 1 - spread), seconds * (1 + spread))
                case "exponential":
                    return draw.expovariate(1 / seconds) if seconds else 0.0
                case "lognormal":
                    return seconds * draw.lognormvariate(0.0, spread)
        return seconds

    def to_json(self) -> dict[str, Any]:
        """Return the rules, and how often each matched and happened."""
        with self._lock:
            counted = zip(self.rules, self._seen, self._happened, strict=True)
            return {
                "seed": self.seed,
                "faults": [rule.to_json() | {"matched": seen, "happened": times} for rule, seen, times in counted],
            }


def task_effects(rules: Iterable[FaultRule]) -> dict[str, Any]:
    """Turn rules that concern a task into what is kept with it.

    Args:
        rules: Rules of the kinds in `TASK_KINDS`.

    Returns:
        Plain values: `fail` (a message), `delay_sec`, `held`, `expired`, `shuffle`, `missing` (a list).
    """
    effects: dict[str, Any] = {}
    for rule in rules:
        match rule.kind:
            case "fail":
                effects["fail"] = rule.parameters["message"]
            case "delay":
                effects["delay_sec"] = rule.parameters["seconds"]
            case "stick":
                effects["held"] = True
            case "expire":
                effects["expired"] = True
            case "shuffle":
                effects["shuffle"] = True
            case "missing":
                effects.setdefault("missing", []).append(dict(rule.parameters))
    return effects


def read_faults(path: Path) -> tuple[tuple[dict[str, object], ...], int]:
    """Read a faults file.

    Args:
        path: JSON: `{"seed": 7, "faults": [...]}`, or the list alone.

    Returns:
        The rules and the seed.

    Raises:
        ConfigurationError: If the file cannot be read or a rule makes no sense; it names the rule.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"The faults file {path} cannot be read: {error}.") from error
    if isinstance(values, list):
        values = {"faults": values}
    rules, seed = (values.get("faults"), values.get("seed", 0)) if isinstance(values, dict) else (None, 0)
    if (
        not isinstance(rules, list)
        or set(values) - {"faults", "seed"}
        or isinstance(seed, bool)
        or not isinstance(seed, int)
    ):
        raise ConfigurationError(f'The faults file {path} must be of the form {{"seed": 7, "faults": [...]}}.')
    try:
        for number, rule in enumerate(rules, 1):
            parse_rule(rule, number)
    except ConfigurationError as error:
        raise ConfigurationError(f"The faults file {path} cannot be used. {error.message}") from error
    return tuple(rules), seed
