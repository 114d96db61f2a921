"""The house rules that a machine can check; imports are checked by `lint-imports`."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "dreamlift"
FILES = sorted(PACKAGE.rglob("*.py"))


def test_no_file_is_over_400_lines():
    assert {str(file): n for file in FILES if (n := len(file.read_text().splitlines())) > 400} == {}


def test_no_room_has_more_than_14_files():
    rooms = {file.parent for file in FILES} - {PACKAGE / "guidance"}  # one paper a file
    assert {str(room): n for room in rooms if (n := len(list(room.glob("*.py")))) > 14} == {}


def test_no_function_is_over_60_lines_and_no_signature_over_10():
    """Kernels are excepted: they can take no structures."""
    long, wide = {}, {}
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.FunctionDef) or file.stem.endswith(("_numba", "_triton")):
                continue
            text = node.body[0].end_lineno - node.lineno if ast.get_docstring(node) else 0
            if node.end_lineno - node.lineno - text > 60:
                long[f"{file.name}: {node.name}"] = node.end_lineno - node.lineno
            if len(node.args.args) + len(node.args.kwonlyargs) > 10:
                wide[f"{file.name}: {node.name}"] = len(node.args.args) + len(node.args.kwonlyargs)
    assert long == {}
    assert wide == {}


def test_every_module_says_what_it_is():
    assert [str(file) for file in FILES if not ast.get_docstring(ast.parse(file.read_text()))] == []
