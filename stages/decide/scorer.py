"""How much of the answer a near miss still shows: AdaViP's selection score. Judges nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from schemas.records import ScoredCandidate
from stages.base import BackendSettings, Model, Stage
from stages.decide.vectors import cosine, unit_rows
from stages.pixels import Pixels, decode
from stages.wording.sentences import split_to_fit

UnitRows = NDArray[np.float32]


@runtime_checkable
class ImageTextModel(Model, Protocol):
    """Embeds images and sentences in one space, where the cosine measures how well they match."""

    def embed_images(self, images: Sequence[Pixels]) -> UnitRows:
        """[N, D] rows of unit length, one for each uint8 [H, W, 3] RGB image, in order."""

    def embed_texts(self, texts: Sequence[str]) -> UnitRows:
        """[M, D] rows of unit length, in order; ValueError for a text that does not fit."""

    def fits(self, text: str) -> bool:
        """Whether the text model takes the text whole (CLIP: 77 tokens with its two marks)."""


@runtime_checkable
class SplitterModel(Model, Protocol):
    """Splits answers into statements that can each be compared with an image."""

    def split(self, texts: Sequence[str]) -> list[list[str]]:
        """The sentences of each text, in order; at least one each."""


@dataclass(frozen=True)
class Scorer(Stage[ScoredCandidate, ScoredCandidate]):
    """Adds "answer_similarity", the sum over the answer's sentences of AdaViP's equation 9.

    The terms are the cosines of the near miss with each sentence of `seed.chosen` (arXiv
    2504.15619): among several near misses of one image, the one with the lowest sum shows least of
    what the answer says. All candidates of a seed share its sentences, so sums can be compared
    within a seed; across seeds divide by "answer_sentences", which is stored beside it. Cosines
    replace the model's scaled logits: the scale is the same for all and does not change the order.

    A sentence too long for the text model is divided at clauses or words into pieces, each of which
    counts as a sentence. The stage runs after the embedder and before the selector.
    """

    backend: BackendSettings[ImageTextModel]
    """The model that compares images and sentences."""
    splitter: BackendSettings[SplitterModel]
    """The model or rule that splits answers into sentences."""

    def process(self, batch: Sequence[ScoredCandidate]) -> Sequence[Sequence[ScoredCandidate]]:
        """One record for each, with two more scores; no drops.

        Every image and every sentence of the batch is embedded once. ValueError if a backend
        gives rows that are not unit vectors, or a text without sentences.
        """
        if not batch:
            return []
        answers = list(dict.fromkeys(record.candidate.texts.chosen for record in batch))
        sentences = dict(zip(answers, self._sentences(answers), strict=True))
        texts = list(dict.fromkeys(text for parts in sentences.values() for text in parts))
        images = {r.candidate.rejected_image.bytes: r.candidate.rejected_image for r in batch}
        model = self.loaded(self.backend)
        shown = model.embed_images([decode(image) for image in images.values()])
        embedded = unit_rows(self.backend, shown, "images", len(images))
        read = unit_rows(self.backend, model.embed_texts(texts), "sentences", len(texts))
        image_rows = dict(zip(images, embedded, strict=True))
        text_rows = dict(zip(texts, read, strict=True))
        outcomes = []
        for record in batch:
            image_row = image_rows[record.candidate.rejected_image.bytes]
            parts = sentences[record.candidate.texts.chosen]
            total = sum(cosine(image_row, text_rows[text]) for text in parts)
            added = {"answer_similarity": total, "answer_sentences": float(len(parts))}
            outcomes.append([replace(record, scores={**record.scores, **added})])
        return outcomes

    def _sentences(self, answers: Sequence[str]) -> list[list[str]]:
        """The sentences of each answer, each short enough for the text model."""
        found = self.loaded(self.splitter).split(answers)
        for answer, sentences in zip(answers, found, strict=True):
            if not sentences:
                raise ValueError(f"the splitter found no sentence in {answer!r:.80}")
        fits = self.loaded(self.backend).fits
        return [
            [part for sentence in sentences for part in split_to_fit(sentence, fits)]
            for sentences in found
        ]
