"""Rows of runs: what is read, what is refused, what is left out and counted."""

from __future__ import annotations

import pickle
from dataclasses import fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fakes.pairs import a_pair, photo, save
from schemas.arrow import from_table
from schemas.files import Folder
from schemas.records import SCHEMA_VERSION, Pair, Provenance, Span
from schemas.shards import read_pairs
from trainer.data import rows as rows_module
from trainer.data.rows import Row, Rows
from trainer.errors import UsageError
from trainer.losses import DPO, ICVCO, MDPO, SFT, SVCO
from trainer.losses.views import Answer, Images, Tokens, View, columns

FEW = 200
"""Bytes of a file: every pair is a row group and a file of its own."""


def table(path: Path) -> tuple[Path, pa.Table]:
    (file,) = (path / "data").iterdir()
    return file, pq.read_table(file)


def test_rows_of_a_real_run_are_its_pairs(real_run):
    pairs = [p for t in read_pairs(Folder.at(real_run)) for p in from_table(t, Pair)]
    rows = Rows.open([real_run])
    assert len(rows) == len(pairs) > 10
    assert rows.pair_ids == [p.pair_id for p in pairs]
    for row, pair in zip((rows[i] for i in range(len(rows))), pairs, strict=True):
        assert row == Row(**{f.name: getattr(pair, f.name) for f in fields(Row)})
    kinds = rows.columns(["contrast"])["contrast"].to_pylist()
    assert [k["kind"] for k in kinds] == [p.contrast.kind for p in pairs]
    assert {p.contrast.kind for p in pairs} >= {"crop", "attribute", "object"}


def test_a_real_run_says_what_its_rows_lack(real_run):
    """Crops have no counterfactual, so losses that read one do without them."""
    pairs = [p for t in read_pairs(Folder.at(real_run)) for p in from_table(t, Pair)]
    without = sum(p.counterfactual is None for p in pairs)
    rows = Rows.open([real_run])
    kept, counts = rows.usable(SVCO().needs, "loss svco")
    assert counts.lacking == {"counterfactual": without}
    assert len(kept) == counts.kept == len(pairs) - without > 0
    assert f"of {len(pairs)} rows {without} lack counterfactual" in str(counts)
    assert len(rows.usable(MDPO().needs, "loss mdpo")[0]) == len(pairs)


def test_several_runs_files_and_row_groups_in_order(tmp_path):
    first = save(tmp_path / "a", [a_pair(n) for n in range(5)], shard_bytes=FEW)
    second = save(tmp_path / "b", [a_pair(n) for n in range(5, 8)])
    assert len(list((tmp_path / "a" / "data").iterdir())) == 5
    rows = Rows.open([first, second])
    assert rows.pair_ids == [f"pair-{n:04d}" for n in range(8)]
    for number in (7, 0, 4, 5, 4):
        assert rows[number].chosen_image.bytes == a_pair(number).chosen_image.bytes
    part = rows.select([6, 2])
    assert (part[0].pair_id, part[1].pair_id) == ("pair-0006", "pair-0002")
    assert part.select([1]).pair_ids == ["pair-0002"]
    assert part.columns(["seed_id"])["seed_id"].to_pylist() == ["seed-0006", "seed-0002"]
    assert rows.digest != part.digest != rows.select([2, 6]).digest


def test_memory_holds_few_row_groups_and_travels_without_them(tmp_path, monkeypatch):
    rows = Rows.open([save(tmp_path, [a_pair(n) for n in range(9)], shard_bytes=FEW)])
    monkeypatch.setattr(rows_module, "CACHE_BYTES", 1)
    for number in range(9):
        rows[number]
        assert len(rows._groups) == 1
    copy = pickle.loads(pickle.dumps(rows))
    assert not copy._groups
    assert copy[3] == rows[3]


def test_what_a_row_lacks_is_counted_by_column(tmp_path):
    spans = {"chosen_spans": (), "counterfactual_spans": ()}
    pairs = [
        a_pair(0),
        a_pair(1, counterfactual=None, **spans),
        a_pair(2, rejected=None),
        a_pair(3, **spans),
        a_pair(4, chosen_spans=()),  # a pure insertion
        a_pair(5, rejected=""),
        a_pair(6, chosen_spans=(Span(12, 99),)),
    ]
    rows = Rows.open([save(tmp_path, pairs)])
    kept, counts = rows.usable(ICVCO().needs, "loss icvco")
    assert kept.pair_ids == ["pair-0000", "pair-0002", "pair-0004", "pair-0005"]
    assert counts.lacking == {"counterfactual": 1, "spans": 2, "spans inside the answer": 1}
    kept, counts = rows.usable(DPO().needs, "loss dpo")
    assert kept.pair_ids == [f"pair-000{n}" for n in (0, 1, 3, 4, 6)]
    assert "2 lack rejected; 5 are left" in str(counts)
    assert "all 7 rows" in str(rows.usable(SFT().needs, "loss sft")[1])
    with pytest.raises(
        UsageError, match=r"loss dpo needs .*rejected.* 2 lack rejected; 0 are left"
    ):
        rows.select([2, 5]).usable(DPO().needs, "loss dpo")


