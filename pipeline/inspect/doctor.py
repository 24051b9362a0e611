"""`doctor`: everything that would stop a run, looked at before anything is paid for.

Loads no weights, sends no request that costs money, and works without torch. What it cannot check
from this machine it says.
"""

from __future__ import annotations

import ast
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Protocol, runtime_checkable
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from packaging.requirements import InvalidRequirement, Requirement

from pipeline.engine.placement import GroupPlacement, Placement, pool_sizes
from pipeline.engine.resources import gpu_memory, resources
from pipeline.engine.work import make_groups
from pipeline.errors import UsageError
from pipeline.inspect.models import backends_of, find, needed_models, size_text, sizes_by_stage
from pipeline.recipes.build import RecipeBook
from pipeline.recipes.chains import make_chains
from pipeline.sources import Source
from schemas.files import Folder
from stages.read.loader import Loader
from workers.worker import Group

Groups = Sequence[tuple[Group, GroupPlacement]]
"""The groups that have stages to run, each with its placement."""

PAIR_BYTES = 600_000
"""Space that one seed may take: two JPEGs of a megapixel, in the part and in the data files."""

HEADROOM = 1.3
"""Memory that a model takes beside its weights, at least: activations, workspaces, fragments."""

_PACKAGES = {"open_clip": "open_clip_torch", "cv2": "opencv-contrib-python-headless",
             "PIL": "pillow", "segment_anything": "segment-anything",
             "simple_lama_inpainting": "simple-lama-inpainting",
             "groundingdino": "groundingdino-py"}  # fmt: skip
"""Packages whose name differs from the module that is imported."""


@dataclass(frozen=True)
class Check:
    """One thing looked at."""

    ok: bool | None
    """None if it could not be checked from here."""
    what: str
    """What was looked at."""
    detail: str
    """What was found, and what to do where it is wrong."""

    def line(self, width: int) -> str:
        """For a person."""
        mark = {True: "ok  ", False: "FAIL", None: "?   "}[self.ok]
        return f"{mark}  {self.what:<{width}}  {self.detail}"


def _ok(what: str, detail: str) -> Check:
    return Check(ok=True, what=what, detail=detail)


def _fail(what: str, detail: str) -> Check:
    return Check(ok=False, what=what, detail=detail)


def _unseen(what: str, detail: str) -> Check:
    return Check(ok=None, what=what, detail=detail)


@runtime_checkable
class _Endpoint(Protocol):
    """A backend behind a URL."""

    base_url: str | None
    api_key_env: str | None


def doctor(
    book: RecipeBook, placement: Placement, source: Source | None, output: str | None
) -> tuple[str, bool]:
    """A line per check, and whether nothing failed."""
    groups, checks = _placed(book, placement)
    checks += [
        *_packages(book, groups),
        *_endpoints(book),
        *_models_and_memory(book, placement, groups),
    ]
    rows = None
    if source is not None:
        check, rows = _input(source)
        checks.append(check)
    if output is not None:
        checks += _output(output, rows)
    width = max((len(check.what) for check in checks), default=0)
    failed = sum(check.ok is False for check in checks)
    lines = [check.line(width) for check in checks]
    lines.append(
        f"{failed} of {len(checks)} checks failed" if failed else "nothing stands in the way"
    )
    return "\n".join(lines), not failed


def _placed(book: RecipeBook, placement: Placement) -> tuple[Groups, list[Check]]:
    """The groups that have stages to run; none if the placement does not fit the recipe."""
    try:
        return make_groups(make_chains(book, 0), placement), []
    except UsageError as error:
        return [], [_fail("placement", str(error))]


def _stages_of(group: Group) -> list[str]:
    """The stages of a group as "recipe.stage"."""
    return [f"{chain.origin.recipe}.{link.name}" for chain in group.chains for link in chain.links]


