"""docs/*.md: Python examples are right, commands print what they are said to, links lead somewhere."""

import doctest
import re
import shlex
from pathlib import Path

import pytest
from command_helpers import run

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"), key=lambda page: page.name)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def test_pages() -> None:
    assert [page.stem for page in PAGES] == ["accuracy", "calibration", "dask", "files", "recipes"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python(page: Path) -> None:
    names: dict[str, object] = {}
    for number, example in enumerate(blocks(page, "python")):
        test = doctest.DocTestParser().get_doctest(example, names, f"{page.name} {number}", str(page), 0)
        assert test.examples
        failed, _ = doctest.DocTestRunner().run(test, clear_globs=False)
        assert failed == 0
        names = test.globs


def test_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    tested = 0
    for page in PAGES:
        for block in blocks(page, "console"):
            command, expected = block.split("\n", 1)
            prompt, program, *arguments = shlex.split(command)
            assert (prompt, program) == ("$", "fastsoftmax")
            assert run(*arguments)[0].decode() == expected
            tested += 1
    assert tested


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert all((page.parent / link).exists() for link in links), links
