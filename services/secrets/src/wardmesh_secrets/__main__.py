"""`python -m wardmesh_secrets` runs the vault; settings come from the environment."""

from wardmesh.server.runtime import main
from wardmesh_secrets.app import build
from wardmesh_secrets.settings import Settings

if __name__ == "__main__":
    main("secrets", Settings, build)
