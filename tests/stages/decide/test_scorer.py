from dataclasses import dataclass, field

import numpy as np
import pytest

from fakes.opened import opened
from fakes.tiny.clip import MAX_TOKENS, save_clip
from schemas.ids import content_id
from schemas.outcomes import Origin, outcome_table
from schemas.records import Candidate, Contrast, Drop, Kind, Reason, ScoredCandidate, Seed
from stages.backends.embed.clip import ClipSettings
from stages.backends.embed.sentence_rules import SentenceRules
from stages.base import CpuBackend, Device
from stages.decide.double_threshold import DoubleThreshold, Limits
from stages.decide.scorer import Scorer, SplitterModel
from stages.decide.selector import Selector
from stages.pixels import decode, encode_jpeg
from tests.workers.fakes import Approver
from workers.chain import Chain, ChainRunner, Link
from workers.counters import Counters

ANSWER = "the dog sits. A red cat and a dog. The table!"
SENTENCES = ["the dog sits.", "A red cat and a dog.", "The table!"]


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def scorer(clip_folder):
    stage = opened(Scorer(ClipSettings(model=str(clip_folder)), SentenceRules()))
    yield stage
    stage.close()


def jpeg(seed):
    rng = np.random.default_rng(seed)
    return encode_jpeg(rng.integers(0, 256, (5, 6, 3), np.uint8).repeat(8, 0).repeat(8, 1))


def scored(seed_id, edit, answer=ANSWER, target="thing", original=100):
    chosen = jpeg(original)
    seed = Seed(seed_id, 0, chosen, 48, 40, "?", answer, None, (), "test", None)
    contrast = Contrast(Kind.OBJECT, target, None, f"remove the {target}")
    candidate = Candidate(seed, contrast, (), chosen, jpeg(edit), None, {})
    return ScoredCandidate(candidate, {"appearance": 0.9, "detail": 0.5})


def expected(scorer, record, sentences):
    """Sentence by sentence, image by image."""
    (seen,) = scorer.loaded(scorer.backend).embed_images([decode(record.candidate.rejected_image)])
    return sum(
        float(seen @ scorer.loaded(scorer.backend).embed_texts([text])[0]) for text in sentences
    )


def test_the_sum_over_the_sentences_is_added_to_the_scores(scorer):
    batch = [scored("a", 1), scored("a", 2), scored("b", 3, "The cat."), scored("b", 1, "The cat.")]
    outcomes = scorer.process(batch)
    values = []
    for record, (outcome,) in zip(batch, outcomes, strict=True):
        sentences = SENTENCES if record.candidate.seed.seed_id == "a" else ["The cat."]
        assert outcome.candidate is record.candidate
        assert list(outcome.scores) == [
            "appearance",
            "detail",
            "answer_similarity",
            "answer_sentences",
        ]
        assert outcome.scores["appearance"] == 0.9
        assert outcome.scores["answer_sentences"] == len(sentences)
        values.append(outcome.scores["answer_similarity"])
        assert values[-1] == pytest.approx(expected(scorer, record, sentences), abs=1e-5)
    assert values[0] != pytest.approx(values[1], abs=1e-3)
    # A record's scores are its own: not a matter of what else was in the batch.
    for record, value in zip(batch, values, strict=True):
        ((alone,),) = scorer.process([record])
        assert alone.scores["answer_similarity"] == pytest.approx(value, abs=1e-5)
    assert scorer.process([]) == []


def test_images_and_sentences_are_embedded_once(scorer):
    seen, read = [], []
    model = scorer.loaded(scorer.backend)._model
    handles = [
        model.vision_model.register_forward_hook(lambda *a: seen.append(len(a[2].pooler_output))),
        model.text_model.register_forward_hook(lambda *a: read.append(len(a[2].pooler_output))),
    ]
    scorer.process([scored("a", 1), scored("a", 2), scored("b", 1, "The table!"), scored("a", 2)])
    for handle in handles:
        handle.remove()
    assert (seen, read) == ([2], [3])


def test_a_sentence_over_the_limit_is_divided_and_not_cut_off(scorer):
    long = (
        "the dog sits, the red cat and the dog, while the cat sits and the table and the cat sits"
    )
    assert not scorer.loaded(scorer.backend).fits(long)
    record = scored("a", 1, long + ".")
    ((outcome,),) = scorer.process([record])
    pieces = scorer._sentences([long + "."])[0]
    assert len(pieces) > 1
    assert " ".join(pieces) == long + "."
    assert all(scorer.loaded(scorer.backend).fits(piece) for piece in pieces)
    assert outcome.scores["answer_sentences"] == len(pieces)
    assert outcome.scores["answer_similarity"] == pytest.approx(
        expected(scorer, record, pieces), abs=1e-5
    )
    # A word at the end counts: nothing was dropped on the way.
    other = scored("a", 1, long.replace("cat sits", "dog sits") + ".")
    ((changed,),) = scorer.process([other])
    assert changed.scores["answer_similarity"] != outcome.scores["answer_similarity"]


