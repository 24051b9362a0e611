"""The report: real parts in, the page parsed back out."""

from __future__ import annotations

import base64
import io
import re
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest

from pipeline.report import RunFacts, write_report
from pipeline.report.words import EXPLANATIONS
from schemas.outcomes import Outcome
from schemas.records import (
    Contrast,
    Drop,
    Image,
    Kind,
    Reason,
    ScoredCandidate,
    Span,
    SpannedCandidate,
    Verdict,
    VerifiedCandidate,
)
from stages.pixels import encode_jpeg
from tests.pipeline.fake_runs import (
    FACTS,
    candidate,
    image,
    mixed_run,
    origin,
    pair,
    ref_drop,
    scored_drop,
    seed,
    write_run,
)
from tests.pipeline.report.report_page import CHROMIUM, Element, Page, in_browser


def page_of(run: str, facts: RunFacts, **options: int) -> Element:
    path = Path(write_report(run, facts, **options))
    assert path == Path(run, "report.html")
    return Page(path.read_text(encoding="utf-8")).root


def cards_of(page: Element) -> list[Element]:
    return page.all("article", "card")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, RunFacts, Element]:
    run, facts = mixed_run(tmp_path_factory.mktemp("mixed"))
    return run, facts, page_of(run, facts)


def test_the_numbers_are_those_of_the_parts(mixed):
    run, _, page = mixed
    rows = [r for f in sorted(Path(run, "parts").iterdir()) for r in pq.read_table(f).to_pylist()]
    statuses = Counter(r["status"] for r in rows)
    seeds = {r["seed_id"] for r in rows}
    with_pair = {r["seed_id"] for r in rows if r["status"] == "pair"}
    figures = {d.attrs["data-figure"]: d.text for d in page.all("dd") if "data-figure" in d.attrs}
    assert figures == {
        "seeds": str(len(seeds)),
        "pairs": str(statuses["pair"]),
        "drops": str(statuses["drop"]),
        "yield": f"{100 * len(with_pair) / len(seeds):.1f}\u202f%",
    }
    by_recipe = {
        tr.all("th")[0].text: [td.text for td in tr.all("td")[:2]]
        for tr in page.all("tbody")[0].all("tr")
    }
    recipes = Counter((r["recipe"], r["status"]) for r in rows)
    assert by_recipe == {
        name: [str(recipes[name, "pair"]), str(recipes[name, "drop"])]
        for name in ("flip", "removal")
    }
    reasons = {
        li.all("a")[0].text.replace(" ", "_"): (
            int(li.all(cls="count")[0].text),
            li.all("p")[0].text,
        )
        for li in page.all("ul", "reasons")[0].all("li")
    }
    counted = Counter(r["reason"] for r in rows if r["reason"])
    assert reasons == {reason: (n, EXPLANATIONS[reason]) for reason, n in counted.items()}


def test_every_row_of_a_small_run_has_its_card(mixed):
    run, _, page = mixed
    rows = [r for f in sorted(Path(run, "parts").iterdir()) for r in pq.read_table(f).to_pylist()]
    cards = cards_of(page)
    assert len(cards) == len(rows)
    shown = Counter(
        (c.attrs["data-status"], c.attrs["data-reason"], c.attrs["data-recipe"]) for c in cards
    )
    assert shown == Counter((r["status"], r["reason"] or "", r["recipe"]) for r in rows)
    images = {"pair": 2, "too_different": 2, "no_region": 1, "image_not_found": 0}
    for card in cards:
        reason = card.attrs["data-reason"]
        assert len(card.all("img")) == images[reason or "pair"]
        if reason:
            assert card.all(cls="reason")[0].text == reason.replace("_", " ")
            assert EXPLANATIONS[reason] in card.text
    details = sorted(d.text for c in cards for d in c.all("p", "detail"))
    assert details == sorted(r["detail"] for r in rows if r["detail"])
    ids = {c.all("code", "id")[0].text for c in cards if c.all("code", "id")}
    assert ids == {r["pair_id"] for r in rows if r["pair_id"]}


