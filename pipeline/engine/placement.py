"""Placements: which stages share an actor, on which device, how many. Changes no output row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from pipeline.errors import UsageError
from pipeline.yaml_file import describe, read_yaml
from workers.chain import Chain

WASTE = 0.9
"""Least share of a GPU that actors of one fraction must fill together: Ray places none across two,
so the rest of it stays idle."""

_GPU = 10_000
"""A GPU in the units in which Ray counts shares of one."""


class GroupPlacement(BaseModel):
    """The stages that share one kind of actor, and how many of these actors there are."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stages: list[str] | Literal["rest"] = "rest"
    """Stage keys as in the recipes; "rest" takes all that no other group names."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Device the stages are opened on. There is no fall-back from cuda to cpu."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the models' weights and activations."""
    compile: bool = False
    """Compile the models' repeated blocks where a backend can."""
    num_cpus: Annotated[float, Gt(0)] = 1.0
    """CPUs that Ray reserves for each actor."""
    num_gpus: Annotated[float, Ge(0)] = 0.0
    """GPUs (or a fraction of one) that Ray reserves for each actor."""
    pip: tuple[str, ...] = ()
    """Packages that Ray installs for this group's actors alone, such as an original package with
    old pins ("groundingdino-py==0.4.0"); our modules that they run must stay importable."""
    pip_options: tuple[str, ...] = ()
    """Options of that installation: "--no-deps"."""
    min_actors: Annotated[int, Ge(1)] = 1
    """Actors without which the run does not start."""
    max_actors: Annotated[int, Ge(1)] | None = None
    """Most actors; without it, as many as the cluster has room for."""
    micro_batch: Annotated[int, Ge(1)] = 4
    """Seeds in one pass through the group's stages."""
    decode_ahead: bool = False
    """A thread decodes the images of the next micro-batch meanwhile; for groups on a GPU that
    look at images."""
    time_limit_s: Annotated[float, Gt(0)] = 300.0
    """Limit for one call into a stage; the process is ended when it is exceeded."""

    @model_validator(mode="after")
    def _consistent(self) -> GroupPlacement:
        if (self.device == "cuda") != (self.num_gpus > 0):
            raise ValueError(
                f"device {self.device} with num_gpus {self.num_gpus:g}: a cuda group needs GPUs, "
                "a cpu group must not take any"
            )
        whole = self.num_gpus == int(self.num_gpus)
        if not whole and (
            self.num_gpus > 1 or int(1 / self.num_gpus + 1e-9) * self.num_gpus < WASTE
        ):
            raise ValueError(
                f"num_gpus {self.num_gpus:g} does not tile a GPU: give a whole number, or a "
                "fraction of which several fill one (0.5, 0.33, 0.25)"
            )
        if self.pip_options and not self.pip:
            raise ValueError(f"pip_options {' '.join(self.pip_options)} without pip: name packages")
        if self.max_actors is not None and self.max_actors < self.min_actors:
            raise ValueError(
                f"max_actors {self.max_actors} is less than min_actors {self.min_actors}"
            )
        return self


class Placement(BaseModel):
    """One machine shape. The defaults are those of `deploy/placements/laptop.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = "laptop"
    """Name, for people."""
    groups: Annotated[list[GroupPlacement], MinLen(1)] = [GroupPlacement()]
    """Actor groups in the order of the chain."""
    autoscale: bool = False
    """The cluster grows on demand: pools may grow to `max_actors` beyond its present nodes."""
    max_error_share: Annotated[float, Gt(0), Le(1)] = 0.05
    """A stage in which more than this share of the records raise or crash stops the run."""
    min_errors: Annotated[int, Ge(1)] = 10
    """... once it had at least this many errors."""
    stall_limit_s: Annotated[float, Gt(0)] = 1800.0
    """A run in which nothing is counted for so long ends, and can be resumed. The slowest opening
    of a group's models and the slowest micro-batch must be shorter."""

    @model_validator(mode="after")
    def _stalls_after_its_calls(self) -> Placement:
        longest = max(group.time_limit_s for group in self.groups)
        if self.stall_limit_s <= longest:
            raise ValueError(
                f"stall_limit_s {self.stall_limit_s:g} must be more than every time_limit_s (a "
                f"group has {longest:g})"
            )
        return self

    @model_validator(mode="after")
    def _each_stage_once(self) -> Placement:
        if sum(group.stages == "rest" for group in self.groups) > 1:
            raise ValueError("only one group may take the rest")
        named = Counter(s for g in self.groups if g.stages != "rest" for s in g.stages)
        if twice := [stage for stage, times in named.items() if times > 1]:
            raise ValueError(f"stage {', '.join(twice)} stands in two groups")
        return self


