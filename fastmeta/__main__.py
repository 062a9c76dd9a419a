"""``python -m fastmeta``: the command line."""

from fastmeta.cli import app

if __name__ == "__main__":
    app(prog_name="fastmeta")
