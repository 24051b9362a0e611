"""The records that cross stage boundaries: one frozen dataclass per boundary.

    SeedRef -loader-> Seed -annotated_regions-> Grounded
    Seed -tagger-> Tagged -detector-> Grounded -segmenter-> Segmented -inpainter-> Candidate
    Seed -flipper, cropper, given_negative-> Candidate
    Seed -planner-> PlannedEdit -editor-> Candidate
    Seed -sampler-> Sampled -judge-> Judged -answer_pairs-> AnswerPair -describer-> Described
    Described -synthesizer-> Candidate
    Candidate -embedder-> ScoredCandidate -filter, scorer-> ScoredCandidate
    ScoredCandidate -verifier-> VerifiedCandidate -selector-> VerifiedCandidate
    VerifiedCandidate -masker-> SpannedCandidate -> Pair

Records that hold what language models write between a seed and its candidate are in `texts.py`. A
record that leaves the flow early becomes a `Drop`. `outcomes.py` flattens the last record into the
columns of `Pair`, so that a dropped row keeps everything that was known about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from schemas.known import Known, Thing
from schemas.known import Region as Region  # noqa: PLC0414  # read with the records
from schemas.provenance import Provenance as Provenance  # noqa: PLC0414  # read with the records
from schemas.provenance import Step as Step  # noqa: PLC0414  # read with the records
from schemas.reasons import Reason as Reason  # noqa: PLC0414  # read with the records

Bytes = bytes
"""An alias, because a field called `bytes` hides the type where its own annotations are read."""

SCHEMA_VERSION = 3
"""Raised whenever a column of `Pair` changes its name, type or meaning; see CHANGELOG.md."""


class Kind(StrEnum):
    """How the two images differ.

    The contrast types of MVC (arXiv 2502.13928), mDPO's crop, IC-VCO's relation (arXiv 2605.31312),
    and another image altogether (OViP's synthesis, retrieval).
    """

    OBJECT = "object"
    ATTRIBUTE = "attribute"
    COUNT = "count"
    POSITION = "position"
    CROP = "crop"
    RELATION = "relation"
    SCENE = "scene"


@dataclass(frozen=True, slots=True)
class Drop:
    """A judged exit from the flow."""

    reason: Reason
    """The kind of drop; `status` counts them by it."""
    detail: str = ""
    """One line for a person: the value that decided, and its limit."""
    evidence: str = ""
    """The judged text, word for word, if it is not in the record: a model's raw reply."""


class Span(NamedTuple):
    """Half-open character offsets [start, end) into the exact answer string (code points)."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Image:
    """A compressed image: the Hugging Face `Image` storage struct."""

    bytes: Bytes
    """The file's content (JPEG, PNG, ...), never decoded pixels."""
    path: str | None = None
    """File name or URL it came from; for people only, never opened again."""


@dataclass(frozen=True, slots=True)
class ImageRef:
    """Where a seed's image is, before anybody has read it."""

    path: str | None
    """File, URL or (with `row`) the Parquet file that embeds the image; None for `bytes` alone."""
    row: int | None = None
    """Row of the Parquet file at `path`, counted from 0 over the whole file."""
    column: str | None = None
    """Column of the Parquet file at `path`; dots descend into structs."""
    bytes: Bytes | None = None
    """The image itself where the input carried it inline (data URL, bytes struct in JSON)."""


@dataclass(frozen=True, slots=True)
class GivenNegativeRef:
    """The other half of a pair that the input brought, before anybody has read its image."""

    image: ImageRef
    """Where the other image is."""
    answer: str | None
    """An answer that is true of it."""
    kind: Kind | None
    """How it differs, as the input says; None where it does not say."""
    params: Mapping[str, str]
    """How it was found: {"similarity": "0.8312", ...}; {} where the input named it."""


@dataclass(frozen=True, slots=True)
class SeedRef:
    """One input row as the manifest holds it: everything but the pixels."""

    seed_id: str
    """The row's own id, or a content id where it has none. Unique in the run."""
    run_seed: int
    """The run's `--seed`; with `seed_id` and the stage it decides every random draw of the row."""
    image: ImageRef
    """Where the image is."""
    prompt: str
    """The user's turn, without image placeholders."""
    chosen: str
    """An answer that is true of the image."""
    rejected: str | None
    """The ordinary wrong answer, where the input has one."""
    regions: tuple[Region, ...]
    """Annotated regions, in pixels of the upright image (EXIF applied); not yet checked."""
    source: str
    """File and row, or dataset name and id: enough for a reviewer to find the row again."""
    license: str | None
    """Licence of the image, as the input states it."""
    defect: Drop | None = None
    """A defect that the reader found already; the loader drops the row for it."""
    given_negative: GivenNegativeRef | None = None
    """The other half of the pair, where the input rows are pairs."""


@dataclass(frozen=True, slots=True)
class GivenNegative:
    """The other half of a pair that the input brought, its image read and found good."""

    image: Image
    """Upright 8-bit RGB like `Seed.image`, of its own size."""
    answer: str | None
    """As in `GivenNegativeRef`."""
    kind: Kind | None
    """As in `GivenNegativeRef`."""
    params: Mapping[str, str]
    """As in `GivenNegativeRef`."""


@dataclass(frozen=True, slots=True)
class Seed:
    """An input row whose image was read and found good."""

    seed_id: str
    """As in `SeedRef`."""
    run_seed: int
    """As in `SeedRef`."""
    image: Image
    """Upright 8-bit RGB, no longer than the loader's limit on any side. Still compressed."""
    width: int
    """Columns of `image`, in pixels."""
    height: int
    """Rows of `image`, in pixels."""
    prompt: str
    """As in `SeedRef`."""
    chosen: str
    """As in `SeedRef`."""
    rejected: str | None
    """As in `SeedRef`."""
    regions: tuple[Region, ...]
    """Annotated regions, in pixels of `image`, clipped to it."""
    source: str
    """As in `SeedRef`."""
    license: str | None
    """As in `SeedRef`."""
    given_negative: GivenNegative | None = None
    """The other half of the pair, until a candidate is made of it."""


@dataclass(frozen=True, slots=True)
class Tag:
    """A kind of thing that an image shows, in words."""

    name: str
    """As a detector is asked for it: "red panda"."""
    score: float
    """The tagger's confidence in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Tagged:
    """A seed and what its image shows."""

    seed: Seed
    """The seed."""
    tags: tuple[Tag, ...]
    """Most confident first; () where the seed's annotated regions make tags unnecessary."""


@dataclass(frozen=True, slots=True)
class Grounded:
    """A seed, what is known to be in its image, and which of it is worth changing."""

    seed: Seed
    """The seed."""
    known: Known
    """Everything annotated or, without annotations, detected; pixels of `seed.image`."""
    targets: tuple[int, ...]
    """At least one thing that the answer mentions, as an index into `known`; the best first."""

    @property
    def regions(self) -> tuple[Region, ...]:
        """The targets, as pairs hold them."""
        return tuple(self.known.things[i].region for i in self.targets)


@dataclass(frozen=True, slots=True)
class Segmented:
    """One target of a seed with its mask. A segmenter fans a `Grounded` out into these."""

    seed: Seed
    """The seed."""
    known: Known
    """As in `Grounded`, with the segmenter's masks filled in."""
    target: int
    """Index of the thing to change; its `mask` is set and has the size of `seed.image`."""

    @property
    def region(self) -> Region:
        """The target, as pairs hold it."""
        return self.known.things[self.target].region

    @property
    def others(self) -> tuple[Thing, ...]:
        """The things with another box; one with the same box is the same thing."""
        own = self.known.things[self.target].box
        return tuple(thing for thing in self.known.others(self.target) if thing.box != own)


@dataclass(frozen=True, slots=True)
class Contrast:
    """The one named way in which the two images differ."""

    kind: Kind
    """Contrast type."""
    target: str
    """What was changed: "red stool", "left", "image"."""
    replacement: str | None
    """What it became: "blue stool"; None where it is simply gone."""
    instruction: str
    """The edit in words, as one would ask an editor for it: "remove the red stool"."""


@dataclass(frozen=True, slots=True)
class Texts:
    """The user's turn of a pair and the answers to it; `Pair` says what each of them is."""

    prompt: str
    """As in `Pair`."""
    chosen: str
    """As in `Pair`."""
    rejected: str | None
    """As in `Pair`."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An original and its near miss, not yet judged. Every generator ends here."""

    seed: Seed
    """The seed."""
    contrast: Contrast
    """How they differ."""
    regions: tuple[Region, ...]
    """Where they differ, with masks, in pixels of either image; () means anywhere."""
    chosen_image: Image
    """The original; same pixel size, codec and quality as `rejected_image`."""
    rejected_image: Image
    """The near miss: `texts.chosen` is false of it."""
    counterfactual: str | None
    """An answer true of `rejected_image`; None if the recipe cannot write one."""
    params: Mapping[str, str]
    """What was drawn or decided for this row alone: {"color": "blue", "offset": "41,-3"}."""
    written: Texts | None = None
    """Texts that a stage wrote in place of the seed's; None if the seed's own are used."""

    @property
    def texts(self) -> Texts:
        """The texts of the pair: those that were written, else the seed's."""
        return self.written or Texts(self.seed.prompt, self.seed.chosen, self.seed.rejected)


@dataclass(frozen=True, slots=True)
class ScoredCandidate:
    """A candidate with its measurements."""

    candidate: Candidate
    """The candidate."""
    scores: Mapping[str, float]
    """Measurements by name, stored whatever the verdict: {"appearance": 0.98, ...}."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the verifier concluded."""

    accepted: bool
    """True for every emitted pair."""
    verifier: str
    """Who judged: "locality", or a chat model's id."""
    detail: str
    """One line for a person."""


@dataclass(frozen=True, slots=True)
class VerifiedCandidate:
    """A candidate that passed verification."""

    candidate: Candidate
    """The candidate."""
    scores: Mapping[str, float]
    """As in `ScoredCandidate`, with the verifier's own measurements added."""
    verdict: Verdict
    """The verifier's conclusion."""


@dataclass(frozen=True, slots=True)
class SpannedCandidate:
    """A verified candidate with the differing words marked: all that a pair needs."""

    verified: VerifiedCandidate
    """The verified candidate."""
    chosen_spans: tuple[Span, ...]
    """Where `texts.chosen` differs from the counterfactual."""
    counterfactual_spans: tuple[Span, ...]
    """Where the counterfactual differs from `texts.chosen`; () without a counterfactual."""
    rejected_spans: tuple[Span, ...] | None = None
    """Where `texts.rejected` differs from `texts.chosen`, () where it has the same words; None
    without a `texts.rejected`."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One emitted contrast pair: the columns that trainers and exports depend on."""

    pair_id: str
    """Content id of the seed, the recipe, the contrast and both images."""
    seed_id: str
    """Id of the input row."""
    chosen_image: Image
    """The original."""
    rejected_image: Image
    """The near miss; same size, codec and quality."""
    prompt: str
    """The user's turn."""
    chosen: str
    """True of `chosen_image`."""
    rejected: str | None
    """The ordinary wrong answer."""
    counterfactual: str | None
    """True of `rejected_image`."""
    chosen_spans: tuple[Span, ...]
    """Where `chosen` differs from `counterfactual`."""
    counterfactual_spans: tuple[Span, ...]
    """Where `counterfactual` differs from `chosen`."""
    rejected_spans: tuple[Span, ...] | None
    """Where `rejected` differs from `chosen`, () where it has the same words; None without a
    `rejected`, and in rows of schema 2."""
    recipe: str
    """Name of the recipe that made the row (of the member recipe, in a mix)."""
    contrast: Contrast
    """How the images differ."""
    regions: tuple[Region, ...]
    """Where the images differ."""
    scores: Mapping[str, float]
    """Measured values by name."""
    verdict: Verdict
    """The verifier's conclusion."""
    provenance: Provenance
    """How the row came to be."""
    source: str
    """Where the input row came from."""
    license: str | None
    """Licence of the image."""
