"""What a stage is. Knows records, not models, chains or Ray."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, is_dataclass
from types import MappingProxyType
from typing import (
    Any,
    ClassVar,
    Generic,
    Literal,
    Protocol,
    Self,
    TypeVar,
    cast,
    get_args,
    get_origin,
    runtime_checkable,
)

from schemas.records import Drop

In = TypeVar("In")
Out = TypeVar("Out")
M = TypeVar("M", bound="Model")
M_co = TypeVar("M_co", bound="Model", covariant=True)


SETTINGS_RULES: dict[str, str | bool] = {"extra": "forbid", "arbitrary_types_allowed": True}
"""How recipes check the fields of stages and backends (read by pydantic): an unknown key is an
error; a backend is checked against its protocol by `isinstance`."""


OPERATIONAL: Mapping[str, bool] = MappingProxyType({"decides_rows": False})
"""Metadata of a backend's field that changes no row: an address, a cache, a time limit. It stands
in the recipe like any other setting, but not in its digest nor in provenance, so a run can be
resumed with another value. `field(default=32, metadata=OPERATIONAL)`."""


DECIDING_FILE: Mapping[str, bool] = MappingProxyType({"deciding_file": True})
"""Metadata of a backend's field that is the path of a small file whose content decides rows. A run
remembers the content, and is not resumed with another."""


@dataclass(frozen=True)
class Device:
    """Where and how models run. The placement's matter: it changes speed, not what is made."""

    name: str = "cpu"
    """"cpu", or "cuda" for the GPU that the process was given ("cuda:1" for one of several)."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of weights and activations; a backend that must keep more precision says so."""
    compile: bool = False
    """Whether backends that can may compile their repeated blocks: a slow start, then faster."""

    def require_cpu(self, backend: str) -> None:
        """ValueError unless this is the CPU; for backends that have no other form."""
        if self.name != "cpu":
            raise ValueError(
                f"{backend} runs on the cpu alone, not on {self.name}; name its stage in a group "
                "of the placement with device: cpu"
            )


class ServiceDown(Exception):  # noqa: N818  # a state of the world, not a fault of a row
    """Something that every row needs is not there: an endpoint, a disk.

    No row is to blame, so none is dropped: the run stops and the same command resumes it. To be
    raised only after retries; the message says what is down and for how long it was tried.
    """


class Model(Protocol):
    """An open model: knows tensors and arrays, not records. Each stage names what it asks of it."""

    def close(self) -> None:
        """Free the device. Safe to call twice."""


@runtime_checkable
class BackendSettings(Protocol[M_co]):
    """The settings of a backend: a frozen dataclass, light to import, of which a recipe is made."""

    @property
    def name(self) -> str:
        """How a recipe selects this backend; the same for all of its class."""

    def load(self, device: Device) -> M_co:
        """The model, complete and on `device`; raises if that is not there, never falls back."""


class Settings:
    """Base of a backend's settings, so that an unknown key is an error."""

    __pydantic_config__: ClassVar[dict[str, str | bool]] = SETTINGS_RULES


class CpuBackend(Settings):
    """Base of a backend without weights, which is settings and model in one, on the CPU."""

    name: str

    def load(self, device: Device) -> Self:
        """Itself; ValueError for any other device than the CPU."""
        device.require_cpu(self.name)
        return self

    def close(self) -> None:
        """There is nothing to free."""


def _records_of(step: type[_Step]) -> tuple[Any, ...]:
    """What stands for the parameters of `Stage` or `GroupStage` in a class derived from it."""
    own: tuple[Any, ...] = getattr(step, "__parameters__", ())
    for base in step.__dict__.get("__orig_bases__", step.__bases__):
        origin = get_origin(base) or base
        if origin is _Step:
            return own
        if issubclass(origin, _Step):
            given = dict(zip(origin.__parameters__, get_args(base), strict=False))
            records = tuple(given.get(record, record) for record in origin._records)  # noqa: SLF001  # of the same family
            break
    for record in records:
        if not isinstance(record, type) and record not in own:
            raise TypeError(
                f"{step.__name__} does not say which records it takes and gives"
                f"{'' if isinstance(record, TypeVar) else f' ({record!r} is not a class)'}; derive "
                "it from Stage[In, Out], RecordStage[In, Out] or GroupStage[In] with their classes"
            )
    return records


