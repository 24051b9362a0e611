"""Plans with a chat model the edit that makes a seed's wrong answer right (IC-VCO's first step)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from annotated_types import Ge
from pydantic import Field

from schemas.records import Contrast, Drop, Kind, Reason, Region, Seed, Span
from schemas.texts import Hallucination, PlannedEdit
from stages import wording
from stages.base import Device
from stages.language.chat import ChatBackend, Form, Reply, Request, Sampling
from stages.language.prompting import Prompt, PromptField
from stages.language.stage import ChatStage

KINDS = {
    Hallucination.EXISTENCE: Kind.OBJECT,
    Hallucination.ATTRIBUTE: Kind.ATTRIBUTE,
    Hallucination.RELATION: Kind.RELATION,
}
"""The contrast that an edit makes which turns a hallucination into the truth."""

_MORE = frozenset({"another", "more", "second", "third", "additional", "extra"})


class EditPlan(Form):
    """What the model fills in."""

    reason: str = Field(description="what is wrong, and why the edit mends it")
    possible: bool = Field(description="whether one local edit can do it")
    hallucination: Hallucination
    quote: str = Field(description="the wrong words of the wrong answer, copied letter by letter")
    target: str = Field(description="what the image shows now and the edit changes")
    replacement: str | None = Field(description="what it becomes; null where it is taken away")
    instruction: str = Field(description="the edit in one sentence, for an image editor")
    counterfactual: str = Field(description="the true answer, rewritten for the edited image")


@dataclass(frozen=True)
class Planner(ChatStage[Seed, PlannedEdit, EditPlan]):
    """Finds what is wrong in `rejected` and plans the edit after which it would be right.

    IC-VCO (arXiv 2605.31312) asks a vision-language model for the point (existence, attribute or
    relation) and an instruction, and has the true answer rewritten to fit the edited image; here
    one call gives both. The plan is held against the seed: the quoted words must stand in
    `rejected`, and the rewritten answer must differ from `chosen`.
    """

    task: ClassVar[str] = "planning the edit"

    chat: ChatBackend
    """Who plans; sees the image."""
    prompt: PromptField = field(default_factory=lambda: Prompt("plan_edit"))
    """What it is told; with the placeholders image, prompt, chosen, rejected."""
    sampling: Sampling = field(default_factory=lambda: Sampling(max_tokens=1024))
    """How its reply is drawn."""
    max_instruction: Annotated[int, Ge(1)] = 400
    """Characters of the longest instruction that is let through to an editor."""

    def __post_init__(self) -> None:
        """ValueError for a prompt that does not fit."""
        self.prompt.require({"image", "prompt", "chosen", "rejected"})

    def open(self, device: Device) -> None:
        """Load the word rules, outside any call's time limit, and the model."""
        wording.load_rules()
        super().open(device)

    def ask(self, record: Seed) -> Request[EditPlan] | Drop:
        """How the wrong answer can be made right; MISSING_ANSWER for a row that has none."""
        if record.rejected is None:
            return Drop(Reason.MISSING_ANSWER, "the row has no wrong answer to plan an edit from")
        messages = self.prompt.messages(
            {
                "image": record.image,
                "prompt": record.prompt,
                "chosen": record.chosen,
                "rejected": record.rejected,
            }
        )
        return self.request(messages, EditPlan, record, "planner")

    def conclude(self, record: Seed, reply: Reply[EditPlan]) -> Sequence[PlannedEdit] | Drop:
        """The planned edit, or why the plan does not fit the seed."""
        plan, raw = reply.value, reply.raw
        if not plan.possible:
            return Drop(Reason.NOTHING_TO_EDIT, " ".join(plan.reason.split())[:300], raw)
        target, instruction = plan.target.strip(), " ".join(plan.instruction.split())
        counterfactual = plan.counterfactual.strip()
        for name, text in (
            ("target", target),
            ("instruction", instruction),
            ("counterfactual", counterfactual),
        ):
            if not text:
                return Drop(Reason.BAD_REPLY, f"the plan's {name} is empty", raw)
        span = locate(plan.quote, record.rejected or "")
        if span is None:
            return Drop(
                Reason.NOTHING_TO_EDIT,
                f'the words said to be wrong, "{plan.quote[:80]}", are not in the rejected answer',
                raw,
            )
        if len(instruction) > self.max_instruction:
            return Drop(
                Reason.TEXT_TOO_LONG,
                f"the instruction has {len(instruction)} characters, most {self.max_instruction}",
                raw,
            )
        if wording.difference(record.chosen, counterfactual) is None:
            return Drop(
                Reason.NO_TEXT_DIFFERENCE, "the rewritten answer has the words of the true one", raw
            )
        return [
            PlannedEdit(
                seed=record,
                hallucination=plan.hallucination,
                hallucinated=(span,),
                contrast=Contrast(
                    kind=KINDS[plan.hallucination],
                    target=target,
                    replacement=(plan.replacement or "").strip() or None,
                    instruction=instruction,
                ),
                counterfactual=counterfactual,
                regions=_regions(record, target, plan),
            )
        ]


def locate(quote: str, text: str) -> Span | None:
    """Where the words of a quote stand in a text, first place; case and punctuation aside."""
    wanted = [token.lower for token in wording.tokenize(quote) if token.is_word]
    words = [token for token in wording.tokenize(text) if token.is_word]
    for i in range(len(words) - len(wanted) + 1):
        part = words[i : i + len(wanted)]
        if wanted and [token.lower for token in part] == wanted:
            return Span(part[0].start, part[-1].end)
    return None


def _regions(seed: Seed, target: str, plan: EditPlan) -> tuple[Region, ...]:
    """The one annotated region that the target can mean; () where none or several can.

    Nor is it known where a thing is moved to, or where one more of its kind is put.
    """
    if plan.hallucination is Hallucination.RELATION:
        return ()
    fits = [
        region
        for region in seed.regions
        for meant in wording.find_mentions(target, region.label)
        if wording.refers_to(meant, region.label, region.attributes)
        and not _adds(plan.replacement or "", region, meant.number or 1)
    ]
    return (fits[0],) if len(fits) == 1 else ()


def _adds(replacement: str, region: Region, number: int) -> bool:
    """Whether a replacement speaks of more things like the region, or fewer, than `number`."""
    for mention in wording.find_mentions(replacement, region.label):
        words = {token.lower for token in mention.modifiers}
        if mention.opener is not None:
            words.add(mention.opener.lower)
        if mention.number not in (None, number) or words & _MORE:
            return True
    return False