def test_a_pair_card_shows_all_that_matters(tmp_path):
    run = write_run(tmp_path, [pair("s1", 3, appearance=0.25)])
    (card,) = cards_of(page_of(run, replace(FACTS, num_seeds=1)))
    assert card.all("h3")[0].text == "make the red stool blue"
    assert [m.text for m in card.all("div", "chosen")[0].all("mark")] == ["red"]
    assert [m.text for m in card.all("div", "counterfactual")[0].all("mark")] == ["blue"]
    assert card.all("div", "chosen")[0].all("dd")[0].text == "A red stool stands there."
    assert card.all("div", "rejected")[0].all("dd")[0].text == "A green lamp stands there."
    assert (card.all(cls="was")[0].text, card.all(cls="became")[0].text) == (
        "red stool",
        "blue stool",
    )
    for word in ("What stands there?", "rows.jsonl:4", "CC0", "removal", "object"):
        assert word in card.text
    bars = {li.all(cls="name")[0].text: li for li in card.all("ul", "scores")[0].all("li")}
    assert bars["appearance"].all(cls="value")[0].text == "0.25 ≥ 0.5"
    assert "failed" in bars["appearance"].classes
    assert bars["detail"].all(cls="value")[0].text == "0.6 ≤ 0.9"
    assert "failed" not in bars["detail"].classes
    assert all(len(bar.all("b")) == 1 for bar in bars.values())


def test_images_are_small_inline_jpegs_of_known_size(tmp_path):
    big = image(1, 1500, 900)
    run = write_run(
        tmp_path,
        [
            Outcome(
                seed("s", image=big, width=1500, height=900),
                origin("flip"),
                Drop(Reason.NO_REGION),
                "grounder",
            )
        ],
    )
    (img,) = page_of(run, FACTS).all("img")
    head, _, data = img.attrs["src"].partition(",")
    with PIL.Image.open(io.BytesIO(base64.b64decode(data))) as shown:
        assert head == "data:image/jpeg;base64"
        assert (shown.format, shown.size) == ("JPEG", (384, 230))
        with PIL.Image.open(io.BytesIO(big.bytes)) as original:
            expected = np.asarray(original.resize(shown.size), dtype=float)
        assert np.abs(np.asarray(shown, dtype=float) - expected).mean() < 3
    assert (img.attrs["width"], img.attrs["height"]) == ("384", "230")
    assert img.attrs["alt"]


HOSTILE = (
    "</script><script>alert(1)</script>\"'><img src=x onerror=alert(1)>&lt;b&gt;\x00\u202e{{ 7*7 }}"
)


def test_hostile_text_stays_text(tmp_path):
    bad = {
        "prompt": HOSTILE,
        "chosen": HOSTILE,
        "rejected": HOSTILE,
        "source": HOSTILE,
        "license": HOSTILE,
    }
    made = candidate(HOSTILE, 1, **bad)
    made = replace(
        made,
        contrast=Contrast(Kind.OBJECT, HOSTILE, HOSTILE, HOSTILE),
        counterfactual=HOSTILE + "!",
    )
    drop = Outcome(
        ScoredCandidate(made, {HOSTILE: 0.5}),
        origin(HOSTILE),
        Drop(Reason.MODEL_ERROR, HOSTILE),
        HOSTILE,
    )
    run = write_run(tmp_path, [drop, pair("s2", 2, **bad)])
    page = page_of(run, replace(FACTS, recipe=HOSTILE, input=HOSTILE, versions={HOSTILE: HOSTILE}))
    assert len(page.all("script")) == 1
    assert len(page.all("img")) == 4
    elements = page.all()
    assert not [e for e in elements for name in e.attrs if name.startswith("on")]
    assert all(
        e.attrs["src"].startswith("data:image/jpeg;base64,") for e in elements if "src" in e.attrs
    )
    shown = HOSTILE.replace("\x00", "\ufffd").replace("\u202e", "\ufffd")
    for card in cards_of(page):
        assert card.all("p", "prompt")[0].text == shown
    (card,) = [c for c in cards_of(page) if c.attrs["data-status"] == "drop"]
    assert card.all("p", "detail")[0].text == shown
    assert card.all("dd")[0].text == shown


def test_long_texts_are_cut_around_the_difference(tmp_path):
    long = "x " * 20_000 + "red" + " y" * 500_000
    at = 40_000
    made = candidate("s", 1, chosen=long, prompt="p" * 10**6)
    verified = VerifiedCandidate(made, {}, Verdict(True, "locality", ""))
    outcome = Outcome(SpannedCandidate(verified, (Span(at, at + 3),), ()), origin("removal"))
    run = write_run(tmp_path, [outcome])
    page = page_of(run, FACTS)
    (chosen,) = page.all("div", "chosen")
    assert [m.text for m in chosen.all("mark")] == ["red"]
    assert "more characters" in chosen.text
    assert "characters before" in chosen.text
    assert Path(run, "report.html").stat().st_size < 100_000


def test_the_same_run_gives_the_same_bytes(tmp_path):
    run, facts = mixed_run(tmp_path / "a")
    first = Path(write_report(run, facts)).read_bytes()
    assert Path(write_report(run, facts)).read_bytes() == first
    other, _ = mixed_run(tmp_path / "elsewhere")
    assert Path(write_report(other, facts)).read_bytes() == first


