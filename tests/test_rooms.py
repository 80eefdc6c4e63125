"""The rooms of the code: which folder may import which, as CONTRIBUTING's Shape says."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BASE = "settings"
"""Modules directly below `pipelines/` that everything may import."""
ENTRANCES = {"definitions", "launcher"}
"""Modules directly below `pipelines/` that Dagster loads by name."""


def rooms():
    """The rooms from the ground up, as CONTRIBUTING lists them."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listed = re.search(r"^- From the ground up: ([^.]+)\.", text, re.MULTILINE)
    return re.findall(r"`(\w+)", listed[1])


def imported(source):
    """The modules that a source imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{one.name}" for one in node.names)
        elif isinstance(node, ast.Import):
            yield from (one.name for one in node.names)


def room_of(module):
    """The room of a module of ours; None of another one and of a room itself."""
    parts = module.split(".")
    if parts[0] == "lean_resources":
        return "lean_resources"
    if parts[0] != "pipelines" or len(parts) == 1:
        return None
    if (ROOT / "pipelines" / parts[1]).is_dir():
        return parts[1] if len(parts) > 2 else None
    return "entrances" if parts[1] in ENTRANCES else BASE


def wrong(module, source, order):
    """Imports of a module that run up, or out of the core into what serves it."""
    mine = room_of(module)
    found = {room_of(one) for one in imported(source)} - {None, mine}
    return {other for other in found if order.index(other) > order.index(mine)}


def test_every_room_is_listed_and_imports_run_down():
    """No module imports from a room above its own, so that there is no circle of rooms."""
    order = ["lean_resources", BASE, *rooms(), "entrances", "cli"]
    folders = {f.name for f in (ROOT / "pipelines").iterdir() if (f / "__init__.py").exists()}
    assert {*rooms(), "cli"} == folders

    for file in sorted([*ROOT.glob("pipelines/**/*.py"), *ROOT.glob("lean_resources/**/*.py")]):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        if room_of(module) is not None:
            assert wrong(module, file.read_text(encoding="utf-8"), order) == set(), module


def test_a_wrong_import_is_found():
    """Wherever it stands in the file, and however it is spelt."""
    order = ["lean_resources", BASE, *rooms(), "entrances", "cli"]
    for source in (
        "from pipelines.sync.engine import sync",
        "def f():\n    from pipelines.sync import engine",
        "import pipelines.sync.engine as e",
    ):
        assert wrong("pipelines.lake.lake", source, order) == {"sync"}
    assert wrong("pipelines.sync.engine", "from pipelines.lake.lake import Lake", order) == set()
    assert wrong("lean_resources.client", "import pipelines.keys", order) == {BASE}
    assert wrong("pipelines.models.build", "from pipelines.publish import warehouse", order) == {
        "publish"
    }


def test_no_module_is_imported_in_a_circle():
    """Within a room neither, as far as imports at the top of a file go."""
    known = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts): file
        for file in [*ROOT.glob("pipelines/**/*.py"), *ROOT.glob("lean_resources/**/*.py")]
        if file.name != "__init__.py"
    }
    reads = {
        name: {one for one in _at_the_top(file) if one in known} for name, file in known.items()
    }
    while free := {name for name, needs in reads.items() if not needs & set(reads)}:
        reads = {name: needs for name, needs in reads.items() if name not in free}
    assert not reads, f"{sorted(reads)} import each other"


def _at_the_top(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ImportFrom | ast.Import):
            yield from imported(ast.unparse(node))


IN_STORAGE = {
    *("glob", "rglob", "iterdir", "scandir", "listdir", "exists", "stat", "unlink", "rename"),
    *("mkdir", "rmdir", "rmtree", "touch", "hardlink_to", "link", "fsync", "copyfile"),
    *("write_bytes", "write_text", "read_bytes"),
}
"""Operations on files of a lake that only its storage makes."""
BESIDE = {
    *("lake/storage.py", "lake/folder.py", "lake/objects.py", "lake/object_store.py"),
    "lake/cache.py",  # copies on this machine
    *("lake/writers.py", "lake/permissions.py"),  # locks and modes, which are of this machine
    *("lake/queries.py", "lake/views.py"),  # SQL that is shipped
    *("models/cache.py", "models/loader.py", "models/model_files.py"),  # so are models
    "publish/export.py",  # a folder outside of the lake
    "sync/policy.py",  # a file of the operator
}
"""Modules that work on files of their own."""


def touched(source):
    """Operations on files that a source names, but of a storage."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in IN_STORAGE:
            owner = ast.unparse(node.value)
            if not owner.rpartition(".")[2].removeprefix("_").startswith("storage"):
                yield ast.unparse(node)


def test_files_of_a_lake_are_reached_through_its_storage_alone():
    """So that another kind of storage changes nothing else."""
    for room in ("lake", "sync", "models", "publish", "operate"):
        for file in sorted((ROOT / "pipelines" / room).glob("*.py")):
            if f"{room}/{file.name}" not in BESIDE:
                assert list(touched(file.read_text(encoding="utf-8"))) == [], file
    assert list(touched("lake.folder.glob('*')")) == ["lake.folder.glob"]
    assert list(touched("lake.storage.link(a, b)")) == []
