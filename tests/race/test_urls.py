from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import URL, make_url

from thalweg.race.errors import StorageError
from thalweg.race.urls import normalize, redact, shown, sqlite_url


@given(
    st.text(min_size=3, max_size=20).filter(
        lambda text: text.strip() and text not in "postgresql+psycopg://me:***@db.example/races"
    )
)
def test_no_password_is_ever_shown(password):
    url = URL.create("postgresql", "me", password, "db.example", 5432, "races").render_as_string(hide_password=False)
    assert make_url(normalize(url)).password == password
    for text in (url, normalize(url), f"failed with {url!r}", f"user me password {password} refused", repr(password)):
        assert password not in redact(text, url)
    assert password not in shown(normalize(url))


def test_what_is_shown_says_enough():
    url = "postgresql+psycopg://me:s3cret@db.example:5432/races?sslmode=require&sslpassword=hush"
    assert shown(url) == "postgresql+psycopg://me:***@db.example:5432/races?sslmode=require&sslpassword=***"
    assert shown("postgresql://me@db/races") == "postgresql://me@db/races"
    assert shown("sqlite:////data/race.db") == "sqlite:////data/race.db"


@pytest.mark.parametrize(
    "url", ["postgresql://me:s3@cret@host:port/x", "://me:s3cret@", "postgresql://me:s3cret@db:notaport/x"]
)
def test_a_malformed_address_is_an_error_without_the_password(url):
    with pytest.raises(StorageError) as error:
        normalize(url)
    assert "cret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_psycopg_is_the_driver():
    assert normalize("postgres://u@h/d") == "postgresql+psycopg://u@h/d"
    assert normalize("postgresql+psycopg://u@h/d") == "postgresql+psycopg://u@h/d"


def test_a_file_name_is_sqlite(tmp_path):
    path = tmp_path / "odd name #1?.db"
    assert make_url(normalize(str(path))).database == str(path)
    assert sqlite_url(Path("/a/b.db")) == "sqlite:////a/b.db"