def test_the_page_loads_nothing_and_allows_nothing(mixed):
    run, _, page = mixed
    html = Path(run, "report.html").read_text(encoding="utf-8")
    assert "http://" not in html
    assert "https://" not in html
    assert not page.all("link") + page.all("iframe") + page.all("object")
    for element in page.all():
        assert element.attrs.get("src", "data:").startswith("data:")
        assert element.attrs.get("href", "#").startswith("#")
    assert "url(" not in page.all("style")[0].text
    (script,) = page.all("script")
    digest = base64.b64encode(sha256(script.text.encode()).digest()).decode()
    (policy,) = [m.attrs["content"] for m in page.all("meta") if "http-equiv" in m.attrs]
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_a_large_run_makes_a_bounded_page(tmp_path):
    rng = np.random.default_rng(0)
    noise = [encode_jpeg(rng.integers(0, 256, (256, 384, 3), dtype=np.uint8)) for _ in range(2)]
    heavy = []
    for i in range(80):
        made = replace(candidate(f"p{i}", 0), chosen_image=noise[0], rejected_image=noise[1])
        verified = VerifiedCandidate(made, {"appearance": i / 80}, Verdict(True, "v", ""))
        heavy.append(Outcome(SpannedCandidate(verified, (), ()), origin("removal")))
    light = [ref_drop(f"r{i}", detail="&" * 5000) for i in range(1920)]
    run = write_run(tmp_path, heavy, light)
    page = page_of(run, replace(FACTS, num_seeds=2000), samples=200)
    assert Path(run, "report.html").stat().st_size < 8_000_000
    statuses = Counter(c.attrs["data-status"] for c in cards_of(page))
    assert statuses["pair"] >= 10
    assert statuses["drop"] >= 10
    assert f"{statuses['pair']} of 80 shown" in page.text
    assert f"{statuses['drop']} of 1,920 shown" in page.text
    assert [d.text for d in page.all("dd") if d.attrs.get("data-figure") == "drops"] == ["1,920"]


def test_samples_are_shared_between_pairs_and_drops(tmp_path):
    run, facts = mixed_run(tmp_path)
    for samples, pairs, drops in ((0, 0, 0), (6, 4, 2), (12, 8, 4), (18, 9, 9), (90, 9, 11)):
        statuses = Counter(
            c.attrs["data-status"] for c in cards_of(page_of(run, facts, samples=samples))
        )
        assert (statuses["pair"], statuses["drop"]) == (pairs, drops)
    with pytest.raises(ValueError, match="samples must be 0 or more"):
        write_report(run, facts, samples=-1)


def test_strata_name_the_rows_nearest_to_a_limit_and_the_worst(tmp_path):
    pairs = [pair(f"a{i}", i, appearance=0.55 + i / 25, detail=0.3) for i in range(8)]
    pairs.append(pair("near", 9, appearance=0.95, detail=0.8999))
    drops = [scored_drop(f"b{i}", 20 + i, 0.2 + i / 50) for i in range(8)]
    drops += [scored_drop("close", 30, 0.499), scored_drop("far", 31, 0.01)]
    run = write_run(tmp_path, pairs, drops)
    cards = {c.all(cls="source")[0].text.split()[0]: c for c in cards_of(page_of(run, FACTS))}
    strata = {source: c.attrs["data-stratum"].split() for source, c in cards.items()}
    assert "borderline" in strata["rows.jsonl:10"]  # near
    assert "borderline" in strata["rows.jsonl:31"]  # close
    assert "worst" in strata["rows.jsonl:32"]  # far
    assert "worst" not in strata["rows.jsonl:31"]
    assert all(strata.values())
    badges = {source: [b.text for b in c.all(cls="stratum")] for source, c in cards.items()}
    assert badges == strata


def test_histograms_count_every_measured_row_and_draw_the_limits(mixed):
    _, _, page = mixed
    figures = page.all("section", "histograms")[0].all("figure")
    seen = {}
    for figure in figures:
        recipe = [c for c in figure.parent.parent.children if isinstance(c, Element)]
        name = (recipe[recipe.index(figure.parent) - 1].text, figure.all("b")[0].text)
        titles = [re.findall(r"(\d+) (pairs|drops)", t.text) for t in figure.all("title")]
        total = Counter()
        for title in titles:
            total.update({what: int(n) for n, what in title})
        seen[name] = (total["pairs"], total["drops"], [t.text for t in figure.all("text", "limit")])
    assert seen == {
        ("flip", "appearance"): (1, 0, []),
        ("flip", "detail"): (1, 0, []),
        ("removal", "appearance"): (8, 5, ["keep ≥ 0.5"]),
        ("removal", "detail"): (8, 5, ["keep ≤ 0.9"]),
    }