class _Step(ABC):
    """What stages and group stages share: they say in their parameters which records they take."""

    __pydantic_config__: ClassVar[dict[str, str | bool]] = SETTINGS_RULES

    consumes: ClassVar[type]
    """The records that it takes: the first parameter."""
    produces: ClassVar[type]
    """The records that it gives: the last parameter."""
    _records: ClassVar[tuple[Any, ...]]
    """All parameters, with type variables where a base leaves them open."""

    def __init_subclass__(cls) -> None:
        """Read the parameters; TypeError for a class that gives none and leaves none open."""
        super().__init_subclass__()
        cls._records = _records_of(cls)
        if not any(isinstance(record, TypeVar) for record in cls._records):
            cls.consumes, cls.produces = cls._records[0], cls._records[-1]


class Stage(_Step, Generic[In, Out]):
    """One step of a chain: a frozen dataclass whose fields are its settings and its backends.

    Pure in (record, settings, the record's seed): no state survives a call, so a retry, another
    batch or another machine gives the same outcome. An exception means trouble, a `Drop` means
    judgement; a stage never catches an exception to hide it.
    """

    _loaded: Sequence[tuple[BackendSettings[Any], Model]] = ()
    """Each backend with its model while the stage is open; of the object, and not a setting."""

    def open(self, device: Device) -> None:
        """Load the backends' models onto `device`, once per worker; equal settings share one."""
        self.close()
        loaded: list[tuple[BackendSettings[Any], Model]] = []
        # Past the frozen fields. In place before anything is loaded, so that whatever was loaded
        # before a failure can be closed.
        object.__setattr__(self, "_loaded", loaded)
        for backend in self.backends():
            if all(backend != other for other, _ in loaded):
                loaded.append((backend, backend.load(device)))

    @abstractmethod
    def process(self, batch: Sequence[In]) -> Sequence[Sequence[Out] | Drop]:
        """One outcome per input, in order: [x], [x, y] (fan-out) or a Drop; never None or []."""

    def close(self) -> None:
        """Free the device. Safe after a failed `open`, and twice."""
        with ExitStack() as stack:  # all of them, even if one raises
            for _, model in self._loaded:
                stack.callback(model.close)
            object.__setattr__(self, "_loaded", ())

    def backends(self) -> Sequence[BackendSettings[Any]]:
        """The backends in its fields, and in the fields of its groups of settings."""
        return tuple(_backends_in(self))

    def models(self) -> Sequence[Model]:
        """The models that are open."""
        return [model for _, model in self._loaded]

    def loaded(self, backend: BackendSettings[M]) -> M:
        """The open model of one of its backends; RuntimeError while the stage is not open."""
        for settings, model in self._loaded:
            if settings == backend:
                return cast("M", model)
        raise RuntimeError(
            f"{type(self).__name__} has no model of {backend.name}: call open(device) first"
        )


class RecordStage(Stage[In, Out]):
    """A stage that takes its records one by one."""

    def process(self, batch: Sequence[In]) -> Sequence[Sequence[Out] | Drop]:
        """`process_one` of each."""
        return [self.process_one(record) for record in batch]

    @abstractmethod
    def process_one(self, record: In) -> Sequence[Out] | Drop:
        """The outcome of one record."""


class GroupStage(_Step, Generic[In]):
    """A stage that sees all records of one seed at once, to choose among them."""

    @abstractmethod
    def select(self, group: Sequence[In]) -> Sequence[In | Drop]:
        """One outcome per record, in order: the record itself, or a Drop."""


@runtime_checkable
class SelfLimited(Protocol):
    """A backend that ends a call by itself, for what keeps it is elsewhere and no row's fault."""

    @property
    def call_limit_s(self) -> float:
        """It raises ServiceDown after so long; below its group's `time_limit_s`.

        Otherwise a row would be blamed.
        """


@runtime_checkable
class Metered(Protocol):
    """A model whose use is counted beyond rows and seconds, such as one that costs money."""

    def usage(self) -> Mapping[str, float]:
        """What was used since it was loaded; no number ever falls.

        Names that are shown in words: `requests` (that were sent), `cached` (answered without
        one), `prompt_tokens`, `completion_tokens`, `cost_usd`. Others are shown as they are.
        """


def _backends_in(settings: object) -> Iterator[BackendSettings[Any]]:
    for field in fields(settings) if is_dataclass(settings) else ():
        value = getattr(settings, field.name)
        if isinstance(value, BackendSettings):
            yield value
        elif not isinstance(value, type):
            yield from _backends_in(value)
