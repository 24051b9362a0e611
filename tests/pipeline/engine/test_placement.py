from __future__ import annotations

import re
from itertools import count
from pathlib import Path

import pytest
import ray
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.__main__ import main
from pipeline.demo.scenes import write_scenes
from pipeline.engine.placement import (
    GroupPlacement,
    Placement,
    load_placement,
    pool_sizes,
    runtime_env,
    split,
    unknown_stages,
)
from pipeline.engine.work import make_groups
from pipeline.errors import UsageError
from pipeline.inspect.plan import plan
from pipeline.recipes.build import load_recipe
from pipeline.recipes.chains import make_chains
from pipeline.sources import open_source

ROOT = Path(__file__).parents[3]


def chain(recipe="removal-cpu"):
    (found,) = make_chains(load_recipe(recipe), 0)
    return found


def names(parts):
    return [[link.name for link in part.links] for part in parts]


def placed(*groups):
    return Placement(name="mine", groups=[GroupPlacement(stages=stages) for stages in groups])


ALL = [link.name for link in chain().links]


def test_a_chat_model_gives_up_before_the_watchdog_blames_a_row():
    chains = make_chains(load_recipe("mvc"), 0)
    with pytest.raises(UsageError, match=r"questioner: call_limit_s 240 .* time_limit_s, 120 for"):
        make_groups(chains, Placement(groups=[GroupPlacement(time_limit_s=120)]))
    rest = GroupPlacement(time_limit_s=250)
    apart = GroupPlacement(stages=["loader", "given_negative", "embedder"], time_limit_s=9)
    assert len(make_groups(chains, Placement(groups=[apart, rest]))) == 2


def test_one_group_runs_everything():
    assert names(split(chain(), Placement())) == [ALL]


def test_groups_take_what_they_name_and_one_the_rest():
    front, back = ALL[:3], ALL[3:]
    assert names(split(chain(), placed(front, "rest"))) == [front, back]
    assert names(split(chain(), placed("rest", back))) == [front, back]
    middle = names(split(chain(), placed(ALL[:2], ALL[2:5], ALL[5:])))
    assert middle == [ALL[:2], ALL[2:5], ALL[5:]]


def test_the_parts_put_together_are_the_chain():
    middle = ["annotated_regions", "segmenter", "inpainter"]
    for recipe in ("removal-cpu", "crop"):
        parts = split(chain(recipe), placed(["loader"], middle, "rest"))
        assert [link for part in parts for link in part.links] == list(chain(recipe).links)
        assert {part.origin for part in parts} == {chain(recipe).origin}
    # A recipe without these stages has nothing to do in that group.
    assert [len(part.links) for part in parts] == [1, 0, 4]


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ((ALL[2:], ALL[:2]), "stage segmenter .* in group 0, behind a stage of group 1"),
        (("rest", ["segmenter"]), "stage inpainter .* is in group 0, behind a stage of group 1"),
        ((ALL[:4],), "no group runs stage embedder of recipe removal-cpu"),
    ],
)
def test_groups_that_do_not_follow_the_chain_are_refused(groups, said):
    with pytest.raises(UsageError, match=said):
        split(chain(), placed(*groups))


def test_a_stage_that_no_recipe_has_is_found():
    book = load_recipe("crop")
    assert unknown_stages(
        make_chains(book, 0), placed(["loader", "segmenter", "croper"], "rest")
    ) == [
        "croper",
        "segmenter",
    ]
    assert unknown_stages(make_chains(book, 0), Placement()) == []