def test_a_source_image_is_on_one_side_of_the_split_for_good(tmp_path):
    image = a_pair(0).chosen_image
    same = [a_pair(n, chosen_image=image) for n in range(6)]
    more = [a_pair(n) for n in range(6, 60)]
    no_name = [a_pair(n, seed_id=f"s{n // 2}", chosen_image=type(image)(b"x")) for n in (60, 61)]
    save(tmp_path / "a", same + more)
    rows = Rows.open([save(tmp_path / "b", same + more + no_name)])
    train, held = rows.split(0.3, 5)
    assert set(train.pair_ids) | set(held.pair_ids) == set(rows.pair_ids)
    assert not set(train.images) & set(held.images)
    assert len({p in held.pair_ids for p in ("pair-0000", "pair-0003", "pair-0005")}) == 1
    assert len({p in held.pair_ids for p in ("pair-0060", "pair-0061")}) == 1
    assert 8 <= len(held) <= 28
    fewer = Rows.open([str(tmp_path / "a")]).split(0.3, 5)[1]
    assert set(fewer.pair_ids) == set(held.pair_ids) - {"pair-0060", "pair-0061"}
    assert set(rows.split(0.3, 6)[1].pair_ids) != set(held.pair_ids)
    assert len(rows.split(0.0, 5)[1]) == 0


def test_pairs_of_two_photos_follow_the_fold_of_both(tmp_path, caplog):
    def fold(name: str) -> Provenance:
        return Provenance("d" * 32, 7, SCHEMA_VERSION, "0.1.0", (), {"a": "b", "fold": name})

    names = ["train", "validation"]
    pairs = [a_pair(n, provenance=fold(names[n % 4 == 3])) for n in range(40)]
    rows = Rows.open([save(tmp_path / "a", [*pairs, *(a_pair(n) for n in range(40, 70))])])
    train, held = rows.split(0.5, 0)
    paired = {p.pair_id for p in pairs}
    assert set(held.pair_ids) & paired == {f"pair-{n:04d}" for n in range(3, 40, 4)}
    assert 5 <= len(set(held.pair_ids) - paired) <= 25
    assert len(train) + len(held) == 70
    assert not caplog.text
    assert not len(rows.split(0.0, 0)[1])
    only = Rows.open(
        [save(tmp_path / "b", [a_pair(n, provenance=fold("train")) for n in range(9)])]
    )
    assert not len(only.split(0.5, 0)[1])
    assert "pairing.validation" in caplog.text


def test_files_that_are_all_called_alike_are_spoken_of(tmp_path, caplog):
    pairs = [a_pair(n, chosen_image=photo(0, path="image.jpg")) for n in range(30)]
    Rows.open([save(tmp_path / "a", pairs)]).split(0.5, 0)
    assert "30 of 30 rows are held for pairs of one source image" in caplog.text
    caplog.clear()
    Rows.open([save(tmp_path / "b", [a_pair(n) for n in range(30)])]).split(0.5, 0)
    assert not caplog.text


def refused(run: Path, *words: str) -> None:
    with pytest.raises(UsageError) as caught:
        Rows.open([str(run)])
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_what_is_no_run_is_refused(tmp_path):
    refused(tmp_path / "nowhere", "no data/train-*.parquet", "not a run directory")
    (tmp_path / "run.json").write_text("{}")
    refused(tmp_path, "not finished")


def test_another_schema_version_is_refused(tmp_path):
    save(tmp_path, [a_pair(0)])
    file, content = table(tmp_path)
    metadata = {**content.schema.metadata, b"nearmiss_schema_version": b"1"}
    pq.write_table(content.replace_schema_metadata(metadata), file)
    refused(tmp_path, file.name, "schema version 1, this code reads 2 and 3")
    pq.write_table(content.replace_schema_metadata({}), file)
    refused(tmp_path, "schema version unknown")


def test_runs_of_schema_2_serve_losses_that_need_none_of_what_they_lack(tmp_path):
    save(tmp_path, [a_pair(n) for n in range(2)])
    file, content = table(tmp_path)
    old = content.drop_columns(["rejected_spans"])
    metadata = {**content.schema.metadata, b"nearmiss_schema_version": b"2"}
    pq.write_table(old.replace_schema_metadata(metadata), file)
    rows, _ = Rows.open([str(tmp_path)]).usable(ICVCO().needs, "loss icvco")
    assert rows[1].rejected_spans is None
    assert rows[1].chosen_spans == a_pair(1).chosen_spans
    needs = columns([View(Images.CHOSEN, Answer.REJECTED, Tokens.SPANS)])
    with pytest.raises(UsageError, match=r"has schema version 2, and loss x needs rejected_spans"):
        rows.usable(needs, "loss x")
    rows = Rows.open([save(tmp_path / "new", [a_pair(0), a_pair(1, rejected_spans=())])])
    kept, counts = rows.usable(needs, "loss x")
    assert kept.pair_ids == ["pair-0000"]
    assert counts.lacking == {"spans": 1}


def test_missing_columns_and_other_types_are_refused(tmp_path):
    save(tmp_path, [a_pair(0)])
    file, content = table(tmp_path)
    pq.write_table(content.drop_columns(["counterfactual", "chosen_spans"]), file)
    refused(tmp_path, "lacks the columns counterfactual, chosen_spans")
    place = content.schema.get_field_index("prompt")
    other = content.set_column(place, "prompt", pa.array([7]))
    pq.write_table(other.replace_schema_metadata(content.schema.metadata), file)
    refused(tmp_path, "column prompt is int64, not string")


def test_damage_and_a_run_given_twice_are_refused(tmp_path):
    run = Path(save(tmp_path / "a", [a_pair(0)]))
    with pytest.raises(UsageError, match="occur twice, for example pair-0000; give each run once"):
        Rows.open([str(run), str(run)])
    (file,) = (run / "data").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-30])
    refused(run, file.name, "cannot be read")
    image = a_pair(0).chosen_image.bytes
    assert image in whole
    damaged = bytes(reversed(image))
    file.write_bytes(whole.replace(image, damaged))
    rows = Rows.open([str(run)])
    with pytest.raises(UsageError, match="row group 0, cannot be read"):
        rows[0]
