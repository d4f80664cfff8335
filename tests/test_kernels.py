"""How native kernels are built, found and called; what they compute, their users' tests hold."""

import os
import platform
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from forked import answer_of
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from deco_lab.fast import build
from deco_lab.fast.build import KernelError, call, library, only_numbers
from deco_lab.spectra import block_dct


def found(source: str) -> str:
    try:
        return library(source)._name
    except KernelError as error:
        return str(error)


def found_both() -> list[str]:
    with ThreadPoolExecutor(4) as threads:
        names = list(threads.map(found, ["dct", "model"] * 2))
    assert names[:2] == names[2:]
    return names[:2]


def started(tmp_path: Path, compiler: str | None = None) -> list[str]:
    """Return what a new process says that looks for both libraries in an empty cache."""
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    if compiler is not None:
        environment["CXX"] = compiler
    return answer_of(found_both, environment)


@pytest.mark.slow
def test_library_is_built_once_and_found_again(tmp_path):
    paths = [Path(line) for line in started(tmp_path)]
    folder = tmp_path / "cache" / "deco_lab"
    assert sorted(folder.glob("*.so")) == paths
    assert len(list(folder.iterdir())) == 4  # each with its checksum
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.name.split("-")[0] for path in paths] == ["dct", "model"]
    built = [path.stat().st_mtime_ns for path in paths]
    assert started(tmp_path) == [str(path) for path in paths]
    assert [path.stat().st_mtime_ns for path in paths] == built


def test_library_says_why_it_cannot_be_built(tmp_path):
    for missing in started(tmp_path, str(tmp_path / "no-compiler")):
        assert missing.startswith("native kernels cannot be built: ")
        assert "no-compiler" in missing
        assert missing.endswith("install a C++ compiler with OpenMP, or name one in CXX")
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'broken: what is this?' >&2\nexit 1\n")
    broken.chmod(0o755)
    assert "broken: what is this?" in started(tmp_path, str(broken))[0]
    assert not list((tmp_path / "cache").rglob("*.so"))
    assert "No closing quotation" in started(tmp_path, 'c++ "')[0]
    if platform.machine() in ("x86_64", "AMD64"):
        of_dct, of_model = started(tmp_path, "c++ -mno-avx2")
        assert of_dct.endswith(".so")
        assert "the processor has no AVX2" in of_model


def emptied(built: Path) -> None:
    built.write_bytes(b"")


def cut(built: Path) -> None:
    built.write_bytes(built.read_bytes()[: built.stat().st_size // 2])


def zeroed(built: Path) -> None:
    whole = built.read_bytes()
    third = len(whole) // 3
    built.write_bytes(whole[:third] + bytes(third) + whole[2 * third :])


def of_anybody(built: Path) -> None:
    built.chmod(0o777)


def without_a_checksum(built: Path) -> None:
    built.with_suffix(".sha256").unlink()


def transform() -> None:
    block_dct(torch.ones(9, 1, 96, 96))


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """A folder with the library that a transform has built."""
    folder = tmp_path_factory.mktemp("cache")
    answer_of(transform, {"XDG_CACHE_HOME": str(folder)})
    return folder


@pytest.mark.parametrize("damage", [emptied, cut, zeroed, of_anybody, without_a_checksum])
def test_library_builds_a_damaged_one_again(cache, tmp_path, damage):
    shutil.copytree(cache, tmp_path, dirs_exist_ok=True)
    (built,) = tmp_path.rglob("dct-*.so")
    whole, inode = built.read_bytes(), built.stat().st_ino
    damage(built)
    answer_of(transform, {"XDG_CACHE_HOME": str(tmp_path)})
    assert built.read_bytes() == whole
    assert built.stat().st_ino != inode
    assert not built.stat().st_mode & 0o022


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("", "it built no library"),
        ("echo 'void other() {}' | c++ -x c -shared -o $out -", "it built no blocks"),
        ("exec sleep 60", "no answer within 0.5 s"),
    ],
)
def test_library_does_not_keep_what_is_no_kernel(tmp_path, monkeypatch, script, message):
    compiler = tmp_path / "compiler"
    compiler.write_text(
        '#!/bin/sh\nout=\nfor word; do [ "$last" = -o ] && out=$word; last=$word; done\n'
        f'[ "$out" ] || exit 0\n{script}\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if "sleep" in script:
        monkeypatch.setattr(build, "PATIENCE", 0.5)
    said = str(build._found.__wrapped__("dct"))
    assert said.startswith(f"native kernels cannot be built: {compiler}: {message}; ")
    assert not list((tmp_path / "deco_lab").iterdir())


def test_library_is_kept_in_a_folder_of_ones_own(tmp_path, monkeypatch):
    folder = tmp_path / "deco_lab"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert not isinstance(build._found.__wrapped__("dct"), str)
    assert folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    assert f"kept in {folder}: it is another user's" in str(build._found.__wrapped__("dct"))


def test_library_asks_the_compiler_once(tmp_path):
    compiler, log = tmp_path / "compiler", tmp_path / "log"
    compiler.write_text(f"#!/bin/sh\necho asked >> {log}\nexit 1\n")
    compiler.chmod(0o755)
    started(tmp_path, str(compiler))
    assert log.read_text().split() == ["asked"] * 2  # for each of two sources


def test_library_says_that_it_cannot_be_kept(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file, not a folder")
    for message in started(tmp_path):
        assert message.startswith(f"native kernels cannot be kept in {tmp_path}/cache/deco_lab: ")
        assert message.endswith("name another folder in XDG_CACHE_HOME")

    def fail(*arguments):
        raise RuntimeError("nobody has a home")

    monkeypatch.setattr(Path, "expanduser", fail)
    assert "cannot be kept in the cache folder: nobody" in str(build._found.__wrapped__("dct"))


def test_call_takes_contiguous_tensors_alone():
    x = torch.zeros(8, 16)
    with pytest.raises(ValueError, match=r"must be contiguous on the CPU, got one of .*\[16, 8\]"):
        call("dct", "blocks", [x, x.T, x, x], [1, 2, 1])


def test_only_numbers_knows_what_is_more():
    x = torch.ones(3)
    weight = torch.ones(3, requires_grad=True)
    assert only_numbers(x, x)
    assert not only_numbers(x, weight)
    with torch.no_grad():
        assert only_numbers(x, weight)
    assert not only_numbers(torch.complex(x, x).conj().imag)  # its memory holds the negative
    assert not only_numbers(torch.nn.Parameter(x, requires_grad=False))
    with FlopCounterMode(display=False):
        assert not only_numbers(x)
    with forward_ad.dual_level():
        assert not only_numbers(x)
    assert not torch.compile(lambda a: a * only_numbers(a), backend="eager")(x).any()
    assert torch.vmap(lambda row: row * only_numbers(x))(torch.ones(2, 1)).sum() == 0
