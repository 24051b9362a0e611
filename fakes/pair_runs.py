"""A chat model for `mvc` and `retrieval` that knows what each image shows, and lies at will."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa

from fakes.chat_server import Say, images, system_text, user_text
from schemas.files import Folder
from schemas.ids import row_seed
from schemas.shards import read_part

EMBEDDERS = ("embedder.appearance=color_layout", "embedder.detail=gradient_grid")
FINE = {"a_of_first": "yes", "a_of_second": "no", "b_of_first": "no", "b_of_second": "yes"}
SENTENCE = r'"(?:[^"\\]|\\.)*"'


def shade(image: bytes) -> bytes:
    """What an image is known by, whatever codec it went through: its pixels, very coarse."""
    small = PIL.Image.open(io.BytesIO(image)).convert("RGB").resize((12, 12))
    return (np.asarray(small).astype(int) // 4).astype(np.uint8).tobytes()


@dataclass(frozen=True)
class Witness:
    """Asks, rewrites, answers and judges by what is true of the image."""

    truth: Mapping[bytes, str]
    """What an image shows, by its `shade`."""
    lies: float = 0.0
    """Chance that a vote objects to what is right, and not to what is wrong; by its seed."""
    wrong_answers: float = 0.0
    """Chance that the answer to a question is that of another image; by image."""

    def __call__(self, payload: dict[str, Any]) -> Say:
        system = system_text(payload)
        if "You write questions" in system:
            return Say({"contrast": "colour", "question": "What can be seen in the image?"})
        if "You turn captions" in system:
            return Say({
                "question": "What can be seen there?",
                "answer_a": f"Well: {_quoted('Caption A', payload)}",
                "answer_b": f"Well: {_quoted('Caption B', payload)}",
            })  # fmt: skip
        if "You answer questions" in system:
            return Say(self.answer(images(payload)[0]))
        return self._vote(payload)

    def shown(self, image: bytes) -> str:
        """The text of the known image that is most like this one."""
        mine = np.frombuffer(shade(image), np.uint8).astype(int)
        known = self.truth.items()
        return min(known, key=lambda kv: np.abs(np.frombuffer(kv[0], np.uint8) - mine).sum())[1]

    def answer(self, image: bytes) -> str:
        """What it says of an image."""
        shown = self.shown(image)
        if _chance(shown) >= self.wrong_answers:
            return shown
        others = sorted(set(self.truth.values()) - {shown})
        return others[int(_chance(f"other {shown}") * len(others))]

    def _vote(self, payload: dict[str, Any]) -> Say:
        text = user_text(payload)
        answers = [json.loads(t) for t in re.findall(SENTENCE, text)][-2:]
        both = [self.shown(image) for image in images(payload)]
        found = {
            f"{letter}_of_{place}": "yes" if shown in answer else "no"
            for letter, answer in zip("ab", answers, strict=True)
            for place, shown in zip(("first", "second"), both, strict=True)
        }
        if _chance(f"{payload['seed']}{text}") < self.lies:
            # One that should object says that all is well, and the other way round.
            fine = found == FINE
            found = FINE | {"a_of_second": "yes"} if fine else FINE
        return Say({"reason": " / ".join(both), **found})


def _quoted(label: str, payload: dict[str, Any]) -> str:
    (found,) = re.findall(f"{label}: ({SENTENCE})", user_text(payload))
    return json.loads(found)


def _chance(text: str) -> float:
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 16**8


def truth_of(pairs: list[dict[str, Any]]) -> dict[bytes, str]:
    """What both images of each pair show."""
    truth = {shade(p["rejected_image"]["bytes"]): p["counterfactual"] for p in pairs}
    return truth | {shade(p["chosen_image"]["bytes"]): p["chosen"] for p in pairs}


def pair_rows(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Right pairs as rows of a table that somebody brings."""
    names = ("chosen_image", "rejected_image", "chosen", "counterfactual")
    fixed = {"kind": "attribute", "prompt": "Describe the image."}
    return [
        {"id": f"p{number}"} | {name: pair[name] for name in names} | fixed
        for number, pair in enumerate(pairs)
    ]


def same_image(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its image on both sides."""
    return row | {"id": f"same-{row['id']}", "rejected_image": row["chosen_image"]}


def wrong_caption(row: dict[str, Any], pair: dict[str, Any]) -> dict[str, Any]:
    """The row with a caption that is true of neither image."""
    start, end = pair["counterfactual_spans"][0]
    text = row["counterfactual"]
    other = f"{text[:start]}transparent{text[end:]}"
    return row | {"id": f"wrong-{row['id']}", "counterfactual": other}


def planted(pairs: list[dict[str, Any]], same: float, wrong: float) -> list[dict[str, Any]]:
    """The pairs as rows, of which some are spoilt; the spoilt say so by their id."""
    rows = []
    for row, pair in zip(pair_rows(pairs), pairs, strict=True):
        draw = np.random.default_rng(row_seed(0, row["id"], "planted")).random()
        if draw < same:
            rows.append(same_image(row))
        elif draw < same + wrong:
            rows.append(wrong_caption(row, pair))
        else:
            rows.append(row)
    return rows


def rows_of(run: Path) -> list[dict[str, Any]]:
    """What became of the rows of a finished run."""
    folder = Folder.at(str(run))
    shards = range(len(folder.names("parts")))
    return pa.concat_tables([t for s in shards for t in read_part(folder, s)]).to_pylist()
