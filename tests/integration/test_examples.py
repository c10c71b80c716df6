"""Each example runs offline and asserts what it claims; the list of them is whole."""

from __future__ import annotations

import ast
import os
import runpy
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "examples"


def _run_all() -> Any:
    spec = spec_from_file_location("run_all", FOLDER / "run_all.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


run_all = _run_all()


@pytest.fixture(scope="module")
def running() -> dict[str, Future[Any]]:
    """All of them, two at a time."""
    with ThreadPoolExecutor(run_all.AT_ONCE) as pool:
        return {name: pool.submit(run_all.run, name) for name in run_all.NAMES}


@pytest.mark.parametrize("name", run_all.NAMES)
def test_example(name: str, running: dict[str, Future[Any]]) -> None:
    ended = running[name].result()
    if ended.state == "SKIP":
        pytest.skip(ended.said)
    assert ended.state == "ok", ended.said


def test_artifacts_go_to_the_s3_that_the_environment_names(tmp_path: Path) -> None:
    """With a bucket that is there as long as it is needed."""
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        command = [sys.executable, str(FOLDER / "s3_artifact_store.py")]
        env = os.environ | {"MINIO_ENDPOINT": f"http://{host}:{port}"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
        assert (done.returncode, f"S3 at http://{host}:{port}" in done.stdout) == (0, True), done.stdout + done.stderr
        from moto.s3.models import s3_backends

        assert [*s3_backends["123456789012"]["aws"].buckets] == []
    finally:
        server.stop()


@pytest.mark.parametrize("name", run_all.NAMES)
def test_importing_does_nothing_and_help_says_what_it_shows(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    example = runpy.run_path(str(FOLDER / f"{name}.py"), run_name=name)
    assert capsys.readouterr() == ("", "")

    def ends_with(option: str) -> Any:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", option])
        with pytest.raises(SystemExit) as ended:
            example["main"](example["example"])
        return ended.value.code

    assert ends_with("--help") == 0
    assert str(_shows(name)) in " ".join(capsys.readouterr().out.split())
    assert ends_with("--nonsense") == 2
    assert capsys.readouterr().err.startswith(f"usage: {name}.py")


@pytest.mark.parametrize("name", run_all.NAMES)
def test_an_example_is_short_and_starts_only_as_a_program(name: str) -> None:
    text = (FOLDER / f"{name}.py").read_text()
    assert len(text.splitlines()) <= 150
    assert text.endswith('\n\nif __name__ == "__main__":\n    main(example)\n')


def test_all_at_once_says_how_each_ended() -> None:
    """Its exit code tells programs; an unknown name is refused before anything runs."""
    done = subprocess.run(
        [sys.executable, str(FOLDER / "run_all.py"), "oneshot", "fork"], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "2 ok, 0 skipped, 0 failed"
    unknown = subprocess.run(
        [sys.executable, str(FOLDER / "run_all.py"), "nope"], capture_output=True, text=True, check=False
    )
    assert (unknown.returncode, "no such example: nope" in unknown.stderr) == (2, True)


def test_the_examples_are_listed_with_what_they_show() -> None:
    """A row of the table for each, in the words of its docstring, and no other row."""
    table = [line for line in (FOLDER / "README.md").read_text().splitlines() if line.startswith("| [")]
    assert sorted(table) == [f"| [{name}.py]({name}.py) | {_shows(name)} |" for name in run_all.NAMES]


def _shows(name: str) -> str | None:
    return ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text()))
