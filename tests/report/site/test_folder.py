from __future__ import annotations

from pathlib import Path

import pytest

from thalweg.report.site.folder import MARKER, SiteError, replaced


def write(out: Path, text: str = "new") -> None:
    with replaced(out) as part:
        (part / "papers").mkdir()
        (part / "papers" / "a.html").write_text(text)


def test_a_site_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "site"
    write(out, "old")
    write(out)
    assert (out / "papers" / "a.html").read_text() == "new" and (out / MARKER).is_file()
    assert [path.name for path in out.parent.iterdir()] == ["site"]


def test_an_empty_folder_and_a_link_to_a_site_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    write(tmp_path / "link", "newer")
    assert (tmp_path / "empty" / "papers" / "a.html").read_text() == "newer" and (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("name", ["notes.txt", "papers/mine.html", ".git/HEAD"])
def test_other_files_are_never_lost(tmp_path: Path, name: str) -> None:
    out = tmp_path / "site"
    for ours in (False, True):
        if ours:
            write(out, "old")
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("mine")
        with pytest.raises(SiteError, match=rf"holds what no site of ours put there \({name}\)"):
            write(out)
        assert (out / name).read_text() == "mine"
        (out / name).unlink()
    assert (out / "papers" / "a.html").read_text() == "old"


def test_a_failure_leaves_the_old_site(tmp_path: Path) -> None:
    out = tmp_path / "site"
    write(out, "old")
    with pytest.raises(RuntimeError, match="half-way"), replaced(out) as part:
        (part / "index.html").write_text("half")
        raise RuntimeError("half-way")
    assert (out / "papers" / "a.html").read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["site"]


def test_a_failed_swap_brings_the_old_site_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "site"
    write(out, "old")
    rename = Path.rename

    def stubborn(self: Path, target: Path) -> Path:
        if self.suffix == ".part":
            raise OSError(16, "Device or resource busy")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stubborn)
    with pytest.raises(SiteError, match=r"can't replace .*: Device or resource busy; choose another folder with --out"):
        write(out)
    assert (out / "papers" / "a.html").read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["site"]


def test_folders_that_cannot_be_used_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SiteError, match="is a file"):
        write(tmp_path / "file")
    with pytest.raises(SiteError, match="can't write beside"):
        write(tmp_path / "file" / "site")
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    for place in (Path("."), tmp_path):
        with pytest.raises(SiteError, match="the folder that you are in or above it"):
            write(place)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / MARKER).write_text("[]")
    with pytest.raises(SiteError, match="can't be read"):
        write(tmp_path / "broken")
