"""Write a reference of every public name from the docstrings: `python .ci/reference.py FOLDER`."""

import pkgutil
import sys
import warnings
from pathlib import Path

import pdoc

import deco_lab

if __name__ == "__main__":
    warnings.simplefilter("error")
    for name in deco_lab.__all__:
        getattr(deco_lab, name)  # pdoc sees what is imported by then
    deco_lab.__all__ += [module.name for module in pkgutil.iter_modules(deco_lab.__path__)]
    pdoc.render.configure(docformat="numpy")
    pdoc.pdoc("deco_lab", output_directory=Path(sys.argv[1]))
