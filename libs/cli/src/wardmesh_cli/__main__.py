"""`wardmesh`, also as `python -m wardmesh_cli`."""

from __future__ import annotations

from wardmesh_cli.application import build


def main() -> None:
    """Run the command that the arguments name."""
    build()(prog_name="wardmesh")


if __name__ == "__main__":
    main()
