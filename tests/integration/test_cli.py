"""The command line as a user meets it: output, exit codes, messages."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from conftest import Workshop

from softcache.cli import main


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def last(result: Result) -> str:
    return result.stdout.rstrip("\n").rsplit("\n", 1)[-1]


def test_build_status_info_verify(workshop: Workshop) -> None:
    recipe = workshop.save()
    result = run("build", recipe, "build.batch_size=8", "-o", workshop.cache)
    assert result.exit_code == 0, result.output
    assert last(result) == str(workshop.cache)
    assert "cls@t" in result.stdout
    assert "accuracy" in result.stdout
    assert " samples/s" in result.stderr
    assert "40/40" in result.stderr
    for command in ("status", "info", "verify", "gc"):
        result = run(command, workshop.cache)
        assert result.exit_code == 0, result.output
        assert last(result) == str(workshop.cache)
    assert run("verify", workshop.cache, "--level", "quick").exit_code == 0


@pytest.mark.parametrize(
    "command",
    ["build", "plan", "validate", "evaluate", "init", "status", "info", "verify", "sign", "gc", "export", "repack"],
)
def test_help_has_an_example(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"Example: softcache {command}" in " ".join(result.stdout.split())


def test_json_everywhere(workshop: Workshop, tmp_path: Path) -> None:
    recipe = workshop.save()
    plan = json.loads(run("plan", recipe, "-o", workshop.cache, "--json").stdout)
    assert plan["samples"] == 40
    assert {t["name"] for t in plan["targets"]} == {"rows", "cls@t", "feat@t"}
    assert not workshop.cache.exists()
    built = json.loads(run("build", recipe, "-o", workshop.cache, "--json").stdout)
    assert built["answered"] == 40
    assert json.loads(run("validate", recipe, "--json").stdout)["targets"] == ["cls@t", "feat@t"]
    assert json.loads(run("status", workshop.cache, "--json").stdout)["complete"]
    assert json.loads(run("info", workshop.cache, "--json").stdout)["targets"].keys() == {"cls@t", "feat@t"}
    assert json.loads(run("verify", workshop.cache, "--json").stdout)["ok"]
    assert json.loads(run("gc", workshop.cache, "--json").stdout)["files"] == []
    assert len(json.loads(run("export", workshop.cache, "-o", tmp_path / "out", "--json").stdout)["files"]) == 3
    failed = run("info", tmp_path, "--json")
    assert failed.exit_code == 1
    assert json.loads(failed.stdout)["error"]["kind"] == "FormatError"


def test_estimates_are_near(workshop: Workshop) -> None:
    workshop.samples(4000)
    recipe = workshop.save()
    planned = json.loads(run("plan", recipe, "build.fragment_rows=1000", "-o", workshop.cache, "--json").stdout)
    run("build", recipe, "build.fragment_rows=1000", "-o", workshop.cache)
    actual = sum(p.stat().st_size for p in (workshop.cache / "data").rglob("*") if p.is_file())
    assert 0.5 < planned["bytes"] / actual < 2


def test_exit_codes(workshop: Workshop, tmp_path: Path) -> None:
    recipe = workshop.save()

    def code(*arguments: Any) -> tuple[int, str]:
        result = run(*arguments)
        return result.exit_code, result.stderr

    assert code("build", recipe)[0] == 2
    assert code("build", "absent.yaml", "-o", tmp_path / "x")[0] == 2
    assert code("build", recipe, "build.batch_sise=1", "-o", tmp_path / "x") == (
        2,
        f"softcache: RecipeError: {recipe}: build.batch_sise: 1: unknown key; did you mean 'batch_size'?\n",
    )
    assert code("verify", tmp_path / "absent")[0] == 1
    assert code("build", recipe, "-o", "/dev/null/x")[0] == 5
    assert code("build", recipe, "-o", "/proc/softcache")[0] == 5
    assert code("build", recipe, "-o", workshop.cache)[0] == 0
    for path in (workshop.cache / "commits").rglob("*.json"):
        path.unlink()
    assert code("status", workshop.cache)[0] == 3
    assert code("info", workshop.cache)[0] == 3
    workshop.weights(1)
    status, message = code("build", recipe, "-o", workshop.cache)
    assert status == 4
    assert "teacher.weights: " in message
    assert "delete the folder, in which nothing is committed yet" in message
    assert code("gc", workshop.cache, "--abandon", "--yes")[0] == 3
    shutil.rmtree(workshop.cache)
    assert code("build", recipe, "-o", workshop.cache)[0] == 0
    assert code("gc", workshop.cache, "--abandon", "--yes")[0] == 0
    shard = next((workshop.cache / "data/cls@t").rglob("*.arrow"))
    shard.write_bytes(shard.read_bytes()[:-1])
    status, message = code("verify", workshop.cache)
    assert status == 1
    assert shard.name in message


def test_no_traceback_for_bad_samples(workshop: Workshop) -> None:
    workshop.samples(40, ids=[0, 0, *range(2, 40)])
    result = run("build", workshop.save(), "-o", workshop.cache)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert result.stderr == "softcache: AlignmentError: id column 'id': duplicate ids 0\n"


def test_a_pipe_that_closes_early(workshop: Workshop) -> None:
    workshop.build()
    command = f"{sys.executable} -m softcache info {workshop.cache} | head -1"
    found = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert found.stdout.startswith("commit 1")
    assert found.stderr == ""


def test_init_and_validate(tmp_path: Path) -> None:
    path = tmp_path / "new" / "recipe.yaml"
    assert last(run("init", path)) == str(path)
    assert run("init", path).exit_code == 5
    result = run("validate", path)
    assert result.exit_code == 2
    assert "teachers.a: 'model:make' cannot be imported" in result.stderr
    assert "transfer_set: 'data:samples' cannot be imported" in result.stderr


def test_export(workshop: Workshop, tmp_path: Path) -> None:
    workshop.recipe["tasks"]["cls"]["store"]["dtype"] = "bfloat16"
    workshop.build()
    result = run("export", workshop.cache, "--to", "parquet", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    table = pq.read_table(tmp_path / "out/cls@t/train.parquet")
    assert table.column_names == ["values", "valid", "sample_id", "view"]
    assert table["values"].to_pylist() == workshop.open()["cls"].read(slice(None)).values.float().tolist()
    assert pq.read_table(tmp_path / "out/feat@t/train.parquet").num_rows == 40
    assert pq.read_table(tmp_path / "out/rows/train.parquet")["label"].to_pylist() == [i % 5 for i in range(40)]
    again = run("export", workshop.cache, "-o", tmp_path / "out")
    assert again.exit_code == 5
    assert "there already" in again.stderr


def test_a_build_that_cannot_fit(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softcache.store.files.local.LocalFiles.free_bytes", lambda self: 1000)
    for command in ("plan", "build"):
        result = run(command, workshop.save(), "-o", workshop.cache)
        assert result.exit_code == 5
        assert "1,000 are free" in result.stderr
