"""Execute examples/notebook/draw.ipynb, and write it with its outputs.

python examples/notebook/execute.py            # writes the notebook in place
python examples/notebook/execute.py --check    # executes it and writes nothing
"""

import argparse
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).with_name("draw.ipynb")


def executed(path: Path = NOTEBOOK) -> nbformat.NotebookNode:
    """Return the notebook at `path` with its outputs, without what differs from run to run.

    Raises nbclient.exceptions.CellExecutionError where a cell fails.
    """
    notebook = nbformat.read(path, 4)
    NotebookClient(notebook, timeout=1200, kernel_name="python3").execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day
        if cell.cell_type == "code":  # stderr has the progress of compilations
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
        for data in (out.data for out in cell.get("outputs", []) if "data" in out):
            for kind in {*data} - {"image/png", "text/plain"} if "image/png" in data else ():
                del data[kind]  # the same picture once more
    return notebook


def main() -> None:
    """Execute the notebook."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args()
    notebook = executed()
    if not args.check:
        nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
