from thalweg.report.text import clean, listing, shorten


def test_passwords_are_masked_however_they_come() -> None:
    assert (
        clean("--storage postgresql://ann:s3@cr:et@db:5432/races end")
        == "--storage postgresql://ann:***@db:5432/races end"
    )
    assert clean("db?password=hush&x=1") == "db?password=***&x=1"
    assert clean("see https://example.org/a:b") == "see https://example.org/a:b"


def test_what_xml_and_terminals_can_not_bear_is_replaced() -> None:
    assert clean("a\x00b\x1b[31m\ud800\u202ec\td\n") == "a�b�[31m��c\td\n"


def test_long_names_keep_both_ends_and_fit() -> None:
    short = shorten("lion(betas=(0.95, 0.98)) + orthogonal", 20)
    assert len(short) <= 20 and short.startswith("lion(") and short.endswith("gonal") and "…" in short
    assert shorten("lion", 20) == "lion"


def test_listing() -> None:
    assert [listing(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