def load(folder, content):
    path = folder / "placement.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return load_placement(str(path))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"group": []}, ["unknown key 'group'; did you mean groups?"]),
        ({"groups": [{"num_cpu": 1}]}, ["groups.0: unknown key 'num_cpu'; did you mean num_cpus?"]),
        ({"groups": []}, ["groups", "at least 1 item"]),
        ({"groups": [{"device": "cuda"}]}, ["device cuda with num_gpus 0", "needs GPUs"]),
        ({"groups": [{"num_gpus": 1}]}, ["device cpu with num_gpus 1", "must not take any"]),
        ({"groups": [{"device": "cuda", "num_gpus": 0.6}]}, ["num_gpus 0.6", "does not tile"]),
        ({"groups": [{"device": "cuda", "num_gpus": 1.5}]}, ["num_gpus 1.5", "whole number"]),
        ({"groups": [{"pip_options": ["--no-deps"]}]}, ["pip_options --no-deps", "name packages"]),
        ({"groups": [{"device": "tpu"}]}, ["groups.0.device", "'tpu'"]),
        ({"groups": [{"min_actors": 0}]}, ["groups.0.min_actors", "greater than or equal to 1"]),
        (
            {"groups": [{"min_actors": 3, "max_actors": 2}]},
            ["max_actors 2 is less than min_actors 3"],
        ),
        ({"groups": [{"num_cpus": 0}]}, ["groups.0.num_cpus", "greater than 0"]),
        ({"groups": [{"micro_batch": 2.5}]}, ["groups.0.micro_batch", "2.5"]),
        ({"groups": [{"time_limit_s": 0}]}, ["groups.0.time_limit_s"]),
        ({"groups": [{"stages": "all"}]}, ["groups.0.stages", "'all'"]),
        ({"groups": [{}, {}]}, ["only one group may take the rest"]),
        (
            {"groups": [{"stages": ["loader"]}, {"stages": ["loader", "masker"]}]},
            ["loader", "two groups"],
        ),
        ({"max_error_share": 1.5}, ["max_error_share", "1.5"]),
        ("- a\n", ["placement.yaml"]),
        ("", ["placement.yaml"]),
        ("name: [", ["placement.yaml", "not valid YAML"]),
        ("name: a\nname: b\n", ["placement.yaml", "name stands there twice"]),
    ],
)
def test_a_wrong_placement_is_refused(tmp_path, content, words):
    with pytest.raises(UsageError) as caught:
        load(tmp_path, content)
    message = str(caught.value)
    assert "\n" not in message
    assert "placement.yaml" in message
    for word in words:
        assert word in message, message


def test_a_placement_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match=r"placement file .*/none.yaml does not exist"):
        load_placement(str(tmp_path / "none.yaml"))


@pytest.mark.ray
def test_plan_holds_a_placement_against_the_cluster(tmp_path, monkeypatch):
    (tmp_path / "rows.jsonl").write_text('{"image": "a.jpg", "chosen": "A dog."}\n' * 40)
    book, cpu = (load_recipe(name, ["shard_size=1"]) for name in ("removal", "removal-cpu"))
    source = open_source(str(tmp_path / "rows.jsonl"), {"id": ""})
    placement = load_placement(str(ROOT / "deploy" / "placements" / "gpu-8.yaml"))
    assert "RAY_ADDRESS names none" in plan(book, placement, source, None)
    ray.init(address="local", num_cpus=64, num_gpus=8, object_store_memory=100 * 2**20,
             include_dashboard=False, log_to_driver=False)  # fmt: skip
    try:
        monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
        assert "64 CPUs and 8 GPUs: 12, 16, 12 actors" in plan(book, placement, source, None)
        # A group without a stage of the recipe asks for nothing.
        unused = GroupPlacement(stages=["tagger"], device="cuda", num_gpus=1, min_actors=9)
        placement = Placement(groups=[unused, GroupPlacement(num_cpus=32)])
        assert "8 GPUs: 2 actors" in plan(cpu, placement, source, None)
        larger = load_placement(str(ROOT / "deploy" / "placements" / "gpu-64.yaml"))
        with pytest.raises(UsageError, match=r"needs at least .* 16 GPUs, .* has 64 and 8"):
            plan(book, larger, source, None)
    finally:
        ray.shutdown()


def test_the_default_placement_is_the_laptops():
    assert load_placement(None) == load_placement(str(ROOT / "deploy/placements/laptop.yaml"))


@st.composite
def groups_strategy(draw):
    groups = []
    for _ in range(draw(st.integers(1, 4))):
        gpus = draw(st.sampled_from([0.0, 0.0, 0.1, 0.19, 0.33, 0.45, 0.5, 1.0, 2.0]))
        least = draw(st.integers(1, 4))
        most = draw(st.none() | st.integers(least, 12))
        groups.append(
            GroupPlacement(
                device="cuda" if gpus else "cpu",
                num_gpus=gpus,
                num_cpus=draw(st.sampled_from([0.1, 0.25, 0.3, 0.5, 1.0, 2.0])),
                min_actors=least,
                max_actors=most,
            )
        )
    return groups


