"""What a stage makes of its backends and of its parameters."""

from dataclasses import dataclass, field
from typing import Generic, TypeVar

import pytest

from schemas.records import Candidate, Seed
from stages.base import CpuBackend, Device, GroupStage, RecordStage, Stage

Extra = TypeVar("Extra")


@dataclass(frozen=True)
class Half(CpuBackend):
    """Notes what becomes of it."""

    log: list = field(default_factory=list, compare=False)
    name: str = "half"
    fails: bool = False

    def load(self, device):
        self.log.append("load")
        if self.fails:
            raise OSError("no weights")
        return super().load(device)

    def close(self):
        self.log.append("close")


@dataclass(frozen=True)
class Check:
    judge: Half | None = None


@dataclass(frozen=True)
class Asking(RecordStage[Seed, Candidate]):
    first: Half
    second: Half | None = None
    check: Check = Check()

    def process_one(self, record):
        return self.loaded(self.first)


def test_backends_are_found_in_the_fields_and_in_groups_of_settings():
    one, two, three = (Half(name=name) for name in "abc")
    assert Asking(one).backends() == (one,)
    assert Asking(one, two, Check(three)).backends() == (one, two, three)


def test_a_stage_is_open_or_says_that_it_is_not():
    log = []
    stage = Asking(Half(log), Half(log), Check(Half(log, name="judge")))
    with pytest.raises(RuntimeError, match=r"no model of half: call open\(device\) first"):
        stage.process([None])
    stage.open(Device())
    assert log == ["load", "load"], "equal settings share a model"
    assert stage.process([None]) == [stage.first]
    assert stage == Asking(Half(), Half(), Check(Half(name="judge")))
    stage.close()
    stage.close()
    assert log == ["load", "load", "close", "close"]
    assert stage.models() == []


def test_what_was_loaded_before_a_failure_is_closed():
    log = []
    stage = Asking(Half(log), Half(log, name="bad", fails=True))
    with pytest.raises(OSError, match="no weights"):
        stage.open(Device())
    stage.close()
    assert log == ["load", "load", "close"]


def test_records_come_from_the_parameters():
    class Open(Stage[Seed, Extra], Generic[Extra]):
        """Leaves one open."""

    class Bound(Open[Candidate]):
        """Says which."""

    class Heir(Bound):
        """Keeps them."""

    class Choosing(GroupStage[Candidate]):
        """One parameter for both."""

    for stage, taken in ((Asking, Seed), (Bound, Seed), (Heir, Seed), (Choosing, Candidate)):
        assert (stage.consumes, stage.produces) == (taken, Candidate)


@pytest.mark.parametrize("base", [Stage, RecordStage, GroupStage, Stage["Seed", Candidate]])
def test_a_stage_without_parameters_is_refused(base):
    with pytest.raises(TypeError, match="Nameless does not say which records it takes"):
        exec("class Nameless(base): pass", {"base": base})
