"""How many wrong pairs `edit` and `synthesis` let through, and how many right ones they lose.

Over synthetic scenes whose truth is known, with models that fail as often as they are told to: the
editor changes nothing, changes another thing, or drifts; the painter paints what it was not told;
the votes of the chat model lie. Everything except the models is the shipped code.

    PYTHONPATH=. .venv/bin/python deploy/bench/planted_failures.py > \
        deploy/bench/DATE-planted-failures.md
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence

from measure import header, quiet, scratch

from fakes.scene_runs import Trial

FAULTS = {"nothing": 0.10, "wrong": 0.15, "drifts": 0.05}
PAPERS_WRONG = 0.0941
"""Share of OViP's images that do not contradict the good answer (arXiv 2505.15963)."""
LIES = (0.0, 0.05, 0.1, 0.2)
ONE_VOTE = (
    "chat_verifier.votes=1",
    "chat_verifier.sampling.temperature=0.7",
)
CHECKS: dict[str, tuple[str, ...]] = {
    "one edit, one vote": ("editor.check=null", "editor.attempts=1", *ONE_VOTE),
    "one edit, three votes": ("editor.check=null", "editor.attempts=1"),
    "as shipped: up to three edits, each checked by a vote, then three votes": (),
}


def line(cells: Sequence[object]) -> str:
    """A row of a table."""
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def share(part: int, whole: int) -> str:
    """A count with its share: "3 of 40 (7.5 %)"."""
    return f"{part} of {whole} ({part / whole:.1%})" if whole else "0 of 0"


def measured(trial: Trial) -> list[str]:
    """The cells of a run: pairs, wrong ones among them, right candidates that were refuted."""
    wrong = sum(not trial.is_right(row) for row in trial.pairs)
    judged = trial.judged()
    right = judged[True, True] + judged[True, False]
    reached_wrong = judged[False, True] + judged[False, False]
    return [
        share(len(trial.pairs), len(trial.rows)),
        share(wrong, len(trial.pairs)),
        share(judged[False, True], reached_wrong),
        share(judged[True, False], right),
        str(sum(trial.asked.values())),
    ]


def faults_and_ends(trial: Trial) -> Iterator[str]:
    """What became of the edits of each kind, where each row had one."""
    by_index = {n["index"]: n["fault"] for n in trial.register.notes() if "fault" in n}
    ends: Counter[tuple[str, str]] = Counter()
    for row in trial.rows:
        fault = by_index.get(int(row["seed_id"].rsplit("-", 1)[1]))
        if fault is not None:
            ends[fault, row["reason"] or "pair"] += 1
    reasons = sorted({reason for _, reason in ends}, key=lambda r: (r != "pair", r))
    yield line(["edit", *reasons])
    yield "|---" * (1 + len(reasons)) + "|"
    for fault in ("", "nothing", "wrong", "drifts"):
        yield line([fault or "right", *(ends[fault, reason] for reason in reasons)])


def main() -> None:
    """Print tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--scenes", type=int, default=200)
    args = parser.parse_args()
    quiet()
    print(header("Planted failures"))
    print(
        f"{args.scenes} synthetic scenes, 128 px. Of all edits "
        + ", ".join(f"{value:.0%} {name}" for name, value in FAULTS.items())
        + ' ("nothing": comes back as it went; "wrong": another thing is changed, or the right one '
        'into a third; "drifts": the image moves, or lies on another ground). A vote lies with '
        "the chance given: one that should object says that all is well, and the other way round. "
        "A pair is wrong if, by what the images really show, `chosen` is not true of its image "
        "or true of the other, `counterfactual` likewise, or something else changed as well.\n"
    )
    print("## edit\n")
    head = ["votes that lie", "pairs of rows", "wrong of pairs", "wrong candidates let through",
            "right candidates refuted", "chat requests"]  # fmt: skip
    cross: list[str] = []
    for name, overrides in CHECKS.items():
        print(f"{name[0].upper()}{name[1:]}.\n\n{line(head)}\n{'|---' * len(head)}|")
        for lies in LIES:
            with scratch() as folder:
                trial = Trial(
                    folder, "edit", args.scenes, FAULTS, lies=lies, overrides=overrides
                ).run()
                print(line([f"{lies:.0%}", *measured(trial)]), flush=True)
                if lies == 0 and "editor.attempts=1" in overrides:
                    cross = list(faults_and_ends(trial))
        print()
    print("What became of the edits of each kind (one edit a row, no lies):\n")
    print("\n".join(cross), flush=True)
    print(f"\n## synthesis\n\n{PAPERS_WRONG:.2%} of the paintings show what they were not told.\n")
    for votes in (1, 3):
        overrides = ONE_VOTE if votes == 1 else ()
        print(f"{votes} vote{'s' * (votes > 1)}.\n\n{line(head)}\n{'|---' * len(head)}|")
        for lies in LIES:
            with scratch() as folder:
                faults = {"disobeys": PAPERS_WRONG}
                trial = Trial(
                    folder, "synthesis", args.scenes, faults, lies=lies, overrides=overrides
                ).run()
                print(line([f"{lies:.0%}", *measured(trial)]), flush=True)
        print()


if __name__ == "__main__":
    main()