def starts(groups, sizes, num_gpus):
    """Whether all actors find GPUs when they start one after the other, as Ray lets them."""
    free = [10_000] * num_gpus
    for group, size in zip(groups, sizes, strict=True):
        wanted = round(group.num_gpus * 10_000)
        for _ in range(size if wanted else 0):
            if wanted >= 10_000:
                places = [i for i, room in enumerate(free) if room == 10_000]
                places = places[: wanted // 10_000]
                if len(places) < wanted // 10_000:
                    return False
            else:
                roomy = [i for i, room in enumerate(free) if room >= wanted]
                if not roomy:
                    return False
                places = [min(roomy, key=lambda i: free[i])]
            for i in places:
                free[i] -= min(wanted, 10_000)
    return True


@given(
    groups_strategy(),
    st.floats(0, 40) | st.integers(0, 8),
    st.sampled_from([0, 1, 2, 3, 8]),
    st.integers(1, 50),
)
def test_pools_start_in_the_cluster_together_and_leave_no_room(groups, cpus, gpus, most):
    least = [group.min_actors for group in groups]
    least_cpus = sum(n * g.num_cpus for n, g in zip(least, groups, strict=True))
    if least_cpus > cpus + 1e-9 or not starts(groups, least, gpus):
        least_gpus = next(n for n in count() if starts(groups, least, n))
        said = f"at least {least_cpus:g} CPUs, {least_gpus} GPUs"
        with pytest.raises(UsageError, match=re.escape(said)):
            pool_sizes(groups, cpus, gpus, most)
        return
    sizes = pool_sizes(groups, cpus, gpus, most)
    used_cpus = sum(s * g.num_cpus for s, g in zip(sizes, groups, strict=True))
    assert used_cpus <= cpus + 1e-6
    assert starts(groups, sizes, gpus)
    for i, (size, group) in enumerate(zip(sizes, groups, strict=True)):
        assert size >= group.min_actors
        assert size <= max(group.min_actors, min(group.max_actors or most, most))
        full = size >= min(group.max_actors or most, most)
        one_more = [n + (k == i) for k, n in enumerate(sizes)]
        room = used_cpus + group.num_cpus <= cpus - 1e-6 and starts(groups, one_more, gpus)
        assert full or not room


@pytest.mark.parametrize(
    ("share", "gpus", "actors"), [(0.33, 64, 192), (0.33, 33, 99), (0.45, 20, 40), (0.19, 16, 80)]
)
def test_shares_that_are_left_over_on_each_gpu_are_not_added_up(share, gpus, actors):
    groups = [GroupPlacement(device="cuda", num_gpus=share, num_cpus=0.1)]
    assert pool_sizes(groups, 1000, gpus, 1000) == [actors]
    groups = [groups[0].model_copy(update={"min_actors": actors + 1})]
    with pytest.raises(UsageError, match=rf"{gpus + 1} GPUs, the cluster has 1000 and {gpus};"):
        pool_sizes(groups, 1000, gpus, 1000)


def test_groups_share_a_gpu():
    shares = [0.5, 0.25, 0.19]
    groups = [GroupPlacement(device="cuda", num_gpus=share, num_cpus=0.1) for share in shares]
    assert pool_sizes(groups, 100, 1, 100) == [1, 1, 1]
    # A whole one goes to nobody else, whatever room is left on the first.
    assert pool_sizes([*groups, GroupPlacement(device="cuda", num_gpus=1)], 100, 2, 1) == [1] * 4


def test_room_is_shared_evenly():
    groups = [GroupPlacement(num_cpus=1), GroupPlacement(stages=["masker"], num_cpus=1)]
    assert pool_sizes(groups, 8, 0, 100) == [4, 4]
    assert pool_sizes(groups, 8, 0, 3) == [3, 3]
    assert pool_sizes(groups, 5, 0, 100) == [3, 2]
    tenth = [GroupPlacement(num_cpus=0.1)]
    assert pool_sizes(tenth, 1, 0, 100) == [10]
    # 3 x 0.1 + 7 x 0.1 is 1.0000000000000002 in floats.
    tenths = [GroupPlacement(num_cpus=0.1, min_actors=n) for n in (3, 7)]
    assert pool_sizes(tenths, 1, 0, 100) == [3, 7]


def test_a_cluster_that_is_too_small_is_refused():
    with pytest.raises(UsageError, match=r"needs at least 4 CPUs, 0 GPUs, the cluster has 2 and 0"):
        pool_sizes([GroupPlacement(min_actors=4)], 2, 0, 10)
    gpu = GroupPlacement(device="cuda", num_gpus=1)
    with pytest.raises(UsageError, match=r"at least 1 CPUs, 1 GPUs, the cluster has 8 and 0"):
        pool_sizes([gpu], 8, 0, 10)


def test_packages_of_a_groups_own_become_a_runtime_environment_of_ray(tmp_path):
    group = GroupPlacement(pip=("a==1",), pip_options=("--no-deps",))
    wanted = {"pip": {"packages": ["a==1"], "pip_install_options": ["--no-deps"]}}
    assert runtime_env(group) == wanted
    assert runtime_env(GroupPlacement(pip=("a==1",))) == {"pip": {"packages": ["a==1"]}}
    assert runtime_env(GroupPlacement()) is None
    write_scenes(tmp_path / "input", 2, side=96)
    (tmp_path / "own.yaml").write_text("name: own\ngroups:\n  - {pip: [a==1]}\n")
    words = ["run", "crop", "--input", str(tmp_path / "input" / "seeds.jsonl"), "--placement",
             str(tmp_path / "own.yaml"), "--output", str(tmp_path / "run"), "--local"]  # fmt: skip
    assert main(words) == 2
