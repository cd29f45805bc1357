"""Imports go one way, from the command line down to the ground floor."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "duality"
GROUND = (
    "errors",
    "config",
    "artifacts",
    "runtime",
    "metrics",
    "predicates",
    "predicates_syntax",
    "predicates_sql",
    "samplers",
    "sampler_specs",
    "calibration",
)
LAYERS = [
    GROUND,
    ("data",),
    ("encoders",),
    ("model",),
    ("training",),
    ("generated", "intensity"),
    ("embeddings",),
    ("index",),
    ("retrieval",),
    ("evaluation", "explain", "targeting"),
    ("workflows",),
    ("service",),
    ("cli",),
    ("__main__",),
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")
TORCHLESS = ("index", "retrieval", "evaluation", "targeting", "data", "cli")


def part(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path, *, top_only: bool = False) -> list[str]:
    """Modules named by the file's imports; with `top_only`, those that run at import time."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_only else list(ast.walk(tree))
    names = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.append(node.module or "")
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    own = part(path)
    assert own in RANK, f"{own} has no layer"
    for name in imported(path):
        pieces = name.split(".")
        if pieces[0] == "duality" and len(pieces) > 1 and pieces[1] in RANK and pieces[1] != own:
            below = RANK[pieces[1]] < RANK[own]
            assert below or (own in GROUND and pieces[1] in GROUND), f"{own} imports {pieces[1]}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_have_one_subject(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    assert ast.get_docstring(ast.parse(text)), "a module says what it is"


@pytest.mark.parametrize("path", [p for p in FILES if part(p) in TORCHLESS], ids=lambda p: p.name)
def test_numpy_layers_do_not_import_torch(path: Path) -> None:
    assert not [name for name in imported(path, top_only=True) if name.split(".")[0] == "torch"]


def test_concrete_encoders_import_only_their_base() -> None:
    allowed, variants = (
        {
            "attention",
            "base",
            "blocks",
            "dropout",
            "groups",
            "pointwise_attention",
            "positions",
            "products",
            "times",
        },
        {"denoiser": {"sasrec"}, "fourier": {"transformer"}},
    )
    for path in (ROOT / "encoders").glob("*.py"):
        if path.stem in {"registry", "__init__"} | allowed:
            continue
        used = {name.split(".")[2] for name in imported(path) if name.startswith("duality.encoders.")}
        assert used <= allowed | variants.get(path.stem, set()), path


def test_init_files_hold_a_docstring_only() -> None:
    for path in ROOT.rglob("__init__.py"):
        if path != ROOT / "__init__.py":
            assert len(ast.parse(path.read_text(encoding="utf-8")).body) == 1, path


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from duality.cli.main import duality\n"
        "duality.main(['--help'], standalone_mode=False)\n"
        "heavy = {'torch', 'numpy', 'pyarrow', 'duckdb', 'faiss', 'pydantic', 'scipy'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
