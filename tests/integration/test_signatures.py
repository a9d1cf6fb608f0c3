"""Signed commits, with OpenSSH: who has signed, and who has not."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import Workshop

import softcache
from softcache.cli import main
from softcache.errors import FormatError, IncompleteCache, StorageError
from softcache.store.documents import dump_document, load_document

pytestmark = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="OpenSSH is not installed")
COMMIT = "commits/000/00000000000000000001.json"


def make_key(folder: Path, who: str) -> Path:
    key = folder / who
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", who, "-f", str(key)], check=True)
    return key


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, Path]:
    return {who: make_key(tmp_path, who) for who in ("ann", "eve")}


@pytest.fixture
def allowed(keys: dict[str, Path], tmp_path: Path) -> Path:
    public = keys["ann"].with_suffix(".pub").read_text().split()
    path = tmp_path / "signers"
    path.write_text(f'ann@example.org namespaces="softcache" {public[0]} {public[1]}\n')
    return path


def said(cache: Path, allowed: Path, level: str = "signature") -> tuple[list[str], list[str]]:
    if level == "signature":
        found = softcache.verify_signature(cache, allowed)
    else:
        found = softcache.verify(cache, level, signers=allowed)
    return found.signers, [problem.what for problem in found.problems]


def test_signed(workshop: Workshop, keys: dict[str, Path], allowed: Path) -> None:
    workshop.build()
    assert said(workshop.cache, allowed) == ([], [f"not signed by anyone whom {allowed} lists"])
    softcache.sign(workshop.cache, keys["eve"])
    assert said(workshop.cache, allowed)[0] == []
    path = softcache.sign(workshop.cache, keys["ann"])
    assert (workshop.cache / path).is_file()
    for level in ("signature", "quick", "full"):
        assert said(workshop.cache, allowed, level) == (["ann@example.org"], [])
    assert softcache.gc(workshop.cache, min_age_hours=0).files == [], "a signature is not garbage"
    assert softcache.verify(workshop.cache).ok, "signatures are only looked at if somebody asks"

    workshop.samples(50)
    workshop.build()
    assert said(workshop.cache, allowed)[0] == [], "the newest commit is not signed"
    softcache.sign(workshop.cache, keys["ann"])
    assert said(workshop.cache, allowed)[0] == ["ann@example.org"]


def test_what_a_signature_covers(workshop: Workshop, keys: dict[str, Path], allowed: Path, tmp_path: Path) -> None:
    """Any change of the commit; and whatever the commit names is compared with its hashes."""
    workshop.build()
    signature = softcache.sign(workshop.cache, keys["ann"])
    path = workshop.cache / COMMIT
    pristine = path.read_bytes()
    path.write_bytes(dump_document(load_document(pristine, "x") | {"created": "2000-01-01T00:00:00+00:00"}))
    assert said(workshop.cache, allowed)[0] == []
    path.write_bytes(pristine)
    other = Workshop(tmp_path / "other") if (tmp_path / "other").mkdir() is None else workshop
    other.build()
    (other.cache / signature).parent.mkdir(parents=True)
    shutil.copy(workshop.cache / signature, other.cache / signature)
    assert said(other.cache, allowed)[0] == [], "another commit's signature"
    (workshop.cache / signature).write_bytes(b"-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n")
    assert said(workshop.cache, allowed)[0] == []


def test_files_that_are_no_signatures(workshop: Workshop, keys: dict[str, Path], allowed: Path) -> None:
    """Anybody may put files there. They do not hide a signature beside them."""
    workshop.build()
    folder = workshop.cache / Path(softcache.sign(workshop.cache, keys["ann"])).parent
    for number, make in enumerate(
        (Path.mkdir, os.mkfifo, lambda p: p.symlink_to("gone"), lambda p: p.write_bytes(bytes(10**5)))
    ):
        make(folder / f"00000000000000000001-{number:064x}.sig")
    assert said(workshop.cache, allowed) == (["ann@example.org"], [])
    for number in range(100, 220):
        (folder / f"00000000000000000001-{number:064x}.sig").write_bytes(b"x")
    with pytest.raises(StorageError, match="looks at 100 at most"):
        said(workshop.cache, allowed)
    allowed.write_text("!bob@example.org," + allowed.read_text())
    for path in folder.glob("*-0*.sig"):
        path.unlink() if not path.is_dir() else path.rmdir()
    assert said(workshop.cache, allowed)[0] == ["ann@example.org"]


def test_another_namespace(workshop: Workshop, keys: dict[str, Path], allowed: Path, tmp_path: Path) -> None:
    """A signature that was made for something else does not count."""
    workshop.build()
    copy = tmp_path / "commit"
    copy.write_bytes((workshop.cache / COMMIT).read_bytes())
    subprocess.run(["ssh-keygen", "-q", "-Y", "sign", "-n", "git", "-f", str(keys["ann"]), str(copy)], check=True)
    path = workshop.cache / f"signatures/000/00000000000000000001-{'0' * 64}.sig"
    path.parent.mkdir(parents=True)
    shutil.copy(tmp_path / "commit.sig", path)
    assert said(workshop.cache, allowed)[0] == []


def test_refused(workshop: Workshop, keys: dict[str, Path], allowed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(IncompleteCache, match="nothing to sign"):
        softcache.sign(workshop.cache, keys["ann"])
    workshop.build()
    with pytest.raises(FormatError, match="there is no commit 7"):
        softcache.sign(workshop.cache, keys["ann"], commit=7)
    with pytest.raises(StorageError, match="OpenSSH cannot sign with it"):
        softcache.sign(workshop.cache, workshop.cache / "README.md")
    shown = CliRunner().invoke(main, ["verify", str(workshop.cache), "--level", "signature"])
    assert shown.exit_code == 2
    assert "add --signers FILE" in shown.output
    with pytest.raises(StorageError, match="no such file"):
        softcache.verify(workshop.cache, "quick", signers="absent")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(StorageError, match="need OpenSSH"):
        softcache.sign(workshop.cache, keys["ann"])


def test_command(workshop: Workshop, keys: dict[str, Path], allowed: Path) -> None:
    workshop.build()
    signed = CliRunner().invoke(main, ["sign", str(workshop.cache), "--key", str(keys["ann"])])
    assert signed.exit_code == 0, signed.output
    assert signed.output.startswith("signatures/000/")
    words = ["verify", str(workshop.cache), "--level", "signature", "--signers", str(allowed)]
    shown = CliRunner().invoke(main, words)
    assert shown.exit_code == 0, shown.output
    assert "signed by ann@example.org" in shown.output
    assert json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)["signers"] == ["ann@example.org"]
