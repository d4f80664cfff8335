"""Count code without comments, docstrings and blank lines: `python .ci/lines.py PATH ...`.

Of each path the lines by folder, and their sum.
"""

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path

NO_CODE = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
    tokenize.ENDMARKER,
}  # fmt: skip


def lines_of(source: str) -> int:
    """Return how many lines hold code; a string that stands by itself is a docstring."""
    said = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    code = {
        line
        for token in tokens
        if token.type not in NO_CODE
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(code - said)


for root in sys.argv[1:]:
    found: Counter[str] = Counter()
    for path in sorted(Path(root).rglob("*.py")):
        found[str(path.parent)] += lines_of(path.read_text(encoding="utf-8"))
    for folder, count in found.items():
        print(f"{count:7,}  {folder}")
    print(f"{found.total():7,}  {root} in all")