def load_placement(file: str | None) -> Placement:
    """The placement of a YAML file, or the default one."""
    if file is None:
        return Placement()
    content = read_yaml("placement", Path(file))
    try:
        placement = Placement.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"placement file {file}: {describe(error, Placement)}") from None
    return placement


def split(chain: Chain, placement: Placement) -> list[Chain]:
    """The part of a chain that each group runs; () links where a group has none of its stages.

    Raises UsageError if the groups would have to be visited out of order.
    """
    rest = [i for i, group in enumerate(placement.groups) if group.stages == "rest"]
    named = {
        stage: i
        for i, group in enumerate(placement.groups)
        if group.stages != "rest"
        for stage in group.stages
    }
    links: list[list[int]] = [[] for _ in placement.groups]
    at = 0
    for position, link in enumerate(chain.links):
        group = named.get(link.name, rest[0] if rest else None)
        if group is None:
            raise UsageError(
                f"placement {placement.name}: no group runs stage {link.name} of recipe "
                f"{chain.origin.recipe}; name it in one, or let one take stages: rest"
            )
        if group < at:
            raise UsageError(
                f"placement {placement.name}: stage {link.name} of recipe {chain.origin.recipe} is "
                f"in group {group}, behind a stage of group {at}; groups follow the chain's order"
            )
        at = group
        links[group].append(position)
    return [
        Chain(chain.origin, tuple(chain.links[position] for position in part)) for part in links
    ]


def pool_sizes(
    groups: Sequence[GroupPlacement], num_cpus: float, num_gpus: float, most: int
) -> list[int]:
    """Actors of every group so that all of them fit the cluster at once.

    They must: when an actor dies, a pool that waits for resources would take its place, and the
    pool that it died in would wait for ever. Beyond each group's `min_actors`, groups get one more
    actor in turns, at most `most` (the number of shards). UsageError if the `min_actors` do not
    fit.
    """
    sizes = [group.min_actors for group in groups]
    if not fits(groups, sizes, num_cpus, num_gpus):
        raise UsageError(
            f"the placement needs at least {_cpus(groups, sizes):g} CPUs, "
            f"{_gpus(groups, sizes)} GPUs, "
            f"the cluster has {num_cpus:g} and {num_gpus:g}; lower min_actors or use another one"
        )
    grown = True
    while grown:
        grown = False
        for i, group in enumerate(groups):
            if sizes[i] >= min(group.max_actors or most, most):
                continue
            sizes[i] += 1
            if not fits(groups, sizes, num_cpus, num_gpus):
                sizes[i] -= 1
            else:
                grown = True
    return sizes


def runtime_env(group: GroupPlacement) -> dict[str, Any] | None:
    """Ray's runtime environment of the group's actors; None for that of the driver."""
    if not group.pip:
        return None
    options = {"pip_install_options": list(group.pip_options)} if group.pip_options else {}
    return {"pip": {"packages": list(group.pip), **options}}


def fits(
    groups: Sequence[GroupPlacement], sizes: Sequence[int], num_cpus: float, num_gpus: float
) -> bool:
    """Whether pools of these sizes fit into so many CPUs and GPUs all at once.

    Looks at the sum over all machines: an actor of several GPUs or CPUs may fit into none of them.
    """
    # Tolerance for sums of fractions such as 0.1.
    cpus = _cpus(groups, sizes) <= num_cpus + 1e-9
    return cpus and _gpus(groups, sizes) <= num_gpus + 1e-9


def _cpus(groups: Sequence[GroupPlacement], sizes: Sequence[int]) -> float:
    """CPUs that pools of these sizes take."""
    return sum(size * group.num_cpus for group, size in zip(groups, sizes, strict=True))


def _gpus(groups: Sequence[GroupPlacement], sizes: Sequence[int]) -> int:
    """GPUs that pools of these sizes take, started in this order.

    As Ray places them: shares of a GPU go to the fullest that has room, a new one where none has,
    and never across two; whole GPUs are shared with nobody.
    """
    whole, free = 0, list[int]()
    for group, size in zip(groups, sizes, strict=True):
        share, left = round(group.num_gpus * _GPU), size
        if share == 0:
            continue
        if share >= _GPU:
            whole += size * (share // _GPU)
            continue
        free.sort()
        for i, room in enumerate(free):
            here = min(left, room // share)
            free[i] -= here * share
            left -= here
        each = _GPU // share
        free += [_GPU - each * share] * (left // each)
        if left % each:
            free.append(_GPU - left % each * share)
    return whole + len(free)


def unknown_stages(chains: Sequence[Chain], placement: Placement) -> Sequence[str]:
    """Stages that the placement names and no chain has; worth a warning."""
    known = {link.name for chain in chains for link in chain.links}
    return sorted(
        {stage for g in placement.groups if g.stages != "rest" for stage in g.stages} - known
    )
