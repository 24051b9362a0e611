"""Hypothesis strategies for records."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from schemas.geometry import Box, Mask
from schemas.records import (
    Candidate,
    Contrast,
    Drop,
    Image,
    ImageRef,
    Kind,
    Reason,
    Region,
    ScoredCandidate,
    Seed,
    SeedRef,
    Span,
    SpannedCandidate,
    Texts,
    Verdict,
    VerifiedCandidate,
)

# Everything that UTF-8 can hold: all of Unicode but the surrogates.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
finite = st.floats(allow_nan=False, allow_infinity=False)
int64 = st.integers(-(2**63), 2**63 - 1)
bool_arrays = hnp.arrays(
    np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.booleans()
)
masks = bool_arrays.map(Mask.from_array)
boxes = st.builds(Box, finite, finite, finite, finite)
regions = st.builds(
    Region,
    label=texts,
    box=boxes,
    mask=st.none() | masks,
    attributes=st.lists(texts, max_size=2).map(tuple),
)
region_tuples = st.lists(regions, max_size=2).map(tuple)
images = st.builds(Image, bytes=st.binary(max_size=30), path=st.none() | texts)
drops = st.builds(Drop, reason=st.sampled_from(Reason), detail=texts)
seed_refs = st.builds(
    SeedRef,
    seed_id=texts,
    run_seed=int64,
    image=st.builds(
        ImageRef,
        path=st.none() | texts,
        row=st.none() | int64,
        column=st.none() | texts,
        bytes=st.none() | st.binary(max_size=30),
    ),
    prompt=texts,
    chosen=texts,
    rejected=st.none() | texts,
    regions=region_tuples,
    source=texts,
    license=st.none() | texts,
    defect=st.none() | drops,
)
seeds = st.builds(
    Seed,
    seed_id=texts,
    run_seed=int64,
    image=images,
    width=int64,
    height=int64,
    prompt=texts,
    chosen=texts,
    rejected=st.none() | texts,
    regions=region_tuples,
    source=texts,
    license=st.none() | texts,
)
contrasts = st.builds(
    Contrast,
    kind=st.sampled_from(Kind),
    target=texts,
    replacement=st.none() | texts,
    instruction=texts,
)
candidates = st.builds(
    Candidate,
    seed=seeds,
    contrast=contrasts,
    regions=region_tuples,
    chosen_image=images,
    rejected_image=images,
    counterfactual=st.none() | texts,
    params=st.dictionaries(texts, texts, max_size=2),
    written=st.none() | st.builds(Texts, texts, texts, st.none() | texts),
)
scores = st.dictionaries(texts, finite, max_size=3)
scored = st.builds(ScoredCandidate, candidate=candidates, scores=scores)
verdicts = st.builds(Verdict, accepted=st.booleans(), verifier=texts, detail=texts)
verified = st.builds(VerifiedCandidate, candidate=candidates, scores=scores, verdict=verdicts)
span_tuples = st.lists(st.builds(Span, st.integers(0, 99), st.integers(0, 99)), max_size=3).map(
    tuple
)
spanned = st.builds(
    SpannedCandidate,
    verified=verified,
    chosen_spans=span_tuples,
    counterfactual_spans=span_tuples,
    rejected_spans=st.none() | span_tuples,
)
