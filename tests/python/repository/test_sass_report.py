"""scripts/sass_report.py over a compiler that says what a test wants: kernels are seen, faults are named."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
ARCHITECTURES = ("75", "80", "86", "89", "90", "100", "120")
REGISTERS, SPILLED, FRAME = 0, 1, 2


def launched(name: str) -> str:
    return f"_ZN11bittersweet4cuda3runINS0_{len(name)}{name}INS_7Bitter7EEEEEvNT_4ArgsE"


class Project:
    """A folder with sources, and nvcc and cuobjdump over it. Kernels are [name, registers, spilled, frame] by
    unit, and by "unit sm_86" where an architecture differs."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
        import sass_compile
        import sass_report

        self.root, self.compiler, self.script = root, sass_compile, sass_report
        self.json, self.page = root / "sass.json", root / "cuda_sass.md"
        self.version, self.compiled = "release 13.0", list[str]()
        for folder in ("cuda", "include/bittersweet", "src"):
            (root / folder).mkdir(parents=True)
        (root / "include/bittersweet/config.hpp").write_text("#pragma once\n")
        (root / "cuda/tile.cuh").write_text('#include "bittersweet/config.hpp"\nconst char* name = "//";\n')
        self.kernels: dict[str, list[list[Any]]] = {
            "pass": [[launched("PassTiles"), 72, 0, 0], [launched("PassAny"), 40, 0, 0]],
            "zero": [["_ZN11bittersweet4cuda3runINS0_4ZeroEEEvNT_4ArgsE", 12, 0, 0]],
            "host": [],
        }
        for unit in self.kernels:
            (root / f"cuda/{unit}.cu").write_text('#include "tile.cuh"\n')
        monkeypatch.setattr(sass_compile, "ROOT", root)
        monkeypatch.setattr(sass_compile, "subprocess", SimpleNamespace(run=self.tool))
        monkeypatch.setattr(sass_compile, "tool", lambda name: name)
        monkeypatch.setattr(sass_report, "tool", lambda name: name)
        monkeypatch.setattr(sass_report, "JSON_REPORT", self.json)
        monkeypatch.setattr(sass_report, "PAGE", self.page)

    def tool(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        if "--version" in command:
            return subprocess.CompletedProcess(command, 0, self.version, "")
        if command[0] == "cuobjdump":
            said = ""
            for name, *_rest in json.loads(Path(command[-1]).read_text()):
                said += f"\t\tFunction : {name}\n        /*0000*/                   LDC R1, c[0x0][0x28] ;\n"
                said += "        /*0010*/              @!P0 STL [R1], RZ ;\n" if "Local" in name else ""
            return subprocess.CompletedProcess(command, 0, said, "")
        unit = Path(command[-1]).stem
        which = f"{unit} {next(a for a in command if a.startswith('-arch=')).removeprefix('-arch=')}"
        self.compiled.append(which)
        kernels = self.kernels.get(which, self.kernels.get(unit))
        if kernels is None:
            return subprocess.CompletedProcess(command, 1, "", f"{unit} does not compile")
        said = ""
        for name, registers, spilled, frame in kernels:
            said += f"ptxas info    : Compiling entry function '{name}' for 'sm_0'\n"
            said += f"ptxas info    : Function properties for {name}\n"
            said += f"    {frame} bytes stack frame, {spilled} bytes spill stores, 0 bytes spill loads\n"
            said += f"ptxas info    : Used {registers} registers, used 0 barriers, 400 bytes cmem[0]\n"
        Path(command[command.index("-o") + 1]).write_text(json.dumps(kernels))
        return subprocess.CompletedProcess(command, 0, "", said)

    def run(self, *arguments: str) -> int:
        """One run of the script, as a process of its own would be."""
        self.compiler.text_of.cache_clear()
        self.compiler.compiler.cache_clear()
        self.compiled.clear()
        kept = [] if "--kept" in arguments else ["--kept", str(self.root / "build")]
        result = self.script.main([*arguments, *kept])
        assert isinstance(result, int)
        return result

    def report(self) -> Any:
        return json.loads(self.json.read_text())

    def spoil(self, change: Callable[[Any], None]) -> None:
        """Changes the checked-in report by hand."""
        report = self.report()
        change(report)
        self.json.write_text(json.dumps(report))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    made = Project(tmp_path, monkeypatch)
    assert made.run() == 0
    return made


@pytest.fixture
def faults(project: Project, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """A run that is to fail, and what it says."""

    def run(*arguments: str) -> str:
        capsys.readouterr()
        assert project.run(*arguments) == 1
        return capsys.readouterr().out

    return run


def test_one_command_compiles_every_unit_for_every_architecture_and_writes(project: Project) -> None:
    assert sorted(project.compiled) == sorted(f"{u} sm_{a}" for u in project.kernels for a in ARCHITECTURES)
    report = project.report()
    assert report["units"]["pass"]["families"]["86"] == {"PassTiles": [1, 72, 0, 0], "PassAny": [1, 40, 0, 0]}
    assert set(report["units"]["zero"]["families"]) == set(report["bytes"]) == set(ARCHITECTURES)
    page = project.page.read_text()
    assert "| PassTiles | 1 | 72 | 72 | 72 | 72 | 72 | 72 | 72 |" in page
    assert "0 bytes in every kernel" in page


def test_a_report_of_fewer_architectures_names_the_others(project: Project) -> None:
    assert project.run("--architectures", "90", "120") == 0
    assert set(project.report()["bytes"]) == {"90", "120"}
    page = project.page.read_text()
    assert "Not compiled for this report: sm_75, sm_80, sm_86, sm_89, sm_100." in page
    assert "| PassTiles | 1 | 72 | 72 |\n" in page
    assert project.run("--check") == 0  # and compiles what the report does not tell of


def test_what_did_not_change_is_believed_but_for_what_is_looked_at_closely(project: Project) -> None:
    assert project.run("--check", "--kept", str(project.root / "other")) == 0
    assert sorted(project.compiled) == ["host sm_90", "pass sm_90", "zero sm_90"]
    assert project.run("--check") == 0
    assert project.compiled == []  # kept
    other = ["--kept", str(project.root / "third")]
    assert project.run("--check", "--afresh", "--architectures", "75", "120", *other) == 0
    assert sorted(project.compiled) == sorted(f"{u} sm_{a}" for u in project.kernels for a in ("75", "120"))


@pytest.mark.parametrize(
    ("file", "text", "compiled"),
    [
        ("include/bittersweet/config.hpp", "#pragma once\n#define WIDTH 4\n", 14),
        ("include/bittersweet/config.hpp", "#pragma once\n\n  // a remark\n/* and\none more */\n", 0),
        ("cuda/tile.cuh", '#include "bittersweet/config.hpp"\nconst char* name = "//4";\n', 14),
        ("cuda/zero.cu", '#include "tile.cuh"\nint x;\n', 7),
        ("version", "release 13.1", 21),
    ],
)
def test_a_unit_is_compiled_again_when_what_it_is_made_of_changes(
    project: Project, file: str, text: str, compiled: int
) -> None:
    (project.root / "cuda/host.cu").write_text("\n")
    assert project.run() == 0
    if file == "version":
        project.version = text
    else:
        (project.root / file).write_text(text)
    assert project.run("--check") == 0
    assert len(project.compiled) == compiled


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    ("what", "value", "said"),
    [
        (REGISTERS, 88, "PassTiles: 88 registers, more than 80"),
        (SPILLED, 8, "PassTiles: 8 bytes spilled"),
        (FRAME, 16, "PassTiles: 16 bytes of local memory"),
    ],
)
def test_a_kernel_that_breaks_a_limit_on_one_architecture_is_named(
    project: Project, faults: Callable[..., str], architecture: str, what: int, value: int, said: str
) -> None:
    spoilt = [list(kernel) for kernel in project.kernels["pass"]]
    spoilt[0][1 + what] = value
    project.kernels[f"pass sm_{architecture}"] = spoilt
    (project.root / "cuda/pass.cu").write_text('#include "tile.cuh"\nint changed;\n')
    assert f"pass, sm_{architecture}: {said}" in faults("--check")
    assert f"pass, sm_{architecture}: {said}" in faults()  # written all the same, for who looks
    assert f"pass, sm_{architecture}: {said}" in faults("--check")
    assert ("**There are some**" in project.page.read_text()) == (what != REGISTERS)


@pytest.mark.parametrize("place", [1, 2, 3])
def test_a_row_of_the_report_that_breaks_a_limit_fails_without_compiling(
    project: Project, faults: Callable[..., str], place: int
) -> None:
    def change(report: Any) -> None:
        report["units"]["pass"]["families"]["120"]["PassAny"][place] = 96

    project.spoil(change)
    assert "pass, sm_120: PassAny: 96 " in faults("--check")
    assert project.compiled == []


def test_a_report_of_other_kernels_or_figures_fails(project: Project, faults: Callable[..., str]) -> None:
    other = launched("PassAny").replace("Bitter7", "Bitter3")
    project.kernels["pass"].append([other, 44, 0, 0])
    said = faults("--check", "--afresh", "--kept", str(project.root / "other"))
    assert "pass, sm_75: PassAny: 2 kernels, 1 in the report" in said
    project.kernels["pass"] = [[launched("PassTiles"), 60, 0, 0], [launched("PassAny"), 42, 0, 0]]
    said = faults("--check", "--afresh", "--kept", str(project.root / "third"))
    assert "pass, sm_75: PassTiles: 60 registers, 72 in the report" in said
    assert "PassAny" not in said  # within a tenth


def test_new_units_and_pages_by_hand_are_found(project: Project, faults: Callable[..., str]) -> None:
    project.kernels["more"] = [[launched("Fresh"), 30, 0, 0]]
    (project.root / "cuda/more.cu").write_text("\n")
    assert "more: only in one of report and code" in faults("--check")
    assert project.run() == 0
    assert "| Fresh | 1 |" in project.page.read_text()
    project.page.write_text(project.page.read_text().replace("| Fresh | 1 | 30 |", "| Fresh | 1 | 20 |"))
    assert "cuda_sass.md does not say what sass.json says" in faults("--check")


def test_instructions_on_local_memory_are_found_whatever_ptxas_says(
    project: Project, faults: Callable[..., str]
) -> None:
    project.kernels["zero"] = [[launched("Local"), 12, 0, 0]]
    (project.root / "cuda/zero.cu").write_text("\n")
    assert "instructions on local memory" in faults()


def test_kernels_of_another_library_may_take_registers_but_not_spill(
    project: Project, faults: Callable[..., str]
) -> None:
    sort = "_ZN3cub17CUB_300001_SM_7506detail20DeviceRadixSortSweepINS1_5radixEjEEvPT0_"
    project.kernels["sort"] = [[sort, 128, 0, 0]]
    (project.root / "cuda/sort.cu").write_text("\n")
    assert project.run() == 0
    assert "| cub: DeviceRadixSortSweep | 1 | 128 |" in project.page.read_text()
    project.kernels["sort"] = [[sort, 128, 4, 8]]
    (project.root / "cuda/sort.cu").write_text("int x;\n")
    assert "cub: DeviceRadixSortSweep: 4 bytes spilled" in faults("--check")


def test_what_is_missing_is_said_and_nothing_is_written(
    project: Project,
    faults: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = project.json.read_bytes()
    (project.root / "cuda/bad.cu").write_text("\n")
    with pytest.raises(SystemExit, match="bad does not compile"):
        project.run()
    assert project.json.read_bytes() == before
    with pytest.raises(SystemExit):
        project.run("--architectures", "75")
    assert "a report needs 90" in capsys.readouterr().err

    def missing(name: str) -> str:
        raise project.compiler.ToolMissing(f"{name} was not found")

    monkeypatch.setattr(project.script, "tool", missing)
    assert project.run() == 77
    assert "skipped: nvcc was not found" in capsys.readouterr().out
    assert project.json.read_bytes() == before
    monkeypatch.setattr(project.script, "tool", lambda name: name)
    project.json.unlink()
    assert "is missing: run it without --check" in faults("--check")


@pytest.mark.parametrize(
    ("mangled", "family"),
    [
        ("_ZN11bittersweet4cuda3runINS0_6UploadEEEvNT_4ArgsE", "Upload"),
        ("_ZN11bittersweet4cuda3runINS0_5GuessILNS0_4PassE4EEEEEvNT_4ArgsE", "Guess"),
        ("_ZN11bittersweet4cuda3runINS0_5Outer5InnerEEEvNT_4ArgsE", "Inner"),
        ("_ZN11bittersweet4cuda5plainEPf", "plain"),
        ("_Z5alonePf", "alone"),
        ("in_c", "in_c"),
        ("_ZN3cub17CUB_300001_SM_9008ScanTileIjEEvPT_", "cub: ScanTile"),
    ],
)
def test_families_are_read_from_mangled_names(
    mangled: str, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    import sass_families

    assert sass_families.family_of(mangled) == family


def test_the_checked_in_report_tells_of_this_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    import sass_report

    record = json.loads((REPOSITORY / "bench/results/sass.json").read_text(encoding="utf-8"))
    told = sass_report.told_by(record)
    assert sorted(told.units) == sorted(path.stem for path in (REPOSITORY / "cuda").glob("*.cu"))
    for unit, by_architecture in told.units.items():
        assert sorted(by_architecture) == sorted(told.sizes) and {90} <= by_architecture.keys(), unit
        for families in by_architecture.values():
            assert sass_report.faults_of(unit, families) == []
    page = (REPOSITORY / "docs/cuda_sass.md").read_text(encoding="utf-8")
    assert page == sass_report.as_page(told)


def test_units_are_compiled_with_the_options_of_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    import sass_compile

    options = set[str]()
    for file in ("CMakeLists.txt", "cuda/CMakeLists.txt"):
        text = (REPOSITORY / file).read_text(encoding="utf-8")
        for found in re.findall(r"\$<\$<COMPILE_LANGUAGE:CUDA>:([^>]+)>", text):
            options.update(found.split(";"))
    assert "-fmad=false" in options
    assert options - {"-Xcompiler=-Wall"} <= set(sass_compile.FLAGS)
