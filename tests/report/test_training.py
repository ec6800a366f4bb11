"""The sections on mixtures and packs."""

from tests.report.made import report, workspace


def mixture(source, **changes):
    row = {
        "stage": "mix.m", "source": source, "planned_share": 0.4, "real_share": 0.375, "planned_tokens": 400,
        "tokens": 300, "missing_tokens": 100, "rows": 30, "epochs": 1.5, "group_epochs": [1.5],
        "available_rows": 20, "available_tokens": 200, "too_short_rows": 1, "too_short_tokens": 3, "too_long_rows": 2,
        "too_long_tokens": 4,
    }  # fmt: skip
    return {**row, **changes}


def test_a_mixture_is_shown_as_planned_and_as_drawn(tmp_path):
    lengths = [{"stage": "mix.m", "source": "books", "tokens_from": 8, "available_rows": 20, "available_tokens": 200,
                "rows": 30, "tokens": 300}]  # fmt: skip
    tables = {"mixtures": [mixture("books"), mixture("web", planned_share=0.6)], "mixture_lengths": lengths}
    read = report(workspace(tmp_path, tables))
    assert read.tables["Planned and real shares of tokens"][1:] == [
        ["mix.m", "books", "40.0%", "37.5%", "300", "100", "30", "1.5", "200", "7"],
        ["mix.m", "web", "60.0%", "37.5%", "300", "100", "30", "1.5", "200", "7"],
    ]
    assert "books: in the mixture" in read.text and "web: has" not in read.text
    assert "How full rows are" not in read.tables


def test_packs_are_shown_with_what_they_lost(tmp_path):
    packing = {
        "stage": "pack.p", "strategy": "bfd", "row_length": 4096, "rows": 11, "lower_bound": 10, "tokens_in": 45000,
        "tokens_out": 44000, "tokens_dropped": 1000, "samples_in": 67, "samples_dropped": 1, "samples_cut": 0,
        "efficiency": 0.968, "samples_per_row": 6.04, "packing_factor": 6.0, "sq_cost_max": 300,
        "sq_cost_median": 200.0,
    }  # fmt: skip
    packs = [{"stage": "pack.p", "pack_id": f"pack-{n}", "sample_ids": ["a"] * n} for n in (1, 1, 7)]
    read = report(workspace(tmp_path, {"packings": [packing], "packs": packs}))
    assert read.tables["How full rows are"][1:] == [
        ["pack.p", "bfd", "4,096", "11", "10", "96.8%", "44,000", "1,000", "67", "1", "0", "6", "1.5"]
    ]
    assert "pack.p: 2 of 3 rows hold a single sample, the fullest 7." in read.text