def test_a_limit_is_drawn_where_it_separates_pairs_from_drops(tmp_path):
    pairs = [pair(f"a{i}", i, appearance=0.5 + i / 20) for i in range(8)]
    run = write_run(tmp_path, pairs, [scored_drop(f"b{i}", 20 + i, 0.1 + i / 20) for i in range(7)])
    page = page_of(run, FACTS)
    (figure,) = [f for f in page.all("figure") if f.all("b")[0].text == "appearance"]
    (line,) = figure.all("path", "limit")
    at = float(re.match(r"M([\d.]+)", line.attrs["d"])[1])
    rects = figure.all("rect")
    drops_end = max(
        float(r.attrs["x"]) + float(r.attrs["width"]) for r in rects if "drops" in r.classes
    )
    pairs_start = min(float(r.attrs["x"]) for r in rects if "pairs" in r.classes)
    # A bar that straddles the limit is as wide as one bin.
    assert drops_end <= at <= pairs_start + 344 / 36


def test_an_empty_run_and_runs_without_drops_pairs_or_scores(tmp_path):
    page = page_of(write_run(tmp_path / "empty"), replace(FACTS, num_seeds=5))
    assert not cards_of(page)
    for words in (
        "No rows yet.",
        "This run has no pairs.",
        "This run dropped nothing.",
        "No row was scored.",
        "incomplete: 0 of 5 seeds",
    ):
        assert words in page.text
    page = page_of(write_run(tmp_path / "pairs", [pair("s1", 1)]), replace(FACTS, num_seeds=1))
    assert "No row was dropped." in page.text
    assert page.all(cls="state")[0].text == "complete"
    page = page_of(write_run(tmp_path / "drops", [ref_drop("s1")]), replace(FACTS, num_seeds=1))
    assert "This run has no pairs." in page.text
    assert "No row was scored." in page.text


def test_a_image_that_cannot_be_decoded_is_said_to_be_so(tmp_path):
    broken = Outcome(
        seed("s", image=Image(b"\xff\xd8 no image")), origin("flip"), Drop(Reason.BAD_IMAGE), "x"
    )
    (card,) = cards_of(page_of(write_run(tmp_path, [broken]), FACTS))
    assert "cannot be decoded" in card.text
    assert not card.all("img")


def test_bad_run_directories_are_named(tmp_path):
    with pytest.raises(ValueError, match="is not a run directory"):
        write_report(str(tmp_path / "nothing"), FACTS)
    run = write_run(tmp_path, [pair("s1", 1)])
    Path(run, "parts/part-00001.parquet").write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(
        ValueError, match=r"part-00001\.parquet cannot be read .*; delete it"
    ) as caught:
        write_report(run, FACTS)
    assert "\n" not in str(caught.value)


@pytest.mark.browser
@pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"needs {CHROMIUM}, which is not there")
@pytest.mark.parametrize(
    "state",
    [
        {"status": "drop", "reason": "too_different"},
        {"recipe": "flip"},
        {"stratum": "worst", "status": "pair"},
        {"kind": "nothing-has-this"},
    ],
    ids="&".join,
)
def test_the_hash_filters_the_cards(mixed, tmp_path, state):
    run, _, static = mixed
    page = in_browser(Path(run, "report.html"), state, tmp_path)
    wanted = {
        c.attrs["id"]
        for c in cards_of(static)
        if all(value in c.attrs[f"data-{key}"].split() for key, value in state.items())
    }
    visible = {c.attrs["id"] for c in cards_of(page) if "hidden" not in c.attrs}
    assert visible == wanted
    assert page.all("p", "shown")[0].text == f"{len(wanted)} of 20 shown"
    assert ("hidden" in page.all("p", "no-match")[0].attrs) == bool(wanted)
    for section in page.all("section", "gallery"):
        shown = [c for c in section.all("article") if "hidden" not in c.attrs]
        assert ("hidden" in section.attrs) == (not shown)


@pytest.mark.browser
@pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"needs {CHROMIUM}, which is not there")
def test_blinking_lays_the_original_over_the_near_miss(mixed, tmp_path):
    run, _, _ = mixed
    page = in_browser(Path(run, "report.html"), {"blink": "on", "outline": "off"}, tmp_path)
    assert "no-outline" in page.all("html")[0].classes
    frames = page.all("button", "near")
    assert len(frames) == 14
    for frame in frames:
        assert "blinking" in frame.classes
        (under,) = frame.all("img", "under")
        assert (
            under.attrs["src"] == frame.parent.all("div", "original")[0].all("img")[0].attrs["src"]
        )
