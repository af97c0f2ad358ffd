"""`python -m wardmesh_audit` runs the log; settings come from the environment."""

from wardmesh.server.runtime import main
from wardmesh_audit.app import build
from wardmesh_audit.settings import Settings

if __name__ == "__main__":
    main("audit", Settings, build)
