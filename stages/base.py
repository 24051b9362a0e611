"""What a stage is. Knows records, not models, chains or Ray."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Generic, Literal, Protocol, TypeVar, runtime_checkable

from schemas.records import Drop

In = TypeVar("In")
Out = TypeVar("Out")


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


class Stage(ABC, Generic[In, Out]):
    """One step of a chain: a frozen dataclass whose fields are its settings and its backends.

    Pure in (record, settings, the record's seed): no state survives a call, so a retry, another
    batch or another machine gives the same outcome. An exception means trouble, a `Drop` means
    judgement; a stage never catches an exception to hide it.
    """

    __pydantic_config__: ClassVar[dict[str, str | bool]] = SETTINGS_RULES

    consumes: ClassVar[type]
    produces: ClassVar[type]

    def open(self, device: Device) -> None:
        """Load the backends' weights onto `device`, once per worker."""
        for backend in self.backends():
            backend.open(device)

    @abstractmethod
    def process(self, batch: Sequence[In]) -> Sequence[Sequence[Out] | Drop]:
        """One outcome per input, in order: [x], [x, y] (fan-out) or a Drop; never None or []."""

    def close(self) -> None:
        """Free the device. Safe after a failed `open`, and twice."""
        for backend in self.backends():
            backend.close()

    def backends(self) -> Sequence[Backend]:
        """The models behind this stage; none for a plain computation."""
        return ()


class RecordStage(Stage[In, Out]):
    """A stage that takes its records one by one."""

    def process(self, batch: Sequence[In]) -> Sequence[Sequence[Out] | Drop]:
        """`process_one` of each."""
        return [self.process_one(record) for record in batch]

    @abstractmethod
    def process_one(self, record: In) -> Sequence[Out] | Drop:
        """The outcome of one record."""


class GroupStage(ABC, Generic[In]):
    """A stage that sees all records of one seed at once, to choose among them."""

    __pydantic_config__: ClassVar[dict[str, str | bool]] = SETTINGS_RULES

    consumes: ClassVar[type]
    produces: ClassVar[type]

    @abstractmethod
    def select(self, group: Sequence[In]) -> Sequence[In | Drop]:
        """One outcome per record, in order: the record itself, or a Drop."""


class Backend(Protocol):
    """The model behind a stage: knows tensors and arrays, not records."""

    def open(self, device: Device) -> None:
        """Load weights onto `device`; raise if it is not there, never fall back to another."""

    def close(self) -> None:
        """Free the device. Safe after a failed `open`, and twice."""


@runtime_checkable
class SelfLimited(Protocol):
    """A backend that ends a call by itself, for what keeps it is elsewhere and no row's fault."""

    call_limit_s: float
    """It raises ServiceDown after so long; below its group's `time_limit_s`, or a row is blamed."""


@runtime_checkable
class Metered(Protocol):
    """A backend whose use is counted beyond rows and seconds, such as one that costs money."""

    def usage(self) -> Mapping[str, float]:
        """What was used since the backend was made; no number ever falls.

        Names that are shown in words: `requests` (that were sent), `cached` (answered without
        one), `prompt_tokens`, `completion_tokens`, `cost_usd`. Others are shown as they are.
        """