def test_one_word_without_end_is_divided_too(scorer):
    ((outcome,),) = scorer.process([scored("a", 1, "x" * 4 * MAX_TOKENS)])
    assert outcome.scores["answer_sentences"] >= 4


def test_an_answer_without_sentences_is_one(scorer):
    ((outcome,),) = scorer.process([scored("a", 1, "...")])
    assert outcome.scores["answer_sentences"] == 1


@dataclass
class Given(CpuBackend):
    """A splitter that gives what it was told."""

    name = "given"

    answers: list = field(default_factory=list)

    def split(self, texts):
        return [self.answers for _ in texts]


def test_another_splitter_may_take_the_rules_place(scorer):
    splitter = Given(["the dog", "the cat"])
    assert isinstance(splitter, SplitterModel)
    other = opened(Scorer(scorer.backend, splitter))
    record = scored("a", 1)
    ((outcome,),) = other.process([record])
    value = expected(scorer, record, ["the dog", "the cat"])
    assert outcome.scores["answer_similarity"] == pytest.approx(value, abs=1e-5)
    with pytest.raises(ValueError, match="no sentence in 'the dog sits"):
        opened(Scorer(scorer.backend, Given())).process([record])


def run(*links, records):
    origin = Origin("mine", content_id("mine"), 0, "test", 2, ())
    runner = ChainRunner(Chain(origin, links), Counters())
    runner.open(Device())
    try:
        return runner.run(records)
    finally:
        runner.close()


def chosen(scorer, selector):
    return Link("scorer", scorer), Link("verifier", Approver()), Link("selector", selector)


def test_another_choice_can_be_made_from_the_rows_without_a_model(clip_folder):
    records = [scored("a", edit, target=f"thing {edit}") for edit in range(5)]
    stage = opened(Scorer(ClipSettings(model=str(clip_folder)), SentenceRules()))
    selector = Selector(by="answer_similarity", order="lowest")
    live, outcomes = run(*chosen(stage, selector), records=records)
    (kept,) = live
    rows = outcome_table(outcomes).to_pylist()
    assert [row["reason"] for row in rows] == [str(Reason.NOT_SELECTED)] * 4
    assert {row["stage"] for row in rows} == {"selector"}
    dropped = {}
    for row in rows:
        scores = {item["name"]: item["value"] for item in row["scores"]}
        assert set(scores) == {"appearance", "detail", "answer_similarity", "answer_sentences"}
        assert row["rejected_image"]["bytes"]
        dropped[row["contrast"]["target"]] = scores["answer_similarity"]
    # The kept one is the lowest of all; the one that AdaViP's opposite would keep is in the rows.
    values = {**dropped, kept.candidate.contrast.target: kept.scores["answer_similarity"]}
    assert min(values, key=values.get) == kept.candidate.contrast.target
    best = Selector(by="answer_similarity", order="highest")
    live, _ = run(
        *chosen(opened(Scorer(ClipSettings(model=str(clip_folder)), SentenceRules())), best),
        records=records,
    )
    assert live[0].candidate.contrast.target == max(dropped, key=dropped.get)


def test_a_candidate_that_fails_the_threshold_is_kept_with_its_scores(clip_folder):
    records = [scored("a", edit, target=f"thing {edit}") for edit in range(2)]
    stage = opened(Scorer(ClipSettings(model=str(clip_folder)), SentenceRules()))
    limits = DoubleThreshold({Kind.OBJECT: Limits(max_detail=0.4)})
    live, outcomes = run(Link("scorer", stage), Link("double_threshold", limits), records=records)
    assert live == []
    for row in outcome_table(outcomes).to_pylist():
        assert row["reason"] == Reason.TOO_SIMILAR
        scores = {item["name"]: item["value"] for item in row["scores"]}
        assert set(scores) == {"appearance", "detail", "answer_similarity", "answer_sentences"}


def test_of_equal_sums_the_earlier_region_is_kept(clip_folder):
    # Two candidates with the same image have the same sum to the last bit.
    records = [scored("a", 1, target=target) for target in ("first", "second")]
    stage = opened(Scorer(ClipSettings(model=str(clip_folder)), SentenceRules()))
    selector = Selector(by="answer_similarity")
    live, outcomes = run(*chosen(stage, selector), records=records)
    assert [record.candidate.contrast.target for record in live] == ["first"]
    assert isinstance(outcomes[0].drop, Drop)
