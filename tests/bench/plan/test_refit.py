"""`python -m bench.plan.refit` writes what is shipped: it does so only where it was asked for that and nothing else."""

from __future__ import annotations

import pytest

from bench.plan import refit


@pytest.mark.parametrize("word", ["--help", "rows.csv"])
def test_words_that_it_does_not_take_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], word: str
) -> None:
    monkeypatch.setattr(refit, "refit", lambda: pytest.fail("it wrote"))
    assert refit.main([word]) == 2
    assert capsys.readouterr().err.startswith(f"refit: {word} is no option: it takes none, reads published_rows.csv")


def test_what_is_wrong_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> list[str]:
        raise ValueError("published_rows.csv: cannot be read")

    monkeypatch.setattr(refit, "refit", broken)
    assert refit.main([]) == 2
    assert capsys.readouterr().err == "refit: published_rows.csv: cannot be read\n"
