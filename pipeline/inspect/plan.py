"""`plan`: what a run would do, before anything is paid for. Takes no device, starts no cluster."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from pipeline.engine.placement import GroupPlacement, Placement, pool_sizes
from pipeline.engine.resources import in_cluster, resources
from pipeline.engine.work import make_groups
from pipeline.recipes.build import RecipeBook
from pipeline.recipes.chains import make_chains
from pipeline.sources import Source


def plan(book: RecipeBook, placement: Placement, source: Source, limit: int | None) -> str:
    """Stages with their record types, the actors they share, and the number of rows and shards."""
    rows = sum(1 for _ in islice(source.rows(), limit))
    shards = -(-rows // book.shard_size)
    chains = make_chains(book, 0)
    groups = make_groups(chains, placement)
    lines = [
        f"recipe {book.name}: {book.about}",
        f"input {source.input.url}: {rows:,} rows, {shards:,} shards of {book.shard_size}",
    ]
    for chain in chains:
        lines.append(f"\n{chain.origin.recipe}  (digest {chain.origin.recipe_digest})")
        where = {
            link.name: group.index
            for group, _ in groups
            for part in group.chains
            if part.origin.recipe == chain.origin.recipe
            for link in part.links
        }
        width = max(len(link.name) for link in chain.links)
        for link in chain.links:
            stage = link.stage
            types = f"{stage.consumes.__name__} -> {stage.produces.__name__}"
            lines.append(f"  {link.name:<{width}}  {types:<36}  group {where[link.name]}")
    lines.append(f"\nplacement {placement.name}")
    for group, spec in groups:
        most = spec.max_actors or "as many as the CPUs allow"
        lines.append(
            f"  group {group.index}: {spec.min_actors} to {most} actors, "
            f"each {spec.num_cpus:g} CPU, {spec.num_gpus:g} GPU ({spec.device}), "
            f"{spec.micro_batch} seeds a micro-batch, {spec.time_limit_s:g} s limit a call"
        )
    lines.append(_against_the_cluster(placement, [spec for _, spec in groups], shards))
    return "\n".join(lines)


def _against_the_cluster(placement: Placement, used: Sequence[GroupPlacement], shards: int) -> str:
    """Actors of every group that has stages to run, in the cluster that RAY_ADDRESS names.

    UsageError if they do not fit.
    """
    if not in_cluster():
        return "  not held against a cluster: RAY_ADDRESS names none"
    there = resources()
    gpus = there.num_gpus or 0.0
    found = f"{there.num_cpus:g} CPUs and {gpus:g} GPUs"
    if placement.autoscale:
        return f"  the cluster has {found} now, and may grow"
    sizes = pool_sizes(used, there.num_cpus, gpus, max(shards, 1))
    return f"  the cluster has {found}: {', '.join(map(str, sizes))} actors"