def _packages(book: RecipeBook, groups: Groups) -> Iterator[Check]:
    """Whether what the recipe's backends import is installed, in a version that was asked for."""
    own = {stage: _own_packages(spec) for group, spec in groups for stage in _stages_of(group)}
    wanted: dict[str, list[str]] = {}
    given: dict[str, list[str]] = {}
    for stage, backend in backends_of(book):
        for name in sorted(_imports(type(backend).__module__)):
            package = _PACKAGES.get(name, name)
            text = own.get(stage, {}).get(_canonical(package))
            if text is None:
                wanted.setdefault(name, []).append(stage)
            else:
                given.setdefault(f"package {package}", []).append(f"{text} for {stage}")
    for what, texts in given.items():
        listed = ", ".join(dict.fromkeys(texts))
        yield _unseen(what, f"the placement's pip installs {listed} when the run starts")
    asked = _asked_versions()
    for name, stages in wanted.items():
        package = _PACKAGES.get(name, name)
        users = ", ".join(dict.fromkeys(stages))
        if find_spec(name) is None:
            how = f"pip install '{asked.get(_canonical(package), Requirement(package))}'"
            yield _fail(f"package {package}", f"not installed, {users} needs it; {how}")
            continue
        version = metadata.version(package)
        requirement = asked.get(_canonical(package))
        if requirement is not None and not requirement.specifier.contains(
            version, prereleases=True
        ):
            yield _fail(f"package {package}", f"{version}; {requirement} is needed by {users}")
        else:
            yield _ok(f"package {package}", version)


def _own_packages(spec: GroupPlacement) -> dict[str, str]:
    """What the placement's `pip` names for the group's actors alone, by package."""
    own = {}
    for text in spec.pip:
        try:
            own[_canonical(Requirement(text).name)] = text
        except InvalidRequirement:  # a URL or a file: what is in it cannot be seen
            continue
    return own


