"""A fresh machine needs nothing but the two commands: PostgreSQL's programs come with the lock."""

import subprocess
from pathlib import Path

import psycopg
from cluster import installed, packaged, running


def asked(url, query):
    """The one value that a query gives."""
    with psycopg.connect(url) as connection:
        return connection.execute(query).fetchone()[0]


def test_the_packaged_programs_run():
    """They run where only the caller may look, and as somebody else where the caller is root."""
    with running(packaged()) as url:
        assert int(asked(url, "show server_version_num")) >= 180000
        assert asked(url, "select 'ﷲ'") == "ﷲ"
        folder = Path(asked(url, "show data_directory"))
        owner = folder.owner()

    assert owner != "root"
    assert not folder.exists()


def test_installed_programs_are_preferred():
    """What a machine has is what its people deploy to."""
    tools = installed() or packaged()
    version = subprocess.run(
        [tools / "postgres", "--version"], check=True, capture_output=True, text=True
    ).stdout

    with running() as url:
        assert f" {asked(url, 'show server_version')}" in version


def test_programs_that_do_not_run_are_passed_over(tmp_path, monkeypatch):
    """A half installation, or a shim that refuses, counts as none."""
    for name in ("initdb", "postgres"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert installed() is None or installed() != tmp_path
