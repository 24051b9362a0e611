"""How many wrong pairs `mvc` and `retrieval` let through, and how many right ones they lose.

`mvc` over pairs of ours as somebody brings them, of which some have the same image twice or a
caption that is true of neither; `retrieval` over scenes, with a chat model whose answer is at times
that of another image. The votes of the chat model lie. All code except the models is what ships.

    PYTHONPATH=. .venv/bin/python deploy/bench/planted_pairs.py
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from measure import header, quiet, scratch

from fakes.chat_server import ChatServer
from fakes.pair_runs import EMBEDDERS, Witness, planted, rows_of, shade, truth_of
from pipeline.__main__ import main as pipeline
from pipeline.demo.scenes import write_scenes
from schemas.files import Folder
from schemas.shards import read_pairs

SAME_IMAGE, WRONG_CAPTION, WRONG_ANSWER = 0.10, 0.15, 0.10
LIES = (0.0, 0.05, 0.1, 0.2)
ASKED = {"mvc": ("questioner", "rewriter"), "retrieval": ("answerer",)}
HEAD = ("votes that lie", "pairs of rows", "wrong of pairs", "wrong rows let through",
        "right rows lost", "of them refuted", "chat requests")  # fmt: skip


def share(part: int, whole: int) -> str:
    """A count with its share."""
    return f"{part} of {whole} ({part / whole:.1%})" if whole else "0 of 0"


def run(recipe: str, folder: Path, source: Path, witness: Witness, more: Sequence[str]) -> int:
    """A run of the recipe in `folder / "run"`; returns how often the chat model was asked."""
    with ChatServer(witness) as server:
        places = [f"{stage}.chat.base_url={server.url}" for stage in ASKED[recipe]]
        settings = [*EMBEDDERS, *places, f"chat_verifier.chat.base_url={server.url}", *more]
        words = ["run", recipe, "--input", str(source), "--output", str(folder / "run"), "--local"]
        if recipe == "mvc":
            words += ["--columns", "image=chosen_image,counterfactual_image=rejected_image"]
        for setting in settings:
            words += ["--set", setting]
        if pipeline(words):
            raise SystemExit(f"the run in {folder} failed")
        return len(server.payloads)


def cells(
    rows: list[dict[str, Any]], is_right: Callable[[dict[str, Any]], bool], asked: int
) -> list[str]:
    """What came of right and of wrong rows."""
    right = [row for row in rows if is_right(row)]
    wrong = [row for row in rows if not is_right(row)]
    pairs = [row for row in rows if row["status"] == "pair"]
    through = sum(row["status"] == "pair" for row in wrong)
    lost = [row for row in right if row["status"] != "pair"]
    refuted = sum(row["reason"] == "refuted" for row in lost)
    return [
        share(len(pairs), len(rows)),
        share(through, len(pairs)),
        share(through, len(wrong)),
        share(len(lost), len(right)),
        str(refuted),
        str(asked),
    ]


def mvc(folder: Path, pairs: list[dict[str, Any]], lies: float, votes: int) -> list[str]:
    """A run of `mvc` over brought pairs."""
    pq.write_table(
        pa.Table.from_pylist(planted(pairs, SAME_IMAGE, WRONG_CAPTION)), folder / "pairs.parquet"
    )
    limits = "double_threshold.limits.attribute={min_appearance: 0.3, max_detail: 0.999}"
    votes_set = f"chat_verifier.votes={votes}"
    witness = Witness(truth_of(pairs), lies)
    asked = run("mvc", folder, folder / "pairs.parquet", witness, (limits, votes_set))
    return cells(
        rows_of(folder / "run"), lambda row: not row["seed_id"].startswith(("same", "wrong")), asked
    )


def retrieval(folder: Path, num: int, lies: float, votes: int) -> list[str]:
    """A run of `retrieval` over scenes."""
    seeds = write_scenes(folder / "input", num, side=96)
    lines = [json.loads(line) for line in seeds.read_text("utf-8").splitlines()]
    truth = {shade((seeds.parent / row["image"]).read_bytes()): row["chosen"] for row in lines}
    witness = Witness(truth, lies, WRONG_ANSWER)
    more = ("pairing.embedder=color_layout", "pairing.min_similarity=0.3",
            "double_threshold.limits={}", f"chat_verifier.votes={votes}")  # fmt: skip
    asked = run("retrieval", folder, seeds, witness, more)

    def is_right(row: dict[str, Any]) -> bool:
        sides = (("chosen_image", "chosen"), ("rejected_image", "counterfactual"))
        return all(witness.shown(row[image]["bytes"]) == row[text] for image, text in sides)

    rows = rows_of(folder / "run")
    unpaired = [row for row in rows if row["reason"] == "no_given_negative"]
    return cells([row for row in rows if row not in unpaired], is_right, asked)


def table(title: str, measured: Callable[[Path, float], list[str]]) -> None:
    """A table over the chances to lie."""
    print(f"{title}\n\n| {' | '.join(HEAD)} |\n{'|---' * len(HEAD)}|")
    for lies in LIES:
        with scratch() as folder:
            print(f"| {lies:.0%} | {' | '.join(measured(folder, lies))} |", flush=True)
    print()


def main() -> None:
    """Print tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--scenes", type=int, default=200)
    args = parser.parse_args()
    quiet()
    print(header("Planted failures: pairs that are brought or found"))
    print(
        f"{args.scenes} synthetic scenes. A vote lies with the chance given. `mvc`: of the pairs "
        f"(made by `recolor-cpu`) {SAME_IMAGE:.0%} have the same image twice and "
        f"{WRONG_CAPTION:.0%} a caption that is true of neither. `retrieval`: of the images "
        f"{WRONG_ANSWER:.0%} get the answer of another one.\n"
    )
    with scratch() as folder:
        seeds = write_scenes(folder / "input", args.scenes, side=128)
        made = ["run", "recolor-cpu", "--input", str(seeds), "--output", f"{folder}/run", "--local"]
        if pipeline(made):
            raise SystemExit("recolor-cpu failed")
        pairs = pa.concat_tables(list(read_pairs(Folder.at(f"{folder}/run")))).to_pylist()
    for votes in (1, 3):
        many = f"{votes} vote{'s' * (votes > 1)}."
        table(f"## mvc, {many}", lambda f, lies, v=votes: mvc(f, pairs, lies, v))
        table(f"## retrieval, {many}", lambda f, lies, v=votes: retrieval(f, args.scenes, lies, v))


if __name__ == "__main__":
    main()