@cache
def _imports(module: str) -> frozenset[str]:
    """Top-level names of other projects that a module of `stages` imports, sooner or later."""
    found: set[str] = set()
    seen, left = {module}, [module]
    while left:
        spec = find_spec(left.pop())
        if spec is None or spec.origin is None:
            continue
        for node in ast.walk(ast.parse(Path(spec.origin).read_text("utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            for name in names:
                if name.startswith("stages.backends"):
                    left += {name} - seen
                    seen.add(name)
                elif name.split(".")[0] not in _ALWAYS:
                    found.add(name.split(".")[0])
    return frozenset(found)


_OURS = {"stages", "schemas", "workers", "pipeline"}
_PLAIN = {"numpy", "PIL", "cv2", "pydantic", "annotated_types", "pyarrow", "fsspec", "inflect"}
_ALWAYS = frozenset(sys.stdlib_module_names) | _OURS | _PLAIN
"""What every installation has: the standard library, ourselves, our plain dependencies."""


@cache
def _asked_versions() -> dict[str, Requirement]:
    """What our own metadata asks of each package, in any extra."""
    asked: dict[str, Requirement] = {}
    for text in metadata.requires("nearmiss") or ():
        requirement = Requirement(text)
        if requirement.specifier:
            requirement.marker, requirement.extras = None, set()
            asked.setdefault(_canonical(requirement.name), requirement)
    return asked


def _canonical(name: str) -> str:
    return name.lower().replace("_", "-")


def _endpoints(book: RecipeBook) -> Iterator[Check]:
    """Whether keys are there (they are not shown) and somebody answers at the URLs."""
    seen = set()
    for stage, backend in backends_of(book):
        if not isinstance(backend, _Endpoint):
            continue
        key = (backend.base_url, backend.api_key_env)
        if key in seen:
            continue
        seen.add(key)
        if backend.api_key_env:
            there = bool(os.environ.get(backend.api_key_env))
            detail = "set" if there else f"not set; {stage} reads its key from it"
            yield (_ok if there else _fail)(f"variable {backend.api_key_env}", detail)
        yield _answers(stage, backend)


def _answers(stage: str, backend: _Endpoint) -> Check:
    base = backend.base_url or os.environ.get("OPENAI_BASE_URL")
    key = os.environ.get(backend.api_key_env or "", "")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    what = f"endpoint of {stage}"
    if base is None:
        return _fail(
            what, "none: --set STAGE.chat.base_url=http://HOST:8000/v1, or OPENAI_BASE_URL"
        )
    if not base.startswith(("http://", "https://")):
        return _fail(what, f"{base} is no http(s) URL")
    url = f"{base.rstrip('/')}/models"
    try:
        with urlopen(Request(url, headers=headers), timeout=10) as reply:  # noqa: S310  # checked
            return _ok(what, f"{url}: status {reply.status}")
    except HTTPError as error:
        if error.code in (401, 403):
            return _fail(what, f"{url}: status {error.code}; the key is refused")
        # Not every server lists its models; that it answers is what was asked.
        return _unseen(what, f"{url}: status {error.code}")
    except (URLError, OSError) as error:
        return _fail(what, f"{url}: no answer ({getattr(error, 'reason', error)})")


def _models_and_memory(book: RecipeBook, placement: Placement, groups: Groups) -> Iterator[Check]:
    found = [find(needed) for needed in needed_models(book)]
    for item in found:
        checkpoint = item.needed.checkpoint
        what = f"model {checkpoint}"
        if item.path is None:
            yield _fail(what, item.problem)
            continue
        pin = "" if item.needed.pinned else "; the revision is not pinned to a commit"
        yield _ok(what, f"{size_text(item.size)} in {item.path}{pin}")
    sizes = sizes_by_stage(found)
    loads = [
        (
            f"GPU memory of group {group.index}",
            spec,
            sum(sizes.get(s, 0) for s in _stages_of(group)),
        )
        for group, spec in groups
    ]
    if book.pairing is not None:
        # Before the run, where the stage `embedder` is placed; nothing else is loaded then.
        spec = next((g for g in placement.groups if "embedder" in g.stages), None) or next(
            (g for g in placement.groups if g.stages == "rest"), None
        )
        if spec is not None:
            loads.append(("GPU memory of the pairing", spec, sizes.get(f"{book.name}.pairing", 0)))
    loads = [load for load in loads if load[1].device == "cuda"]
    if groups and loads:
        yield from _gpus([spec for _, spec in groups], loads)


def _gpus(
    used: Sequence[GroupPlacement], loads: Sequence[tuple[str, GroupPlacement, int]]
) -> Iterator[Check]:
    """Enough GPUs for the least actors of the groups in use, and memory for what each loads.

    `loads`: what is looked at, where it is placed, and the bytes of its models.
    """
    there = resources()
    num_gpus, where = there.num_gpus, there.where
    if num_gpus is None:
        yield _unseen("GPUs", "neither torch nor nvidia-smi is here; ask on a worker")
        return
    try:
        pool_sizes(used, there.num_cpus, num_gpus, 10**9 if num_gpus else 1)
        yield _ok("GPUs", f"{num_gpus:g} {where}; the least that the placement asks fits")
    except UsageError as error:
        yield _fail("GPUs", f"{num_gpus:g} {where}; {error}")
    memory = gpu_memory()
    if memory is None:
        yield _unseen("GPU memory", "cannot be seen from here")
        return
    for what, spec, mine in loads:
        share = memory * min(spec.num_gpus, 1)
        fits = mine * HEADROOM <= share
        yield (_ok if fits else _fail)(
            what,
            f"{size_text(mine)} of weights on disk, {size_text(int(share))} of GPU memory an actor"
            + ("" if fits else "; give it a larger share (num_gpus), or fewer stages"),
        )


def _input(source: Source) -> tuple[Check, int | None]:
    """Whether the rows can be read, and the first of them loaded."""
    what = "input"
    try:
        count = sum(1 for _ in source.rows())
        refs = list(islice(source.rows(), 8))
    except UsageError as error:
        return _fail(what, str(error)), None
    outcomes = Loader().process(refs)
    bad = [outcome for outcome in outcomes if not isinstance(outcome, Sequence)]
    if refs and len(bad) == len(refs):
        return _fail(what, f"none of the first {len(refs)} rows loads: {bad[0].detail}"), count
    return _ok(what, f"{count:,} rows; {len(refs) - len(bad)} of the first {len(refs)} load"), count


def _output(output: str, rows: int | None) -> Iterator[Check]:
    folder = Folder.at(output)
    try:
        folder.write("write-test", b"")
        folder.delete("write-test")
        yield _ok("output", f"{folder.url} can be written")
    except (OSError, ValueError) as error:
        yield _fail("output", f"{folder.url} cannot be written: {error}")
        return
    if not folder.local:
        yield _unseen("disk", "object storage: no limit can be seen from here")
        return
    free = shutil.disk_usage(folder.url).free
    wanted = PAIR_BYTES * (rows or 0)
    enough = free > max(wanted, 10**9)
    yield (_ok if enough else _fail)(
        "disk",
        f"{size_text(free)} free" + (f", about {size_text(wanted)} wanted at most" if rows else ""),
    )
